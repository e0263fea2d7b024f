# SPDX-License-Identifier: Apache-2.0
"""What is drawn, for whom, when it is computed again, and what keeps it from being drawn."""

import asyncio
from typing import Any, cast

import pytest

from nodeagent.agent import service_connect as module
from nodeagent.agent.enrolment import LocalPods, decide_enrolment
from nodeagent.agent.service_connect import FULL, NO_COOKIES, ServiceConnect
from nodeagent.agent.state import NodeState
from nodeagent.config import Config
from nodeagent.errors import KernelError
from nodeagent.kernel.reconcile import Owner
from nodeagent.kernel.steering import Steering
from nodeagent.model.address import Ip, Port
from nodeagent.model.mesh import Changes
from nodeagent.model.pod import LocalPod
from nodeagent.model.workload import Service, ServicePort, TunnelProtocol, Vip, Workload
from nodeagent.routing.draws import Lots, lots_of
from nodeagent.routing.route import Target

VIP, WEB, API, FAR = (Ip(ip) for ip in ("10.96.0.1", "10.0.0.1", "10.0.0.2", "10.0.1.2"))
PODS = [LocalPod(namespace="shop", name=name, netns=f"/netns/{name}") for name in ("web", "api")]
KNOWN = frozenset({VIP, WEB, API, FAR})
PORTS = (ServicePort(Port(80), 8080),)
TARGET, NEAR, AWAY = Target(VIP, 80), Target(API, 8080), Target(FAR, 8080)
SERVICE = Service(name="api", namespace="shop", hostname="api", ports=PORTS, vips=(Vip("", VIP),))


def _workload(name: str, ip: Ip, node: str = "node-a", **fields: Any) -> Workload:
    serves: dict[str, tuple[ServicePort, ...]] = {} if name == "web" else {SERVICE.key: PORTS}
    return Workload(
        uid=name,
        name=name,
        namespace="shop",
        addresses=(ip,),
        protocol=TunnelProtocol.HBONE,
        node=node,
        services=serves,
        **fields,
    )


class Node:
    """The kernel part, as far as it is asked here."""

    def __init__(self, **settings: Any) -> None:
        self.state = NodeState()
        workloads = (_workload("web", WEB), _workload("api", API), _workload("far", FAR, "node-b"))
        self.state.apply(Changes(services=(SERVICE,), workloads=workloads))
        self.captured: dict[Owner, int] = {("shop", pod.name, pod.netns): 1 for pod in PODS}
        self.services_fault = ""
        self.full: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.notes = 0
        self.written: list[tuple[dict[Target, tuple[Target, ...]], frozenset[int]]] = []
        config = Config(node="node-a", **{"service_connect": "on", **settings})
        self.services = ServiceConnect(config, cast("Steering", self), self.state)

    def numbers(self) -> dict[Owner, int]:
        return self.captured

    def overflow(self) -> dict[str, int]:
        return self.full

    def put_services(self, wanted: dict[Target, tuple[Target, ...]], namespaces: frozenset[int]) -> dict[str, int]:
        self.written.append((wanted, namespaces))
        return self.refused

    def has_dialled(self) -> bool:
        return self.notes > 0

    def update(self, known: frozenset[Ip] = KNOWN) -> dict[Target, tuple[Target, ...]]:
        enrolment = decide_enrolment(self.state.mesh, "node-a", LocalPods(tuple(PODS)))
        asyncio.run(self.services.update(enrolment, known.__contains__))
        return self.written[-1][0]


@pytest.fixture(autouse=True)
def cookies(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    found = {pod.netns: number for number, pod in enumerate(PODS, 100)}

    def ask(path: str) -> int:
        if path not in found:
            raise FileNotFoundError(path)
        return found[path]

    monkeypatch.setattr(module, "netns_cookie", ask)
    return found


def test_all_endpoints_of_a_service_of_this_node_for_all_captured_pods() -> None:
    node = Node()
    assert node.update() == {TARGET: (NEAR, AWAY)}
    assert node.written[-1][1] == {100, 101}
    assert node.services.drawn == {TARGET}
    assert node.services.cookies == {WEB: 100, API: 101}


@pytest.mark.parametrize("settings", [{"service_connect": "off"}, {"same_node": "tunnel"}])
def test_switched_off_the_tables_are_emptied(settings: dict[str, str]) -> None:
    node = Node(**settings)
    assert not node.services.is_on
    assert node.update() == {}
    assert node.written == [({}, frozenset())]
    assert node.services.cookies == {WEB: 100, API: 101}, "what a predecessor had drawn keeps its name"


def test_switched_off_notes_are_looked_for_as_long_as_a_predecessors_are_left() -> None:
    node = Node(service_connect="off")
    node.notes = 1
    node.update()
    assert node.services.has_notes
    node.notes = 0
    node.update()
    assert not node.services.has_notes


def test_switched_on_there_may_always_be_notes() -> None:
    node = Node()
    node.update()
    assert node.services.has_notes


def test_an_endpoint_that_the_kernel_does_not_know_yet_is_not_drawn_yet() -> None:
    """A connection to it would pass in plain text."""
    node = Node()
    assert node.update(KNOWN - {FAR}) == {TARGET: (NEAR,)}
    assert node.update(frozenset()) == {}
    assert node.written[-1][1] == frozenset(), "and then no pod needs to be asked about"


def test_only_captured_pods_draw_and_make_a_service_this_nodes() -> None:
    node = Node()
    del node.captured["shop", "api", "/netns/api"]
    assert node.update() == {}
    del node.captured["shop", "web", "/netns/web"]
    node.captured["shop", "api", "/netns/api"] = 1
    assert node.update() == {TARGET: (NEAR, AWAY)}
    assert node.written[-1][1] == {101}


def test_a_namespace_that_has_gone_is_left_out(cookies: dict[str, int]) -> None:
    del cookies["/netns/web"]
    node = Node()
    node.update()
    assert node.written[-1][1] == {101}
    cookies["/netns/api"] = 555
    node.update()
    assert node.written[-1][1] == {555}, "the path may have come to name another one"


def test_only_what_has_changed_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def compute(key: str, *rest: Any) -> tuple[Lots, ...]:
        asked.append(key)
        return lots_of(key, *rest)

    monkeypatch.setattr(module, "lots_of", compute)
    node = Node()
    node.update()
    node.update()
    node.state.apply(Changes(workloads=(Workload(uid="o", name="o", namespace="shop", addresses=(Ip("10.9.0.9"),)),)))
    node.update()
    assert asked == [SERVICE.key]
    node.state.apply(Changes(workloads=(_workload("far", FAR, "node-b", is_healthy=False),)))
    assert node.update() == {TARGET: (NEAR,)}
    assert asked == [SERVICE.key] * 2
    node.state.apply(Changes(removed_services=(SERVICE.key,)))
    assert node.update() == {}


@pytest.mark.parametrize("exclude", ["10.96.0.0/16", "10.0.1.2/32", "10.0.1.0/24:8080", "*:80"])
def test_what_is_left_alone_and_what_is_not_do_not_take_each_others_place(exclude: str) -> None:
    assert Node(exclude=exclude).update() == {}


def test_other_exclusions_do_not_matter() -> None:
    assert Node(exclude="10.0.1.0/24:8081,192.0.2.0/24").update() == {TARGET: (NEAR, AWAY)}


def test_a_kernel_without_cookies_says_so(cookies: dict[str, int]) -> None:
    cookies.update(dict.fromkeys(cookies, 0))
    node = Node()
    assert node.update() == {}
    assert node.services.fault == NO_COOKIES


def test_programs_that_cannot_be_attached_and_a_full_map_say_so() -> None:
    node = Node()
    node.services_fault = "the cgroup refuses company"
    assert node.update() == {}
    assert node.services.fault == "the cgroup refuses company"
    node.services_fault, node.full = "", {"known": 3}
    assert node.update() == {}
    assert node.services.fault == FULL
    node.full, node.refused = {}, {"draws": 2}
    assert node.update() == {TARGET: (NEAR, AWAY)}
    assert (node.services.fault, node.services.refused) == ("", 2)


def test_what_the_kernel_cannot_do_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()

    def fail(*_: object) -> dict[str, int]:
        raise KernelError("no map today")

    monkeypatch.setattr(node, "put_services", fail)
    with pytest.raises(KernelError, match="no map today"):
        node.update()
    assert node.services.drawn == frozenset()
