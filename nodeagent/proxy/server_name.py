# SPDX-License-Identifier: Apache-2.0
"""Waits for the server's name in the first bytes of a client's TLS, and leaves them where they are.

Bytes are looked at in the kernel's buffer (MSG_PEEK), so whoever relays the connection finds all of them. The kernel
wakes us only for more than we have seen (SO_RCVLOWAT): readable, but with nothing new, would spin the loop.
"""

import socket
from collections.abc import Callable

from nodeagent.proxy.loop import FAILED, HUNG_UP, READ, Loop, Timer, Watcher
from nodeagent.tls.client_hello import MOST_BYTES, read_server_name

SECONDS = 5.0
"""Then it has no name: a server that speaks first behind a Service with TLS routes is late, and not lost."""


class ServerName:
    """Watches the client's socket in the owner's place, until it has told the name or is cancelled."""

    def __init__(self, loop: Loop, sock: socket.socket, owner: Watcher, told: Callable[[str], None]) -> None:
        """`told` is called once: with the name, or empty where there is none. A client that leaves is the owner's."""
        self._loop, self._socket, self._owner, self._told = loop, sock, owner, told
        self._seen = -1
        self._timer: Timer | None = loop.after(SECONDS, owner, self._too_late)
        loop.take_over(sock.fileno(), READ, self)

    def ready(self, events: int) -> None:
        if self._timer is None:
            return
        if events & (FAILED | HUNG_UP):
            self._owner.ready(events)
            return
        try:
            data = self._socket.recv(MOST_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            self._owner.ready(FAILED)
            return
        name = read_server_name(data)
        if name is None and len(data) > self._seen:
            self._seen = len(data)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._seen + 1)
            return
        self._tell(name or "")  # without anything new: the client says no more

    def crashed(self) -> None:
        self._owner.crashed()

    def cancel(self) -> None:
        """The socket is the owner's again. Cancelling twice, or after the name was told, does nothing."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._loop.take_over(self._socket.fileno(), 0, self._owner)

    def _too_late(self) -> None:
        self._tell("")

    def _tell(self, name: str) -> None:
        self.cancel()
        self._told(name)
