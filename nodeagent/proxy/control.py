# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the control socket, and how it finds the next agent when this one dies.

Without an agent the worker serves on. The rendezvous socket is believed only when the uid behind it is that of the
agent that started us: only root can put a socket into the agent's directory, and this does not rely on it.
"""

import logging
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from nodeagent.proxy.framing import MAX_DESCRIPTORS, FrameBroken, FrameReader, encode_frame
from nodeagent.proxy.loop import FAILED, HUNG_UP, READ, WRITE, Loop
from nodeagent.proxy.messages import FromWorker, Hello, ToWorker
from nodeagent.proxy.sockets import receive_with_descriptors

_READ_BYTES = 64 << 10
"""Per turn, so that a large update is decoded between connections and not instead of them."""
_RETRY_SECONDS = 0.25
_LONGEST_RETRY_SECONDS = 1.0
"""Before an agent is back, policy changes do not arrive: knocking is cheap, waiting is not."""

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """What the worker does with the agent's words."""

    def received(self, message: ToWorker, descriptors: list[int]) -> None: ...

    def greeting(self) -> "Greeting | None":
        """For a successor of the agent; None when there is none to wait for, because we are on our way out."""

    def agent_lost(self) -> None:
        """Until a successor comes, if one does."""


class Greeting(Protocol):
    """A Hello that is about to be said."""

    message: Hello
    descriptors: list[int]

    def said(self) -> None:
        """It was sent: what was offered is in use."""

    def unsaid(self) -> None:
        """Nobody heard it."""


class Control:
    def __init__(self, loop: Loop, sock: socket.socket, reconnect: str, receiver: Receiver) -> None:
        """`reconnect` is the path of the rendezvous socket; empty: this agent is the only one ever."""
        self._loop, self._receiver, self._path = loop, receiver, reconnect
        self._agent_uid = _peer_uid(sock)
        self._retry = _RETRY_SECONDS
        self._socket: socket.socket | None = None
        self._reader: FrameReader[ToWorker] = FrameReader(ToWorker)
        self._waiting: deque[memoryview] = deque()
        self._use(sock)

    def send(self, message: FromWorker) -> None:
        """Queues it; without an agent it is forgotten, since a successor asks anew."""
        if self._socket is None:
            return
        self._waiting.append(memoryview(encode_frame(message)))
        if len(self._waiting) == 1:
            self._loop.at_end_of_turn(self, self._flush)

    def ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & (READ | HUNG_UP | FAILED):
            self._read()

    def crashed(self) -> None:
        self._lost("a defect")

    def _use(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._socket = sock
        self._retry = _RETRY_SECONDS
        self._loop.watch(sock.fileno(), READ, self)

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            payload, descriptors = receive_with_descriptors(self._socket, _READ_BYTES, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        try:
            for message, owned in self._reader.received(payload, descriptors):
                self._receiver.received(message, owned)
        except FrameBroken as error:
            self._lost(str(error))

    def _flush(self) -> None:
        if self._socket is None:
            return
        try:
            while self._waiting:
                sent = self._socket.send(self._waiting[0])
                if sent < len(self._waiting[0]):
                    self._waiting[0] = self._waiting[0][sent:]
                else:
                    self._waiting.popleft()
        except BlockingIOError:
            self._loop.change(self._socket.fileno(), READ | WRITE)
        except OSError as error:
            self._lost(str(error))
        else:
            self._loop.change(self._socket.fileno(), READ)

    def _lost(self, why: str) -> None:
        if self._socket is None:
            return
        log.warning("control socket lost (%s): serving on with the last state", why)
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._waiting.clear()
        self._reader.close()
        self._reader = FrameReader(ToWorker)
        self._receiver.agent_lost()
        if self._path:
            self._loop.after(self._retry, self, self._reconnect)

    def _reconnect(self) -> None:
        greeting = self._receiver.greeting()
        if greeting is None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._path)
            if _peer_uid(sock) != self._agent_uid:
                raise PermissionError(f"{self._path} belongs to uid {_peer_uid(sock)}")
            _send_whole(sock, encode_frame(greeting.message), greeting.descriptors)
        except OSError as error:
            greeting.unsaid()
            sock.close()
            log.debug("no agent yet: %s", error)
            self._retry = min(self._retry * 2, _LONGEST_RETRY_SECONDS)
            self._loop.after(self._retry, self, self._reconnect)
            return
        greeting.said()
        log.info("another agent has taken over")
        self._use(sock)


def _send_whole(sock: socket.socket, frame: bytes, descriptors: Sequence[int]) -> None:
    """On a fresh socket, whose buffer is far larger than a Hello. Raises OSError when that is not so."""
    if socket.send_fds(sock, [frame], descriptors) != len(frame):
        raise OSError("the rendezvous socket took half a Hello")


def _peer_uid(sock: socket.socket) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
