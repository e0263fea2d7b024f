# SPDX-License-Identifier: Apache-2.0
"""The receiving half: bytes to frames, and DATA to the slices that the relay sends on.

- Batches are cut anywhere. Payload of DATA is passed on as far as it came; of any other frame the beginning is kept
  until it is whole.
- rules.py judges a frame by its header, control.py and blocks.py say what the frames other than DATA do.
- What is wrong with the connection raises H2Error. Stream errors (RFC 9113 §5.4.2) are RST_STREAM and an event; where
  the RFC leaves the choice, a violation that no honest peer commits ends the connection.
- PRIORITY, unknown frames and unknown settings are ignored, and counted (flood.py).

Hot path: `_frames` handles whole DATA frames, and those that are nothing but an end, inline: per frame one unpack, one
look-up, two subtractions and one slice; no call, no object but the slice (0.3 to 0.45 us instead of 1.5). Everything
else takes the slow lane, which is also right for those: the tests cut every batch to prove it.
"""

from itertools import repeat
from operator import length_hint

from nodeagent.hbone import frames
from nodeagent.hbone.blocks import HeaderFrames
from nodeagent.hbone.control import ControlFrames
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.events import Received
from nodeagent.hbone.frames import (
    DATA,
    END_STREAM,
    HEADER,
    HEADER_BYTES,
    MAX_WINDOW,
    PREFACE,
    STREAM_ID_MASK,
    ErrorCode,
    unpack_word,
)
from nodeagent.hbone.limits import Role
from nodeagent.hbone.rules import check_order, payload_needed, protocol_error
from nodeagent.hbone.snapshot import FrameSnapshot, TableSnapshot
from nodeagent.hbone.state import ConnectionState
from nodeagent.hbone.stream import Stream

UNBOUNDED = 1 << 62
_WORK = {frames.HEADERS: 100, frames.CONTINUATION: 100, frames.RST_STREAM: 50}
"""What a frame costs in units of half a microsecond, with what the worker does for it: a stream is judged and dialled,
or cut and recorded. Whole DATA is one unit."""
_LITTLE_WORK = 5
_SETTING_BYTES_PER_WORK = 12
_STREAMS_PER_WORK = 6
"""Whose windows a SETTINGS frame may change."""


class Receiver:
    """Of one connection. `feed` is its only entry."""

    __slots__ = (
        "_control",
        "_ends",
        "_headers",
        "_left",
        "_padding",
        "_partial",
        "_preface_left",
        "_settings_seen",
        "_state",
        "_stream",
        "_work_left",
    )

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        self._headers = HeaderFrames(state)
        self._control = ControlFrames(state)
        self._preface_left = PREFACE if state.role is Role.SERVER else b""
        self._settings_seen = False
        self._partial = bytearray()
        """The beginning of a frame that cannot be acted on yet, header included."""
        self._left = 0
        """Payload still to come of the frame that has begun, padding included; it goes to `_stream` or nowhere."""
        self._padding = 0
        """Of `_left`, at its end."""
        self._stream: Stream | None = None
        self._ends = False
        self._work_left = 0

    def snapshot(self) -> tuple[TableSnapshot, FrameSnapshot]:
        """Between two batches."""
        table, block = self._headers.snapshot()
        stream = self._stream
        is_known = stream is not None and self._state.streams.get(stream.id) is stream
        frame = FrameSnapshot(
            bytes(self._preface_left),
            self._settings_seen,
            bytes(self._partial),
            self._left,
            self._padding,
            stream.id if stream is not None and is_known else 0,
            self._ends,
            block,
        )
        return table, frame

    def resume(self, table: TableSnapshot, frame: FrameSnapshot) -> None:
        """Behind the streams."""
        self._headers.resume(table, frame.block)
        self._preface_left, self._settings_seen = frame.preface_left, frame.settings_seen
        self._partial = bytearray(frame.partial)
        self._left, self._padding, self._ends = frame.left, frame.padding, frame.ends
        self._stream = self._state.streams.get(frame.stream_id)

    def feed(self, plain: memoryview, events: Received, most_work: int) -> int:
        """Returns how far it came: by a frame at least, and to the end unless that is `most_work`. Raises H2Error."""
        if self._state.outbox.queued_bytes > self._state.limits.max_queued_bytes:
            raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "the peer sends and does not read")
        position, end, self._work_left = 0, len(plain), most_work
        if self._preface_left:
            position = self._check_preface(plain)
        while position < end and self._work_left > 0:
            if self._left:
                position = self._take_payload(plain, position, events)
            elif self._partial:
                position = self._complete(plain, position, events)
            else:
                position = self._frames(plain, position, events)
        return position

    def _check_preface(self, plain: memoryview) -> int:
        n = min(len(plain), len(self._preface_left))
        if plain[:n] != self._preface_left[:n]:
            raise protocol_error("the peer does not speak HTTP/2")
        self._preface_left = self._preface_left[n:]
        return n

    # -- framing

    def _frames(self, plain: memoryview, position: int, events: Received) -> int:
        """From a frame's first byte: all whole frames, and the beginning of the last. Returns how far it came.

        The iterator counts frames without making a number for each.
        """
        end = len(plain)
        unpack = HEADER.unpack_from
        streams = self._state.streams
        connection = self._state.inbound
        data = events.data
        headers = self._headers
        most = self._state.limits.max_frame
        budget = repeat(None, self._work_left)
        for _ in budget:
            if end - position < HEADER_BYTES:
                break
            high, low, kind, flags, stream_id = unpack(plain, position)
            length = high << 8 | low
            start = position + HEADER_BYTES
            stop = start + length
            if (
                kind == DATA
                and flags <= END_STREAM
                and stop <= end
                and length <= most
                and (length or flags)
                and headers.block is None
            ):
                stream = streams.get(stream_id)
                if (
                    stream is not None
                    and stream.may_receive
                    and length <= stream.inbound.left
                    and length <= connection.left
                ):
                    if length:
                        stream.inbound.left -= length
                        connection.left -= length
                        slices = data.get(stream_id)
                        if slices is None:
                            data[stream_id] = [plain[start:stop]]
                        else:
                            slices.append(plain[start:stop])
                    position = stop
                    if flags:
                        self._state.end_received(stream, events)
                    continue
            needed = self._needed(kind, flags, stream_id & STREAM_ID_MASK, length)
            if end - start < needed:
                break
            self._work_left = length_hint(budget)
            self._begin(kind, flags, stream_id, length, bytes(plain[start : start + needed]), events)
            return start + needed
        else:
            self._work_left = 0
            return position
        self._partial += plain[position:end]
        return end

    def _complete(self, plain: memoryview, position: int, events: Received) -> int:
        """Goes on with the frame whose beginning was kept."""
        partial = self._partial
        wanted = HEADER_BYTES
        while True:
            missing = wanted - len(partial)
            if missing > 0:
                taken = plain[position : position + missing]
                partial += taken
                position += len(taken)
                if len(taken) < missing:
                    return position
            high, low, kind, flags, stream_id = HEADER.unpack_from(partial)
            length = high << 8 | low
            needed = self._needed(kind, flags, stream_id & STREAM_ID_MASK, length)
            if len(partial) == HEADER_BYTES + needed:
                self._partial = bytearray()
                self._begin(kind, flags, stream_id, length, bytes(partial[HEADER_BYTES:]), events)
                return position
            wanted = HEADER_BYTES + needed

    def _needed(self, kind: int, flags: int, stream_id: int, length: int) -> int:
        """How much of the payload must be there before `_begin`."""
        block = self._headers.block
        check_order(kind, flags, stream_id, settings_seen=self._settings_seen, block_of=block.stream_id if block else 0)
        return payload_needed(kind, flags, length, self._state.limits)

    def _begin(self, kind: int, flags: int, stream_id: int, length: int, head: bytes, events: Received) -> None:
        """`head` is what `_needed` asked for; the rest of the frame's payload goes to `_take_payload`."""
        stream_id &= STREAM_ID_MASK
        self._work_left -= _WORK.get(kind, _LITTLE_WORK)
        self._left, self._stream, self._padding, self._ends = length - len(head), None, 0, False
        match kind:
            case frames.DATA:
                self._data_began(flags, stream_id, length, head, events)
            case frames.HEADERS:
                self._headers.headers_received(flags, stream_id, head, events)
            case frames.CONTINUATION:
                self._headers.continuation_received(flags, head, events)
            case frames.RST_STREAM:
                self._control.reset_received(stream_id, unpack_word(head), events)
            case frames.SETTINGS:
                self._settings_seen = True
                self._work_left -= length // _SETTING_BYTES_PER_WORK
                self._work_left -= len(self._state.streams) // _STREAMS_PER_WORK
                self._control.settings_received(flags, head)
            case frames.PING:
                self._control.ping_received(flags, head, events)
            case frames.GOAWAY:
                self._work_left -= _WORK[frames.RST_STREAM] * len(self._state.streams)
                self._control.goaway_received(head, events)
            case frames.WINDOW_UPDATE:
                self._control.window_update_received(stream_id, unpack_word(head) & MAX_WINDOW, events)
            case _:  # PRIORITY and what we do not know (§4.1, §5.3.2)
                self._state.patience.idle_frame()

    # -- DATA, the slow lane

    def _data_began(self, flags: int, stream_id: int, length: int, head: bytes, events: Received) -> None:
        state = self._state
        padding = head[0] if head else 0
        if padding > self._left:
            raise protocol_error("padding longer than the frame")
        if length > state.inbound.left:
            raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window")
        state.inbound.left -= length
        stream = state.streams.get(stream_id)
        if stream is None:
            self._late_data_began(stream_id, length)
            return
        if stream.remote_ended:
            raise H2Error(ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
        if length > stream.inbound.left:
            raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "more than the stream's window")
        stream.inbound.left -= length
        if not stream.may_receive:
            self._state.break_stream(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        if head:
            state.delivered(stream, padding + len(head))
            state.patience.padded_frame(self._left - padding)
        self._padding, self._stream, self._ends = padding, stream, bool(flags & END_STREAM)
        if self._left == padding and not self._ends:
            state.patience.idle_frame()  # no payload in it
        if not self._left:
            self._payload_ended(events)

    def _late_data_began(self, stream_id: int, length: int) -> None:
        """For a stream that is gone: allowed as far as our own reset may have crossed it."""
        state = self._state
        if self._state.is_idle(stream_id):
            raise protocol_error("DATA on an idle stream")
        state.late_bytes -= length
        if state.late_bytes < 0:
            raise H2Error(ErrorCode.STREAM_CLOSED, "DATA on a closed stream")
        state.credit(length)
        if length:
            state.patience.data_dropped(length)
        else:
            state.patience.idle_frame()

    def _take_payload(self, plain: memoryview, position: int, events: Received) -> int:
        """Passes on, or drops, what is here of the frame that has begun."""
        taken = min(self._left, len(plain) - position)
        payload = min(taken, self._left - self._padding)
        stream = self._stream
        # A stream that was reset since the frame began was credited for all of it then.
        if stream is not None and payload > 0 and self._state.streams.get(stream.id) is stream:
            events.data.setdefault(stream.id, []).append(plain[position : position + payload])
        self._left -= taken
        if not self._left:
            self._payload_ended(events)
        return position + taken

    def _payload_ended(self, events: Received) -> None:
        stream, self._stream = self._stream, None
        if stream is not None and self._ends and self._state.streams.get(stream.id) is stream:
            self._state.end_received(stream, events)
