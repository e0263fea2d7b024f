# SPDX-License-Identifier: Apache-2.0
"""What HEADERS and CONTINUATION do: a stream opens or is answered (RFC 9113 §6.2, §6.10, §8.1, §8.5)."""

from nodeagent.hbone.error import H2Error
from nodeagent.hbone.events import Received
from nodeagent.hbone.frames import END_HEADERS, END_STREAM, HAS_PRIORITY, PADDED, ErrorCode, pack_reset
from nodeagent.hbone.headers import Fields, HeaderBlock, HeaderReader, parse_request, parse_response
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
        block = HeaderBlock(stream_id, self._state.limits, ends_stream=bool(flags & END_STREAM))
        self._add_to_block(block, flags, payload[start:stop], events)

    def continuation_received(self, flags: int, payload: bytes, events: Received) -> None:
        assert self.block is not None  # check_order has seen to it
        self._add_to_block(self.block, flags, payload, events)

    def _add_to_block(self, block: HeaderBlock, flags: int, part: bytes, events: Received) -> None:
        block.add(part)
        if not flags & END_HEADERS:
            self.block = block
            return
        self.block = None
        fields = self._reader.decode(block.whole())  # always: the compression state needs every block
        stream = self._state.streams.get(block.stream_id)
        if stream is not None:
            self._answer_or_trailers(stream, block, fields, events)
        elif self._state.role is Role.SERVER and block.stream_id > self._state.highest_peer_id:
            self._opened(block, fields, events)
        elif self._state.is_idle(block.stream_id):
            raise protocol_error("HEADERS on an idle stream")
        elif self._state.role is Role.SERVER and _is_request(block, fields):
            # No list of dead streams is needed: what crosses our reset can be trailers only (§5.1.1).
            raise protocol_error("a client opened a stream with an id that is used up")
        else:
            self._state.patience.idle_frame()  # crossed our reset

    def _opened(self, block: HeaderBlock, fields: Fields, events: Received) -> None:
        state = self._state
        state.highest_peer_id = block.stream_id
        if state.last_accepted_id is not None:  # the client knows from GOAWAY that it is not served (§6.8)
            state.late_bytes += state.limits.stream_window
            state.patience.idle_frame()
            return
        # The second term bounds streams that are over for HTTP/2 while their last bytes wait for the application.
        if state.streams_open >= state.limits.max_streams or len(state.streams) >= 2 * state.limits.max_streams:
            state.late_bytes += 0 if block.ends_stream else state.limits.stream_window
            state.outbox.append(pack_reset(block.stream_id, ErrorCode.REFUSED_STREAM))
            events.refused += 1
            state.patience.stream_wasted(Reason.H2_TOO_MANY_STREAMS)
            return
        stream = state.add(block.stream_id)
        events.opened.append(parse_request(block.stream_id, fields))
        if block.ends_stream:
            self._state.end_received(stream, events)

    def _answer_or_trailers(self, stream: Stream, block: HeaderBlock, fields: Fields, events: Received) -> None:
        if stream.remote_ended:
            raise H2Error(ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        if self._state.role is Role.SERVER or stream.is_answered:
            # A tunnel has no trailers (§8.5), and END_STREAM on them would be a truncated stream's clean end.
            self._state.break_stream(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        response = parse_response(stream.id, fields)
        if response is None or (response.status < 200 and block.ends_stream):
            self._state.break_stream(stream, ErrorCode.PROTOCOL_ERROR, events)
            return
        if response.status < 200:
            self._state.patience.idle_frame()
            return
        stream.is_answered = stream.may_receive = True
        self._state.patience.stream_served()
        events.responded.append(response)
        if block.ends_stream:
            self._state.end_received(stream, events)


def _is_request(block: HeaderBlock, fields: Fields) -> bool:
    """Trailers end their stream and have no pseudo-header (§8.1)."""
    return not block.ends_stream or any(name.startswith(b":") for name, _ in fields)
