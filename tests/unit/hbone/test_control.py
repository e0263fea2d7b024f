# SPDX-License-Identifier: Apache-2.0
"""RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE: what they do, and what a hostile peer may not do with them."""

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone import frames
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.frames import (
    MAX_WINDOW,
    PREFACE,
    ErrorCode,
    Setting,
    pack_frame,
    pack_goaway,
    pack_reset,
    pack_settings,
    pack_window_update,
)
from nodeagent.hbone.headers import ConnectRequest, HeaderWriter
from nodeagent.hbone.limits import Limits, Role
from nodeagent.model.reason import Reason

if TYPE_CHECKING:
    from tests.unit.hbone.conftest import End

Greeting = dict[Role, bytes]

REQUEST = HeaderWriter().request(ConnectRequest("10.0.0.2:80"))
ANSWER = HeaderWriter().response(200, ())
DB = ConnectRequest("10.0.0.2:80")
SETTINGS_ACK = pack_frame(frames.SETTINGS, frames.ACK, 0)
SWINGING_WINDOWS = pack_frame(frames.SETTINGS, 0, 0, (b"\0\4\0\1\0\0" + b"\0\4\0\2\0\0") * 26)
LIMITS = Limits(max_streams=10, idle_frames=50, wasted_streams=20)


def request(stream_id: int) -> bytes:
    return pack_frame(frames.HEADERS, frames.END_HEADERS, stream_id, REQUEST)


@pytest.fixture
def server(make_end: "type[End]", greeting: Greeting) -> "End":
    end = make_end(Role.SERVER, LIMITS)
    end.feed(greeting[Role.SERVER] + request(1))
    end.take()
    return end


@pytest.fixture
def client(make_end: "type[End]", greeting: Greeting) -> "End":
    """With stream 1 answered, stream 3 not."""
    end = make_end(Role.CLIENT, LIMITS)
    end.connection.open(DB)
    end.connection.open(DB)
    end.feed(greeting[Role.CLIENT] + pack_frame(frames.HEADERS, frames.END_HEADERS, 1, ANSWER))
    end.take()
    return end


PROTOCOL, FLOW, CALM = ErrorCode.PROTOCOL_ERROR, ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.ENHANCE_YOUR_CALM


def windows(*sizes: int) -> bytes:
    """A SETTINGS frame with all of them."""
    settings = b"".join(Setting.INITIAL_WINDOW_SIZE.to_bytes(2, "big") + size.to_bytes(4, "big") for size in sizes)
    return pack_frame(frames.SETTINGS, 0, 0, settings)


@pytest.mark.parametrize(
    ("role", "hostile", "code"),
    [
        pytest.param(Role.SERVER, pack_reset(3, 8), PROTOCOL, id="reset of an idle stream"),
        pytest.param(Role.CLIENT, pack_reset(5, 8), PROTOCOL, id="reset of a stream that we have not opened"),
        pytest.param(Role.CLIENT, pack_reset(2, 8), PROTOCOL, id="reset of a pushed stream"),
        pytest.param(Role.SERVER, pack_window_update(0, 0), PROTOCOL, id="update by nothing"),
        pytest.param(Role.SERVER, pack_window_update(3, 1), PROTOCOL, id="update of an idle stream"),
        pytest.param(Role.SERVER, pack_window_update(0, MAX_WINDOW), FLOW, id="connection's window too wide"),
        pytest.param(Role.SERVER, pack_settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31}), FLOW, id="initial window"),
        pytest.param(
            Role.SERVER,
            pack_window_update(1, MAX_WINDOW - 65535) + pack_settings({Setting.INITIAL_WINDOW_SIZE: 65536}),
            FLOW,
            id="a stream's window too wide by SETTINGS",
        ),
        pytest.param(
            Role.SERVER,
            pack_window_update(1, MAX_WINDOW - 65535) + windows(65536, 65535),
            FLOW,
            id="a stream's window too wide for a moment",
        ),
        pytest.param(Role.SERVER, pack_settings({Setting.MAX_FRAME_SIZE: 16383}), PROTOCOL, id="small frames"),
        pytest.param(Role.SERVER, pack_settings({Setting.MAX_FRAME_SIZE: 1 << 24}), PROTOCOL, id="huge frames"),
        pytest.param(Role.SERVER, pack_settings({Setting.ENABLE_PUSH: 2}), PROTOCOL, id="push neither on nor off"),
        pytest.param(Role.CLIENT, pack_settings({Setting.ENABLE_PUSH: 1}), PROTOCOL, id="a server allows push"),
        pytest.param(Role.CLIENT, pack_goaway(1, 0) + pack_goaway(3, 0), PROTOCOL, id="GOAWAY takes streams back"),
        pytest.param(Role.SERVER, pack_frame(frames.PING, 0, 0, bytes(8)) * 51, CALM, id="flood of PING"),
        pytest.param(Role.SERVER, pack_frame(frames.PING, 1, 0, bytes(8)) * 51, CALM, id="flood of PONG"),
        pytest.param(Role.SERVER, pack_settings({}) * 51, CALM, id="flood of SETTINGS"),
        pytest.param(Role.SERVER, SETTINGS_ACK * 51, CALM, id="flood of SETTINGS ACK"),
        pytest.param(Role.SERVER, SWINGING_WINDOWS, CALM, id="flood of windows in one frame"),
        pytest.param(Role.SERVER, pack_frame(frames.PRIORITY, 0, 7, bytes(5)) * 51, CALM, id="flood of PRIORITY"),
        pytest.param(Role.SERVER, pack_frame(99, 0, 0) * 51, CALM, id="flood of unknown frames"),
        pytest.param(Role.SERVER, pack_window_update(1, 1) * 51, CALM, id="flood of stream updates"),
        pytest.param(Role.SERVER, pack_window_update(0, 1) * 51, CALM, id="flood of connection updates"),
        pytest.param(Role.SERVER, pack_reset(1, 8) * 52, CALM, id="flood of late resets"),
        pytest.param(Role.CLIENT, pack_goaway(1, 0) * 70, CALM, id="flood of GOAWAY"),
        pytest.param(
            Role.SERVER,
            b"".join(request(n) + pack_reset(n, 8) for n in range(3, 50, 2)),
            CALM,
            id="rapid reset",
        ),
        pytest.param(
            Role.SERVER,
            b"".join(request(n) + pack_window_update(n, 0) for n in range(3, 50, 2)),
            CALM,
            id="made to reset",
        ),
    ],
)
def test_what_ends_the_connection(server: "End", client: "End", role: Role, hostile: bytes, code: ErrorCode) -> None:
    end = server if role is Role.SERVER else client
    with pytest.raises(H2Error) as caught:
        end.feed(hostile)
    assert (caught.value.code, caught.value.reason) == (code, Reason.H2_FAILED)
    assert end.take().endswith(code.to_bytes(4, "big") + str(caught.value).encode())


@given(
    st.lists(st.sampled_from([0, 1, 65535, 65536, 1 << 20, MAX_WINDOW - 1, MAX_WINDOW, 1 << 31]), max_size=8),
    st.sampled_from([1, MAX_WINDOW - 65536, MAX_WINDOW - 65535]),
)
def test_windows_in_one_frame_mean_what_they_mean_one_by_one(
    make_end: "type[End]", greeting: Greeting, sizes: list[int], wider: int
) -> None:
    """RFC 9113 §6.5.3: in the order in which they stand."""
    seen: list[object] = []
    for said in ([windows(*sizes)], [windows(size) for size in sizes]):
        end = make_end(Role.SERVER)
        end.feed(greeting[Role.SERVER] + request(1) + pack_window_update(1, wider))
        try:
            end.feed(b"".join(said))
        except H2Error as error:
            seen.append(error.code)
        else:
            state = end.connection._state
            seen.append((state.peer.stream_window, state.streams[1].outbound.left))
    assert seen[0] == seen[1]


def test_answers_that_nobody_reads_are_bounded(make_end: "type[End]", greeting: Greeting) -> None:
    end = make_end(Role.SERVER, Limits(max_control_bytes=17 * 100, idle_frames=1 << 20))
    end.feed(greeting[Role.SERVER])
    with pytest.raises(H2Error, match="does not read"):
        end.feed(pack_frame(frames.PING, 0, 0, bytes(8)) * 101)
    patient = make_end(Role.SERVER, Limits(max_control_bytes=17 * 100, idle_frames=1 << 20))
    patient.feed(greeting[Role.SERVER])
    for _ in range(300):
        patient.feed(pack_frame(frames.PING, 0, 0, bytes(8)))
        patient.take()


def test_answers_to_streams_that_are_reset_are_bounded_too(make_end: "type[End]", greeting: Greeting) -> None:
    """A peer that does not read may open and reset streams as fast as it likes: none of them is wasted."""
    end = make_end(Role.SERVER, Limits(max_streams=10, max_queued_bytes=10_000))
    end.feed(greeting[Role.SERVER])

    def open_and_reset() -> None:
        for stream_id in range(1, 10_001, 2):
            end.feed(request(stream_id))
            end.connection.respond(stream_id, 200)
            end.feed(pack_reset(stream_id, 8))

    with pytest.raises(H2Error, match="sends and does not read") as caught:
        open_and_reset()
    assert caught.value.code is CALM
    assert 10_000 < len(end.take()) < 10_200


def test_a_client_opens_nothing_towards_a_peer_that_does_not_read(make_end: "type[End]", greeting: Greeting) -> None:
    end = make_end(Role.CLIENT, Limits(max_queued_bytes=10_000))
    end.feed(greeting[Role.CLIENT])
    while (stream_id := end.connection.open(ConnectRequest("10.0.0.2:80", forwarded="for=unknown"))) is not None:
        end.connection.reset(stream_id, ErrorCode.CANCEL)
    assert 10_000 < end.connection._state.outbox.queued_bytes < 10_100
    end.take()
    assert end.connection.can_open


def test_floods_are_counted_between_two_pings_of_ours(server: "End") -> None:
    for _ in range(10):
        server.feed(pack_frame(frames.PING, 0, 0, bytes(8)) * 49)
        server.connection.ping(b"our ping")


def test_updates_in_answer_to_what_we_sent_are_no_flood(client: "End") -> None:
    for _ in range(1000):
        client.connection.send(1, memoryview(b"x"))
        client.take()
    client.feed((pack_window_update(0, 1) + pack_window_update(1, 1)) * 1000)
    assert client.connection.room(1) == 65535


def test_a_reset_of_an_answered_stream_is_no_waste(server: "End") -> None:
    for stream_id in range(1, 2001, 2):
        server.feed(request(stream_id) if stream_id > 1 else b"")
        server.connection.respond(stream_id, 200)
        server.feed(pack_reset(stream_id, 8))
        server.take()
    assert len(server.seen.resets) == 1000


# ---- streams that end alone


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        pytest.param(pack_window_update(1, 0), PROTOCOL, id="update by nothing"),
        pytest.param(pack_window_update(1, MAX_WINDOW), FLOW, id="window too wide"),
    ],
)
def test_what_ends_only_the_stream(server: "End", hostile: bytes, code: ErrorCode) -> None:
    server.feed(request(3) + hostile + pack_frame(frames.DATA, 0, 3, b"goes on"))
    assert server.seen.resets == [(1, code)]
    assert server.seen.payload == {3: b"goes on"}
    assert server.take() == pack_reset(1, code)


# ---- SETTINGS


def test_settings_are_acknowledged_and_unknown_ones_ignored(server: "End") -> None:
    unknown = pack_frame(frames.SETTINGS, 0, 0, b"\x12\x34\xff\xff\xff\xff\0\6\0\0\0\0")
    server.feed(unknown)
    assert server.take() == SETTINGS_ACK


def test_a_shrunk_window_goes_negative_and_recovers(client: "End") -> None:
    connection = client.connection
    assert connection.send(1, memoryview(bytes(60_000))) == 60_000
    client.feed(pack_settings({Setting.INITIAL_WINDOW_SIZE: 10_000}))
    assert connection._state.streams[1].outbound.left == -50_000
    assert connection.room(1) == 0
    client.feed(pack_window_update(1, 50_000))
    assert client.seen.writable == []
    client.feed(pack_window_update(1, 7))
    assert client.seen.writable == [1]
    assert connection.room(1) == 7
    client.feed(pack_settings({Setting.INITIAL_WINDOW_SIZE: 10_001}))
    assert connection.room(1) == 8
    assert connection.send(1, memoryview(bytes(8))) == 8
    assert connection.room(1) == 0
    client.feed(pack_settings({Setting.INITIAL_WINDOW_SIZE: 10_002}))
    assert client.seen.writable == [1, 1]
    assert connection.room(3) == 5527  # what 60,000 bytes have left of the connection's


def test_an_update_of_the_connection_alone_unblocks(client: "End") -> None:
    client.feed(pack_settings({Setting.INITIAL_WINDOW_SIZE: 100_000}))
    assert client.connection.send(1, memoryview(bytes(65535))) == 65535
    assert client.connection.room(1) == 0
    client.feed(pack_window_update(0, 5))
    assert client.seen.writable == [1]
    assert client.connection.room(1) == 5


def test_frames_follow_the_peers_maximum(client: "End") -> None:
    assert [len(view) for view in client.connection.reserve(1, 40_000)] == [16384, 16384, 7232]
    client.connection.commit(1, 0)
    client.feed(pack_settings({Setting.MAX_FRAME_SIZE: 30_000}))
    assert [len(view) for view in client.connection.reserve(1, 40_000)] == [30_000, 10_000]


# ---- GOAWAY


def test_streams_beyond_a_goaway_may_be_retried(client: "End") -> None:
    client.feed(pack_goaway(1, ErrorCode.NO_ERROR, b"drain\x1b"))
    assert client.seen.resets == [(3, ErrorCode.REFUSED_STREAM)]
    assert [str(one) for one in client.seen.goaways] == ["GOAWAY NO_ERROR: drain?"]
    assert not client.connection.can_open
    assert client.connection.is_draining
    assert client.connection.room(1) > 0
    client.feed(pack_frame(frames.DATA, frames.END_STREAM, 1, b"the rest"))
    assert client.seen.payload == {1: b"the rest"}


def test_a_server_leaves_in_two_steps(server: "End") -> None:
    connection = server.connection
    connection.goaway()
    first = server.take()
    assert first.startswith(pack_goaway(2**31 - 1, 0))
    ping = first[-17:]
    server.feed(request(3))
    assert len(server.seen.opened) == 2, "a request that crossed the first GOAWAY is served"

    server.feed(ping[:4] + bytes([frames.ACK]) + ping[5:])
    assert server.take() == pack_goaway(3, 0)
    assert server.seen.pongs == []
    server.feed(ping[:4] + bytes([frames.ACK]) + ping[5:])
    assert server.seen.pongs == [ping[9:]], "the second is not ours"
    server.take()
    server.feed(request(5) + pack_frame(frames.DATA, 0, 5, b"late") + pack_frame(frames.DATA, 0, 3, b"good"))
    assert len(server.seen.opened) == 2
    assert server.seen.payload == {3: b"good"}
    assert connection._state.inbound.held == 4
    assert connection.is_draining


def test_a_second_call_ends_the_grace(server: "End") -> None:
    server.connection.goaway()
    server.take()
    server.connection.goaway()
    assert server.take() == pack_goaway(1, 0)


def test_a_client_says_at_once_that_it_takes_no_pushes(client: "End") -> None:
    client.connection.goaway()
    assert client.take() == pack_goaway(0, 0)
    assert not client.connection.can_open


def test_a_goaway_of_the_client_ends_no_stream(server: "End") -> None:
    server.feed(pack_goaway(0, 0))
    assert server.seen.resets == []
    assert server.connection.streams_open == 1


def test_the_preface_is_needed_once(make_end: "type[End]") -> None:
    end = make_end(Role.SERVER)
    end.feed(PREFACE + pack_settings({}))
    with pytest.raises(H2Error):
        end.feed(PREFACE)


def test_a_stream_that_had_no_room_and_is_refused_waits_for_none(make_end: "type[End]", greeting: Greeting) -> None:
    end = make_end(Role.SERVER)
    end.feed(greeting[Role.SERVER] + pack_settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    end.feed(pack_frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, REQUEST))
    assert end.connection.room(1) == 0
    end.connection.respond(1, 503, end=True)
    assert end.connection._state.blocked == {}
    end.feed(pack_settings({Setting.INITIAL_WINDOW_SIZE: 1000}))
