# SPDX-License-Identifier: Apache-2.0
"""One HTTP/2 connection that carries CONNECT streams (RFC 9113): bytes in, events and bytes out, no socket, no clock.

The worker's two loops:
- receiving: `events = received(plain)`; write each stream's slices to its application and call `delivered`;
- sending: `views = reserve(id, at_most)`, `recvmsg_into(views)`, `commit(id, n)`, or `end(id)` at end of file; and once
  a turn, for all streams together, `while pending(): encrypt and send some of it; taken(n)`.

What is shared with the receiving half is in state.py, what a frame from the peer does in receiver.py. Names that belong
to this interface: Role and Limits (limits.py), H2Error (error.py), ErrorCode (frames.py), Received and its members
(events.py), ConnectRequest (headers.py).

Memory: 3.5 KiB for an idle connection, about 22 with both HPACK tables full, and 0.3 KiB for an idle stream. A
connection that is sending borrows one buffer of 1 MiB until it is flushed. What a worker holds for the peer is at most
`connection_window`.
"""

from collections.abc import Iterable
from typing import Self

from nodeagent.hbone.error import H2Error
from nodeagent.hbone.events import Received
from nodeagent.hbone.flood import PER_SENT_FRAME
from nodeagent.hbone.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_STREAM_ID,
    PING,
    PREFACE,
    ErrorCode,
    Setting,
    pack_frame,
    pack_settings,
    pack_window_update,
)
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Limits, Role
from nodeagent.hbone.receiver import UNBOUNDED, Receiver
from nodeagent.hbone.snapshot import VERSION, Snapshot
from nodeagent.hbone.state import ConnectionState


class Connection:
    """Either role. A stream that is gone is named without harm: a reset may cross any call."""

    __slots__ = ("_failed", "_outbox", "_patience", "_peer", "_receiver", "_state", "_streams", "_window", "role")

    def __init__(self, role: Role, limits: Limits | None = None) -> None:
        """Queues preface, SETTINGS and WINDOW_UPDATE at once. `limits` defaults to `Limits.of(role)`."""
        limits = limits or Limits.of(role)
        self.role = role
        self._failed = False
        self._state = ConnectionState(role, limits)
        self._receiver = Receiver(self._state)
        self._outbox = self._state.outbox
        # Of the state, what the hot paths need, one attribute away.
        self._streams = self._state.streams
        self._window = self._state.outbound
        self._peer = self._state.peer
        self._patience = self._state.patience
        self._outbox.append(_opening(role, limits))

    # -- going on in another process

    def snapshot(self) -> Snapshot:
        """Where it is, between two batches. Not after an H2Error: what failed does not go on."""
        assert not self._failed
        state = self._state
        reader, frame = self._receiver.snapshot()
        buffered, queued = self._outbox.snapshot()
        return Snapshot(
            role=self.role,
            limits=state.limits,
            streams=tuple(stream.snapshot() for stream in state.streams.values()),
            blocked=tuple(state.blocked),
            receive_left=state.inbound.left,
            receive_credit=state.inbound.credit,
            send_left=state.outbound.left,
            peer_stream_window=state.peer.stream_window,
            peer_max_frame=state.peer.max_frame,
            peer_max_streams=state.peer.max_streams,
            peer_keeps_keys=state.peer.keeps_keys,
            late_bytes=state.late_bytes,
            next_id=state.next_id,
            highest_peer_id=state.highest_peer_id,
            last_accepted_id=state.last_accepted_id,
            goaway_sent=state.goaway_sent,
            goaway_received=state.goaway_received,
            idle_left=state.patience.idle_left,
            wasted=state.patience.wasted,
            writer=state.writer.snapshot(),
            reader=reader,
            frame=frame,
            buffered=buffered,
            queued=queued,
        )

    @classmethod
    def resume(cls, snapshot: Snapshot) -> Self:
        """Raises ValueError for a snapshot of another version, and for an impossible one."""
        if snapshot.version != VERSION:
            raise ValueError(f"a connection of version {snapshot.version}")
        connection = cls(snapshot.role, snapshot.limits)
        try:
            connection._state.resume(snapshot)
            connection._receiver.resume(snapshot.reader, snapshot.frame)
        except H2Error as error:
            raise ValueError(str(error)) from error
        return connection

    # -- receiving

    def received(self, plain: memoryview, most_work: int = UNBOUNDED) -> Received:
        """One batch of decrypted bytes, cut anywhere.

        The answer holds slices of `plain`, which must not change until they were used; the codec keeps none.
        `most_work`, in units of half a microsecond (receiver.py), bounds what small frames may cost at once; what is
        left of the batch is `unread` then.

        Raises:
            H2Error: the peer broke HTTP/2 or a limit. GOAWAY is queued: send `pending` and close. Events of this batch
                are lost with the connection; later calls return no events.
        """
        events = Received()
        if self._failed:
            return events
        try:
            taken = self._receiver.feed(plain, events, most_work)
        except H2Error as error:
            self._failed = True
            self._state.final_goaway(error.code, str(error).encode("ascii", "replace"))
            raise
        if taken < len(plain):
            events.unread = plain[taken:]
        if self._state.windows_moved:
            self._state.windows_moved = False
            self._unblock(events)
        return events

    def delivered(self, stream_id: int, n: int) -> None:
        """`n` bytes of the stream's payload reached the application: credit for its and the connection's window.

        WINDOW_UPDATE is queued at a quarter of either window. The connection's credit is given here, so what a worker
        holds for one tunnel never exceeds `connection_window`; the codec itself gives it for padding, for late bytes of
        streams that are gone, and for what a stream had not delivered when it was reset.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        own, whole = stream.inbound, self._state.inbound
        if (own.credit + n) << 2 < own.size and (whole.credit + n) << 2 < whole.size and not stream.remote_ended:
            # Hot, once a payload: nothing is to be announced or ended, see ReceiveWindow.delivered.
            assert 0 <= n <= own.size - own.left - own.credit
            own.credit += n
            whole.credit += n
        else:
            self._state.delivered(stream, n)

    def _unblock(self, events: Received) -> None:
        blocked, connection = self._state.blocked, self._window.left
        if blocked and connection > 0:
            events.writable = [one for one in blocked if self._streams[one].outbound.left > 0]
            for stream_id in events.writable:
                del blocked[stream_id]

    # -- opening and answering

    @property
    def can_open(self) -> bool:
        """Client: `open` would succeed (no GOAWAY, below MAX_CONCURRENT_STREAMS, ids left, a peer that reads)."""
        state = self._state
        # Asked several times for each stream: `is_draining` is spelt out.
        return (
            self.role is Role.CLIENT
            and not (self._failed or state.goaway_sent or state.goaway_received is not None)
            and state.streams_open < self._peer.max_streams
            and state.next_id <= MAX_STREAM_ID
            and self._outbox.queued_bytes <= state.limits.max_queued_bytes
        )

    @property
    def peer_limit(self) -> int:
        """Client: streams that the peer takes at once, as far as it has said."""
        return self._state.peer.max_streams

    def open(self, request: ConnectRequest) -> int | None:
        """Client: queues HEADERS and returns the stream's id; None when `can_open` is False.

        It may be called before the peer's SETTINGS came: then 100 streams and the default window are taken for granted.
        """
        if not self.can_open:
            return None
        state = self._state
        stream_id = state.next_id
        state.next_id += 2
        state.add(stream_id)
        self._send_headers(stream_id, state.writer.request(request), end=False)
        return stream_id

    def respond(
        self, stream_id: int, status: int, headers: Iterable[tuple[str, str]] = (), *, end: bool = False
    ) -> None:
        """Server: the one answer to a Request.

        With `end` the stream is over: END_STREAM, then RST_STREAM(NO_ERROR) if the client has not ended it yet
        (RFC 9113 §8.1), and no further call for it is needed.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        assert self.role is Role.SERVER
        assert not stream.is_answered
        stream.is_answered = True
        self._send_headers(stream_id, self._state.writer.response(status, headers), end=end)
        if not end:
            self._state.patience.stream_served()
            return
        stream.local_ended = True
        self._state.blocked.pop(stream_id, None)
        if stream.remote_ended:
            self._state.settle(stream)
        else:
            self._state.reset(stream, ErrorCode.NO_ERROR)

    def _send_headers(self, stream_id: int, block: bytes, *, end: bool) -> None:
        most = self._state.peer.max_frame
        flags, kind = (END_STREAM if end else 0), HEADERS
        while len(block) > most:
            self._outbox.append(pack_frame(kind, flags, stream_id, block[:most]))
            block, flags, kind = block[most:], 0, CONTINUATION
        self._outbox.append(pack_frame(kind, flags | END_HEADERS, stream_id, block))

    # -- sending

    def room(self, stream_id: int) -> int:
        """Bytes that this stream may send now: the lesser of its window and the connection's.

        0 is remembered: the stream will stand in `Received.writable` once it may send again. Always 0 for a stream that
        is gone or that we have ended.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_ended:
            return 0
        room = min(stream.outbound.left, self._window.left)
        if room > 0:
            return room
        self._state.blocked[stream_id] = None
        return 0

    def reserve(self, stream_id: int, at_most: int) -> list[memoryview]:
        """Views into the send buffer to receive payload into, one per frame, together at most `at_most` and `room`.

        Empty when `room` is 0, or when what is pending fills the buffer: then flush and ask again. Every `reserve` that
        gave views is followed by `commit` (0 when nothing came) before any other call.
        """
        stream = self._streams.get(stream_id)
        connection = self._window.left
        if stream is None or stream.local_ended or stream.outbound.left <= 0 or connection <= 0:
            self.room(stream_id)
            return []
        # Hot, once a read: comparisons, since min() is a call (0.06 us each).
        if stream.outbound.left < at_most:  # noqa: PLR1730
            at_most = stream.outbound.left
        if connection < at_most:  # noqa: PLR1730
            at_most = connection
        return self._outbox.reserve(at_most, self._peer.max_frame)

    def commit(self, stream_id: int, n: int) -> None:
        """`n` bytes landed in the views of the last `reserve`, filling them in order."""
        frames = self._outbox.commit(stream_id, n, self._peer.max_frame)
        if frames:
            self._streams[stream_id].outbound.left -= n
            self._window.left -= n
            self._patience.idle_left += frames * PER_SENT_FRAME

    def send(self, stream_id: int, payload: memoryview) -> int:
        """Copies what fits (windows, buffer), returns how much: for bytes that were read before the stream opened."""
        done = 0
        for view in self.reserve(stream_id, len(payload)):
            view[:] = payload[done : done + len(view)]
            done += len(view)
        if done:
            self.commit(stream_id, done)
        return done

    def end(self, stream_id: int) -> None:
        """We send nothing more on this stream. It lives on until the peer ends it too and all is delivered."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_ended:
            return
        self._outbox.append(pack_frame(DATA, END_STREAM, stream_id))
        stream.local_ended = True
        self._state.blocked.pop(stream_id, None)
        self._state.settle(stream)

    def reset(self, stream_id: int, code: int) -> None:
        """Ends both directions at once and forgets the stream, crediting what it had not delivered.

        For a stream that both ends have ended no RST_STREAM is sent: so a worker may always finish with this call.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._state.reset(stream, code)

    # -- the connection

    def take_waste(self) -> int:
        """What the peer has said for nothing since this was asked last, in units of half a microsecond (flood.py)."""
        return self._patience.take_waste()

    def ping(self, opaque: bytes) -> None:
        """Queues PING with 8 bytes that come back in `Received.pongs`.

        Call it on a timer (every 10 s): it is this class's only clock, and refills what a peer may waste.
        """
        assert len(opaque) == 8
        self._outbox.append(pack_frame(PING, 0, 0, opaque))
        self._state.patience.interval_passed()

    def goaway(self, code: int = ErrorCode.NO_ERROR) -> None:
        """No new streams from the peer; those that are open go on.

        A server's first call with NO_ERROR is the graceful one (§6.8): the last id is 2**31-1 and a PING follows; when
        that comes back the codec sends the last id that it accepted by itself. A second call, an error code, or a
        client sends that at once.
        """
        state = self._state
        if self.role is Role.SERVER and code == ErrorCode.NO_ERROR and not state.goaway_sent:
            state.announce_goaway()
        else:
            state.final_goaway(code)

    @property
    def has_pending(self) -> bool:
        """There is something to encrypt and send."""
        return self._outbox.has_pending

    def pending(self) -> memoryview:
        """Bytes to encrypt and send next; empty when there are none. Valid until `taken`."""
        return self._outbox.pending()

    def taken(self, n: int) -> None:
        """The first `n` bytes that `pending` showed are encrypted; no other call came in between. Then ask again."""
        self._outbox.taken(n)

    @property
    def both_keep_keys(self) -> bool | None:
        """Both ends have announced it. None: the peer's SETTINGS have not come."""
        if self._state.peer.keeps_keys is None:
            return None
        return self._state.limits.keeps_keys and self._state.peer.keeps_keys

    @property
    def streams_open(self) -> int:
        """Streams that are not closed in HTTP/2's sense."""
        return self._state.streams_open

    @property
    def held_bytes(self) -> int:
        """Payload that came and was not delivered; never more than `connection_window`."""
        return self._state.inbound.held

    @property
    def is_idle(self) -> bool:
        """No stream is known, not even one whose last bytes wait to be delivered."""
        return not self._streams

    @property
    def is_draining(self) -> bool:
        """Either end has sent GOAWAY: no new streams from here; close when idle."""
        return self._state.goaway_sent or self._state.goaway_received is not None


def _opening(role: Role, limits: Limits) -> bytes:
    """The connection preface of either role (§3.4), with the connection's window widened at once."""
    settings = {
        Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
        Setting.MAX_FRAME_SIZE: limits.max_frame,
        Setting.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
    }
    if role is Role.CLIENT:
        settings[Setting.ENABLE_PUSH] = 0
    else:
        settings[Setting.MAX_CONCURRENT_STREAMS] = limits.max_streams
    if limits.keeps_keys:
        settings[Setting.KEEPS_KEYS] = 1
    opening = PREFACE if role is Role.CLIENT else b""
    opening += pack_settings(settings)
    if limits.connection_window > DEFAULT_WINDOW:
        opening += pack_window_update(0, limits.connection_window - DEFAULT_WINDOW)
    return opening
