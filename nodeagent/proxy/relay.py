# SPDX-License-Identifier: Apache-2.0
"""Two plaintext sockets joined, for what does not go through a tunnel: both directions, half-closes, resets.

By recv and send through one buffer of the process and not by splice: a small message costs 17 us instead of 23, and no
connection needs pipes (four descriptors and their memory in the kernel). Splice would halve the CPU of bulk, and the
bulk between workloads goes through tunnels.
"""

import errno
import socket
from typing import Self

from nodeagent.model.reason import Reason
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.handover import EndState, PairState
from nodeagent.proxy.loop import FAILED, HUNG_UP, READ, WRITE, Loop
from nodeagent.proxy.sockets import close_cleanly

_BUFFER = memoryview(bytearray(256 << 10))
_GONE = frozenset({errno.ECONNRESET, errno.EPIPE})


class SocketRelay:
    """Owns both sockets and the guard from its making on."""

    def __init__(self, loop: Loop, client: socket.socket, server: socket.socket, guard: ConnectionGuard) -> None:
        self.loop, self.guard = loop, guard
        self.client, self.server = _End(self, client), _End(self, server)
        self.client.other, self.server.other = self.server, self.client
        guard.ender, guard.pair = self.close, self

    def surrender(self) -> tuple[PairState, list[socket.socket]]:
        """Its state and both sockets, which are not watched any more; the guard is the caller's."""
        client, client_socket = self.client.surrender()
        server, server_socket = self.server.surrender()
        return PairState(client, server, self.guard.leave()), [client_socket, server_socket]

    @classmethod
    def resume(
        cls, loop: Loop, state: PairState, client: socket.socket, server: socket.socket, guard: ConnectionGuard
    ) -> Self:
        relay = cls(loop, client, server, guard)
        relay.client.resume(state.client, state.server)
        relay.server.resume(state.server, state.client)
        return relay

    def count(self, reader: "_End", size: int) -> None:
        if reader is self.client:
            self.guard.record.sent_bytes += size
        else:
            self.guard.record.received_bytes += size

    def close(self, reason: Reason, error: str = "") -> None:
        """With resets in both directions, unless both have ended."""
        for end in (self.client, self.server):
            end.close(is_clean=reason is Reason.CLOSED)
        self.guard.close(reason, error)


class _End:
    """One socket. What it reads goes to the other; what it cannot take yet waits here, and the other is not read."""

    def __init__(self, relay: SocketRelay, sock: socket.socket) -> None:
        self.other: _End
        self.is_shut = False
        """It was told that the other has ended."""
        self.is_read_out = False
        self._relay = relay
        self._socket: socket.socket | None = sock
        self._backlog = memoryview(b"")
        self._interest = READ
        self._is_watched = True
        relay.loop.watch(sock.fileno(), READ, self)

    def surrender(self) -> tuple[EndState, socket.socket]:
        sock, self._socket = self._socket, None
        assert sock is not None  # else the guard would be closed
        self._relay.loop.forget(sock.fileno())
        return EndState(bytes(self._backlog), self.is_shut, self.is_read_out), sock

    def resume(self, state: EndState, other: EndState) -> None:
        self.is_shut, self.is_read_out = state.is_shut, state.is_read_out
        self._backlog = memoryview(state.backlog)
        is_waiting = state.is_read_out or other.backlog  # for the other to take what was read here
        self._change((0 if is_waiting else READ) | (WRITE if state.backlog else 0))

    def ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        if events & READ and self._interest & READ:
            self._read()
        elif events & (FAILED | HUNG_UP):
            self._hung_up()

    def crashed(self) -> None:
        self._relay.close(Reason.BUG)

    def close(self, *, is_clean: bool) -> None:
        if self._socket is None:
            return
        sock, self._socket = self._socket, None
        self._relay.loop.forget(sock.fileno())
        if is_clean:
            close_cleanly(sock)
        else:
            sock.close()

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            size = self._socket.recv_into(_BUFFER)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error.errno or 0)
            return
        if not size:
            self.is_read_out = True
            self._change(self._interest & ~READ)
            self.other.finish()
            return
        self._relay.count(self, size)
        if not self.other.give(_BUFFER[:size]):
            self._change(self._interest & ~READ)  # the other's `_write` goes on

    def give(self, payload: memoryview) -> bool:
        """False when not all of it was taken; only then more may not be given until it is."""
        if self._socket is None:
            return False
        try:
            sent = self._socket.send(payload)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._failed(error.errno or 0)
            return False
        if sent == len(payload):
            return True
        self._backlog = memoryview(bytes(payload[sent:]))
        self._change(self._interest | WRITE)
        return False

    def finish(self) -> None:
        """The other has ended."""
        if self._backlog or self._socket is None:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._failed(error.errno or 0)
            return
        self.is_shut = True
        if self.other.is_shut:
            self._relay.close(Reason.CLOSED)

    def _write(self) -> None:
        if self._socket is None or not self._backlog:
            return
        try:
            self._backlog = self._backlog[self._socket.send(self._backlog) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error.errno or 0)
            return
        if self._backlog:
            return
        self._change(self._interest & ~WRITE)
        if self.other.is_read_out:
            self.finish()
        else:
            self.other.read_on()

    def read_on(self) -> None:
        self._change(self._interest | READ)

    def _hung_up(self) -> None:
        if self._socket is None:
            return
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._failed(error)
        elif self._is_watched and not self._interest:
            # Both directions are over while we do not read: it would be told again and again.
            self._relay.loop.forget(self._socket.fileno())
            self._is_watched = False

    def _failed(self, error: int) -> None:
        self._relay.close(Reason.RESET, "" if error in _GONE else errno.errorcode.get(error, ""))

    def _change(self, interest: int) -> None:
        if self._socket is None or (interest == self._interest and self._is_watched):
            return
        self._interest = interest
        if self._is_watched:
            self._relay.loop.change(self._socket.fileno(), interest)
        elif interest:
            self._is_watched = True
            self._relay.loop.watch(self._socket.fileno(), interest, self)
