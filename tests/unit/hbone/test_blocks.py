# SPDX-License-Identifier: Apache-2.0
"""HEADERS and CONTINUATION: opening, answering, trailers, and the floods that are made of them."""

from typing import TYPE_CHECKING

import pytest

from nodeagent.hbone import frames
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.frames import ErrorCode, pack_frame, pack_reset
from nodeagent.hbone.headers import ConnectRequest, HeaderWriter
from nodeagent.hbone.limits import Limits, Role
from nodeagent.model.reason import Reason

if TYPE_CHECKING:
    from tests.unit.hbone.conftest import End

Greeting = dict[Role, bytes]

WHOLE = frames.END_HEADERS
LAST = frames.END_HEADERS | frames.END_STREAM
REQUEST = HeaderWriter(0).request(ConnectRequest("10.0.0.2:80"))
TRAILERS = HeaderWriter(0)._repeat((("x-late", "word"),))
LIMITS = Limits(max_streams=3, idle_frames=50, wasted_streams=20, max_header_bytes=20_000)
DB = ConnectRequest("10.0.0.2:80")


def headers(stream_id: int, block: bytes = REQUEST, flags: int = WHOLE) -> bytes:
    return pack_frame(frames.HEADERS, flags, stream_id, block)


def continuation(stream_id: int, block: bytes, flags: int = 0) -> bytes:
    return pack_frame(frames.CONTINUATION, flags, stream_id, block)


def status(code: int) -> bytes:
    return HeaderWriter(0).response(code, ())


@pytest.fixture
def server(make_end: "type[End]", greeting: Greeting) -> "End":
    end = make_end(Role.SERVER, LIMITS)
    end.feed(greeting[Role.SERVER])
    end.take()
    return end


@pytest.fixture
def client(make_end: "type[End]", greeting: Greeting) -> "End":
    end = make_end(Role.CLIENT, LIMITS)
    end.connection.open(DB)
    end.feed(greeting[Role.CLIENT])
    end.take()
    return end


# ---- server


def test_a_bad_request_is_an_event_and_harms_nobody(server: "End") -> None:
    get = HeaderWriter(0)._repeat(((":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a")))
    server.feed(headers(1, get) + headers(3))
    assert ["CONNECT" in request.problem for request in server.seen.opened] == [True, False]
    server.connection.respond(1, 400, end=True)
    assert server.connection.streams_open == 1


@pytest.mark.parametrize(
    ("hostile", "code", "reason"),
    [
        pytest.param(headers(2), ErrorCode.PROTOCOL_ERROR, Reason.H2_FAILED, id="even id"),
        pytest.param(
            pack_frame(frames.HEADERS, WHOLE | frames.PADDED, 1, b"\x05abc"),
            ErrorCode.PROTOCOL_ERROR,
            Reason.H2_FAILED,
            id="padding longer than the frame",
        ),
        pytest.param(
            pack_frame(frames.HEADERS, WHOLE | frames.PADDED, 1),
            ErrorCode.FRAME_SIZE_ERROR,
            Reason.H2_FAILED,
            id="no room for the padding's length",
        ),
        pytest.param(
            pack_frame(frames.HEADERS, WHOLE | frames.HAS_PRIORITY, 1, b"1234"),
            ErrorCode.FRAME_SIZE_ERROR,
            Reason.H2_FAILED,
            id="no room for the priority",
        ),
        pytest.param(headers(1, b"\x80"), ErrorCode.COMPRESSION_ERROR, Reason.H2_FAILED, id="undecodable"),
        pytest.param(
            headers(1, bytes(20_001)), ErrorCode.ENHANCE_YOUR_CALM, Reason.H2_HEADERS_TOO_LARGE, id="too large"
        ),
        pytest.param(
            headers(1, bytes(10_000), 0) + continuation(1, bytes(10_001)),
            ErrorCode.ENHANCE_YOUR_CALM,
            Reason.H2_HEADERS_TOO_LARGE,
            id="too large in parts",
        ),
        pytest.param(
            headers(1, b"\x82", 0) + continuation(1, b"") * 32,
            ErrorCode.ENHANCE_YOUR_CALM,
            Reason.H2_HEADERS_TOO_LARGE,
            id="flood of CONTINUATION",
        ),
        pytest.param(
            headers(1, b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 6),
            ErrorCode.ENHANCE_YOUR_CALM,
            Reason.H2_HEADERS_TOO_LARGE,
            id="small block, large list",
        ),
        pytest.param(
            b"".join(headers(n) for n in range(1, 51, 2)),
            ErrorCode.ENHANCE_YOUR_CALM,
            Reason.H2_TOO_MANY_STREAMS,
            id="too many streams, too often",
        ),
        pytest.param(
            headers(1) + pack_reset(1, 8) + headers(1, TRAILERS, LAST) * 51,
            ErrorCode.ENHANCE_YOUR_CALM,
            Reason.H2_FAILED,
            id="flood of late HEADERS",
        ),
        pytest.param(
            headers(1, flags=LAST) + headers(1, flags=LAST),
            ErrorCode.STREAM_CLOSED,
            Reason.H2_FAILED,
            id="HEADERS after the end",
        ),
    ],
)
def test_what_ends_the_connection(server: "End", hostile: bytes, code: ErrorCode, reason: Reason) -> None:
    with pytest.raises(H2Error) as caught:
        server.feed(hostile)
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert caught.value.check == reason.check
    assert server.take().endswith(code.to_bytes(4, "big") + str(caught.value).encode())


def test_too_many_streams_are_refused_one_by_one(server: "End") -> None:
    server.feed(b"".join(headers(n) for n in range(1, 9, 2)))
    assert len(server.seen.opened) == 3
    assert server.seen.refused == 1
    assert server.take() == pack_reset(7, ErrorCode.REFUSED_STREAM)
    server.feed(pack_frame(frames.DATA, frames.END_STREAM, 7, b"sent before it knew"))
    server.feed(pack_reset(1, ErrorCode.CANCEL) + headers(9))
    assert [request.stream_id for request in server.seen.opened] == [1, 3, 5, 9]


def test_streams_that_only_wait_for_delivery_are_bounded_too(server: "End") -> None:
    for stream_id in range(1, 13, 2):
        server.feed(headers(stream_id) + pack_frame(frames.DATA, frames.END_STREAM, stream_id, b"x"))
        server.connection.respond(stream_id, 200)
        server.connection.end(stream_id)
    assert server.connection.streams_open == 0
    server.feed(headers(13))
    assert server.seen.refused == 1
    server.connection.delivered(1, 1)
    server.feed(headers(15))
    assert server.seen.opened[-1].stream_id == 15


def test_a_request_may_end_at_once(server: "End") -> None:
    server.feed(headers(1, flags=LAST))
    assert [request.stream_id for request in server.seen.opened] == server.seen.ended == [1]
    server.connection.respond(1, 200)
    server.connection.end(1)
    assert server.connection.is_idle


def test_trailers_are_no_clean_end_of_a_tunnel(server: "End") -> None:
    server.feed(headers(1) + pack_frame(frames.DATA, 0, 1, b"x") + headers(1, TRAILERS, LAST))
    assert server.seen.ended == []
    assert server.seen.resets == [(1, ErrorCode.PROTOCOL_ERROR)]


def test_headers_in_the_middle_break_the_stream(server: "End") -> None:
    server.feed(headers(1) + headers(1))
    assert server.seen.resets == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert server.take() == pack_reset(1, ErrorCode.PROTOCOL_ERROR)


def test_a_block_for_a_stream_that_is_gone_still_feeds_the_compression_state(server: "End") -> None:
    writer = HeaderWriter()
    server.feed(headers(1, writer.request(DB)))
    server.connection.reset(1, ErrorCode.CANCEL)
    late = writer._repeat((("x-late", "indexed"),))
    server.feed(headers(1, late, LAST))
    server.feed(headers(3, writer._repeat(((":method", "CONNECT"), (":authority", "a:1"), ("x-late", "indexed")))))
    assert server.seen.opened[-1].authority == "a:1"


# ---- client


def test_interim_answers_are_passed_over(client: "End") -> None:
    client.feed(headers(1, status(103)) + headers(1, status(100)) + headers(1, status(200)))
    assert [response.status for response in client.seen.responded] == [200]


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(headers(1, status(100), LAST), id="interim and ended"),
        pytest.param(headers(1, status(101)), id="101"),
        pytest.param(headers(1, REQUEST), id="a request"),
        pytest.param(headers(1, status(200)) + headers(1, status(200)), id="two answers"),
    ],
)
def test_a_malformed_answer_breaks_the_stream(client: "End", hostile: bytes) -> None:
    client.feed(hostile)
    assert client.seen.resets == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert client.take() == pack_reset(1, ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("stream_id", [2, 3])
def test_an_answer_to_nothing_ends_the_connection(client: "End", stream_id: int) -> None:
    with pytest.raises(H2Error) as caught:
        client.feed(headers(stream_id, status(200)))
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


def test_an_answer_that_crossed_our_reset_is_ignored(client: "End") -> None:
    client.connection.reset(1, ErrorCode.CANCEL)
    client.feed(headers(1, status(200)) + pack_frame(frames.DATA, frames.END_STREAM, 1, bytes(1000)))
    assert client.seen.responded == []
    assert client.seen.payload == {}
    assert client.connection._state.inbound.held == 0


def test_a_flood_of_interim_answers(client: "End") -> None:
    with pytest.raises(H2Error) as caught:
        client.feed(headers(1, status(103)) * 51)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM
