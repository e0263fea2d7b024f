# SPDX-License-Identifier: Apache-2.0
"""What the receiving and the sending half of a connection share: streams, windows, settings, the way out.

The rules about a stream's end are here, because either half can cause it:
- A stream is known until both ends have ended *and* all its payload was delivered, or until a reset.
- The connection window never leaks: what a stream held when it was forgotten is credited at once.
- After our own reset the peer may still send what its window allowed; `late_bytes` is the sum of that. DATA for a
  stream that is not known uses it up, and is a connection error beyond it. So no list of dead streams is kept.
"""

from nodeagent.hbone.events import Received
from nodeagent.hbone.flood import Patience
from nodeagent.hbone.frames import (
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    MAX_STREAM_ID,
    PING,
    ErrorCode,
    pack_frame,
    pack_goaway,
    pack_reset,
    pack_window_update,
)
from nodeagent.hbone.headers import HeaderWriter
from nodeagent.hbone.limits import Limits, Role
from nodeagent.hbone.outbox import Outbox
from nodeagent.hbone.snapshot import Snapshot
from nodeagent.hbone.stream import Stream
from nodeagent.hbone.window import ReceiveWindow, SendWindow

DRAIN_PING = b"\0goaway\0"
"""Marks the round trip after which a client must have read the first GOAWAY (§6.8). No worker's PING looks like it."""


class PeerSettings:
    """What the peer's SETTINGS said; the protocol's defaults before."""

    __slots__ = ("keeps_keys", "max_frame", "max_streams", "stream_window")

    def __init__(self, max_streams: int) -> None:
        self.stream_window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_FRAME
        self.max_streams = max_streams
        self.keeps_keys: bool | None = None
        """None: it has said nothing yet."""


class ConnectionState:
    """Of one connection. Attributes are public to the two halves (connection.py, receiver.py) and to nobody else."""

    __slots__ = (
        "_lingering",
        "blocked",
        "goaway_received",
        "goaway_sent",
        "highest_peer_id",
        "inbound",
        "last_accepted_id",
        "late_bytes",
        "limits",
        "next_id",
        "outbound",
        "outbox",
        "patience",
        "peer",
        "role",
        "streams",
        "windows_moved",
        "writer",
    )

    def __init__(self, role: Role, limits: Limits) -> None:
        self.role = role
        self.limits = limits
        self.outbox = Outbox()
        self.writer = HeaderWriter()
        self.patience = Patience(limits)
        self.peer = PeerSettings(limits.streams_before_settings)
        self.streams: dict[int, Stream] = {}
        self._lingering = 0
        self.inbound = ReceiveWindow(limits.connection_window)
        self.outbound = SendWindow(DEFAULT_WINDOW)
        self.blocked: dict[int, None] = {}
        """Streams that asked for room and had none, in that order."""
        self.windows_moved = False
        self.late_bytes = 0
        self.next_id = 1
        """Client: of the stream to open next."""
        self.highest_peer_id = 0
        """Server: of the streams that the client opened, refused ones included."""
        self.last_accepted_id: int | None = None
        """Set by our final GOAWAY: streams beyond it are ignored."""
        self.goaway_sent = False
        self.goaway_received: int | None = None
        """The peer's last stream id."""

    @property
    def streams_open(self) -> int:
        return len(self.streams) - self._lingering

    # -- the life of a stream

    def add(self, stream_id: int) -> Stream:
        stream = Stream(
            stream_id, self.limits.stream_window, self.peer.stream_window, may_receive=self.role is Role.SERVER
        )
        self.streams[stream_id] = stream
        return stream

    def settle(self, stream: Stream) -> None:
        """One direction has just ended."""
        if stream.is_closed:
            if stream.inbound.held:
                self._lingering += 1
            else:
                del self.streams[stream.id]

    def delivered(self, stream: Stream, n: int) -> None:
        """Credit for `n` bytes of the stream's payload or padding."""
        increment = stream.inbound.delivered(n)
        if increment and not stream.remote_ended:
            self.outbox.append(pack_window_update(stream.id, increment))
        self.credit(n)
        if stream.is_closed and not stream.inbound.held:
            self._lingering -= 1
            del self.streams[stream.id]

    def credit(self, n: int) -> None:
        """Credit for the connection's window alone."""
        increment = self.inbound.delivered(n)
        if increment:
            self.outbox.append(pack_window_update(0, increment))

    def forget(self, stream: Stream) -> None:
        """The stream ends by a reset, whoever sent it."""
        del self.streams[stream.id]
        self.blocked.pop(stream.id, None)
        if stream.is_closed:
            self._lingering -= 1
        self.credit(stream.inbound.held)

    def reset(self, stream: Stream, code: int) -> None:
        """Our own RST_STREAM. One that is closed already is only forgotten."""
        if not stream.is_closed:
            self.outbox.append(pack_reset(stream.id, code))
            if not stream.remote_ended:
                self.late_bytes += stream.inbound.left
        self.forget(stream)

    def end_received(self, stream: Stream, events: Received) -> None:
        stream.remote_ended = True
        stream.may_receive = False
        events.ended.append(stream.id)
        self.settle(stream)

    def break_stream(self, stream: Stream, code: ErrorCode, events: Received) -> None:
        """A stream error (RFC 9113 §5.4.2): the peer broke a rule on this stream alone. Raises H2Error when often."""
        self.reset(stream, code)
        events.resets.append((stream.id, code))
        self.patience.stream_wasted()

    def is_idle(self, stream_id: int) -> bool:
        """Nobody has opened it yet: a frame on it is a connection error (§5.1)."""
        if not stream_id & 1:
            return True  # only a push would have such an id
        return stream_id > self.highest_peer_id if self.role is Role.SERVER else stream_id >= self.next_id

    # -- going on in another process

    def resume(self, snapshot: Snapshot) -> None:
        """From where it was, in place. Raises ValueError."""
        for row in snapshot.streams:
            stream = self.streams[row.id] = Stream.resume(row, self.limits.stream_window)
            self._lingering += stream.is_closed
        if not self.streams.keys() >= set(snapshot.blocked):
            raise ValueError("a stream is blocked that is none")
        self.blocked.update(dict.fromkeys(snapshot.blocked))
        self.inbound.resume(snapshot.receive_left, snapshot.receive_credit)
        self.outbound.left = snapshot.send_left
        self.peer.stream_window, self.peer.max_frame = snapshot.peer_stream_window, snapshot.peer_max_frame
        self.peer.max_streams, self.peer.keeps_keys = snapshot.peer_max_streams, snapshot.peer_keeps_keys
        self.late_bytes, self.next_id = snapshot.late_bytes, snapshot.next_id
        self.highest_peer_id, self.last_accepted_id = snapshot.highest_peer_id, snapshot.last_accepted_id
        self.goaway_sent, self.goaway_received = snapshot.goaway_sent, snapshot.goaway_received
        self.patience.resume(snapshot.idle_left, snapshot.wasted)
        self.writer.resume(snapshot.writer)
        self.outbox.resume(snapshot.buffered, snapshot.queued)

    # -- GOAWAY

    def announce_goaway(self) -> None:
        """The first of two: requests that cross it are still served."""
        self.goaway_sent = True
        self.outbox.append(pack_goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR))
        self.outbox.append(pack_frame(PING, 0, 0, DRAIN_PING))

    def final_goaway(self, code: int, words: bytes = b"") -> None:
        self.goaway_sent = True
        if self.last_accepted_id is None:
            self.last_accepted_id = self.highest_peer_id
        self.outbox.append(pack_goaway(self.last_accepted_id, code, words))
