# SPDX-License-Identifier: Apache-2.0
"""Reports to the agent: batched once a turn, never blocking, bounded, and losses are counted.

While no agent listens they wait, up to the same bound, so that a short absence of the agent costs no record.
"""

import socket
from collections import deque

from nodeagent.proxy.framing import encode_frame
from nodeagent.proxy.loop import WRITE, Loop
from nodeagent.proxy.messages import Lost, Report

_MAX_WAITING_BYTES = 4 << 20
"""About five thousand records: some seconds of busy connections while the agent restarts."""
_FRAMES_PER_SEND = 128
"""Below IOV_MAX (1024); one system call per turn is the common case."""


class Reports:
    """The worker's end of the report socket."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.lost = 0
        self._loop = loop
        self._frames: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sent_of_first = 0
        self._lost_told = 0
        self._is_scheduled = False
        self._is_blocked = False
        self._socket: socket.socket | None = None
        self.attach(sock)

    def attach(self, sock: socket.socket) -> None:
        """Another agent listens: the frame that was cut in half by the former's end starts again."""
        self._detach()
        sock.settimeout(0)
        self._socket = sock
        self._loop.watch(sock.fileno(), 0, self)
        self._schedule()

    def emit(self, report: Report) -> None:
        frame = encode_frame(report)
        if self._waiting_bytes + len(frame) > _MAX_WAITING_BYTES:
            self.lost += 1
            return
        self._frames.append(frame)
        self._waiting_bytes += len(frame)
        self._schedule()

    @property
    def has_waiting(self) -> bool:
        """Something that an agent may still take."""
        return bool(self._frames) and self._socket is not None

    def flush(self) -> None:
        """Sends what the socket takes."""
        self._is_scheduled = False
        if self._socket is None or self._is_blocked:
            return
        if self.lost != self._lost_told:
            self._lost_told = self.lost
            frame = encode_frame(Lost(self.lost))
            self._frames.append(frame)
            self._waiting_bytes += len(frame)
        try:
            while self._frames:
                head = memoryview(self._frames[0])[self._sent_of_first :]
                rest = [self._frames[index] for index in range(1, min(len(self._frames), _FRAMES_PER_SEND))]
                self._taken(self._socket.sendmsg([head, *rest]))
        except BlockingIOError:
            self._is_blocked = True
            self._loop.change(self._socket.fileno(), WRITE)
        except OSError:  # the agent is gone; attach() comes with its successor
            self._detach()

    def ready(self, events: int) -> None:
        del events  # writable, or hung up, which the next send tells
        if self._socket is None:
            return
        if not self._is_blocked:
            # Nothing is ever read here, so an event without our asking is the other end's death; it would repeat.
            self._detach()
            return
        self._is_blocked = False
        self._loop.change(self._socket.fileno(), 0)
        self.flush()

    def crashed(self) -> None:
        self._detach()

    def _taken(self, sent: int) -> None:
        self._waiting_bytes -= sent
        sent += self._sent_of_first
        while self._frames and sent >= len(self._frames[0]):
            sent -= len(self._frames.popleft())
        self._sent_of_first = sent

    def _schedule(self) -> None:
        if not self._is_scheduled and not self._is_blocked and self._socket is not None:
            self._is_scheduled = True
            self._loop.at_end_of_turn(self, self.flush)

    def _detach(self) -> None:
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._waiting_bytes += self._sent_of_first
        self._sent_of_first = 0
        self._is_blocked = False
