# SPDX-License-Identifier: Apache-2.0
"""One HBONE connection: a TCP socket, its TLS and its HTTP/2, in either role, with the streams that it carries.

In three layers, each a class that knows what is below it: what goes out and how it ends (tunnel_sending.py), what comes
in (tunnel_receiving.py), and here its streams, its owner, its life and its move to another process. They are one object
all the same: compiled code reads and writes that by name (lane/objects.h), and among three objects each record would
cost calls.

The hot path of the worker, by the rules that were measured for it: payload is handed on in slices of the process's
buffers, and all that is pending is sent at once. No object, log call or exception is made per chunk unless a socket
blocks.
"""

import functools
import itertools
import socket
from typing import Self

from nodeagent.hbone.connection import Connection
from nodeagent.hbone.events import Received
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Role
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy.carried import Carried, CarriedSocket, TunnelOwner
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.handover import AcceptedState, DialledState, TunnelState
from nodeagent.proxy.kernel_channel import KernelChannel, Wear
from nodeagent.proxy.loop import Loop, Timer
from nodeagent.proxy.tls import Handshake
from nodeagent.proxy.tunnel_receiving import ReceivingTunnel
from nodeagent.tls.channel import RecordChannel

_PING_SECONDS = 10.0
_UNANSWERED_PINGS = 2
"""So a silent peer is given up after 20 to 30 seconds, as ztunnel does (10 s interval, 20 s timeout)."""
_PING = b"nodeping"
_LAST_PING = b"draining"
_TOLD_PER_TURN = 20
"""Streams, of their tunnel's end by its peer. Each closes a socket and leaves a record: 200 of them, which a peer may
open and hang up over and over, would hold up everybody for ten milliseconds."""


class Tunnel(ReceivingTunnel):
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
        records = owner.kernel_records
        super().__init__(loop, sock, begin, connection or Connection(role, records.limits(role)), records)
        self._owner = owner
        self._is_server = role is Role.SERVER
        self._awaits_last_pong = False
        self._timer: Timer | None = loop.after(
            deadline, self, self._ping if self._handshake is None else self._handshake_timed_out
        )
        if isinstance(begin, Handshake) and role is Role.CLIENT:
            begin.shake_hands()
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

    # ---- what the peer's frames mean to them -----------------------------------------------------------------------

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

    # ---- life ------------------------------------------------------------------------------------------------------

    def _owner_accepts(self, peer: Identity) -> None:
        self.peer = peer
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(_PING_SECONDS, self, self._ping)
        self._owner.established(self, peer)

    def _owner_charges(self, seconds: float) -> float:
        return self._owner.charge(seconds)

    def _owner_lets_rest(self) -> float:
        return self._owner.rest()

    def _ping(self) -> None:
        if self._unanswered >= _UNANSWERED_PINGS and not self._is_behind:
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

    # ---- ends ------------------------------------------------------------------------------------------------------

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

    def _close_if_still_idle(self) -> None:
        if self._is_idle:
            self._say_goodbye(Reason.CLOSED, "")

    @property
    def _is_idle(self) -> bool:
        return self._socket is not None and not self.streams and self.connection.is_idle

    def close(self) -> None:
        """The orderly end of a tunnel without streams: GOAWAY, close_notify, FIN."""
        if self._socket is None:
            return
        self.connection.goaway(ErrorCode.NO_ERROR)
        self._say_goodbye(Reason.CLOSED, "")

    def _forget_socket(self) -> None:
        super()._forget_socket()
        if self._timer is not None:
            self._timer.cancel()

    def _tell_all(self, reason: Reason, error: str, *, at_once: bool = False) -> None:
        self._owner.ended(self, reason, error)
        self.is_blocked = True  # until they know, streams do not read for a tunnel that is gone
        self._tell_streams(reason, error, len(self.streams) if at_once else _TOLD_PER_TURN)

    def _tell_streams(self, reason: Reason, error: str, at_most: int = _TOLD_PER_TURN) -> None:
        for stream_id in tuple(itertools.islice(self.streams, at_most)):
            stream = self.streams.pop(stream_id, None)
            if stream is not None:
                self._stalled.pop(stream, None)
                self._loop.guarded(stream, stream.gone, reason, error)
        if self.streams:
            self._loop.next_turn(self, functools.partial(self._tell_streams, reason, error))

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
        self._is_held = is_held
        self._look_at_interest()

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
