# SPDX-License-Identifier: Apache-2.0
"""Whether a pod may start: captured, none of the mesh, or held with a reason."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from nodeagent.admin.http import MAX_CLIENTS
from nodeagent.agent import pod_starts as module
from nodeagent.agent.capture import Capture
from nodeagent.agent.pod_starts import PodHeld, PodStarts
from nodeagent.config import Config
from nodeagent.kernel.pod_namespaces import Namespace
from nodeagent.kubernetes.api import ApiUnreachable
from nodeagent.kubernetes.node_pods import NodePods
from nodeagent.kubernetes.objects import read_object
from nodeagent.kubernetes.reflector import Changed, Removed, Replaced
from nodeagent.model.address import Ip
from nodeagent.model.opt_in import MODE_LABEL
from nodeagent.model.pod import LocalPod
from tests.kube_api import namespace, pod

PLACE = Namespace("/run/netns/cni-1", 7)
WEB = LocalPod("shop", "web", PLACE.path, "uid-web")


class Node:
    """The API's news, a network namespace with addresses, and a capture that captures what is held, if it can."""

    def __init__(self) -> None:
        self.ledger = NodePods("node-a", {"kube-system"})
        self.addresses = frozenset({Ip("10.0.0.2"), Ip("10.0.0.1")})
        self.is_capturing = True
        self.kernel_error = ""
        self.places: dict[str, tuple[Namespace, tuple[Ip, ...]]] = {}
        self.labels: dict[str, dict[str, str]] = {"plain": {}}
        """Of namespaces, as the API has them at this moment, whether or not it has told."""
        self.api_error = ""
        self.starts = PodStarts(
            Config(node="node-a", exclude_namespaces="kube-system"),
            self.ledger,
            cast("Capture", self),
            self._hold,
            self._read_labels,
        )

    async def _read_labels(self, name: str) -> dict[str, str] | None:
        if self.api_error == "never":
            await asyncio.Event().wait()
        if self.api_error:
            raise ApiUnreachable(self.api_error)
        return self.labels.get(name)

    def _hold(self, uid: str, place: Namespace, addresses: tuple[Ip, ...]) -> None:
        self.places[uid] = place, addresses
        asyncio.get_running_loop().call_soon(self.starts.news)

    @property
    def held(self) -> frozenset[LocalPod]:
        return frozenset({WEB} if "uid-web" in self.places else ())

    def captured(self) -> frozenset[LocalPod]:
        return self.held if self.is_capturing else frozenset()

    def tell(self, *pods: dict[str, Any]) -> None:
        objects = [read_object(json.dumps(one).encode()) for one in pods]
        spaces = [read_object(json.dumps(one).encode()) for one in (namespace("shop", "ambient"), namespace("plain"))]
        self.ledger.pods_changed(Replaced(tuple(objects)))
        self.ledger.namespaces_changed(Replaced(tuple(spaces)))
        self.starts.news()

    def start(self, uid: str = "uid-web", *, space: str = "shop", then: Callable[[], None] | None = None) -> str:
        async def whole() -> str:
            if then is not None:
                asyncio.get_running_loop().call_later(0.01, then)
            return await self.starts.start(space, "web", uid, "/var/run/netns/cni-1")

        return asyncio.run(whole())


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node()
    monkeypatch.setattr(module, "namespace_at", {PLACE.path: PLACE}.get)
    monkeypatch.setattr(module, "read_addresses", lambda place: made.addresses if place == PLACE else frozenset())
    return made


@pytest.fixture
def hurried(node: Node, monkeypatch: pytest.MonkeyPatch) -> Node:
    """What does not come is not waited for."""
    monkeypatch.setattr(module, "KNOWN_SECONDS", 0.02)
    monkeypatch.setattr(module, "LABELS_SECONDS", 0.02)
    monkeypatch.setattr(module, "CAPTURED_SECONDS", 0.02)
    return node


@pytest.mark.parametrize("uid", ["uid-web", ""])
def test_a_pod_of_the_mesh_starts_when_it_is_captured_by_what_its_namespace_has(node: Node, uid: str) -> None:
    node.tell(pod("web", ips=()))
    assert node.start(uid) == ""
    assert node.places == {"uid-web": (PLACE, (Ip("10.0.0.1"), Ip("10.0.0.2")))}


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (pod("web", ips=(), labels={MODE_LABEL: "none"}), "OPTED_OUT"),
        (pod("web", "plain", ips=()), "NOT_LABELLED"),
        (pod("web", is_host_network=True), "HOST_NETWORK"),
    ],
)
def test_one_that_is_none_of_the_mesh_starts_as_it_is(node: Node, one: dict[str, Any], reason: str) -> None:
    node.tell(one)
    assert node.start(space=one["metadata"]["namespace"]) == reason
    assert not node.places


def test_one_of_an_excluded_namespace_starts_although_nothing_is_known(hurried: Node) -> None:
    assert hurried.start(space="kube-system") == "EXCLUDED_NS"


def test_one_that_the_api_tells_of_in_a_moment_is_waited_for(node: Node) -> None:
    assert node.start(then=lambda: node.tell(pod("web", ips=()))) == ""


def test_a_namesake_is_not_it(node: Node) -> None:
    node.tell(pod("web", uid="former"))
    assert node.start(then=lambda: node.tell(pod("web"))) == ""
    assert set(node.places) == {"uid-web"}


@pytest.mark.parametrize(
    ("news", "words"),
    [
        (None, "the Kubernetes API has not answered yet"),
        ((), "the Kubernetes API has not told of it yet"),
        ((pod("web", uid="former"),), "the Kubernetes API has not told of it yet"),
    ],
)
def test_what_is_not_known_is_held(hurried: Node, news: tuple[dict[str, Any], ...] | None, words: str) -> None:
    if news is not None:
        hurried.tell(*news)
    with pytest.raises(PodHeld, match=words) as held:
        hurried.start()
    assert held.value.check


def test_one_whose_namespace_is_not_told_of_yet_is_waited_for(node: Node) -> None:
    """Two watches: that of pods may be ahead."""
    node.tell(pod("web", ips=()))
    told = read_object(json.dumps(namespace("shop", "ambient")).encode())
    node.ledger.namespaces_changed(Removed(told))

    def tell() -> None:
        node.ledger.namespaces_changed(Changed(told))
        node.starts.news()

    assert node.start(then=tell) == ""


def test_one_whose_namespace_is_not_known_is_held(hurried: Node) -> None:
    hurried.tell(pod("web", "new"), pod("out", "new", labels={MODE_LABEL: "none"}))
    hurried.labels["new"] = {}
    with pytest.raises(PodHeld, match="has not told of it yet"):
        hurried.start(space="new")
    assert hurried.ledger.find("new", "out", "uid-out") == ("uid-out", "OPTED_OUT"), "whatever its namespace says"


@pytest.mark.parametrize("now", [{MODE_LABEL: "ambient"}, None])
def test_a_namespace_that_has_changed_and_nobody_told_holds(node: Node, now: dict[str, str] | None) -> None:
    """Its watch lags behind, or fails."""
    node.tell(pod("web", "plain"))
    node.labels = {"plain": now} if now else {}
    with pytest.raises(PodHeld, match="not told of a change of namespace plain"):
        node.start(space="plain")


@pytest.mark.parametrize(("error", "words"), [("it is away", "it is away"), ("never", "no answer in time")])
def test_that_a_namespace_is_none_of_the_mesh_is_not_said_without_the_api(
    hurried: Node, error: str, words: str
) -> None:
    hurried.tell(pod("web", "plain"), pod("web"))
    hurried.api_error = error
    with pytest.raises(PodHeld, match=f"namespace plain is of the mesh is not known: {words}"):
        hurried.start(space="plain")
    assert hurried.start() == "", "what it knows to be of the mesh needs no question"


@pytest.mark.parametrize(("error", "words"), [("", "not captured yet"), ("map full: known", "map full: known")])
def test_what_is_not_captured_is_held_with_the_reason(hurried: Node, error: str, words: str) -> None:
    hurried.tell(pod("web"))
    hurried.is_capturing, hurried.kernel_error = False, error
    with pytest.raises(PodHeld, match=words):
        hurried.start()


def test_those_that_wait_leave_places_at_the_admin_socket(node: Node) -> None:
    assert 2 * module.MOST_WAITING <= MAX_CLIENTS

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(node.starts.start("shop", "web", "uid-web", "/var/run/netns/cni-1"))
                for _ in range(module.MOST_WAITING)
            ]
            await asyncio.sleep(0)
            with pytest.raises(PodHeld, match="32 other pods of this node wait"):
                await node.starts.start("shop", "db", "uid-db", "/var/run/netns/cni-2")
            assert await node.starts.start("kube-system", "dns", "", "/var/run/netns/cni-3") == "EXCLUDED_NS"
            node.tell(pod("web", ips=()))
        assert {task.result() for task in waiting} == {""}
        assert await node.starts.start("shop", "web", "uid-web", "/var/run/netns/cni-1") == "", "there is a place again"

    asyncio.run(scenario())


def test_a_network_that_is_not_made_holds(node: Node) -> None:
    node.tell(pod("web"))
    node.addresses = frozenset()
    with pytest.raises(PodHeld, match="has no address"):
        node.start()


def test_a_namespace_that_the_agent_does_not_see_holds(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.tell(pod("web"))
    monkeypatch.setattr(module, "namespace_at", lambda _path: None)
    with pytest.raises(PodHeld, match=r"/var/run/netns/cni-1 is not seen in /run/netns"):
        node.start()


def test_a_pod_that_opts_out_meanwhile_starts_as_it_is(node: Node) -> None:
    """Asked again: the runtime's next attempt finds what the API says by then."""
    node.tell(pod("web"))
    out = read_object(json.dumps(pod("web", labels={MODE_LABEL: "none"})).encode())
    node.ledger.pods_changed(Changed(out))
    assert node.start() == "OPTED_OUT"


def test_it_waits_less_than_the_plugin() -> None:
    source = (Path(__file__).resolve().parents[3] / "daemonset/cni.c").read_text(encoding="utf-8")
    answer = int(source.partition("ANSWER = ")[2].partition(",")[0])
    assert answer > module.KNOWN_SECONDS + module.LABELS_SECONDS + module.CAPTURED_SECONDS
