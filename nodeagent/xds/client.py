# SPDX-License-Identifier: Apache-2.0
"""The gRPC skin of delta.py: one stream to the control plane for as long as the agent lives, and state across its ends.

Everything goes on in one task: read, decode, decide, apply, answer. An end of the stream is normal (istiod closes it
every half hour) and costs nothing: what is held stays in force and is told when the next one begins.
"""

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from collections.abc import Callable
from typing import assert_never

import grpc
from grpc import aio

from nodeagent.config import Config
from nodeagent.errors import ControlPlaneError
from nodeagent.model.mesh import Changes
from nodeagent.proto import xds_pb2
from nodeagent.proto.xds_pb2_grpc import AggregatedDiscoveryServiceStub
from nodeagent.upstream.backoff import delay
from nodeagent.upstream.channel import CallFailed, failure, open_channel, read_metadata, read_roots, xds_upstream
from nodeagent.xds.decode import read_response, write_request
from nodeagent.xds.delta import Abandon, Acknowledge, Answer, Apply, Delta, Kind, Refuse, Subscribe
from nodeagent.xds.node import make_node
from nodeagent.xds.store import Saver, Store

FIRST_DELAY_SECONDS = 0.01
LONGEST_DELAY_SECONDS = 15.0
LASTING_SECONDS = 1.0
"""A stream that was answered and lived this long was a good one: the next begins after the shortest delay again."""
PARTING_SECONDS = 1.0
"""For the control plane to end a stream that we are done with; ours and istiod do so at once."""
DECODE_INLINE = 256
"""Answers with more resources are decoded in a thread: 20 microseconds each would hold up the loop."""

_ROUTINE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
}
"""How an answered stream ends when istiod reaches its maximal age, is restarted or moves: nothing to warn about."""

_UNTOLD = "INTERNAL: Internal error from Core"
"""What grpc.aio tells, for good, of a stream that ends while something is written to it (set_internal_error). How it
ended is lost, so there is nothing to act upon. The next stream begins at once, and may tell."""

_log = logging.getLogger(__name__)
_Stream = aio.StreamStreamCall[xds_pb2.DeltaDiscoveryRequest, xds_pb2.DeltaDiscoveryResponse]


@dataclasses.dataclass(slots=True)
class KindStatus:
    """About one type; counters are of this process."""

    held: int = 0
    messages: int = 0
    message_bytes: int = 0
    acknowledged: int = 0
    refused: int = 0
    last_refusal: str = ""


@dataclasses.dataclass(slots=True)
class XdsStatus:
    """What `nodeagent status` shows. Times are Unix seconds, 0: never."""

    address: str
    connected_since: float = 0.0
    """0 while there is no stream."""
    is_synced: bool = False
    is_ready: bool = False
    restored_from: float = 0.0
    """When the state was saved that this process started from; 0: it started empty."""
    last_change: float = 0.0
    generation: int = 0
    """Changes handed to the agent."""
    streams: int = 0
    """Opened."""
    terminations: dict[str, int] = dataclasses.field(default_factory=dict)
    """Ends of streams by gRPC status, or ABANDONED (see delta.py), PREVENTED (no token or no roots to open one)."""
    last_error: str = ""
    """Of the attempt since the last good answer; empty when all is well."""
    last_error_check: str = ""
    kinds: dict[Kind, KindStatus] = dataclasses.field(default_factory=lambda: {kind: KindStatus() for kind in Kind})
    state_writes: int = 0
    state_failures: int = 0
    state_error: str = ""


class XdsClient:
    """Follows the control plane.

    `on_changes` is called in the event loop, once for each applied response that changed anything, and first of all for
    the state that was restored from disk. It must not raise: that would be a bug, and ends `run`.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        on_changes: Callable[[Changes], None],
        *,
        pick: Callable[[], float] = random.random,
    ) -> None:
        """Raises ConfigError for an address that is none. `pick` draws from [0, 1) for the jitter."""
        self._upstream = xds_upstream(config)
        self._node = make_node(config)
        self._store, self._on_changes, self._pick = store, on_changes, pick
        self._delta = Delta()
        self._saver = Saver(store, self._delta.last_good, self._delta.take_news, pick=pick)
        self._status = XdsStatus(self._upstream.url)
        self._is_restored = False
        self._failures = 0

    @property
    def is_synced(self) -> bool:
        """The control plane has been heard completely once, see delta.py."""
        return self._delta.is_synced

    @property
    def is_ready(self) -> bool:
        """There is a state to serve from: heard, or restored from disk."""
        return self._is_restored or self._delta.is_synced

    @property
    def status(self) -> XdsStatus:
        """A copy."""
        for kind, counts in self._status.kinds.items():
            counts.held = self._delta.count(kind)
        return dataclasses.replace(
            self._status,
            is_synced=self.is_synced,
            is_ready=self.is_ready,
            terminations=dict(self._status.terminations),
            kinds={kind: dataclasses.replace(counts) for kind, counts in self._status.kinds.items()},
            state_writes=self._saver.writes,
            state_failures=self._saver.failures,
            state_error=self._saver.error,
        )

    async def run(self) -> None:
        """Ends only by cancellation, or by a bug."""
        await self._restore()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._saver.run(), name="xds saver")
            tasks.create_task(self._follow(), name="xds stream")

    async def _restore(self) -> None:
        saved = await asyncio.to_thread(self._store.load, time.time())
        if saved is None:
            return
        self._delta.restored(saved.last_good)
        self._is_restored = True
        self._status.restored_from = saved.saved_at
        _log.info("restored the mesh as of %d seconds ago from %s", time.time() - saved.saved_at, self._store.path)
        self._hand_over(saved.last_good.everything)

    async def _follow(self) -> None:
        while True:
            started = time.monotonic()
            try:
                await self._converse()
            except ControlPlaneError as error:
                self._ended(error, time.monotonic() - started)
            await asyncio.sleep(delay(self._failures, FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, self._pick))

    async def _converse(self) -> None:
        """One stream. Always ends with a ControlPlaneError, if not by cancellation."""
        metadata = read_metadata(self._upstream)
        async with open_channel(self._upstream, read_roots(self._upstream)) as channel:
            call: _Stream = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources(metadata=metadata)
            self._status.streams += 1
            try:
                await self._carry_out(call, self._delta.stream_opened())
                while True:
                    commands = self._delta.answered(await self._next_answer(call))
                    if commands and not isinstance(commands[-1], Abandon):
                        self._heard()
                    await self._carry_out(call, commands)
            except aio.AioRpcError as error:
                raise failure(self._upstream, error.code(), error.details()) from error
            except asyncio.InvalidStateError as error:  # a write to a stream that has ended meanwhile
                raise failure(self._upstream, await call.code(), await call.details()) from error
            finally:
                call.cancel()

    async def _next_answer(self, call: _Stream) -> Answer:
        while True:
            response = await call.read()
            if not isinstance(response, xds_pb2.DeltaDiscoveryResponse):
                raise failure(self._upstream, grpc.StatusCode.OK, "the control plane ended the stream")
            if len(response.resources) > DECODE_INLINE:
                answer = await asyncio.to_thread(read_response, response)
            else:
                answer = read_response(response)
            if answer is not None:
                counts = self._status.kinds[answer.kind]
                counts.messages += 1
                counts.message_bytes += response.ByteSize()
                return answer
            _log.warning("the control plane sent resources of a type nobody asked for: %.100r", response.type_url)

    async def _carry_out(
        self, call: _Stream, commands: list[Subscribe | Apply | Acknowledge | Refuse | Abandon]
    ) -> None:
        for command in commands:
            match command:
                case Subscribe():
                    await call.write(write_request(command, self._node))
                case Apply():
                    self._hand_over(command.changes)
                    self._saver.note_change()
                case Acknowledge():
                    self._status.kinds[command.kind].acknowledged += 1
                    await call.write(write_request(command, self._node))
                case Refuse():
                    self._refused(command)
                    await call.write(write_request(command, self._node))
                case Abandon():
                    await _part(call)
                    raise _Abandoned(f"{self._upstream.url}: {command.reason}")
                case unreachable:
                    assert_never(unreachable)

    def _hand_over(self, changes: Changes) -> None:
        self._status.generation += 1
        self._status.last_change = time.time()
        self._on_changes(changes)

    def _heard(self) -> None:
        if not self._status.connected_since:
            self._status.connected_since = time.time()
            self._status.last_error = self._status.last_error_check = ""
            self._saver.note_change()  # as at the end of the stream: the age of the file is that of its confirmation
            _log.info("following the control plane at %s", self._upstream.url)

    def _refused(self, command: Refuse) -> None:
        counts = self._status.kinds[command.kind]
        counts.refused += 1
        counts.last_refusal = command.reason
        _log.warning("refused what %s sent: %s", self._upstream.url, command.reason)

    def _ended(self, error: ControlPlaneError, lasted: float) -> None:
        """Counts, logs and remembers the end of a stream, or that none could be opened."""
        was_followed, self._status.connected_since = self._status.connected_since > 0, 0.0
        code = error.code if isinstance(error, CallFailed) else None
        cause = code.name if code is not None else "ABANDONED" if isinstance(error, _Abandoned) else "PREVENTED"
        self._status.terminations[cause] = self._status.terminations.get(cause, 0) + 1
        if _is_about_unknown_types(code, str(error)) and self._delta.extensions_refused():
            # Once for each stream of an istiod that lives: nothing to warn about, and nothing to wait for.
            _log.info("%s; asking again without this project's own extensions", error)
            return
        if was_followed:
            self._saver.note_change()
            if lasted > LASTING_SECONDS:
                self._failures = 0
        self._failures += 1
        if (was_followed and code in _ROUTINE) or _UNTOLD in str(error):
            _log.info("the stream ended, it is resumed: %s", error)
        elif str(error) != self._status.last_error:  # the same line every 15 s for hours helps nobody
            _log.warning("%s. %s", error, error.check)
        self._status.last_error, self._status.last_error_check = str(error), error.check


async def _part(call: _Stream) -> None:
    """Leaves a stream so that our last words, why it is left, are heard: a cancellation overtakes what is unread."""
    with contextlib.suppress(TimeoutError, aio.AioRpcError, asyncio.InvalidStateError):  # it is over either way
        async with asyncio.timeout(PARTING_SECONDS):
            await call.done_writing()
            while await call.read() is not aio.EOF:
                pass  # answers that crossed with our refusal


def _is_about_unknown_types(code: grpc.StatusCode | None, error: str) -> bool:
    """How an istiod of 1.32 ends the stream of a client outside of its namespace that asks for what it does not know.

    Source: pilot/pkg/networking/apigen: authorize. UNAUTHENTICATED alone is what a wrong token is told, too.
    """
    return code is grpc.StatusCode.PERMISSION_DENIED or (
        code is grpc.StatusCode.UNAUTHENTICATED and "api generator" in error
    )


class _Abandoned(ControlPlaneError):
    check = (
        "Has the control plane lost its state, or is it another one? The last good state stays in force. "
        "If the mesh really is empty, stop the agent, remove its state file and start it again."
    )
