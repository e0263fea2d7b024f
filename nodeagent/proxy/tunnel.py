# SPDX-License-Identifier: Apache-2.0
"""One HBONE connection: a TCP socket, its TLS and its HTTP/2, in either role, with the streams that it carries.

The hot path of the worker, by the rules that were measured for it: ciphertext is read 512 KiB at a time into a buffer
of the process, opened into another, and its payload handed on in slices; what all streams want to send is sealed and
sent once, behind a few callbacks of the loop. No object, log call or exception is made per chunk unless a socket
blocks.
"""

import os
import select
import socket
from typing import Self

from nodeagent.errors import PeerError
from nodeagent.hbone.connection import Connection
from nodeagent.hbone.events import Received
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Role
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy import lane
from nodeagent.proxy.backlog import FAIR_BYTES, HELD
from nodeagent.proxy.carried import Carried, CarriedSocket, TunnelOwner
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.handover import AcceptedState, DialledState, TunnelState
from nodeagent.proxy.kernel_channel import CannotMove, KernelChannel, Wear
from nodeagent.proxy.kernel_move import KernelMove
from nodeagent.proxy.loop import READ, WRITE, Loop, Timer
from nodeagent.proxy.sockets import close_cleanly
from nodeagent.proxy.tls import RECORD_BYTES, Channel, Handshake, Sending
from nodeagent.tls.channel import RecordChannel

_CIPHERTEXT = bytearray(512 << 10)
_PLAINTEXT = memoryview(bytearray((512 << 10) + 2 * RECORD_BYTES))
"""Shared by every tunnel of the process: only a stream that cannot be written to owns memory. With room for what was
kept of a record, so that one read is opened at once."""
_CIPHERTEXT_VIEW = memoryview(_CIPHERTEXT)
_NOTHING = memoryview(b"")

TURN_WORK = 500
"""What a tunnel's frames may cost in one turn, in units of half a microsecond (nodeagent/hbone/receiver.py). Whatever
came beyond that waits, and its socket is not read: five new streams, or eighty of a flood's PINGs."""
_PING_SECONDS = 10.0
_UNANSWERED_PINGS = 2
"""So a silent peer is given up after 20 to 30 seconds, as ztunnel does (10 s interval, 20 s timeout)."""
_PING = b"nodeping"
_LAST_PING = b"draining"


class Tunnel:
    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        begin: Handshake | RecordChannel | KernelChannel,
        role: Role,
        owner: TunnelOwner,
        deadline: float,
        *,
        connection: Connection | None = None,
    ) -> None:
        """`sock` is connected and prepared; `deadline` is that of the handshake, in seconds.

        With a channel and its `connection` it goes on where another process was, see `resume`.
        """
        self.connection = connection or Connection(role, owner.kernel_records.limits(role))
        self.streams: dict[int, Carried] = {}
        self.peer: Identity | None = None
        self.peer_certificates: tuple[bytes, ...] = ()
        """Names of the chain by which it was believed."""
        self.was_cut = False
        """The peer or the network ended it before the handshake was over, and said nothing."""
        self.is_blocked = False
        """Its socket takes no more: streams stop reading, and are told by `can_flush`."""
        self._loop, self._owner = loop, owner
        self._handshake: Handshake | None = begin if isinstance(begin, Handshake) else None
        self._channel: Channel | None = None if isinstance(begin, Handshake | KernelChannel) else begin
        """What the handshake ends in."""
        self._sending: Sending | None = None if isinstance(begin, KernelChannel) else begin
        """One of the two."""
        self._kernel: KernelChannel | None = begin if isinstance(begin, KernelChannel) else None
        """In place of these, once the socket makes the records."""
        is_ahead = self._kernel is None and owner.kernel_records.is_wanted
        self._move = KernelMove(owner.kernel_records, self.connection, is_ahead=is_ahead)
        self._socket: socket.socket | None = sock
        self._is_dirty = False
        self._unread = _NOTHING
        """Of its own: plaintext that there was no time for."""
        self._is_behind = False
        """There is such, or records that are not opened yet; `_catch_up` comes in the next turn."""
        self._stalled: dict[Carried, None] = {}
        self._unanswered = 0
        self._is_server = role is Role.SERVER
        self._awaits_last_pong = False
        self._interest = READ
        """What its socket is watched for while it takes everything."""
        loop.watch(sock.fileno(), READ, self)
        self._timer: Timer | None = loop.after(
            deadline, self, self._ping if self._handshake is None else self._handshake_timed_out
        )
        if isinstance(begin, Handshake) and role is Role.CLIENT:
            begin.shake_hands()
            self.flush_later()

    # ---- going on in another process -------------------------------------------------------------------------------

    @property
    def can_move(self) -> bool:
        """It could go on in another process at this moment, with all its streams."""
        is_caught_up = self.is_portable and not self._is_behind
        return is_caught_up and all(isinstance(stream, CarriedSocket) for stream in self.streams.values())

    @property
    def is_portable(self) -> bool:
        """It could, once all its streams are joined to their sockets."""
        has_keys = self._kernel is not None or isinstance(self._channel, RecordChannel)
        return self._socket is not None and self.peer is not None and has_keys

    @property
    def guards(self) -> list[ConnectionGuard]:
        """Of the streams that are joined to sockets."""
        return [stream.guard for stream in self.streams.values() if isinstance(stream, CarriedSocket)]

    def hold(self, *, is_held: bool) -> None:
        """Reads nothing for a moment, so that no new stream keeps it from moving."""
        interest = 0 if is_held else READ
        if self._socket is not None and interest != self._interest:
            self._interest = interest
            self._loop.change(self._socket.fileno(), interest | (WRITE if self.is_blocked else 0))

    def surrender(self, owner: AcceptedState | DialledState) -> tuple[TunnelState, list[socket.socket]]:
        """Everything that another process needs to go on, and the sockets: its own and those of its streams.

        Only when it `can_move`. From here on it is as good as closed, and nobody is told; the streams' guards are the
        caller's.
        """
        sock, channel, peer = self._socket, self._kernel or self._channel, self.peer
        assert sock is not None
        assert peer is not None
        assert isinstance(channel, RecordChannel | KernelChannel)
        carried = [stream.surrender() for stream in self.streams.values() if isinstance(stream, CarriedSocket)]
        assert len(carried) == len(self.streams)
        connection, keys = self.connection.snapshot(), channel.surrender()
        self._forget_socket()
        self.streams.clear()
        state = TunnelState(
            owner,
            peer,
            self.peer_certificates,
            keys,
            connection,
            self._unanswered,
            self._awaits_last_pong,
            tuple(stream for stream, _ in carried),
        )
        return state, [sock, *(one for _, one in carried)]

    @classmethod
    def resume(cls, loop: Loop, sock: socket.socket, state: TunnelState, owner: TunnelOwner) -> Self:
        """Without its streams; when they are there again, `go_on`. Raises ValueError, and nothing was begun then."""
        connection = Connection.resume(state.connection)
        channel: RecordChannel | KernelChannel
        if state.channel.is_in_kernel:
            channel = KernelChannel.resume(sock, state.channel)
        else:
            channel = RecordChannel.resume(state.channel)
        tunnel = cls(loop, sock, channel, connection.role, owner, _PING_SECONDS, connection=connection)
        tunnel.peer, tunnel.peer_certificates = state.peer, state.peer_certificates
        tunnel._unanswered, tunnel._awaits_last_pong = state.unanswered, state.awaits_last_pong
        return tunnel

    def go_on(self) -> None:
        """Sends what was left unsent, and looks at what was left unread."""
        self._look_at_records()
        self.flush_later()

    # ---- for the owner and the streams -----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    @property
    def can_open(self) -> bool:
        return self._socket is not None and self.peer is not None and self.connection.can_open

    def open(self, request: ConnectRequest, stream: Carried) -> int | None:
        """A new stream; None when there can be none, which `can_open` says as well."""
        stream_id = self.connection.open(request)
        if stream_id is not None:
            self.streams[stream_id] = stream
            self.flush_later()
        return stream_id

    def adopt(self, stream_id: int, stream: Carried) -> None:
        """`stream` is who uses it from now on."""
        self.streams[stream_id] = stream

    def refuse(self, stream_id: int, status: int) -> None:
        self.connection.respond(stream_id, status, end=True)
        self.release(stream_id)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        self.connection.reset(stream_id, code)
        self.release(stream_id)

    def release(self, stream_id: int) -> None:
        """Its user is done with it."""
        self.flush_later()
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self._stalled.pop(stream, None)
        if self._socket is not None:
            self._owner.changed(self)  # also for one that the peer had reset: its last bytes may have been waited for

    def stall(self, stream: Carried) -> None:
        """`stream` has stopped reading because `is_blocked`."""
        self._stalled[stream] = None

    def flush_later(self) -> None:
        if not self._is_dirty:
            self._is_dirty = True
            self._loop.soon(self, self.flush)

    def drain(self) -> None:
        """No new streams; the tunnel closes when the last one has ended."""
        if self.peer is None:
            self.fail(Reason.DRAINED, "")
            return
        self.connection.goaway()
        if self._is_server:
            # A stream may be on its way to us. Behind the answer to this PING there is none (RFC 9113 §6.8).
            self._awaits_last_pong = True
            self.connection.ping(_LAST_PING)
        self.flush_later()
        self.close_if_drained()

    def close_if_drained(self) -> None:
        if self.connection.is_draining and not self._awaits_last_pong and self._is_idle:
            self._loop.at_end_of_turn(self, self._close_if_still_idle)

    def close(self) -> None:
        """The orderly end of a tunnel without streams: GOAWAY, close_notify, FIN."""
        if self._socket is None:
            return
        self.connection.goaway(ErrorCode.NO_ERROR)
        self._say_goodbye(Reason.CLOSED, "")

    def fail(self, reason: Reason, error: str) -> None:
        """Ends it at once, with a reset; its streams end with the same reason."""
        if self._socket is None:
            return
        sock = self._socket
        self._forget_socket()
        sock.close()
        self._tell_all(reason, error)

    # ---- the loop's calls ------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        if events & WRITE:
            self._unblock()
        if events & ~select.EPOLLOUT and self._may_receive():
            self._receive()

    def _may_receive(self) -> bool:
        """Else the loop tells it again in the next turn."""
        return not self._is_behind and (self._handshake is None or self._loop.takes_slow_step())

    def crashed(self) -> None:
        self.fail(Reason.BUG, "")

    def flush(self) -> None:
        """Seals and sends what is pending, until there is nothing or the socket blocks."""
        self._is_dirty = False
        sock = self._socket
        if sock is None or self.is_blocked:
            return
        try:
            if self._sending is not None and not self._has_flushed(sock, self._sending):
                self._seal_and_send(sock, self._sending)
            if self._kernel is not None:
                self._give_to(self._kernel, sock)
        except OSError as error:
            self._cannot_send(error)

    def _has_flushed(self, sock: socket.socket, sending: Sending) -> bool:
        """By compiled code: all that was pending, or what the socket took; else go on from there. Raises OSError."""
        done = lane.compiled.flush(self) if lane.compiled is not None else 0
        if done < 0:
            raise OSError(-done, os.strerror(-done))
        if done == lane.BLOCKED:
            sending.blocked()
            self._block(sock)
        return done > 0

    def _seal_and_send(self, sock: socket.socket, sending: Sending) -> None:
        connection = self.connection
        while True:
            unsent = sending.unsent
            if not unsent:
                if self._move.is_ahead and self._has_moved(sock):
                    return
                plain = _NOTHING if self._channel is None else connection.pending()
                if not plain and not sending.has_control:
                    return
                connection.taken(sending.seal(plain))
                unsent = sending.unsent
                if not unsent:
                    continue
            try:
                sent = sock.send(unsent)
            except BlockingIOError:
                sent = 0
            sending.sent(sent)
            if sent < len(unsent):
                sending.blocked()
                self._block(sock)
                return

    def _give_to(self, kernel: KernelChannel, sock: socket.socket) -> None:
        connection = self.connection
        while True:
            plain = connection.pending()
            if not plain and not kernel.has_control:
                return
            try:
                sent = kernel.send(plain)
            except BlockingIOError:
                sent = 0
                self._block(sock)
            connection.taken(sent)
            if sent < len(plain):
                self._block(sock)
            if self.is_blocked:
                return

    def _block(self, sock: socket.socket) -> None:
        self.is_blocked = True
        self._loop.change(sock.fileno(), self._interest | WRITE)

    # ---- into the kernel -------------------------------------------------------------------------------------------

    def _has_moved(self, sock: socket.socket) -> bool:
        """Tries to; True: nothing is to be sealed by what has sealed until now, see `flush`."""
        try:
            self._kernel = self._move.make(sock, self._channel)
        except CannotMove as error:
            self._channel = self._sending = error.channel
            if error.channel is None:
                self.fail(Reason.TLS_FAILED, f"tunnel: the kernel took one key of two: {error}")
            self.flush_later()
            return True
        if self._kernel is None:
            return False
        self._channel = self._sending = None
        return True

    def _look_at_keys(self, kernel: KernelChannel) -> None:
        try:
            wear = kernel.look_at_keys()
        except OSError as error:
            self._lost(f"tunnel: {error.strerror}")
            return
        if wear is Wear.EXHAUSTED:
            self.fail(Reason.TLS_KEY_WORN, "tunnel: it sent as many records as one key is good for")
        elif wear is Wear.WORN and not self.connection.is_draining:
            self.drain()
            self._owner.changed(self)

    # ---- receiving -------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        if self._socket is None:
            return
        if self._kernel is not None:
            self._receive_from(self._kernel)
        elif not self._has_received():
            self._receive_slowly(self._socket)

    def _has_received(self) -> bool:
        """What there was, by compiled code; else nothing has happened."""
        done = lane.compiled.receive(self) if lane.compiled is not None else 0
        if done < 0:
            self._lost(f"tunnel: {os.strerror(-done)}")
        return done != 0

    def _go_on_slowly(self, plain: memoryview, work: int, ciphertext: memoryview, is_first: bool) -> None:  # noqa: FBT001
        """With what compiled code leaves: frames that may cost as much as `work`, then records."""
        try:
            if self._socket is not None:
                self._opened(plain, work)
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
        if self._socket is not None and self._channel is not None:
            self._go_on_with_records(self._channel, ciphertext, is_first=is_first)

    def _broke(self, stream: Carried, error: Exception) -> None:
        """Compiled code has met a defect with this stream."""

        def fail() -> None:
            raise error

        self._loop.guarded(stream, fail)

    def _go_on_with_records(self, channel: Channel, ciphertext: memoryview, *, is_first: bool) -> None:
        """`is_first`: nothing was opened in this turn; else its share of work may be done, and the next one goes on."""
        if ciphertext:
            channel.received(ciphertext)
        if self._unread or (ciphertext and not is_first):
            channel.keep()
            self._go_on_later()
        elif ciphertext:
            self._look_at_records()
        if self.connection.has_pending or channel.has_control:
            self.flush_later()

    def _receive_slowly(self, sock: socket.socket) -> None:
        try:
            size = sock.recv_into(_CIPHERTEXT, self._move.read_at_most)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(f"tunnel: {error.strerror}")
            return
        if not size:
            self._lost("tunnel: the peer closed it")
            return
        self._unanswered = 0  # whatever it is, the peer lives
        try:
            if self._handshake is not None:
                self._shake_hands(self._handshake, size)
            elif self._channel is not None:
                self._channel.received(_CIPHERTEXT_VIEW[:size])
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
            return
        self._look_at_records()

    def _receive_from(self, kernel: KernelChannel) -> None:
        try:
            size = kernel.receive_into(_PLAINTEXT)
        except BlockingIOError:
            return
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
            return
        except OSError as error:
            self._lost(f"tunnel: {error.strerror}")
            return
        self._unanswered = 0
        if kernel.has_ended or kernel.is_closed:
            self._lost("tunnel: the peer closed it")
            return
        try:
            self._opened(_PLAINTEXT[:size])
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
        if self._unread:
            self._go_on_later()
        self.flush_later()

    def _look_at_records(self) -> None:
        try:
            if self._channel is not None:
                self._open_records(self._channel)
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))

    def _shake_hands(self, handshake: Handshake, size: int) -> None:
        """One step, with what was received."""
        handshake.received(_CIPHERTEXT_VIEW[:size])
        channel = handshake.shake_hands()
        self.flush_later()
        if channel is not None:
            self._channel = self._sending = channel
            self._handshake = None
            self.peer_certificates = handshake.peer_certificates()
            self._owner_accepts(handshake.peer_identity())

    def _owner_accepts(self, peer: Identity) -> None:
        self.peer = peer
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(_PING_SECONDS, self, self._ping)
        self._owner.established(self, peer)

    def _open_records(self, channel: Channel) -> None:
        if self._socket is None:
            return
        self._opened(_PLAINTEXT[: channel.open_into(_PLAINTEXT)])
        if self._unread or channel.has_more:
            channel.keep()
            self._go_on_later()
        elif channel.is_closed:
            self._lost("tunnel: the peer closed it")
        elif self._move.is_ahead:
            self._move.head_for_it(channel)
        if self._move.is_ahead or self.connection.has_pending or channel.has_control:
            self.flush_later()

    def _go_on_later(self) -> None:
        self._is_behind = True
        self._loop.next_turn(self, self._catch_up)

    def _catch_up(self) -> None:
        """With what there was no time for."""
        self._is_behind = False
        if self._socket is None:
            return
        unread, self._unread = self._unread, _NOTHING
        try:
            self._opened(unread)
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
        if self._unread:
            self._go_on_later()
            self.flush_later()
        else:
            self._look_at_records()

    def _opened(self, plain: memoryview, work: int = TURN_WORK) -> None:
        """As much of it as a turn may cost; the rest is `_unread`. Raises H2Error."""
        if plain:
            received = self.connection.received(plain, work)
            if received.unread:
                self._unread = memoryview(bytes(received.unread))
            self._dispatch(received)
            self._look_at_held()

    def _look_at_held(self) -> None:
        if HELD.size > HELD.most and self.connection.held_bytes > FAIR_BYTES:
            self.fail(Reason.MEMORY_LIMIT, f"{self.connection.held_bytes} bytes wait for applications")

    def _dispatch(self, received: Received) -> None:
        """In the order of the fields of Received, which is that of their causes."""
        for request in received.opened:
            self._owner.requested(self, request)
        for response in received.responded:
            stream = self.streams.get(response.stream_id)
            if stream is not None:
                self._loop.guarded(stream, stream.responded, response)
        streams, guarded = self.streams, self._loop.guarded
        last = frozenset(received.ended) if received.ended else ()
        for stream_id, views in received.data.items():
            stream = streams.get(stream_id)
            if stream is not None:
                guarded(stream, stream.payload, views, stream_id in last)
        for stream_id in received.ended:
            stream = streams.get(stream_id)
            if stream is not None:
                guarded(stream, stream.ended)
        self._dispatch_rest(received)

    def _dispatch_rest(self, received: Received) -> None:
        streams, guarded = self.streams, self._loop.guarded
        for stream_id, code in received.resets:
            stream = streams.pop(stream_id, None)
            if stream is not None:
                self._stalled.pop(stream, None)  # a peer that does not read may reset as many as it likes
                guarded(stream, stream.was_reset, code)
        for stream_id in received.writable:
            stream = streams.get(stream_id)
            if stream is not None:
                guarded(stream, stream.can_send)
        if _LAST_PING in received.pongs:
            self._awaits_last_pong = False
            self.close_if_drained()
        if received.refused:
            self._owner.refused(self, received.refused)
        if received.resets or received.goaway:
            self._owner.changed(self)

    # ---- sending ---------------------------------------------------------------------------------------------------

    def _unblock(self) -> None:
        sending = self._sending
        if self._socket is None or not self.is_blocked:
            return
        if sending is not None:
            try:
                sending.sent(self._socket.send(sending.unsent))
            except BlockingIOError:
                return
            except OSError as error:
                self._cannot_send(error)
                return
            if sending.unsent:
                return
        self.is_blocked = False
        self._loop.change(self._socket.fileno(), self._interest)
        self.flush()
        if not self.is_blocked:
            stalled, self._stalled = self._stalled, {}
            for stream in stalled:
                self._loop.guarded(stream, stream.can_flush)

    def _cannot_send(self, error: OSError) -> None:
        """The peer has gone. What it said before, an alert perhaps, tells more, and may still be read."""
        self.is_blocked = True
        self._loop.at_end_of_turn(self, lambda: self._hear_last_words(f"tunnel: {error.strerror}"))

    def _hear_last_words(self, error: str) -> None:
        if not self._is_behind:
            self._receive()
        self._lost(error)

    def _ping(self) -> None:
        if self._unanswered >= _UNANSWERED_PINGS:
            self.fail(Reason.PING_TIMEOUT, "tunnel: the peer is silent")
            return
        self._unanswered += 1
        if self._kernel is not None:
            self._look_at_keys(self._kernel)
            if self._socket is None:
                return
        self.connection.ping(_PING)
        self.flush_later()
        self._timer = self._loop.after(_PING_SECONDS, self, self._ping)

    # ---- ends ------------------------------------------------------------------------------------------------------

    def _handshake_timed_out(self) -> None:
        self._say_goodbye(Reason.TLS_TIMEOUT, "the handshake was not finished in time")

    def _close_if_still_idle(self) -> None:
        if self._is_idle:
            self._say_goodbye(Reason.CLOSED, "")

    @property
    def _is_idle(self) -> bool:
        return self._socket is not None and not self.streams and self.connection.is_idle

    def _lost(self, error: str) -> None:
        """The peer or the network ended it. Without streams that is nobody's loss."""
        if self.peer is None:
            self.was_cut = True
            self.fail(Reason.TLS_FAILED, f"during the handshake: {error}")
        elif self.streams:
            self.fail(Reason.PEER_LOST, error)
        else:
            self.fail(Reason.CLOSED, "")

    def _say_goodbye(self, reason: Reason, error: str) -> None:
        """Sends what is queued (an alert, GOAWAY) as far as the socket takes it, and closes without a reset."""
        self.flush()
        channel = self._kernel or self._channel
        if channel is not None:
            channel.close()
            self.flush()
        if self._socket is None:
            return
        sock, has_streams = self._socket, bool(self.streams)
        self._forget_socket()
        if has_streams:
            sock.close()  # with a reset: a stream that was cut must not look ended
        else:
            close_cleanly(sock)
        self._tell_all(reason, error)

    def _forget_socket(self) -> None:
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket = None
            for keys in (self._sending, self._kernel):
                if keys is not None:
                    keys.forget()
        if self._timer is not None:
            self._timer.cancel()
        self._unread = _NOTHING
        self._stalled.clear()

    def _tell_all(self, reason: Reason, error: str) -> None:
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            self._loop.guarded(stream, stream.gone, reason, error)
        self._owner.ended(self, reason, error)
