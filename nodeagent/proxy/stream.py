# SPDX-License-Identifier: Apache-2.0
"""A CONNECT stream joined to a plaintext socket, in both directions, until both have ended.

Backpressure goes end to end: the socket is not read while the tunnel or a window is full, and the peer is credited only
for bytes that the socket took. A FIN becomes END_STREAM and back, a reset RST_STREAM and back. Part of the hot path.
"""

import errno
import socket
from typing import Self

from nodeagent.hbone.events import Response
from nodeagent.hbone.frames import ErrorCode
from nodeagent.model.reason import Reason
from nodeagent.proxy import lane
from nodeagent.proxy.backlog import Backlog
from nodeagent.proxy.carried import CarriedSocket, reset_reason
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.handover import StreamState
from nodeagent.proxy.loop import FAILED, HALF_CLOSED, HUNG_UP, READ, WRITE, Loop
from nodeagent.proxy.sockets import close_cleanly
from nodeagent.proxy.tunnel import Tunnel

READ_BYTES = 512 << 10
"""At most per event, so that one bulk stream does not hold up the others for long."""
_READING = READ | HALF_CLOSED
_MAX_VIEWS = 512
"""Slices of one sendmsg; below IOV_MAX (1024). A peer may send a thousand tiny frames in one batch."""
_GONE = frozenset({errno.ECONNRESET, errno.EPIPE})


class StreamRelay(CarriedSocket):
    """Owns the socket and the guard from its making on."""

    __slots__ = (
        "_backlog", "_connection", "_guard", "_interest", "_is_ended", "_is_ours", "_is_outbound", "_is_read_out",
        "_is_shut", "_is_watched", "_loop", "_socket", "_stream_id", "_tunnel",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        tunnel: Tunnel,
        stream_id: int,
        sock: socket.socket,
        guard: ConnectionGuard,
        *,
        is_outbound: bool,
        is_watched: bool = False,
    ) -> None:
        """`is_outbound`: the socket is the client's, otherwise the application's. `tunnel` must be told to adopt it.

        `is_watched`: by somebody else, from whom it is taken over.
        """
        self._loop, self._tunnel, self._connection = loop, tunnel, tunnel.connection
        self._stream_id, self._guard, self._is_outbound = stream_id, guard, is_outbound
        self._socket: socket.socket | None = sock
        self._backlog = Backlog()
        """From the tunnel, not yet taken by the socket: never more than the stream's window."""
        self._is_ended = self._is_shut = self._is_read_out = False
        """The peer has ended; the socket was told; the socket has ended and the peer was told."""
        self._interest = _READING
        self._is_watched = True
        self._is_ours = True
        """No other process has ever had the socket."""
        guard.ender = self.cut
        if is_watched:
            loop.take_over(sock.fileno(), _READING, self)
        else:
            loop.watch(sock.fileno(), _READING, self)

    # ---- going on in another process -------------------------------------------------------------------------------

    @property
    def guard(self) -> ConnectionGuard:
        return self._guard

    def surrender(self) -> tuple[StreamState, socket.socket]:
        sock, self._socket = self._socket, None
        assert sock is not None  # else the tunnel would not have this stream any more
        self._loop.forget(sock.fileno())
        state = StreamState(
            self._stream_id,
            self._is_outbound,
            self._backlog.whole(),
            self._is_ended,
            self._is_shut,
            self._is_read_out,
            self._guard.leave(),
        )
        self._backlog.clear()
        return state, sock

    @classmethod
    def resume(
        cls, loop: Loop, tunnel: Tunnel, state: StreamState, sock: socket.socket, guard: ConnectionGuard
    ) -> Self:
        """What stopped its reading, or does not any more, it finds out by itself."""
        relay = cls(loop, tunnel, state.id, sock, guard, is_outbound=state.is_outbound)
        relay._is_ours = False
        for piece in state.backlog:
            relay._backlog.add([memoryview(piece)])
        relay._is_ended, relay._is_shut, relay._is_read_out = state.is_ended, state.is_shut, state.is_read_out
        relay._change((0 if state.is_read_out else _READING) | (WRITE if state.backlog else 0))
        return relay

    # ---- from the socket to the tunnel -----------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        if events & READ and self._interest & READ:
            size = self._read()
            if events & HALF_CLOSED and 0 < size < READ_BYTES:
                self._read_slowly()  # the end: so it goes out with what was before it
        elif events & (FAILED | HUNG_UP):
            self._hung_up()

    def _read(self) -> int:
        """How much it was; 0 also for an end, and for nothing."""
        if lane.compiled is not None:
            size = lane.compiled.read_stream(self)
            if size > 0:
                return size
            if size < 0:
                self._socket_failed(-size)
                return 0
        return self._read_slowly()

    def _read_slowly(self) -> int:
        sock, stream_id, connection = self._socket, self._stream_id, self._connection
        if sock is None:
            return 0
        if self._tunnel.is_blocked:
            # Not even into the send buffer: a tunnel whose peer does not read holds what one turn made, and no more.
            self._stall()
            return 0
        views = connection.reserve(stream_id, READ_BYTES)
        if not views:
            views = self._make_room()
            if not views:
                return 0
        try:
            size = sock.recv_into(views[0]) if len(views) == 1 else sock.recvmsg_into(views)[0]
        except BlockingIOError:
            connection.commit(stream_id, 0)
            return 0
        except OSError as error:
            connection.commit(stream_id, 0)
            self._socket_failed(error.errno or 0)
            return 0
        connection.commit(stream_id, size)
        self._tunnel.flush_later()
        record = self._guard.record
        if not size:
            self._read_out()
        elif self._is_outbound:
            record.sent_bytes += size
        else:
            record.received_bytes += size
        return size

    def _make_room(self) -> list[memoryview]:
        """The send buffer or a window is full. Flushing helps against the first; otherwise reading stops."""
        if not self._connection.room(self._stream_id):
            self._change(self._interest & ~_READING)  # can_send() goes on
            return []
        self._tunnel.flush()
        if self._tunnel.is_blocked:
            self._stall()
            return []
        return self._connection.reserve(self._stream_id, READ_BYTES)

    def _stall(self) -> None:
        self._change(self._interest & ~_READING)
        self._tunnel.stall(self)

    def _read_out(self) -> None:
        self._is_read_out = True
        self._connection.end(self._stream_id)
        if self._is_shut:
            self._complete()
        else:
            self._change(self._interest & ~_READING)

    def can_send(self) -> None:
        if not self._is_read_out:
            self._change(self._interest | _READING)

    def can_flush(self) -> None:
        self.can_send()

    # ---- from the tunnel to the socket -----------------------------------------------------------------------------

    def responded(self, response: Response) -> None:
        """Another answer after the one that made this relay: nothing to learn from it."""

    def payload(self, views: list[memoryview], is_last: bool = False) -> None:  # noqa: FBT001, FBT002 - Carried's
        sock = self._socket
        if sock is None:
            return
        if self._backlog:
            self._backlog.add(views)
            return
        if len(views) > _MAX_VIEWS:
            views = [memoryview(b"".join(views))]
        # With the shutdown that follows the last bytes are one packet with the FIN: for the kernel half of the work.
        flags = socket.MSG_MORE if is_last else 0
        try:
            sent = sock.send(views[0], flags) if len(views) == 1 else sock.sendmsg(views, (), flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._socket_failed(error.errno or 0)
            return
        total = len(views[0]) if len(views) == 1 else sum(map(len, views))
        if sent < total:
            self._take_slowly(views, sent)
        else:
            self._credit(sent)

    def _take_slowly(self, views: list[memoryview], sent: int) -> None:
        """The socket took no more than `sent` bytes of it."""
        self._credit(sent)
        self._backlog.add(views, sent)
        self._change(self._interest | WRITE)

    def payload_before(self, early: Backlog) -> None:
        """What came before the socket was there."""
        while early:
            piece = early.first
            self.payload([memoryview(piece)])
            early.taken(len(piece))

    def ended(self) -> None:
        self._is_ended = True
        if not self._backlog:
            self._shut()

    def _write(self) -> None:
        sock, backlog = self._socket, self._backlog
        if sock is None:
            return
        try:
            while backlog:
                sent = sock.send(backlog.first)
                self._credit(sent)
                if not backlog.taken(sent):
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self._socket_failed(error.errno or 0)
            return
        self._change(self._interest & ~WRITE)
        if self._is_ended:
            self._shut()

    def _credit(self, sent: int) -> None:
        self._connection.delivered(self._stream_id, sent)
        if self._connection.has_pending:  # an update of a window, mostly not
            self._tunnel.flush_later()
        if self._is_outbound:
            self._guard.record.received_bytes += sent
        else:
            self._guard.record.sent_bytes += sent

    def _shut(self) -> None:
        if self._socket is None or self._is_shut:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._socket_failed(error.errno or 0)
            return
        self._is_shut = True
        if self._is_read_out:
            self._complete()

    # ---- ends ------------------------------------------------------------------------------------------------------

    def was_reset(self, code: int) -> None:
        if code == ErrorCode.NO_ERROR and self._is_ended:
            # RFC 9113 §8.1: the peer has ended in full and only does not want the rest of ours.
            self._is_read_out = True
            self._change(self._interest & ~_READING)
            if self._is_shut:
                self._complete()
            return
        self._close(*reset_reason(code))

    def gone(self, reason: Reason, error: str) -> None:
        self._close(reason, error)

    def cut(self, reason: Reason, error: str = "") -> None:
        """Ends it from our side: both ends see a reset."""
        if self._socket is not None:
            self._close(reason, error)
            self._tunnel.reset(self._stream_id, ErrorCode.CANCEL)

    def crashed(self) -> None:
        self.cut(Reason.BUG)

    def _hung_up(self) -> None:
        """An event that was not asked for: the socket failed, or both its directions are over while we do not read."""
        if self._socket is None:
            return
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._socket_failed(error)
        elif self._is_watched and not self._interest:
            # It would be told again and again until reading goes on.
            self._loop.forget(self._socket.fileno())
            self._is_watched = False

    def _socket_failed(self, error: int) -> None:
        if self._socket is None:
            return
        self._close(Reason.RESET, "" if error in _GONE else errno.errorcode.get(error, ""))
        # RFC 9113 §8.5 has CONNECT_ERROR for this, but Envoy 1.40 makes a clean end of that, and a reset of CANCEL, as
        # which ztunnel's library gives up a stream as well. A truncated answer must not look complete.
        self._tunnel.reset(self._stream_id, ErrorCode.CANCEL)

    def _complete(self) -> None:
        """Both directions have ended as TCP means it."""
        if self._socket is None:
            return
        sock, self._socket = self._socket, None
        self._unwatch(sock)
        close_cleanly(sock)
        self._guard.close(Reason.CLOSED)
        self._tunnel.release(self._stream_id)

    def _close(self, reason: Reason, error: str) -> None:
        if self._socket is not None:
            sock, self._socket = self._socket, None
            self._unwatch(sock)
            sock.close()
            self._backlog.clear()
        self._guard.close(reason, error)

    def _unwatch(self, sock: socket.socket) -> None:
        """Before it is closed."""
        if self._is_ours:
            self._loop.let_go(sock.fileno())
        else:
            self._loop.forget(sock.fileno())

    def _change(self, interest: int) -> None:
        if self._socket is None or (interest == self._interest and self._is_watched):
            return
        self._interest = interest
        if self._is_watched:
            self._loop.change(self._socket.fileno(), interest)
        elif interest:
            self._is_watched = True
            self._loop.watch(self._socket.fileno(), interest, self)


lane.use(StreamRelay)
