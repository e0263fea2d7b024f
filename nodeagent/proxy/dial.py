# SPDX-License-Identifier: Apache-2.0
"""A TCP connect that does not block, from a pod's address and, where it can be, from the pod's own port.

Two ways in which the port cannot be kept: the 4-tuple is taken (the same client reaches this pod by two addresses), or
it belongs to a flow that goes past the proxy, whose answers we never see. The first is told by bind or connect, the
second by silence: half of the time is spent on the kept port, the other half on any port.
"""

import errno
import os
import socket
from typing import Protocol

from nodeagent.model.address import Ip, join_host_port
from nodeagent.model.reason import Reason
from nodeagent.proxy.loop import WRITE, Loop, Timer
from nodeagent.proxy.sockets import bound_socket

_TAKEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})
_REASONS = {
    errno.ECONNREFUSED: Reason.CONNECT_REFUSED,
    errno.ETIMEDOUT: Reason.CONNECT_TIMEOUT,
    errno.EADDRNOTAVAIL: Reason.OUT_OF_PORTS,
    errno.EMFILE: Reason.CONNECTION_LIMIT,
    errno.ENFILE: Reason.CONNECTION_LIMIT,
}


class Dialler(Protocol):
    """Who wants the connection. Exactly one of the two is called, unless the dial is cancelled."""

    def connected(self, sock: socket.socket, keeps_port: bool) -> None: ...  # noqa: FBT001 - told by position once

    def not_connected(self, reason: Reason, error: str) -> None: ...

    def crashed(self) -> None: ...


class Dial:
    def __init__(
        self, loop: Loop, source: tuple[Ip, int], destination: tuple[Ip, int], seconds: float, dialler: Dialler
    ) -> None:
        """Starts at the end of this turn, so that the dialler never hears back from within its own call."""
        self._loop, self._dialler = loop, dialler
        self._source, self._destination = source, destination
        self._seconds = seconds / 2 if source[1] else seconds
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._is_cancelled = False
        loop.at_end_of_turn(self, self._start)

    def cancel(self) -> None:
        self._is_cancelled = True
        self._release()

    def ready(self, events: int) -> None:
        del events
        if self._socket is None:
            return
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._failed(error)
            return
        self._loop.forget(self._socket.fileno())
        self._succeeded(self._socket)

    def crashed(self) -> None:
        self.cancel()
        self._dialler.crashed()

    def _start(self) -> None:
        if self._is_cancelled:
            return
        try:
            self._socket = bound_socket(self._source)
        except OSError as error:
            self._failed(error.errno or 0)
            return
        result = self._socket.connect_ex(self._destination)
        if result == errno.EINPROGRESS:
            # A pod of this node has answered by the time that the call returns, which only another one tells. It costs
            # a microsecond, and saves a turn of the loop with four calls.
            result = self._socket.connect_ex(self._destination)
        if result == 0:
            self._succeeded(self._socket)
        elif result == errno.EALREADY:
            self._loop.watch(self._socket.fileno(), WRITE, self)
            self._timer = self._loop.after(self._seconds, self, self._timed_out)
        else:
            self._failed(result)

    def _succeeded(self, sock: socket.socket) -> None:
        self._socket = None
        self._release()
        self._dialler.connected(sock, self._source[1] != 0)

    def _timed_out(self) -> None:
        self._failed(errno.ETIMEDOUT)

    def _failed(self, error: int) -> None:
        self._release()
        if self._source[1] and (error in _TAKEN or error == errno.ETIMEDOUT):
            self._source = (self._source[0], 0)
            self._loop.at_end_of_turn(self, self._start)
            return
        where = join_host_port(*self._destination)
        self._dialler.not_connected(_REASONS.get(error, Reason.CONNECT_FAILED), f"{where}: {os.strerror(error)}")

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
