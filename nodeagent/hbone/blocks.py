# SPDX-License-Identifier: Apache-2.0
"""What HEADERS and CONTINUATION do: a stream opens or is answered (RFC 9113 §6.2, §6.10, §8.1, §8.5)."""

from nodeagent.hbone.error import H2Error
from nodeagent.hbone.events import Received
from nodeagent.hbone.frames import END_HEADERS, END_STREAM, HAS_PRIORITY, PADDED, ErrorCode, pack_reset
from nodeagent.hbone.headers import (
    Fields,
    HeaderBlock,
    HeaderReader,
    headers_too_large,
    parse_request,
    parse_response,
)
from nodeagent.hbone.limits import Role
from nodeagent.hbone.rules import protocol_error
from nodeagent.hbone.snapshot import BlockSnapshot, TableSnapshot
from nodeagent.hbone.state import ConnectionState
from nodeagent.hbone.stream import Stream
from nodeagent.model.reason import Reason


class HeaderFrames:
    """Of one connection. All methods raise H2Error."""

    __slots__ = ("_reader", "_state", "block")

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        self._reader = HeaderReader(state.limits)
        self.block: HeaderBlock | None = None
        """HEADERS came without END_HEADERS: nothing but its CONTINUATION may follow."""

    def snapshot(self) -> tuple[TableSnapshot, BlockSnapshot | None]:
        return self._reader.snapshot(), None if self.block is None else self.block.snapshot()

    def resume(self, table: TableSnapshot, block: BlockSnapshot | None) -> None:
        self._reader.resume(table)
        self.block = None if block is None else HeaderBlock.resume(block, self._state.limits)

    def headers_received(self, flags: int, stream_id: int, payload: bytes, events: Received) -> None:
        start = (1 if flags & PADDED else 0) + (5 if flags & HAS_PRIORITY else 0)
        if start > len(payload):
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without room for what its flags say")  # §4.2
        stop = len(payload) - (payload[0] if flags & PADDED else 0)
        if start > stop:
            raise protocol_error("padding longer than the frame")
        if self._state.role is Role.SERVER and not stream_id & 1:
            raise protocol_error("a client opened a stream with an even id")
        ends_stream = bool(flags & END_STREAM)
        if flags & END_HEADERS:  # as it nearly always is
            if stop - start > self._state.limits.max_header_bytes:
                raise headers_too_large()
            self._block_ended(stream_id, payload[start:stop], events, ends_stream=ends_stream)
            return
        self.block = HeaderBlock(stream_id, self._state.limits, ends_stream=ends_stream)
        self.block.add(payload[start:stop])

    def continuation_received(self, flags: int, payload: bytes, events: Received) -> None:
        block = self.block
        assert block is not None  # check_order has seen to it
        block.add(payload)
        if flags & END_HEADERS:
            self.block = None
            self._block_ended(block.stream_id, block.whole(), events, ends_stream=block.ends_stream)

    def _block_ended(self, stream_id: int, block: bytes, events: Received, *, ends_stream: bool) -> None:
        fields = self._reader.decode(block)  # always: the compression state needs every block
        stream = self._state.streams.get(stream_id)
        if stream is not None:
            self._answer_or_trailers(stream, fields, events, ends_stream=ends_stream)
        elif self._state.role is Role.SERVER and stream_id > self._state.highest_peer_id:
            self._opened(stream_id, fields, events, ends_stream=ends_stream)
        elif self._state.is_idle(stream_id):
            raise protocol_error("HEADERS on an idle stream")
        elif self._state.role is Role.SERVER and _is_request(fields, ends_stream=ends_stream):
            # No list of dead streams is needed: what crosses our reset can be trailers only (§5.1.1).
            raise protocol_error("a client opened a stream with an id that is used up")
        else:
            self._state.patience.idle_frame()  # crossed our reset

    def _opened(self, stream_id: int, fields: Fields, events: Received, *, ends_stream: bool) -> None:
        state = self._state
        state.highest_peer_id = stream_id
        if state.last_accepted_id is not None:  # the client knows from GOAWAY that it is not served (§6.8)
            state.late_bytes += state.limits.stream_window
            state.patience.idle_frame()
            return
        # The second term bounds streams that are over for HTTP/2 while their last bytes wait for the application.
        if state.streams_open >= state.limits.max_streams or len(state.streams) >= 2 * state.limits.max_streams:
            state.late_bytes += 0 if ends_stream else state.limits.stream_window
            state.outbox.append(pack_reset(stream_id, ErrorCode.REFUSED_STREAM))
            events.refused += 1
            state.patience.stream_wasted(Reason.H2_TOO_MANY_STREAMS)
            return
        stream = state.add(stream_id)
        events.opened.append(parse_request(stream_id, fields))
        if ends_stream:
            self._state.end_received(stream, events)

    def _answer_or_trailers(self, stream: Stream, fields: Fields, events: Received, *, ends_stream: bool) -> None:
        if stream.remote_ended:
            raise H2Error(ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        if self._state.role is Role.SERVER or stream.is_answered:
            # A tunnel has no trailers (§8.5), and END_STREAM on them would be a truncated stream's clean end.
            self._state.break_stream(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        response = parse_response(stream.id, fields)
        if response is None or (response.status < 200 and ends_stream):
            self._state.break_stream(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        if response.status < 200:
            self._state.patience.idle_frame()
            return
        stream.is_answered = stream.may_receive = True
        self._state.patience.stream_served()
        events.responded.append(response)
        if ends_stream:
            self._state.end_received(stream, events)


def _is_request(fields: Fields, *, ends_stream: bool) -> bool:
    """Trailers end their stream and have no pseudo-header (§8.1)."""
    return not ends_stream or any(name.startswith(b":") for name, _ in fields)
