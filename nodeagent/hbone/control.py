# SPDX-License-Identifier: Apache-2.0
"""What the small frames do: RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE (RFC 9113 §6.4 to §6.9).

Their sizes and streams were checked by rules.py. Each counts as idle unless it ends or feeds a stream (flood.py).
"""

from nodeagent.hbone.error import H2Error
from nodeagent.hbone.events import GoAway, Received
from nodeagent.hbone.frames import (
    ACK,
    DEFAULT_FRAME,
    LARGEST_FRAME,
    MAX_WINDOW,
    PING,
    SETTINGS,
    ErrorCode,
    Setting,
    pack_frame,
    unpack_goaway,
    unpack_settings,
)
from nodeagent.hbone.limits import Role
from nodeagent.hbone.rules import protocol_error
from nodeagent.hbone.state import DRAIN_PING, ConnectionState


class ControlFrames:
    """Of one connection. All methods raise H2Error."""

    __slots__ = ("_state",)

    def __init__(self, state: ConnectionState) -> None:
        self._state = state

    def reset_received(self, stream_id: int, code: int, events: Received) -> None:
        state = self._state
        stream = state.streams.get(stream_id)
        if stream is None or stream.is_closed:  # a closed one has its bytes still to deliver, and nothing to lose
            if self._state.is_idle(stream_id):
                raise protocol_error("RST_STREAM on an idle stream")
            state.patience.idle_frame()
            return
        if not stream.is_answered:
            state.patience.stream_wasted()
        if code == ErrorCode.NO_ERROR and stream.remote_ended and stream.is_answered:
            # It has ended in full and only does not want the rest of ours (§8.1). What it sent may still wait for the
            # application, so no credit is given for that: else a peer could have us hold a window for every stream.
            stream.local_ended = True
            state.blocked.pop(stream_id, None)
            state.settle(stream)
        else:
            state.forget(stream)
        events.resets.append((stream_id, code))

    def settings_received(self, flags: int, payload: bytes) -> None:
        state = self._state
        state.patience.idle_frame()
        if flags & ACK:
            return  # our settings only widen what the peer may do, so nothing waits for this
        if state.peer.keeps_keys is None:
            state.peer.keeps_keys = False
        windows = []
        for identifier, value in unpack_settings(payload):
            if identifier == Setting.INITIAL_WINDOW_SIZE:
                windows.append(value)
            else:
                self._setting_received(identifier, value)
        if windows:
            self._resize_windows(windows)
        self._answer(pack_frame(SETTINGS, ACK, 0))

    def _setting_received(self, identifier: int, value: int) -> None:
        state = self._state
        match identifier:
            case Setting.HEADER_TABLE_SIZE:
                state.writer.resize(value)
            case Setting.ENABLE_PUSH:
                if value > (1 if state.role is Role.SERVER else 0):
                    raise protocol_error("an impossible ENABLE_PUSH")
            case Setting.MAX_CONCURRENT_STREAMS:
                state.peer.max_streams = value
            case Setting.MAX_FRAME_SIZE:
                if not DEFAULT_FRAME <= value <= LARGEST_FRAME:
                    raise protocol_error("an impossible MAX_FRAME_SIZE")
                state.peer.max_frame = value
            case Setting.KEEPS_KEYS:
                state.peer.keeps_keys = value == 1
            case _:
                pass  # MAX_HEADER_LIST_SIZE is advice, and our requests are small; others are unknown (§6.5.2)

    def _resize_windows(self, sizes: list[int]) -> None:
        """To one after the other, as one frame has them (RFC 9113 §6.5.3), with one look at each stream for all."""
        state = self._state
        before = size = state.peer.stream_window
        for following in sizes:
            if following > MAX_WINDOW:
                raise _windows_too_wide()
            if following != size:
                state.patience.idle_frame()  # an honest peer has one in a frame, which has room for 64
            size = following
        room, change = MAX_WINDOW - (max(sizes) - before), size - before
        for stream in state.streams.values():
            if stream.outbound.left > room:
                raise _windows_too_wide()
            stream.outbound.left += change
        state.peer.stream_window = size
        state.windows_moved = True

    def ping_received(self, flags: int, payload: bytes, events: Received) -> None:
        state = self._state
        state.patience.idle_frame()
        if not flags & ACK:
            self._answer(pack_frame(PING, ACK, 0, payload))
        elif payload == DRAIN_PING and state.goaway_sent and state.last_accepted_id is None:
            state.final_goaway(ErrorCode.NO_ERROR)
        else:
            events.pongs.append(payload)

    def _answer(self, frame: bytes) -> None:
        outbox = self._state.outbox
        outbox.append(frame)
        if outbox.queued_bytes > self._state.limits.max_control_bytes:
            raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "the peer asks and does not read the answers")

    def goaway_received(self, payload: bytes, events: Received) -> None:
        state = self._state
        state.patience.idle_frame()
        last, code, words = unpack_goaway(payload)
        if state.goaway_received is not None and last > state.goaway_received:
            raise protocol_error("GOAWAY raised its last stream id")
        state.goaway_received = last
        text = "".join(sign if sign.isprintable() else "?" for sign in words.decode("ascii", "replace"))
        events.goaway = GoAway(last, code, text)
        if state.role is Role.CLIENT:
            for stream in [stream for stream in state.streams.values() if stream.id > last]:
                state.forget(stream)
                events.resets.append((stream.id, ErrorCode.REFUSED_STREAM))

    def window_update_received(self, stream_id: int, increment: int, events: Received) -> None:
        state = self._state
        state.patience.idle_frame()
        if not stream_id:
            if not increment:
                raise protocol_error("WINDOW_UPDATE by nothing")
            if not state.outbound.widen(increment):
                raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE beyond 2**31-1")
            state.windows_moved = True
            return
        stream = state.streams.get(stream_id)
        if stream is None or stream.is_closed:
            if self._state.is_idle(stream_id):
                raise protocol_error("WINDOW_UPDATE on an idle stream")
        elif not increment:
            self._state.break_stream(stream, ErrorCode.PROTOCOL_ERROR, events)
        elif not stream.outbound.widen(increment):
            self._state.break_stream(stream, ErrorCode.FLOW_CONTROL_ERROR, events)
        else:
            state.windows_moved = True


def _windows_too_wide() -> H2Error:
    return H2Error(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS widen a window beyond 2**31-1")
