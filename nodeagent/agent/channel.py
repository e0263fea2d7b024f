# SPDX-License-Identifier: Apache-2.0
"""The agent's end of a socket to a worker, on the event loop: frames out with descriptors, frames in.

Writing never waits: a worker that reads slowly makes its queue grow by what it has not read and never holds up the
other workers. One that reads nothing at all shows by `stalled_seconds`; who owns the channel bounds that.
"""

import array
import asyncio
import collections
import contextlib
import os
import socket
from collections.abc import Callable, Sequence

RECEIVE_BYTES = 1 << 18
MAX_DESCRIPTORS = 16
"""More than any message carries."""


class Channel:
    """Owns the socket. What arrives goes to the listener; nothing is read before there is one."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._queue: collections.deque[tuple[memoryview, tuple[int, ...]]] = collections.deque()
        self._on_bytes: Callable[[bytes, list[int]], None] = lambda _payload, descriptors: _close_all(descriptors)
        self._on_closed: Callable[[], None] = lambda: None
        self._moved = 0.0
        """When the other end last took something, or the queue began."""

    def listen(self, on_bytes: Callable[[bytes, list[int]], None], on_closed: Callable[[], None]) -> None:
        """`on_bytes(payload, descriptors)` for what arrives, `on_closed()` once when the other end is gone.

        May be called again: a visitor becomes a worker.
        """
        self._on_bytes, self._on_closed = on_bytes, on_closed
        if self.is_open:
            self._loop.add_reader(self._sock, self._readable)

    @property
    def is_open(self) -> bool:
        return self._sock.fileno() >= 0

    @property
    def stalled_seconds(self) -> float:
        """For how long the other end has taken nothing of what waits for it; 0 when nothing waits."""
        return self._loop.time() - self._moved if self._queue else 0.0

    def send(self, frame: bytes, descriptors: Sequence[int] = ()) -> None:
        """Descriptors are duplicated here, so the caller may close its own at once."""
        if not self.is_open:
            return
        self._queue.append((memoryview(frame), tuple(os.dup(descriptor) for descriptor in descriptors)))
        if len(self._queue) == 1:
            self._moved = self._loop.time()
            self._flush()

    def drain(self) -> None:
        """Reads what has arrived, without waiting: the last words of a process that is gone."""
        while self.is_open and self._read():
            pass

    def close(self) -> None:
        if not self.is_open:
            return
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        for _, descriptors in self._queue:
            _close_all(descriptors)
        self._queue.clear()
        self._sock.close()

    def _flush(self) -> None:
        try:
            while self._queue:
                data, descriptors = self._queue[0]
                sent = self._send_some(data, descriptors)
                self._moved = self._loop.time()
                _close_all(descriptors)
                if sent == len(data):
                    self._queue.popleft()
                else:
                    self._queue[0] = (data[sent:], ())
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._flush)
        except OSError:
            self._lost()
        else:
            self._loop.remove_writer(self._sock)

    def _send_some(self, data: memoryview, descriptors: tuple[int, ...]) -> int:
        if not descriptors:
            return self._sock.send(data)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        return self._sock.sendmsg([data], rights)

    def _readable(self) -> None:
        self._read()

    def _read(self) -> bool:
        """Once; whether there may be more."""
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                RECEIVE_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            self._lost()
            return False
        descriptors = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
        if data:
            self._on_bytes(data, list(descriptors))
        else:
            _close_all(descriptors)
            self._lost()
        return bool(data)

    def _lost(self) -> None:
        if self.is_open:
            self.close()
            self._on_closed()


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closing is all we want; a descriptor that is gone is as good
            os.close(descriptor)
