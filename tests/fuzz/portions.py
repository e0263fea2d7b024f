# SPDX-License-Identifier: Apache-2.0
"""A tunnel's reads in the same portions twice: as compiled code parts them, and by the Python alone.

Compiled code (lane/receive.h) hands on the plain beginning of a read and leaves the rest to the Python; the Python
alone judges a read whole before it hands on any of it. What an application has read meanwhile, or whether a stream is
over by the next frame, depends on that, so the two may rightly end a hostile tunnel otherwise. In the same portions
they may not.

What compiled code decides by itself, how much of a read is plain, is so taken from it; what it may say beside that is
checked (`_check`).
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nodeagent.hbone.frames import HEADER, HEADER_BYTES
from nodeagent.proxy.lane import Lane
from nodeagent.proxy.stream import READ_BYTES
from nodeagent.proxy.tunnel_receiving import TURN_WORK
from nodeagent.tls.record import RECORD_BYTES


@dataclass(slots=True)
class Left:
    """What compiled code has left of a read; but for `kept_bytes` the arguments of Tunnel._go_on_slowly."""

    kept_bytes: int
    """Of a record that is not whole."""
    goes_on: bool = False
    """That was called."""
    plain_bytes: int = 0
    work: int = 0
    record_bytes: int = 0
    is_first: bool = False


class Noting:
    """Compiled code, and of each of its reads what it left."""

    def __init__(self, compiled: Lane) -> None:
        self._compiled = compiled
        self.use, self.read_stream, self.flush = compiled.use, compiled.read_stream, compiled.flush
        self.reads: list[Left | None] = []
        """None where nothing has happened."""
        self.errors = 0
        """Of the socket."""

    @property
    def has_parted(self) -> bool:
        """Any read."""
        return any(left is not None and left.goes_on for left in self.reads)

    def receive(self, tunnel: Any) -> int:
        assert "_go_on_slowly" not in vars(tunnel), "it reads while it hands on"
        opener: Any = getattr(tunnel._channel, "_opener", None)
        left = Left(0)
        go_on: Callable[..., None] = tunnel._go_on_slowly

        def note(plain: memoryview, work: int, records: memoryview, is_first: bool) -> None:  # noqa: FBT001
            nonlocal left
            kept = len(opener._partial)
            left = Left(
                kept, goes_on=True, plain_bytes=len(plain), work=work, record_bytes=len(records), is_first=is_first
            )
            go_on(plain, work, records, is_first)

        tunnel._go_on_slowly = note
        try:
            done = self._compiled.receive(tunnel)
        finally:
            del tunnel._go_on_slowly
        if not left.goes_on and opener is not None:
            left.kept_bytes = len(opener._partial)
        self.reads.append(left if done > 0 else None)
        self.errors += done < 0
        return done


class InPython:
    """The same reads, where what was plain to compiled code goes through the Python first, and then the rest."""

    def __init__(self, reads: list[Left | None]) -> None:
        self._reads = list(reversed(reads))
        self._buffer = memoryview(bytearray(READ_BYTES + 2 * RECORD_BYTES))
        self.failure: AssertionError | None = None
        """The loop takes it for a stream's defect."""

    def use(self, channel: type, relay: type) -> None:
        """It knows every class."""

    def read_stream(self, _relay: Any) -> int:
        return 0

    def flush(self, _tunnel: Any) -> int:
        return 0

    def receive(self, tunnel: Any) -> int:
        try:
            assert self._reads, "compiled code was not asked to read so often"
            left = self._reads.pop()
            if left is not None:
                self._receive(tunnel, left)
        except AssertionError as failure:
            self.failure = failure
            raise
        return left is not None

    def finish(self) -> None:
        """Raises AssertionError."""
        if self.failure is not None:
            raise self.failure
        assert not self._reads, "compiled code was asked to read more often"

    def _receive(self, tunnel: Any, left: Left) -> None:
        opener, connection = tunnel._channel._opener, tunnel.connection
        begun = connection._receiver._left
        received = memoryview(opener._partial + tunnel._socket.recv(READ_BYTES, socket.MSG_DONTWAIT))
        opener._partial = bytearray()
        rest = len(received) - left.record_bytes
        whole = rest - left.kept_bytes
        tunnel._unanswered = 0
        size = self._open(tunnel._channel, received[:whole])
        assert not self._open(tunnel._channel, received[whole:rest])
        assert len(opener._partial) == left.kept_bytes
        plain = self._buffer[: size - left.plain_bytes]
        _check(left, plain[begun:], whole)
        if plain:
            tunnel._dispatch(connection.received(plain))
            tunnel._look_at_held()
        if left.goes_on:
            tunnel._go_on_slowly(self._buffer[len(plain) : size], left.work, received[rest:], left.is_first)
        elif connection.has_pending:
            tunnel.flush_later()

    def _open(self, channel: Any, records: memoryview) -> int:
        if not records:
            return 0
        channel.received(records)
        size: int = channel.open_into(self._buffer)
        assert not channel.has_more
        return size


def _check(left: Left, frames: memoryview, opened_bytes: int) -> None:
    """`frames`: what it took for plain, from a frame's first byte on."""
    at = count = 0
    while at < len(frames):
        high, low = HEADER.unpack_from(frames, at)[:2]
        at += HEADER_BYTES + (high << 8 | low)
        count += 1
    if left.goes_on:
        assert left.work == TURN_WORK - count >= 0
        assert left.is_first == (opened_bytes == 0)
    else:
        assert left.plain_bytes == left.record_bytes == 0
        assert count <= TURN_WORK
