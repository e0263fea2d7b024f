# SPDX-License-Identifier: Apache-2.0
"""Workers are told alike and in order; one that comes later hears the same; keys travel in memory only."""

from datetime import UTC, datetime
from pathlib import Path

from nodeagent.agent.state import PIECE_VALUES, NodeState
from nodeagent.certs.bundle import CertificateBundle
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Action, Policy, PolicyScope
from nodeagent.model.workload import Workload
from nodeagent.proxy.messages import Apply, Certificate, ForgetCertificate, LocalPods, ToWorker
from tests.open_files import open_files

WEB = Identity("cluster.local", "shop", "web")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOCAL = frozenset({Ip("10.0.0.1")})


def bundle(serial: str = "1f") -> CertificateBundle:
    return CertificateBundle(
        key_pem=b"key\n", chain_pem=b"chain\n", roots_pem=b"roots\n",
        serial=serial, not_before=NOW, not_after=NOW,
    )  # fmt: skip


class Told:
    """A subscriber that reads the memfds while they are there."""

    def __init__(self) -> None:
        self.messages: list[ToWorker] = []
        self.contents: list[bytes] = []
        self.descriptors: list[int] = []

    def __call__(self, message: ToWorker, descriptors: tuple[int, ...]) -> None:
        self.messages.append(message)
        self.descriptors += descriptors
        # As ssl reads them: opened anew, from the beginning.
        self.contents += [Path(f"/proc/self/fd/{descriptor}").read_bytes() for descriptor in descriptors]

    @property
    def names(self) -> list[str]:
        return [type(message).__name__ for message in self.messages]


def state() -> tuple[NodeState, Told]:
    made, told = NodeState(), Told()
    made.subscribe(told)
    return made, told


def workloads(count: int) -> Changes:
    made = [Workload(uid=str(n), name=str(n), namespace="shop", addresses=(Ip(f"10.0.0.{n}"),)) for n in range(count)]
    return Changes(workloads=tuple(made))


def test_a_change_is_told_in_pieces_with_one_generation() -> None:
    node, told = state()
    generation = node.apply(workloads(PIECE_VALUES + 1))
    pieces = [message for message in told.messages if isinstance(message, Apply)]
    assert len(pieces) == len(told.messages) == 2
    assert [piece.generation for piece in pieces] == [generation] * 2
    assert [piece.is_last for piece in pieces] == [False, True]


def test_when_a_policy_has_come_is_known_as_long_as_it_is_there() -> None:
    made, _ = state()
    policy = Policy(name="db", namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.ALLOW)
    made.apply(Changes(policies=(policy,)))
    first = made.policy_since["shop/db"]
    assert first > 0
    made.apply(Changes())
    assert made.policy_since == {"shop/db": first}
    made.apply(Changes(removed_policies=("shop/db",)))
    assert made.policy_since == {}


def test_local_pods_have_a_generation_to_wait_for_and_are_told_once() -> None:
    node, told = state()
    generation = node.set_local(LOCAL)
    assert told.messages == [LocalPods(LOCAL), Apply(Changes(), generation, is_last=True)]
    assert node.set_local(LOCAL) == generation
    assert len(told.messages) == 2
    assert node.set_local(frozenset()) > generation


def test_a_certificate_travels_in_memory_and_leaves_no_descriptor() -> None:
    node, told = state()
    before = open_files()
    node.set_certificate(WEB, bundle())
    assert told.messages == [Certificate(WEB, "1f", NOW.timestamp())]
    assert told.contents == [b"key\nchain\n", b"roots\n"]
    assert not open_files() - before
    node.forget_certificate(WEB)
    assert told.messages[-1] == ForgetCertificate(WEB)
    assert node.certificates == {}
    assert node.lapsed == {WEB}
    node.set_certificate(WEB, bundle())
    assert node.lapsed == set()


def test_who_has_lapsed_is_forgotten_with_its_last_pod_and_not_before_all_owners_are_known() -> None:
    node, _ = state()
    names = ("web", "db")
    pods = [
        Workload(
            uid=name, name=name, namespace="shop", addresses=(Ip(f"10.0.0.{number}"),), trust_domain="cluster.local",
            service_account=name,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    db = Identity("cluster.local", "shop", "db")
    node.apply(Changes(workloads=(pods[0],)))
    for identity in (WEB, db):
        node.forget_certificate(identity)
    node.set_local(frozenset({Ip("10.0.0.0"), Ip("10.0.0.1")}))
    assert node.lapsed == {WEB, db}
    node.set_local(frozenset({Ip("10.0.0.1")}))
    assert node.lapsed == {WEB, db}
    node.apply(Changes(workloads=(pods[1],)))
    node.set_local(frozenset({Ip("10.0.0.0"), Ip("10.0.0.1")}))
    assert node.lapsed == {WEB, db}
    node.set_local(frozenset({Ip("10.0.0.1")}))
    assert node.lapsed == {db}
    node.set_local(frozenset())
    assert node.lapsed == set()


def test_a_worker_that_comes_later_hears_the_same_and_the_local_pods_last() -> None:
    node, _ = state()
    node.set_certificate(WEB, bundle("1"))
    node.set_certificate(WEB, bundle("2"))
    node.apply(workloads(PIECE_VALUES + 1))
    node.apply(Changes(removed_workloads=("0",)))
    generation = node.set_local(LOCAL)

    late = Told()
    node.send_everything(late)

    assert late.names == ["Certificate", "Apply", "LocalPods"]
    applied = Mesh()
    for message in late.messages:
        if isinstance(message, Apply):
            applied.apply(message.changes)
            assert (message.generation, message.is_last) == (generation, True)
    assert applied.workloads == node.mesh.workloads
    assert late.messages[0] == Certificate(WEB, "2", NOW.timestamp())


def test_before_it_is_decided_nothing_is_said_about_local_pods() -> None:
    """A worker opens its listeners at the first LocalPods, and an adopted one would cut everything."""
    node, _ = state()
    late = Told()
    node.send_everything(late)
    assert late.messages == [Apply(Changes(), 0, is_last=True)]
    node.set_local(frozenset())
    node.send_everything(late)
    assert late.messages[-1] == LocalPods(frozenset())


def test_nothing_is_told_to_nobody() -> None:
    node = NodeState()
    assert node.apply(Changes()) == 1
