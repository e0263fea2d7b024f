# SPDX-License-Identifier: Apache-2.0
"""When the kernel's table is made again, who is in it, and how open connections end that it forbids."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from nodeagent.agent import verdicts as module
from nodeagent.agent.enrolment import Enrolment, LocalPods, decide_enrolment
from nodeagent.agent.state import NodeState
from nodeagent.agent.verdicts import NodeVerdicts, find_ends, find_members
from nodeagent.config import Config
from nodeagent.errors import KernelError
from nodeagent.kernel.codings import NO_NUMBER
from nodeagent.kernel.reconcile import Owner
from nodeagent.kernel.sock_destroy import End
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.verdicts import Revoked, Swap
from nodeagent.model.address import Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.pod import LocalPod
from nodeagent.model.policy import Action, Policy, PolicyScope, Rule
from nodeagent.model.security import DryRun
from nodeagent.model.traffic import WorkloadLimits
from nodeagent.model.workload import GatewayAddress, TunnelProtocol, Workload
from nodeagent.policy.verdict_table import OTHER_PORTS, VerdictRow
from nodeagent.routing.route import PROXY_PORTS

WEB, DB = Ip("10.0.0.1"), Ip("10.0.0.2")
PODS = [LocalPod(namespace="shop", name=name, netns=f"/netns/{name}") for name in ("web", "db")]
NUMBERS: dict[Owner, int] = {("shop", "web", "/netns/web"): 0, ("shop", "db", "/netns/db"): 1}
OPEN = Revoked(WEB, 40000, DB, 80)
DENY_ALL = Policy(name="none", namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.ALLOW)

ALLOW_ALL = Policy(
    name="everybody", namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.ALLOW, rules=(Rule(),)
)


def _workload(name: str, ip: Ip, **fields: object) -> Workload:
    return Workload(
        uid=name,
        name=name,
        namespace="shop",
        addresses=(ip,),
        protocol=TunnelProtocol.HBONE,
        node="node-a",
        service_account=name,
        **fields,  # type: ignore[arg-type]
    )


class Node:
    """The kernel part, as far as it is asked here; and the pods' namespaces."""

    def __init__(self, same_node: str = "kernel") -> None:
        self.state = NodeState()
        self.state.apply(Changes(workloads=(_workload("web", WEB), _workload("db", DB))))
        self.known_numbers = NUMBERS
        self.tables: list[list[VerdictRow]] = []
        self.open_and_denied: list[Revoked] = []
        self.is_broken = False
        self.in_force = 0
        self.before = frozenset[VerdictRow]()
        """A predecessor's table."""
        self.suspended = 0
        self._is_suspended = False
        self.told: list[Sequence[Revoked]] = []
        self.verdicts = NodeVerdicts(
            Config(node="node-a", same_node=same_node), cast("Steering", self), self.state, self.told.append
        )
        self.state.before_workers_know = self.verdicts.suspend_if_changed
        self.while_swapping: list[Changes] = []
        """Each comes while a table is put."""

    @property
    def enrolment(self) -> Enrolment:
        return decide_enrolment(self.state.mesh, "node-a", LocalPods(tuple(PODS)))

    def update(self) -> None:
        asyncio.run(self.verdicts.update(self.enrolment))

    def numbers(self) -> dict[Owner, int]:
        return self.known_numbers

    def suspend_verdicts(self) -> None:
        if self.is_broken:
            raise KernelError("no map today", check="Ask again.")
        self.suspended += 1
        self._is_suspended = True

    def is_suspended(self) -> bool:
        return self._is_suspended

    def verdicts_in_force(self) -> tuple[frozenset[VerdictRow], dict[Ip, int]]:
        return self.before, {WEB: 0, DB: 1}

    def suspensions(self) -> int:
        return self.suspended

    def resume_verdicts(self, suspensions: int) -> None:
        self._is_suspended &= self.suspended > suspensions

    def put_verdicts(self, rows: list[VerdictRow], suspensions: int) -> Swap:
        if self.is_broken:
            raise KernelError("no map today", check="Ask again.")
        self.tables.append(rows)
        if self.while_swapping:
            self.state.apply(self.while_swapping.pop())
        self.resume_verdicts(suspensions)
        self.in_force = len(self.tables)
        return Swap(self.in_force, len(rows), 0)

    def generation(self) -> int:
        return self.in_force

    def revoked(self) -> list[Revoked]:
        return self.open_and_denied


def _closed(number: int) -> list[VerdictRow]:
    return [VerdictRow(number, port, 0) for port in sorted(PROXY_PORTS)]


def test_the_table_is_made_when_something_has_changed() -> None:
    node = Node()
    node.update()
    node.update()
    everyone = [*_closed(0), VerdictRow(0, OTHER_PORTS, 0b11), *_closed(1), VerdictRow(1, OTHER_PORTS, 0b11)]
    assert node.tables == [everyone]
    node.state.apply(Changes(workloads=(Workload(uid="far", name="far", namespace="shop"),)))
    node.update()
    assert node.tables == [everyone], "nothing that it is made of"
    node.state.apply(Changes(policies=(DENY_ALL,)))
    node.update()
    assert node.tables == [everyone, []]
    assert node.verdicts.generation == 2


def test_a_swap_that_failed_is_tried_again() -> None:
    node = Node()
    node.is_broken = True
    with pytest.raises(KernelError):
        node.update()
    node.is_broken = False
    node.update()
    assert len(node.tables) == 1


def test_the_table_is_suspended_before_a_worker_knows_what_has_changed() -> None:
    node, told = Node(), list[bool]()
    node.state.subscribe(lambda _message, _descriptors: told.append(node.is_suspended()))
    node.state.apply(Changes(policies=(ALLOW_ALL,)))
    node.update()
    assert told == [False], "what a predecessor's table is made of, nobody knows"
    node.state.apply(Changes(workloads=(Workload(uid="far", name="far", namespace="shop"),)))
    assert told == [False, False], "nothing that it is made of"
    node.state.apply(Changes(policies=(DENY_ALL,)))
    assert told == [False, False, True]
    node.update()
    assert not node.is_suspended()
    node.state.forget_certificate(Identity("cluster.local", "shop", "web"))
    assert told[3:] == [True]


def test_a_predecessors_table_is_suspended_unless_it_is_ours() -> None:
    former, agent = Node(), Node()
    former.update()
    agent.before = frozenset(former.tables[-1])
    asyncio.run(agent.verdicts.succeed(agent.enrolment))
    assert not agent.is_suspended()
    agent.state.apply(Changes(policies=(DENY_ALL,)))
    asyncio.run(agent.verdicts.succeed(agent.enrolment))
    assert agent.is_suspended()


def test_a_change_that_is_taken_back_needs_no_other_table() -> None:
    node = Node()
    node.update()
    node.state.apply(Changes(policies=(DENY_ALL,)))
    node.state.apply(Changes(removed_policies=(DENY_ALL.key,)))
    assert node.is_suspended()
    node.update()
    assert not node.is_suspended()
    assert len(node.tables) == 1
    node.state.apply(Changes(policies=(ALLOW_ALL,)))
    assert node.is_suspended()
    node.update()
    assert not node.is_suspended(), "other policies, and the same table"


def test_what_changes_during_a_swap_keeps_the_table_suspended() -> None:
    node = Node()
    node.update()
    node.while_swapping.append(Changes(removed_policies=(DENY_ALL.key,)))
    node.state.apply(Changes(policies=(DENY_ALL,)))
    node.update()
    assert node.is_suspended()
    node.update()
    assert not node.is_suspended()
    assert len(node.tables) == 3


def test_a_kernel_that_cannot_be_told_keeps_nothing_from_the_workers(caplog: pytest.LogCaptureFixture) -> None:
    node, told = Node(), list[str]()
    node.update()
    node.is_broken = True
    node.state.subscribe(lambda message, _descriptors: told.append(type(message).__name__))
    node.state.apply(Changes(policies=(DENY_ALL,)))
    assert told == ["Apply"]
    assert "no map today; new connections are decided by the former table until the next" in caplog.text


def test_a_table_that_is_gone_with_its_map_is_put_again() -> None:
    """Nobody else has changed, and somebody has unmounted bpffs meanwhile."""
    node = Node()
    node.update()
    node.in_force = 0
    node.update()
    node.update()
    assert node.tables == [node.tables[0]] * 2


def test_same_node_tunnel_allows_nothing_in_the_kernel() -> None:
    node = Node("tunnel")
    node.update()
    assert node.tables == [[]], "a predecessor's table is emptied"


def test_a_certificate_that_ended_takes_its_pod_out_until_another_comes() -> None:
    node = Node()
    node.state.lapsed.add(Identity("cluster.local", "shop", "web"))
    node.update()
    assert node.tables == [[*_closed(1), VerdictRow(1, OTHER_PORTS, 0b10)]]
    node.state.lapsed.clear()
    node.update()
    assert len(node.tables) == 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"waypoint": GatewayAddress(Port(15008), service="shop/waypoint")}, id="behind a waypoint"),
        pytest.param({"application_tunnel_port": 15088}, id="its application expects PROXY"),
    ],
)
def test_who_is_not_reached_directly_may_still_connect(change: dict[str, object]) -> None:
    node = Node()
    node.state.apply(Changes(workloads=(_workload("db", DB, **change),)))
    members = {member.number: member for member in find_members(node.state.mesh, node.enrolment.enrolled, NUMBERS, ())}
    assert [members[number].is_destination for number in (0, 1)] == [True, False]


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param({("shop", "web", "/netns/web"): 0}, id="not captured"),
        pytest.param({**NUMBERS, ("shop", "db", "/netns/db"): NO_NUMBER}, id="captured without a number"),
        pytest.param({("shop", "web", "/netns/web"): 0, ("shop", "db", "/netns/former"): 1}, id="its predecessor is"),
    ],
)
def test_a_pod_without_a_number_is_in_no_table(numbers: dict[Owner, int]) -> None:
    node = Node()
    members = find_members(node.state.mesh, node.enrolment.enrolled, numbers, ())
    assert [member.number for member in members] == [0]


def test_a_pod_is_judged_as_the_mesh_has_it_and_not_as_it_was_enrolled() -> None:
    node = Node()
    before = node.enrolment
    node.state.apply(Changes(workloads=(_workload("db", DB, policies=("shop/late",)),)))
    members = find_members(node.state.mesh, before.enrolled, NUMBERS, ())
    assert [(member.missing, member.is_destination) for member in members] == [(("shop/late",), True), ((), True)]
    node.state.apply(Changes(removed_workloads=("db",)))
    assert [member.number for member in find_members(node.state.mesh, before.enrolled, NUMBERS, ())] == [0]


def test_what_is_open_and_denied_is_told_and_ended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[str, list[End]]] = []
    monkeypatch.setattr(module, "destroy_sockets", lambda netns, ends: ended.append((netns, ends)))
    node = Node()
    node.update()
    node.open_and_denied = [OPEN]
    node.state.apply(Changes(policies=(DENY_ALL,)))
    node.update()
    assert node.told == [[OPEN]]
    assert ended == [("/netns/web", [End(WEB, 40000, DB, 80)]), ("/netns/db", [End(DB, 80, WEB, 40000)])]
    node.state.apply(Changes(removed_policies=("shop/none",)))
    node.update()
    assert len(node.tables) == 3
    assert node.told == [[OPEN]], "it is still in the kernel's list, and was told"


def test_an_end_that_cannot_be_reached_is_left_to_the_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(netns: str, _ends: object) -> None:
        raise KernelError(f"{netns} is gone", check="Is the pod there?")

    monkeypatch.setattr(module, "destroy_sockets", refuse)
    node = Node()
    node.open_and_denied = [OPEN]
    node.update()
    assert caplog.text.count("reset at the next packet instead") == 2


def test_a_pod_that_left_has_no_end() -> None:
    assert find_ends([OPEN], {DB: "/netns/db"}) == {"/netns/db": [End(DB, 80, WEB, 40000)]}


def test_a_pod_whose_connections_are_counted_is_the_workers() -> None:
    node = Node()
    node.update()
    limited = Changes(extensions=(WorkloadLimits(uid="db", concurrent=1),))
    node.state.apply(limited)
    members = find_members(node.state.mesh, node.enrolment.enrolled, node.numbers(), ())
    assert {member.identity.service_account: member.is_destination for member in members} == {"web": True, "db": False}
    assert node.suspended == 1, "nobody new by the former table"


def test_a_dry_run_is_nothing_to_the_kernel() -> None:
    """What it carries goes on, and nobody new waits for another table."""
    node = Node()
    node.update()
    policy = Policy(
        name="try", namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.DENY, rules=(Rule(),), is_dry_run=True
    )
    node.state.apply(Changes(extensions=(DryRun(policy=policy),)))
    node.update()
    assert (node.suspended, len(node.tables)) == (0, 1)
