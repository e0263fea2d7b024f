# SPDX-License-Identifier: Apache-2.0
"""The socket at which workers of a former agent knock: who comes, and what he brings along.

A visitor is believed little: it runs with the workers' uid, which is what a worker that was broken into has. It gets a
few seconds, a few places are shared by all, and whatever it sends that is no Hello with four sockets ends its visit.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nodeagent.agent.channel import Channel
from nodeagent.errors import NotPossible
from nodeagent.proxy.framing import FrameBroken, FrameReader
from nodeagent.proxy.messages import FromWorker, Hello

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
"""A worker says Hello in the same breath as it connects."""
MOST_VISITORS = 32
"""Eight times the slots: descriptors of the agent are what a flood of visitors would use up."""


@dataclass(frozen=True)
class Guest:
    """A process that said Hello; descriptors, sockets and channel belong to who takes it in."""

    pid: int
    pidfd: int
    hello: Hello
    listeners: tuple[socket.socket, ...]
    report: socket.socket
    channel: Channel

    def send_away(self) -> None:
        os.close(self.pidfd)
        for sock in (*self.listeners, self.report):
            sock.close()
        self.channel.close()


class Rendezvous:
    def __init__(self, path: Path, uid: int, introduced: Callable[[Guest], None]) -> None:
        self._path, self._uid, self._introduced = path, uid, introduced
        self._visitors: set[_Visitor] = set()
        self._complaint: tuple[int, str] = (0, "")

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """For the length of the block. Raises NotPossible."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
            try:
                self._path.unlink(missing_ok=True)
                listener.bind(str(self._path))
                self._path.chmod(0o600)
                os.chown(self._path, self._uid, -1)
                listener.listen(16)
            except OSError as error:
                words = f"{self._path}: {error.strerror or error}"
                raise NotPossible(words, check="Give another --run-dir.") from error
            loop.add_reader(listener, self._knocked, listener)
            try:
                yield
            finally:
                loop.remove_reader(listener)
                for visitor in tuple(self._visitors):
                    visitor.leave()

    def _knocked(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:  # it left again before we came to the door
            return
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            if uid != self._uid:
                raise PermissionError(f"its uid is {uid}: it is no worker")
            if len(self._visitors) >= MOST_VISITORS:
                raise PermissionError("too many are here already")
            self._visitors.add(_Visitor(sock, pid, os.pidfd_open(pid), self))
        except OSError as error:
            self._complain(pid, str(error))
            sock.close()

    def left(self, visitor: "_Visitor", complaint: str) -> None:
        self._visitors.discard(visitor)
        if complaint:
            self._complain(visitor.pid, complaint)

    def said_hello(self, visitor: "_Visitor", guest: Guest) -> None:
        self._visitors.discard(visitor)
        self._introduced(guest)

    def _complain(self, pid: int, words: str) -> None:
        if self._complaint != (pid, words):  # it may come again at once, and for ever
            self._complaint = pid, words
            log.warning("pid %d at the workers' socket: %s", pid, words)


class _Visitor:
    """Somebody who is nobody yet."""

    def __init__(self, sock: socket.socket, pid: int, pidfd: int, host: Rendezvous) -> None:
        self.pid, self._pidfd, self._host = pid, pidfd, host
        self._channel = Channel(sock)
        self._reader: FrameReader[FromWorker] = FrameReader(FromWorker)
        self._timer = asyncio.get_running_loop().call_later(HELLO_SECONDS, self.leave, "no Hello in time")
        self._channel.listen(self._received, self.leave)

    def leave(self, complaint: str = "") -> None:
        self._timer.cancel()
        self._reader.close()
        self._channel.close()
        os.close(self._pidfd)
        self._host.left(self, complaint)

    def _received(self, payload: bytes, descriptors: list[int]) -> None:
        try:
            first = next(self._reader.received(payload, descriptors), None)
        except FrameBroken as error:
            self.leave(str(error))
            return
        if first is None:
            return
        message, owned = first
        if not isinstance(message, Hello):
            self.leave(f"{type(message).__name__} instead of Hello")
            return
        try:
            *listeners, report = _sockets(owned)
        except OSError as error:
            self.leave(f"Hello with something that is no socket: {error.strerror}")
            return
        self._timer.cancel()
        # Nothing is lost with this reader: the kernel ends a read behind bytes that carry descriptors.
        self._reader.close()
        self._host.said_hello(self, Guest(self.pid, self._pidfd, message, tuple(listeners), report, self._channel))


def _sockets(descriptors: list[int]) -> list[socket.socket]:
    """All or none. Raises OSError."""
    made: list[socket.socket] = []
    try:
        for descriptor in descriptors:
            made.append(socket.socket(fileno=descriptor))  # noqa: PERF401 - those before a bad one must be let go
    except OSError:
        for sock in made:
            sock.detach()
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return made
