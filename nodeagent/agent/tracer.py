# SPDX-License-Identifier: Apache-2.0
"""`nodeagent trace`: packets of one pod as the programs tell of them, and connections as the workers do, in one order.

Off, it costs nothing: the programs that tell (bpf/trace.h) are made and attached when somebody asks, and the usual ones
are back when the trace is over, its time is up, so many hops were told, or nobody reads them any more. The admin server
notices who hangs up; who only reads no more is noticed because something is sent all the time. An agent that dies
meanwhile leaves it to its successor, whose reconcile finds programs that are not its own.

What happens at about the same time comes by two ways, of which the records take longer. So hops wait for a moment, and
are told in the order of their times.
"""

import asyncio
import heapq
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Literal

from nodeagent.admin import answers
from nodeagent.admin.hops import MOST_HOPS, Names, Traced, TraceQuestion, find_traced, packet_hop, record_hops
from nodeagent.admin.state import AgentState
from nodeagent.errors import KernelError, NotPossible
from nodeagent.kernel.loader import Cancellation, LoadCancelled
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.tracing import Trace, WantedTrace
from nodeagent.logs.moment import LAST_SECOND, timestamp
from nodeagent.model.record import ConnectionRecord
from nodeagent.telemetry.open_connections import OpenConnections

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
"""Between looks at the ring, which has room for 3600 packets."""
MOST_PACKETS = 500
"""Of one look: some milliseconds of the agent's loop."""
WAIT_SECONDS = 0.4
"""For a record that tells of something that was before a hop: workers send theirs at the end of a turn."""
MOST_WAITING = MOST_HOPS
"""Hops that are not told yet, about 1 KiB each: more cannot be asked for, and beyond they are counted as lost."""
FORMER_SECONDS = 2.0
"""For the end of a trace to begin, whose client is just going. Once it has begun it is waited for, however long that
takes on a busy machine."""
QUIET_SECONDS = 0.5
"""Without a hop so long, an empty document is sent: so that a client that has gone is noticed, and one can wait."""


class Tracer:
    """One trace at a time."""

    def __init__(
        self,
        steering: Steering,
        connections: OpenConnections,
        read_state: Callable[[], AgentState],
        names: Callable[[], Names],
    ) -> None:
        self._steering, self._connections = steering, connections
        self._read_state, self._names = read_state, names
        self._traced: Traced | None = None
        self._running: RunningTrace | None = None
        self._is_free = asyncio.Event()
        """While `_traced` is None."""
        self._is_free.set()
        self._is_ending = False
        """Nobody reads it any more."""
        self._ending: asyncio.Future[None] | None = None
        """The usual programs come back, in a thread that nobody's cancellation reaches."""

    async def begin(self, question: TraceQuestion) -> "RunningTrace":
        """Returns when packets are told of. Raises ConfigError, NotPossible and KernelError."""
        traced = find_traced(self._read_state(), question)
        await self._wait_for_former()
        wanted = WantedTrace(self._device(traced), traced.pod.ips, traced.peers, question.is_every)
        cancellation = Cancellation()
        starting = asyncio.get_running_loop().run_in_executor(None, self._start, wanted, cancellation)
        self._traced = traced
        self._is_free.clear()
        try:
            trace = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._is_ending = True
            cancellation.set()
            # The compiler ends at once, the thread soon. Its end is met, even if this wait for it is cancelled too.
            starting.add_done_callback(self._abandon)
            await self._is_free.wait()
            raise
        except BaseException:
            self._forget()
            raise
        log.info("a trace of %s begins, for %g s at most", traced.name, question.seconds)
        self._running = RunningTrace(trace, traced, question, self._names, self._put_back, self._end)
        self._connections.watcher = self._running
        return self._running

    async def _wait_for_former(self) -> None:
        """One whose client has gone ends in a moment. Raises NotPossible."""
        while (former := self._traced) is not None:
            try:
                async with asyncio.timeout(None if self._is_ending else FORMER_SECONDS):
                    await self._is_free.wait()
            except TimeoutError:
                if self._traced is former and not self._is_ending:
                    raise NotPossible(
                        f"a trace of {former.name} runs on this node already",
                        check="There is one at a time; it ends by itself.",
                    ) from None

    def end(self) -> None:
        """By order; who reads is told what there is still."""
        if self._running is not None:
            self._running.end()

    def _start(self, wanted: WantedTrace, cancellation: Cancellation) -> Trace:
        """In a thread."""
        if self._steering.is_tracing:  # nobody else begins one, so the end of a former one was lost
            log.warning("a trace that nobody reads any more is ended")
            self._stop()
        return self._steering.start_trace(wanted, cancellation)

    def _stop(self) -> None:
        """In a thread."""
        try:
            self._steering.stop_trace()
        except KernelError as error:
            log.warning("%s; the next look at the kernel puts the usual programs back", error)

    def _put_back(self) -> "asyncio.Future[None]":
        """The usual programs, once for each trace. To be awaited through a shield."""
        self._is_ending = True
        if self._ending is None:
            self._ending = asyncio.get_running_loop().run_in_executor(None, self._stop)
        return self._ending

    async def _end(self, trace: Trace) -> None:
        """Waits for what happens also when the wait is cancelled."""
        self._put_back().add_done_callback(lambda _: self._ended(trace))
        await self._is_free.wait()

    def _abandon(self, starting: "asyncio.Future[Trace]") -> None:
        """Nobody waits any more for what has begun."""
        error = starting.exception()
        if error is not None:
            level = logging.INFO if isinstance(error, LoadCancelled) else logging.WARNING
            log.log(level, "a trace whose client has gone did not begin: %s", error)
            self._forget()
            return
        trace = starting.result()
        self._put_back().add_done_callback(lambda _: self._ended(trace))

    def _ended(self, trace: Trace) -> None:
        assert self._traced is not None
        log.info("the trace of %s is over", self._traced.name)
        try:
            trace.close()
        finally:
            self._forget()

    def _forget(self) -> None:
        self._traced = self._running = self._ending = self._connections.watcher = None
        self._is_ending = False
        self._is_free.set()

    def _device(self, traced: Traced) -> int:
        pod = traced.pod
        for state in self._steering.pods():
            if (state.namespace, state.name) == (pod.namespace, pod.pod) and state.is_captured:
                return state.ifindex
        raise NotPossible(f"{traced.name} is not captured any more", check="`nodeagent pods` says why.")


class RunningTrace:
    """What it tells, a document at a time: where the pod is, hops as they come, how it ended. Watches connections."""

    def __init__(
        self,
        trace: Trace,
        traced: Traced,
        question: TraceQuestion,
        names: Callable[[], Names],
        put_back: "Callable[[], asyncio.Future[None]]",
        end: Callable[[Trace], Awaitable[None]],
    ) -> None:
        self._trace, self._traced, self._question = trace, traced, question
        self._names, self._put_back, self._end = names, put_back, end
        self._deadline = time.monotonic() + question.seconds
        self._why: Literal["", "asked", "time", "count"] = ""
        self._is_over = self._is_closed = False
        self._waiting: list[tuple[str, int, answers.Hop]] = []
        """A heap, by their times and, of the same time, in the order in which they came."""
        self._came = self._told = self._overflow = 0
        self._due: deque[Mapping[str, object]] = deque([{"begun": traced.place}])
        self._spoke = time.monotonic()
        self._begun: set[str] = set()
        """Names of connections of whose beginning was told."""

    def end(self) -> None:
        self._why = self._why or "asked"

    # ---- a Watcher -------------------------------------------------------------------------------------------------

    def opened(self, record: ConnectionRecord) -> None:
        self._take_record(record, is_over=False)

    def ended(self, record: ConnectionRecord) -> None:
        self._take_record(record, is_over=True)

    def _take_record(self, record: ConnectionRecord, *, is_over: bool) -> None:
        if not self._traced.fits(record):
            return
        is_told = record.name in self._begun
        if not is_told:
            self._begun.add(record.name)
        for hop in record_hops(self._names(), record, is_over=is_over, is_told=is_told):
            self._take(hop)

    # ---- Documents -------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Mapping[str, object]]:
        return self

    async def __anext__(self) -> Mapping[str, object]:
        while not self._due:
            if self._is_over:
                raise StopAsyncIteration
            await self._look()
        self._spoke = time.monotonic()
        return self._due.popleft()

    async def aclose(self) -> None:
        """The usual programs are back."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._end(self._trace)

    # ---- inside ----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Waits for a moment, and makes due what may be told."""
        if not self._why and time.monotonic() >= self._deadline:
            self._why = "time"
        if self._why:
            await self._finish(self._why)
            return
        await asyncio.sleep(LOOK_SECONDS)
        self._read_ring()
        self._tell(timestamp(time.time() - WAIT_SECONDS))
        if not self._due and time.monotonic() - self._spoke >= QUIET_SECONDS:
            self._due.append({})

    async def _finish(self, why: str) -> None:
        await asyncio.shield(self._put_back())
        await asyncio.sleep(WAIT_SECONDS)
        for _ in range(0, self._trace.room, MOST_PACKETS):  # where an exchange failed, it is still written to
            if not self._read_ring():
                break
            await asyncio.sleep(0)
        self._tell(timestamp(LAST_SECOND))
        left = self._trace.left()
        end = {"why": why, "hops": self._told, "alike": left.alike, "lost": left.lost + self._overflow}
        self._due.append({"end": end})
        self._is_over = True

    def _read_ring(self) -> bool:
        """Whether there was something."""
        names, packets = self._names(), self._trace.read(MOST_PACKETS)
        for packet in packets:
            self._take(packet_hop(names, packet))
        return bool(packets)

    def _take(self, hop: answers.Hop) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._overflow += 1
            return
        self._came += 1
        heapq.heappush(self._waiting, (hop["time"], self._came, hop))

    def _tell(self, until: str) -> None:
        """Those that were before."""
        hops: list[answers.Hop] = []
        while self._waiting and self._waiting[0][0] <= until and self._told + len(hops) < self._question.most:
            hops.append(heapq.heappop(self._waiting)[2])
        if hops:
            self._due.append({"hops": hops})
        self._told += len(hops)
        if self._told >= self._question.most:
            self._why = self._why or "count"
