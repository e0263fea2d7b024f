# SPDX-License-Identifier: Apache-2.0
"""A tunnel's reads in the same portions twice: as compiled code takes them, and by the Python alone.

Compiled code (lane/receive.h) hands on the plain beginning of a read and leaves the rest to the Python; the Python
alone judges a read whole before it hands on any of it. What an application has read meanwhile, or whether a stream is
over by the next frame, depends on that, so the two may rightly end a hostile tunnel otherwise. In the same portions
they may not.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nodeagent.proxy.lane import Lane
from nodeagent.proxy.stream import READ_BYTES
from nodeagent.proxy.tunnel_receiving import TURN_WORK
from nodeagent.tls.record import RECORD_BYTES


@dataclass(slots=True)
class Left:
    """What compiled code has left of a read: the arguments of Tunnel._go_on_slowly."""

    plain: int = 0
    work: int = TURN_WORK
    records: int = 0
    is_first: bool = False
    is_said: bool = False
    """The call was made."""


class Noting:
    """Compiled code, and of each of its reads what it left; None where nothing happened."""

    def __init__(self, compiled: Lane) -> None:
        self._compiled = compiled
        self.use, self.read_stream, self.flush = compiled.use, compiled.read_stream, compiled.flush
        self.reads: list[Left | None] = []

    def receive(self, tunnel: Any) -> int:
        number, left = len(self.reads), Left()
        self.reads.append(None)  # it may be called anew by what it hands on
        go_on: Callable[..., None] = type(tunnel)._go_on_slowly

        def note(plain: memoryview, work: int, records: memoryview, is_first: bool) -> None:  # noqa: FBT001
            nonlocal left
            left = Left(len(plain), work, len(records), is_first, is_said=True)
            go_on(tunnel, plain, work, records, is_first)

        tunnel._go_on_slowly = note
        try:
            done = self._compiled.receive(tunnel)
        finally:
            del tunnel._go_on_slowly
        self.reads[number] = left if done > 0 else None
        return done


class InPython:
    """The same reads, where what was plain to compiled code goes through the Python first, and then the rest."""

    def __init__(self, reads: list[Left | None]) -> None:
        self._reads = iter(reads)
        self._buffer = memoryview(bytearray(READ_BYTES + 2 * RECORD_BYTES))

    def use(self, channel: type, relay: type) -> None:
        """It knows every class."""

    def read_stream(self, _relay: Any) -> int:
        return 0

    def flush(self, _tunnel: Any) -> int:
        return 0

    def receive(self, tunnel: Any) -> int:
        left = next(self._reads)
        if left is None:
            return 0
        channel, opener = tunnel._channel, tunnel._channel._opener
        received = memoryview(opener._partial + tunnel._socket.recv(READ_BYTES, socket.MSG_DONTWAIT))
        opener._partial = bytearray()
        records, size = len(received) - left.records, 0
        if records:
            channel.received(received[:records])
            size = channel.open_into(self._buffer)
            assert not channel.has_more
        plain = size - left.plain
        if plain:
            tunnel._dispatch(tunnel.connection.received(self._buffer[:plain]))
            tunnel._look_at_held()
        if left.is_said:
            tunnel._go_on_slowly(self._buffer[plain:size], left.work, received[records:], left.is_first)
        elif tunnel.connection.has_pending:
            tunnel.flush_later()
        return 1

    @property
    def is_done(self) -> bool:
        return next(self._reads, self) is self
