# SPDX-License-Identifier: Apache-2.0
"""How streams end, and that the connection's window survives every way of it."""

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from nodeagent.hbone.frames import DEFAULT_WINDOW, END_HEADERS, HEADERS, ErrorCode, pack_frame, pack_reset
from nodeagent.hbone.headers import ConnectRequest, HeaderWriter
from nodeagent.hbone.limits import Limits, Role

if TYPE_CHECKING:
    from tests.unit.hbone.conftest import End, Pair

DB = ConnectRequest("10.0.0.2:80")
SMALL = Limits(stream_window=DEFAULT_WINDOW, connection_window=DEFAULT_WINDOW, max_frame=16384, max_streams=200)
CHUNK = memoryview(bytes(40_000))


@pytest.fixture
def pair(make_pair: "type[Pair]") -> "Pair":
    pair = make_pair(SMALL, SMALL)
    pair.carry()
    return pair


def opened_stream(pair: "Pair") -> int:
    stream_id = pair.client.connection.open(DB)
    assert stream_id is not None
    pair.carry()
    pair.server.connection.respond(stream_id, 200)
    pair.carry()
    return stream_id


def end_by_the_receivers_reset(pair: "Pair", stream_id: int) -> None:
    pair.carry()
    pair.server.connection.reset(stream_id, ErrorCode.CANCEL)


def end_by_a_reset_that_crosses_the_payload(pair: "Pair", stream_id: int) -> None:
    pair.server.connection.reset(stream_id, ErrorCode.CANCEL)


def end_by_the_senders_reset(pair: "Pair", stream_id: int) -> None:
    pair.carry()
    pair.client.connection.reset(stream_id, ErrorCode.CANCEL)


def end_by_both_and_forget(pair: "Pair", stream_id: int) -> None:
    """The application is gone: its worker finishes with `reset`, which sends nothing."""
    pair.client.connection.end(stream_id)
    pair.server.connection.end(stream_id)
    pair.carry()
    assert not pair.server.connection.is_idle
    pair.server.connection.reset(stream_id, ErrorCode.CANCEL)
    sent = pair.server.take()
    assert pack_reset(stream_id, ErrorCode.CANCEL) not in sent
    pair.client.feed(sent)


def end_and_deliver_later(pair: "Pair", stream_id: int) -> None:
    pair.client.connection.end(stream_id)
    pair.server.connection.end(stream_id)
    pair.carry()
    assert pair.server.connection.streams_open == 0
    assert not pair.server.connection.is_idle
    pair.server.connection.delivered(stream_id, len(CHUNK) - 1)
    assert not pair.server.connection.is_idle
    pair.server.connection.delivered(stream_id, 1)


@pytest.mark.parametrize(
    "end",
    [
        end_by_the_receivers_reset,
        end_by_a_reset_that_crosses_the_payload,
        end_by_the_senders_reset,
        end_by_both_and_forget,
        end_and_deliver_later,
    ],
)
def test_the_connection_window_never_leaks(pair: "Pair", end: "object") -> None:
    assert callable(end)
    for _ in range(50):
        stream_id = opened_stream(pair)
        assert pair.client.connection.send(stream_id, CHUNK) == len(CHUNK)
        end(pair, stream_id)
        pair.carry()
        assert pair.client.connection.is_idle
        assert pair.server.connection.is_idle
        assert pair.server.connection._state.inbound.held == 0
        assert pair.server.connection.streams_open == pair.client.connection.streams_open == 0


def test_what_is_not_delivered_holds_the_connection_back(pair: "Pair") -> None:
    """So that a worker never holds more than the connection's window for one tunnel."""
    first, second = opened_stream(pair), opened_stream(pair)
    assert pair.client.connection.send(first, CHUNK) == len(CHUNK)
    assert pair.client.connection.send(second, CHUNK) == DEFAULT_WINDOW - len(CHUNK)
    pair.carry()
    assert pair.client.connection.room(second) == 0


def test_a_reset_behind_both_ends_loses_nothing(pair: "Pair") -> None:
    """The stream was over: its last bytes are still delivered."""
    stream_id = opened_stream(pair)
    pair.client.connection.send(stream_id, CHUNK)
    pair.client.connection.end(stream_id)
    pair.server.connection.end(stream_id)
    pair.server.feed(pair.client.take())
    pair.client.connection.reset(stream_id, ErrorCode.CANCEL)
    pair.carry()
    assert pair.server.seen.resets == []
    pair.server.deliver_all(stream_id)
    assert pair.server.connection.is_idle


def test_half_close_leaves_the_other_direction_open(pair: "Pair") -> None:
    stream_id = opened_stream(pair)
    pair.client.connection.end(stream_id)
    pair.carry()
    for _ in range(5):
        assert pair.server.connection.send(stream_id, CHUNK) == len(CHUNK)
        pair.carry()
        pair.client.connection.delivered(stream_id, len(CHUNK))
        pair.carry()
    assert len(pair.client.seen.payload[stream_id]) == 5 * len(CHUNK)
    assert pair.client.seen.ended == []


def test_no_update_is_sent_for_a_stream_that_the_peer_has_ended(pair: "Pair") -> None:
    stream_id = opened_stream(pair)
    pair.client.connection.send(stream_id, memoryview(bytes(20_000)))
    pair.client.connection.end(stream_id)
    pair.carry()
    pair.server.connection.delivered(stream_id, 20_000)
    assert len(pair.server.take()) == 13, "one WINDOW_UPDATE, the connection's"


def test_what_waits_behind_a_reset_without_error_still_holds_the_window(pair: "Pair") -> None:
    """A peer that ends, and does not want our rest, has its bytes delivered; until then they are its own to account."""
    server = pair.server.connection
    for _ in range(3):
        stream_id = opened_stream(pair)
        pair.client.connection.send(stream_id, memoryview(bytes(1000)))
        pair.client.connection.end(stream_id)
        pair.carry()
        pair.server.feed(pack_reset(stream_id, ErrorCode.NO_ERROR))
    assert server._state.inbound.held == 3000
    assert (server.streams_open, server.is_idle) == (0, False)
    for stream_id in pair.server.seen.payload:
        server.delivered(stream_id, 1000)
    assert server._state.inbound.held == 0
    assert server.is_idle


def test_ten_thousand_streams_have_their_price(make_end: "type[End]", greeting: dict[Role, bytes]) -> None:
    """Of the codec, for one that would allow them: a window each, and no buffer."""
    end = make_end(Role.SERVER, Limits(max_streams=10_000))
    end.feed(greeting[Role.SERVER])
    block = HeaderWriter(0).request(DB)
    opening = b"".join(pack_frame(HEADERS, END_HEADERS, 2 * n + 1, block) for n in range(10_000))
    tracemalloc.start()
    try:
        end.connection.received(memoryview(opening))
        assert end.connection.streams_open == 10_000
        assert tracemalloc.get_traced_memory()[0] < 10_000 * 600
    finally:
        tracemalloc.stop()
    for n in range(10_000):
        end.connection.reset(2 * n + 1, ErrorCode.CANCEL)
    assert end.connection.is_idle
