# SPDX-License-Identifier: Apache-2.0
"""A trace from its beginning to its end, whoever brings that about: the usual programs are back, once."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from nodeagent.admin.hops import Names, TraceQuestion
from nodeagent.admin.state import AgentState, Captured, PodView
from nodeagent.agent import tracer as module
from nodeagent.agent.tracer import RunningTrace, Tracer
from nodeagent.errors import ConfigError, KernelError, NotPossible
from nodeagent.kernel.loader import Cancellation
from nodeagent.kernel.pod_states import PodState
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.tracing import Left, WantedTrace
from nodeagent.model.address import Ip
from nodeagent.model.hop import TracedPacket
from nodeagent.model.mesh import Mesh
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.open_connections import OpenConnections
from nodeagent.telemetry.traffic import TrafficMetrics
from tests.logged import logged

WEB, DB = Ip("10.0.0.1"), Ip("10.0.0.2")
POD = PodView(namespace="shop", pod="web", ips=(WEB,), netns="/run/netns/web", captured=Captured.YES)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "WAIT_SECONDS", "QUIET_SECONDS"):
        monkeypatch.setattr(module, name, 0.001)


class Node:
    """In place of Steering, and of the trace that it begins."""

    def __init__(self) -> None:
        self.connections = OpenConnections(TrafficMetrics(), AccessLog(lambda _line: None))
        self.asked: list[WantedTrace] = []
        self.packets: deque[TracedPacket] = deque()
        self.stops = self.closes = 0
        self.is_tracing = False
        self.refusal: Exception | None = None
        self.lock = threading.Lock()
        """As Steering's: held while a trace begins."""
        self.has_begun, self.may_start = threading.Event(), threading.Event()
        self.may_start.set()
        self.compiles_for_ever = False
        self.captured = "shop"
        self.room = 3000
        self.tracer = Tracer(cast("Steering", self), self.connections, self._state, lambda: Names(Mesh(), ""))

    def _state(self) -> AgentState:
        return AgentState(version="", node="n", network="", started=0, now=0, mesh=Mesh(), pods=(POD,))

    def pods(self) -> list[PodState]:
        return [PodState(self.captured, "web", "veth3", 3)]

    def start_trace(self, wanted: WantedTrace, cancellation: Cancellation) -> Any:
        with self.lock:
            self.has_begun.set()
            assert self.may_start.wait(60)
            if self.compiles_for_ever:
                cancellation.run(["sleep", "600"])
            if self.refusal is not None:
                raise self.refusal
            assert not self.is_tracing
            self.is_tracing = True
            self.asked.append(wanted)
            return self

    def stop_trace(self) -> None:
        with self.lock:
            self.stops += self.is_tracing
            self.is_tracing = False
        if isinstance(self.refusal, KernelError):
            raise self.refusal

    def read(self, limit: int) -> list[TracedPacket]:
        return [self.packets.popleft() for _ in range(min(limit, len(self.packets)))]

    def left(self) -> Left:
        return Left(7, 2)

    def close(self) -> None:
        self.closes += 1


def _question(*, seconds: float = 60.0, most: int = 100) -> TraceQuestion:
    return TraceQuestion(pod="web", seconds=seconds, most=most, is_every=True)


def _packet(at: float, reason: str = "STEERED") -> TracedPacket:
    return TracedPacket(
        at=at,
        program="from_pod",
        device="veth3",
        source=WEB,
        destination=DB,
        reason=reason,
        verdict="REDIRECT",
        words="steered",
    )


def _record(number: int, started: float, source: Ip = WEB, **changes: Any) -> ConnectionRecord:
    return ConnectionRecord(
        id=number,
        direction=Direction.OUTBOUND,
        started=started,
        source_ip=source,
        source_port=40000,
        original_ip=DB,
        original_port=80,
        **changes,
    )


async def _rest(running: RunningTrace) -> tuple[list[str], Mapping[str, Any]]:
    """The outcomes of all hops, and how it ended."""
    hops, end = list[str](), cast("Mapping[str, Any]", {})
    async for document in running:
        hops += [hop["outcome"] for hop in cast("Any", document).get("hops", ())]
        end = cast("Any", document).get("end", end)
    return hops, end


def test_packets_and_records_are_told_in_the_order_of_their_times() -> None:
    async def trace() -> None:
        node = Node()
        running = await node.tracer.begin(_question())
        assert node.asked == [WantedTrace(3, (WEB,), is_every=True)]
        assert await anext(running) == {"begun": {"namespace": "shop", "pod": "web", "netns": "/run/netns/web"}}
        begin = time.time() + 1000  # later than any look, so that they come together
        node.packets += [_packet(begin + 1, "STEERED"), _packet(begin + 4, "PROXY_FLOW")]
        node.connections.opened(1, _record(1, begin + 2, set_up_seconds=1.0))
        node.connections.opened(1, _record(2, begin, source=Ip("10.9.9.9")))
        node.connections.closed(1, _record(1, begin + 2, set_up_seconds=1.0, reason="closed", seconds=3.0))
        node.connections.closed(1, _record(3, begin + 6, reason="policy_denied", seconds=1.0))
        node.tracer.end()
        assert await _rest(running) == (
            ["STEERED", "accepted", "connected", "PROXY_FLOW", "closed", "accepted", "policy_denied"],
            {"why": "asked", "hops": 7, "alike": 7, "lost": 2},
        )
        assert node.stops == 1
        await running.aclose()
        assert (node.stops, node.closes, node.connections.watcher) == (1, 1, None)
        await running.aclose()
        assert node.closes == 1

    asyncio.run(trace())


def test_what_is_past_is_told_while_it_runs_and_silence_too() -> None:
    async def trace() -> None:
        node = Node()
        running = await node.tracer.begin(_question())
        await anext(running)
        assert await anext(running) == {}
        node.packets.append(_packet(time.time() - 1))
        documents = [await anext(running) for _ in range(3)]
        assert [len(cast("Any", one).get("hops", ())) for one in documents].count(1) == 1
        await running.aclose()

    asyncio.run(trace())


@pytest.mark.parametrize(("question", "why"), [(_question(seconds=0.01), "time"), (_question(most=3), "count")])
def test_it_is_bounded(question: TraceQuestion, why: str) -> None:
    async def trace() -> None:
        node = Node()
        running = await node.tracer.begin(question)
        node.packets += [_packet(time.time() - 1) for _ in range(3 if why == "time" else 9)]
        hops, end = await _rest(running)
        assert (len(hops), end["why"], end["hops"], node.is_tracing) == (3, why, 3, False)
        await running.aclose()

    asyncio.run(trace())


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 4)

    async def trace() -> None:
        node = Node()
        running = await node.tracer.begin(_question())
        node.packets += [_packet(time.time() + 1000) for _ in range(9)]
        node.tracer.end()
        hops, end = await _rest(running)
        assert (len(hops), end["lost"]) == (4, 2 + 5)
        await running.aclose()

    asyncio.run(trace())


def test_a_client_that_goes_ends_it_and_the_next_one_may_begin() -> None:
    async def trace() -> None:
        node = Node()
        first = await node.tracer.begin(_question())
        second = asyncio.create_task(node.tracer.begin(_question()))
        await asyncio.sleep(0.01)
        assert not second.done()
        await first.aclose()
        running = await second
        assert node.is_tracing
        await running.aclose()
        assert (node.stops, node.is_tracing) == (2, False)

    asyncio.run(trace())


def test_there_is_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORMER_SECONDS", 0.01)

    async def trace() -> None:
        node = Node()
        running = await node.tracer.begin(_question())
        with pytest.raises(NotPossible, match="a trace of shop/web runs on this node already"):
            await node.tracer.begin(_question())
        assert node.is_tracing
        await running.aclose()

    asyncio.run(trace())


@pytest.mark.parametrize("goes", ["while it begins", "while it tells"])
def test_an_end_that_has_begun_is_waited_for_however_long_it_takes(monkeypatch: pytest.MonkeyPatch, goes: str) -> None:
    monkeypatch.setattr(module, "FORMER_SECONDS", 0.0)

    async def trace() -> None:
        node = Node()
        if goes == "while it begins":
            node.may_start.clear()
            first = asyncio.create_task(node.tracer.begin(_question()))
            await asyncio.to_thread(node.has_begun.wait)
            first.cancel()
        else:
            running = await node.tracer.begin(_question())
            node.lock.acquire()
            first = asyncio.create_task(cast("Any", running.aclose()))
        await asyncio.sleep(0)
        following = asyncio.create_task(node.tracer.begin(_question()))
        await asyncio.sleep(0.01)
        assert not following.done()
        if goes == "while it begins":
            node.may_start.set()
        else:
            node.lock.release()
        await (await following).aclose()
        assert (node.stops, node.closes) == (2, 2)
        await asyncio.wait([first])

    asyncio.run(trace())


def test_a_kernel_that_refuses_leaves_the_next_one_a_chance() -> None:
    async def trace() -> None:
        node = Node()
        node.refusal = KernelError("the kernel refused the program")
        with pytest.raises(KernelError):
            await node.tracer.begin(_question())
        node.refusal = None
        running = await node.tracer.begin(_question())
        node.refusal = KernelError("exchanging the programs")  # is logged; the next reconcile repairs it
        await running.aclose()
        assert node.closes == 1

    asyncio.run(trace())


def test_an_agent_that_stops_while_it_begins_waits_and_puts_back() -> None:
    async def trace() -> None:
        node = Node()
        node.may_start.clear()
        beginning = asyncio.create_task(node.tracer.begin(_question()))
        await asyncio.to_thread(node.has_begun.wait)
        beginning.cancel()
        await asyncio.sleep(0)
        node.may_start.set()
        with contextlib.suppress(asyncio.CancelledError):
            await beginning
        assert (node.is_tracing, node.stops) == (False, 1)
        running = await node.tracer.begin(_question())
        await running.aclose()

    asyncio.run(trace())


def test_a_compiler_that_nobody_waits_for_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    async def trace() -> None:
        node = Node()
        node.compiles_for_ever = True
        beginning = asyncio.create_task(node.tracer.begin(_question()))
        await asyncio.to_thread(node.has_begun.wait)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        node.compiles_for_ever = False
        following = await node.tracer.begin(_question())
        await following.aclose()
        assert (node.stops, node.closes) == (1, 1)

    with caplog.at_level(logging.INFO):
        asyncio.run(trace())
    assert [record.getMessage() for record in logged(caplog)][:1] == [
        "a trace whose client has gone did not begin: loading the kernel programs was given up"
    ]
    assert {record.levelno for record in logged(caplog)} == {logging.INFO}


def test_a_second_cancellation_while_it_begins_loses_nothing() -> None:
    async def trace() -> None:
        node = Node()
        node.may_start.clear()
        beginning = asyncio.create_task(node.tracer.begin(_question()))
        await asyncio.to_thread(node.has_begun.wait)
        await _cancel_twice(beginning)
        node.may_start.set()
        running = await node.tracer.begin(_question())  # when the one that nobody waits for has ended
        assert (node.stops, node.closes) == (1, 1)
        await running.aclose()

    asyncio.run(trace())


def test_one_that_nobody_waits_for_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def trace() -> None:
        node = Node()
        node.may_start.clear()
        beginning = asyncio.create_task(node.tracer.begin(_question()))
        await asyncio.to_thread(node.has_begun.wait)
        await _cancel_twice(beginning)
        node.refusal = KernelError("the kernel refused the program")
        following = asyncio.create_task(node.tracer.begin(_question()))
        node.may_start.set()
        with pytest.raises(KernelError):
            await following
        assert "did not begin: the kernel refused the program" in caplog.text

    asyncio.run(trace())


def test_a_cancellation_of_the_end_while_threads_are_short_does_not_lose_it() -> None:
    async def trace() -> None:
        loop, go = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        node = Node()
        running = await node.tracer.begin(_question())
        busy = loop.run_in_executor(None, go.wait, 60)
        ending = asyncio.create_task(running.aclose())
        await asyncio.sleep(0)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        assert (node.is_tracing, node.closes) == (True, 0)
        go.set()
        await busy
        following = await node.tracer.begin(_question())
        assert (node.stops, node.closes) == (1, 1)
        await following.aclose()

    asyncio.run(trace())


async def _cancel_twice(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_one_that_is_not_ours_to_end_is_ended_all_the_same() -> None:
    """Its end was lost: but for us nobody begins one."""

    async def trace() -> None:
        node = Node()
        node.is_tracing = True
        running = await node.tracer.begin(_question())
        assert node.stops == 1
        await running.aclose()
        assert (node.stops, node.is_tracing) == (2, False)

    asyncio.run(trace())


def test_its_end_comes_even_if_a_program_tells_for_ever() -> None:
    """A hook whose exchange failed; other tasks have their turns meanwhile."""

    async def trace() -> None:
        node = Node()
        running = await node.tracer.begin(_question())
        looks = 0

        def read(limit: int) -> list[TracedPacket]:
            nonlocal looks
            looks += 1
            asyncio.get_running_loop().call_soon(turns.append, looks)
            return [_packet(time.time())] * limit

        turns: list[int] = []
        node.read = read  # type: ignore[method-assign]
        node.tracer.end()
        hops, end = await _rest(running)
        assert (len(hops), end["why"]) == (100, "asked")
        assert looks * module.MOST_PACKETS == node.room
        assert turns == list(range(1, looks + 1))
        await running.aclose()

    asyncio.run(trace())


def test_who_cannot_be_traced() -> None:
    async def trace() -> None:
        node = Node()
        with pytest.raises(ConfigError, match="no pod"):
            await node.tracer.begin(TraceQuestion(pod="x", seconds=1, most=1))
        node.captured = "other"
        with pytest.raises(NotPossible, match="not captured any more"):
            await node.tracer.begin(_question())
        node.tracer.end()  # none running is fine
        assert node.asked == []

    asyncio.run(trace())
