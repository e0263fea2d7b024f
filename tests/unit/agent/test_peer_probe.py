# SPDX-License-Identifier: Apache-2.0
"""To which pod of which node a tunnel is tried, and from which pod of ours."""

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nodeagent.admin.routes import PROBE_SECONDS
from nodeagent.admin.state import ProbedNode
from nodeagent.agent import peer_probe as module
from nodeagent.agent.empty_tunnel import Attempt
from nodeagent.agent.enrolment import EnrolledPod, Enrolment
from nodeagent.agent.peer_probe import PeerProbe, plan
from nodeagent.config import Config
from nodeagent.errors import ConfigError, NotPossible
from nodeagent.model.address import Ip
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.pod import LocalPod
from nodeagent.model.reason import Reason
from nodeagent.model.workload import TunnelProtocol, Workload


def pod(name: str, node: str, *ips: str, **more: Any) -> Workload:
    values = {"protocol": TunnelProtocol.HBONE, **more}
    return Workload(uid=name, name=name, namespace="shop", node=node, addresses=tuple(map(Ip, ips)), **values)


WEB = pod("web", "node-a", "10.0.0.1", "fd00::1")
OLD = pod("old", "node-a", "10.0.0.9")


def mesh(*workloads: Workload) -> Mesh:
    made = Mesh("node-a")
    made.apply(Changes(workloads=(WEB, *workloads)))
    return made


def tried(
    *workloads: Workload, sources: tuple[Workload, ...] = (WEB,), to: tuple[str, ...] = ()
) -> list[tuple[str, str, str]]:
    found = plan(mesh(*workloads), "node-a", "", sources, to)
    return [(one.source_ip, one.destination.name, one.ip) for one in found]


DB = pod("db", "node-b", "10.0.1.1", "fd00:1::1", "10.0.1.2")


@pytest.mark.parametrize(
    ("workloads", "expected"),
    [
        pytest.param([DB], [("10.0.0.1", "db", "10.0.1.1"), ("fd00::1", "db", "fd00:1::1")], id="each family once"),
        pytest.param(
            [pod("aa", "node-b", "10.0.1.7", is_healthy=False), pod("ab", "node-b", "10.0.1.8")],
            [("10.0.0.1", "ab", "10.0.1.8")],
            id="a ready one first",
        ),
        pytest.param(
            [pod("aa", "node-b", "10.0.1.7", is_healthy=False)], [("10.0.0.1", "aa", "10.0.1.7")], id="none is ready"
        ),
        pytest.param(
            [pod("cc", "node-c", "10.0.2.1"), pod("bb", "node-b", "10.0.1.1")],
            [("10.0.0.1", "bb", "10.0.1.1"), ("10.0.0.1", "cc", "10.0.2.1")],
            id="each node",
        ),
        pytest.param([pod("api", "node-a", "10.0.0.2")], [], id="not this one"),
        pytest.param([pod("x", "node-b", "10.0.1.1", protocol=TunnelProtocol.TCP)], [], id="not in the mesh"),
        pytest.param([pod("x", "node-b", "10.0.1.1", network="far")], [], id="another network"),
        pytest.param([pod("x", "node-b", "10.0.1.1", native_tunnel=True)], [], id="its own tunnel"),
        pytest.param([pod("x", "node-b", "10.0.1.1", is_host_network=True)], [], id="the node's own address"),
        pytest.param([pod("x", "node-b")], [], id="without an address"),
        pytest.param([pod("x", "", "10.0.1.1")], [], id="on no node"),
    ],
)
def test_whom(workloads: list[Workload], expected: list[tuple[str, str, str]]) -> None:
    assert tried(*workloads) == expected


def test_a_family_that_no_pod_here_has_is_left_out() -> None:
    assert tried(DB, sources=(OLD,)) == [("10.0.0.9", "db", "10.0.1.1")]
    assert len(tried(DB, sources=(OLD, WEB))) == 2


def test_named_nodes() -> None:
    others = (DB, pod("cc", "node-c", "10.0.2.1"))
    assert tried(*others, to=("node-c", "node-c")) == [("10.0.0.1", "cc", "10.0.2.1")]
    with pytest.raises(ConfigError, match="node-x") as unknown:
        tried(*others, to=("node-x",))
    assert "node-b, node-c" in unknown.value.check
    with pytest.raises(ConfigError, match="own tunnels"):
        tried(*others, to=("node-a",))


def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    assert len(tried(DB, sources=(OLD,))) == 1
    with pytest.raises(ConfigError, match="2 tunnels to 1 nodes"):
        tried(DB)


def _probe(captured: frozenset[LocalPod], certificates: dict[Any, object]) -> PeerProbe:
    """With `web` enrolled."""
    pods = (EnrolledPod(LocalPod("shop", "web", "/netns/web"), WEB),)
    capture = SimpleNamespace(captured=lambda: captured, held=captured, enrolment=Enrolment(pods))
    state = SimpleNamespace(mesh=mesh(DB), certificates=certificates)
    steering = SimpleNamespace(netns_path=lambda: "/netns/proxy")
    return PeerProbe(Config(node="node-a"), cast("Any", steering), cast("Any", state), cast("Any", capture))


CAPTURED = frozenset({LocalPod("shop", "web", "/netns/web")})


def reached(attempt: Attempt) -> ProbedNode:
    return ProbedNode(
        here="node-a",
        node=attempt.destination.node,
        source="shop/web",
        destination="shop/db",
        address=attempt.ip,
        connect_seconds=1.0,
        handshake_seconds=2.0,
        round_trip_seconds=3.0,
    )


def test_each_is_tried_and_told_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def try_tunnel(attempt: Attempt, *what: object, netns: str, seconds: float, stop: threading.Event) -> ProbedNode:
        assert (what[0], netns, seconds, stop.is_set()) == ("bundle", "/netns/proxy", 2.5, False)
        return reached(attempt)

    monkeypatch.setattr(module, "try_tunnel", try_tunnel)
    found = asyncio.run(_probe(CAPTURED, {WEB.identity: "bundle"}).probe((), 2.5))
    assert [one.address for one in found] == ["10.0.1.1", "fd00:1::1"]


@pytest.mark.parametrize(
    ("captured", "certificates"), [(frozenset[LocalPod](), {WEB.identity: "bundle"}), (CAPTURED, {})]
)
def test_without_a_pod_to_begin_at(captured: frozenset[LocalPod], certificates: dict[Any, object]) -> None:
    with pytest.raises(NotPossible, match="no pod of this node"):
        asyncio.run(_probe(captured, certificates).probe((), 1.0))


class Waiting:
    """In the place of try_tunnel: each attempt waits until it may go on, or is stopped."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Semaphore(0), threading.Event()
        self.stops: list[threading.Event] = []

    def __call__(self, attempt: Attempt, *_what: object, stop: threading.Event, **_more: object) -> ProbedNode:
        self.stops.append(stop)
        self.began.release()
        while not (stop.is_set() or self.may_end.wait(0.01)):
            pass
        return reached(attempt)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    made = Waiting()
    monkeypatch.setattr(module, "try_tunnel", made)
    monkeypatch.setattr(module, "AT_ONCE", 1)
    return made


def test_one_at_a_time(waiting: Waiting) -> None:
    async def order() -> None:
        probe = _probe(CAPTURED, {WEB.identity: "bundle"})
        first = asyncio.create_task(probe.probe((), 1.0))
        await asyncio.to_thread(waiting.began.acquire)
        with pytest.raises(NotPossible, match="another probe is under way"):
            await probe.probe((), 1.0)
        waiting.may_end.set()
        assert len(await first) == 2
        assert len(await probe.probe((), 1.0)) == 2

    asyncio.run(order())


def test_who_is_cancelled_stops_what_runs_and_begins_no_more(waiting: Waiting) -> None:
    async def order() -> None:
        probe = _probe(CAPTURED, {WEB.identity: "bundle"})
        cancelled = asyncio.create_task(probe.probe((), 1.0))
        await asyncio.to_thread(waiting.began.acquire)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert [stop.is_set() for stop in waiting.stops] == [True]
        waiting.may_end.set()
        assert len(await probe.probe((), 1.0)) == 2

    asyncio.run(order())


def test_the_threads_are_its_own(waiting: Waiting) -> None:
    async def order() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(refusing := RefusingExecutor())
        waiting.may_end.set()
        assert len(await _probe(CAPTURED, {WEB.identity: "bundle"}).probe((), 1.0)) == 2
        refusing.shutdown()

    asyncio.run(order())


class RefusingExecutor(ThreadPoolExecutor):
    def submit(self, *_what: Any, **_more: Any) -> Any:
        raise AssertionError("the agent's own threads were asked for")


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        pytest.param(lambda probe: probe._state.certificates.clear(), Reason.CERTIFICATE_MISSING, id="certificate"),
        pytest.param(lambda probe: setattr(probe._capture, "held", frozenset()), Reason.POD_REMOVED, id="pod"),
    ],
)
def test_what_has_gone_before_its_turn_is_not_tried(
    waiting: Waiting, gone: Callable[[Any], None], reason: Reason
) -> None:
    async def order() -> list[ProbedNode]:
        probe = _probe(CAPTURED, {WEB.identity: "bundle"})
        found = asyncio.create_task(probe.probe((), 1.0))
        await asyncio.to_thread(waiting.began.acquire)
        gone(probe)
        waiting.may_end.set()
        return await found

    first, second = asyncio.run(order())
    assert (first.reason, second.reason) == (None, reason)
    assert second.error.startswith("not tried: ")


def test_what_could_take_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    with pytest.raises(ConfigError, match="2 tunnels of 61 s may take 122 s") as refused:
        asyncio.run(_probe(CAPTURED, {WEB.identity: "bundle"}).probe((), 61.0))
    assert "--to" in refused.value.check


def test_all_there_may_be_can_be_tried_with_the_usual_patience() -> None:
    assert math.ceil(module.MOST / module.AT_ONCE) * PROBE_SECONDS <= module.ORDER_SECONDS
