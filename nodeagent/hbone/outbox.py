# SPDX-License-Identifier: Apache-2.0
"""Bytes on their way out, in order: small frames in a list, payload in a big buffer that the process lends.

Payload lands by recvmsg_into behind 9-byte gaps in the buffer, so no byte of it is copied before it is encrypted, and
all streams of a connection share one flush per turn. An idle connection owns no buffer: it is borrowed for the first
payload of a turn and goes back when it was encrypted. tests/bench/hbone_codec.py has the numbers.
"""

import mmap

from nodeagent.hbone.frames import DATA, DEFAULT_FRAME, HEADER, HEADER_BYTES

_NOTHING = memoryview(b"")


class BufferPool:
    """Send buffers of the process. Keeps a few for the next turn, the rest is freed.

    Pages of their own, which the kernel gives as they are touched: a bytearray would be filled with zeros for each
    tunnel that sends one byte, when more of them do in a turn than are kept (140 us).
    """

    __slots__ = ("_free", "_keep", "size")

    def __init__(self, size: int = 1 << 20, keep: int = 8) -> None:
        """`size`: two reads of 512 KiB. `keep`: connections that are dirty at once, mostly one or two."""
        self.size = size
        self._keep = keep
        self._free: list[memoryview] = []

    def borrow(self) -> memoryview:
        if self._free:
            return self._free.pop()
        return memoryview(mmap.mmap(-1, self.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def give_back(self, buffer: memoryview) -> None:
        if len(self._free) < self._keep:
            self._free.append(buffer)


POOL = BufferPool()
"""The process's own; a worker has one thread."""


class Outbox:
    """Of one connection. The order is: buffer, then queue."""

    __slots__ = ("_buffer", "_pool", "_queue", "_reserved", "_taken", "_used", "queued_bytes")

    def __init__(self, pool: BufferPool = POOL) -> None:
        self._pool = pool
        self._buffer: memoryview | None = None
        self._used = self._taken = 0
        """Bytes in the buffer, and how many of them are encrypted already."""
        self._reserved = 0
        self._queue: list[bytes] = []
        self.queued_bytes = 0
        """Small frames that wait outside the buffer."""

    def append(self, frame: bytes) -> None:
        """A whole frame, behind everything that is pending."""
        stop = self._used + len(frame)
        if self._buffer is not None and not self._queue and stop <= self._pool.size:
            self._buffer[self._used : stop] = frame
            self._used = stop
        else:
            self._queue.append(frame)
            self.queued_bytes += len(frame)

    def reserve(self, at_most: int, frame: int) -> list[memoryview]:
        """Views behind gaps, each at most `frame` long; empty when what is pending must be taken first."""
        size = self._pool.size
        if self._buffer is None:
            if self.queued_bytes > size >> 1:
                return []
            self._borrow()
        elif self._queue:
            return []
        buffer, start = self._buffer, self._used + HEADER_BYTES
        if at_most <= frame and at_most <= size - start and buffer is not None:
            self._reserved = at_most
            return [buffer[start : start + at_most]]
        if buffer is None or size - start < min(at_most, DEFAULT_FRAME):
            return []  # a sliver at the end would cost a system call of its own
        views = []
        self._reserved = 0
        while at_most > 0 and start < size:
            length = min(frame, at_most, size - start)
            views.append(buffer[start : start + length])
            self._reserved += length
            at_most -= length
            start += length + HEADER_BYTES
        return views

    def commit(self, stream_id: int, n: int, frame: int) -> int:
        """Writes the headers in front of `n` bytes that landed; `frame` as given to `reserve`. Returns the frames."""
        assert n <= self._reserved  # else bytes of another connection would go out
        self._reserved = 0
        if not n:
            if not self._used:
                self._give_back()
            return 0
        buffer, at, frames = self._buffer, self._used, 0
        if n <= frame and buffer is not None:
            HEADER.pack_into(buffer, at, n >> 8, n & 0xFF, DATA, 0, stream_id)
            self._used = at + HEADER_BYTES + n
            return 1
        while buffer is not None and n > 0:
            length = min(n, frame)
            HEADER.pack_into(buffer, at, length >> 8, length & 0xFF, DATA, 0, stream_id)
            at += HEADER_BYTES + length
            n -= length
            frames += 1
        self._used = at
        return frames

    @property
    def has_pending(self) -> bool:
        return bool(self._used or self._queue)

    def pending(self) -> memoryview:
        """What goes out next; empty when there is nothing."""
        if self._buffer is not None:
            if self._used:
                return self._buffer[self._taken : self._used]
            self._give_back()
        if not self._queue:
            return _NOTHING
        if len(self._queue) > 1:
            self._queue = [b"".join(self._queue)]
        return memoryview(self._queue[0])

    def taken(self, n: int) -> None:
        """The first `n` bytes of what the last `pending` showed are encrypted."""
        if self._buffer is not None:
            self._taken += n
            if self._taken == self._used:
                self._give_back()
        elif self._queue:
            rest = self._queue[0][n:]  # `pending` has joined them
            self._queue = [rest] if rest else []
            self.queued_bytes = len(rest)

    def snapshot(self) -> tuple[bytes, bytes]:
        """What is pending of the buffer, and of the queue behind it."""
        buffered = b"" if self._buffer is None else bytes(self._buffer[self._taken : self._used])
        return buffered, b"".join(self._queue)

    def resume(self, buffered: bytes, queued: bytes) -> None:
        """Instead of what is pending. Another version's buffer may be larger than ours, and is full then."""
        self._give_back()
        if buffered:
            is_ours = len(buffered) <= self._pool.size
            self._buffer = self._pool.borrow() if is_ours else memoryview(bytearray(len(buffered)))
            self._used = len(buffered)
            self._buffer[: self._used] = buffered
        self._queue = [queued] if queued else []
        self.queued_bytes = len(queued)

    def _borrow(self) -> None:
        """The queue moves to the front of the buffer: what follows may share its flush."""
        self._buffer = self._pool.borrow()
        queue, self._queue, self.queued_bytes = self._queue, [], 0
        for frame in queue:
            self.append(frame)

    def _give_back(self) -> None:
        if self._buffer is not None:
            self._pool.give_back(self._buffer)
        self._buffer = None
        self._used = self._taken = 0
