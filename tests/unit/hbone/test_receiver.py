# SPDX-License-Identifier: Apache-2.0
"""Bytes to frames: any cut means the same, DATA obeys its rules, and garbage is an H2Error and nothing else."""

import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone import frames
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.flood import IDLE_WORK, USUAL_FRAMES
from nodeagent.hbone.frames import PREFACE, ErrorCode, pack_frame, pack_settings
from nodeagent.hbone.headers import ConnectRequest, HeaderWriter
from nodeagent.hbone.limits import Limits, Role
from nodeagent.model.reason import Reason

if TYPE_CHECKING:
    from tests.unit.hbone.conftest import End, Seen

Greeting = dict[Role, bytes]

REQUEST = HeaderWriter().request(ConnectRequest("10.0.0.2:80"))
OPEN_1 = pack_frame(frames.HEADERS, frames.END_HEADERS, 1, REQUEST)
SMALL = Limits(stream_window=70_000, connection_window=100_000, max_frame=50_000, max_streams=5)


def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    return pack_frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, payload)


def padded(stream_id: int, payload: bytes, padding: int, *, end: bool = False) -> bytes:
    flags = frames.PADDED | (frames.END_STREAM if end else 0)
    return pack_frame(frames.DATA, flags, stream_id, bytes([padding]) + payload + bytes(padding))


def refusal(end: "End", hostile: bytes) -> H2Error:
    """The error, with what every connection error promises: GOAWAY with its code is pending, and it is over."""
    end.take()
    with pytest.raises(H2Error) as caught:
        end.feed(hostile)
    words = str(caught.value).encode()
    assert end.take().endswith(caught.value.code.to_bytes(4, "big") + words)
    end.feed(b"anything")
    assert not end.take()
    return caught.value


# ---- cuts


def a_long_story() -> bytes:
    """Everything that an honest client may send: the slow and the fast lane, padding, empty frames."""
    rng = random.Random(7)
    writer = HeaderWriter()
    block = writer.request(ConnectRequest("10.0.0.2:80", baggage="service.name=web", forwarded="for=unknown"))
    story = [
        PREFACE,
        pack_settings({frames.Setting.INITIAL_WINDOW_SIZE: 100_000, frames.Setting.MAX_FRAME_SIZE: 20_000}),
        pack_frame(frames.SETTINGS, frames.ACK, 0),
        pack_frame(frames.HEADERS, 0, 1, block[:3]),
        pack_frame(frames.CONTINUATION, 0, 1, block[3:4]),
        pack_frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[4:]),
        pack_frame(
            frames.HEADERS,
            frames.END_HEADERS | frames.PADDED | frames.HAS_PRIORITY,
            3,
            b"\x04" + bytes(5) + writer.request(ConnectRequest("10.0.0.2:81")) + bytes(4),
        ),
    ]
    for n in range(60):
        stream_id = rng.choice([1, 3])
        story.append(data(stream_id, rng.randbytes(rng.randrange(1, 600))))
        if n % 9 == 0:
            story.append(padded(stream_id, rng.randbytes(rng.randrange(30)), rng.randrange(256)))
        if n % 10 == 0:
            story.append(data(stream_id, b""))
            story.append(pack_frame(frames.PING, 0, 0, rng.randbytes(8)))
            story.append(pack_frame(frames.PING, frames.ACK, 0, rng.randbytes(8)))
            story.append(pack_frame(77, 255, 1, rng.randbytes(40)))
            story.append(pack_frame(frames.PRIORITY, 0, 9, bytes(5)))
            story.append(frames.pack_window_update(rng.choice([0, 1, 3]), rng.randrange(1, 1000)))
    story += [
        pack_frame(frames.DATA, frames.END_STREAM, 1 | 0x8000_0000, b"reserved bit"),
        data(3, b"", end=True),
        pack_frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 5, writer.request(ConnectRequest("a:1"))),
        frames.pack_reset(1, ErrorCode.CANCEL),
        frames.pack_goaway(0, ErrorCode.ENHANCE_YOUR_CALM, b"bye" * 200),
        pack_frame(frames.PING, 0, 0, b"the last"),
    ]
    return b"".join(story)


STORY = a_long_story()


def seen_of(make_end: "type[End]", cuts: list[int]) -> "tuple[Seen, bytes]":
    end = make_end(Role.SERVER)
    end.take()
    end.feed(STORY, cuts)
    return end.seen, end.take()


@pytest.mark.parametrize("size", [1, 2, 8, 9, 10, 11, 100, 1000])
def test_batches_of_one_size_mean_the_same(make_end: "type[End]", size: int) -> None:
    assert seen_of(make_end, [size]) == seen_of(make_end, [])


@given(cuts=st.lists(st.integers(1, 700), min_size=1))
def test_any_cuts_mean_the_same(make_end: "type[End]", cuts: list[int]) -> None:
    assert seen_of(make_end, cuts) == seen_of(make_end, [])


# ---- work


@pytest.mark.parametrize("most_work", [1, 7, 100, 300, 10_000])
def test_work_in_portions_means_the_same(make_end: "type[End]", most_work: int) -> None:
    end = make_end(Role.SERVER)
    end.take()
    left = end.feed_by_work(STORY, most_work)
    assert (end.seen, end.take()) == seen_of(make_end, [])
    assert left == sorted(set(left), reverse=True)  # each call has come further
    assert (len(left) > 1) == (most_work < 10_000)


@pytest.mark.parametrize(
    ("frame", "at_once"),
    [
        pytest.param(data(1, b"x"), 1000, id="single bytes"),
        pytest.param(padded(1, b"x", 0), 167, id="padded single bytes"),
        pytest.param(pack_frame(frames.PING, 0, 0, bytes(8)), 167, id="PING"),
        pytest.param(pack_frame(77, 0, 0), 167, id="unknown frames"),
        pytest.param(frames.pack_window_update(1, 1), 167, id="WINDOW_UPDATE"),
        pytest.param(pack_frame(frames.SETTINGS, 0, 0, b"\0\4\0\1\0\0\0\4\0\2\0\0" * 4), 39, id="swinging windows"),
    ],
)
def test_a_flood_is_no_more_work_at_once_than_is_wanted(make_end: "type[End]", frame: bytes, at_once: int) -> None:
    """In a connection with a hundred streams, so that what looks at all of them is dear."""
    end = make_end(Role.SERVER)
    end.take()
    requests = [pack_frame(frames.HEADERS, frames.END_HEADERS, 2 * n + 1, REQUEST) for n in range(100)]
    end.feed(b"".join([PREFACE, pack_settings({}), *requests]))
    flood = frame * (at_once * 2 + 1)
    first, *_ = end.feed_by_work(flood, 1000)
    assert math.ceil((len(flood) - first) / len(frame)) == at_once


@pytest.mark.parametrize(
    ("frame", "waste"),
    [
        pytest.param(data(1, b"x"), 0, id="not padded"),
        pytest.param(padded(1, b"x", 0), IDLE_WORK, id="a byte"),
        pytest.param(padded(1, b"x" * 511, 255), IDLE_WORK, id="little"),
        pytest.param(padded(1, b"x" * 512, 255), 0, id="not so little"),
        pytest.param(padded(1, b"", 3), IDLE_WORK, id="none, which is an idle frame"),
        pytest.param(padded(1, b"", 3, end=True), 0, id="none, and the end"),
        pytest.param(padded(3, b"x" * 512, 0), 1, id="of a stream that is gone, which is late"),
    ],
)
@pytest.mark.parametrize("at", [0, 5, 9])
def test_padding_with_little_behind_it_is_waste_once(make_end: "type[End]", frame: bytes, waste: int, at: int) -> None:
    end = make_end(Role.SERVER)
    end.feed(PREFACE + pack_settings({}) + OPEN_1 + pack_frame(frames.HEADERS, frames.END_HEADERS, 3, b"\x82"))
    for _ in range(USUAL_FRAMES):
        end.feed(pack_settings({}))
    end.connection.reset(3, ErrorCode.CANCEL)
    end.connection.take_waste()
    end.feed(frame[:at])
    end.feed(frame[at:])
    assert end.connection.take_waste() == waste


def test_new_streams_are_dear(make_end: "type[End]") -> None:
    end = make_end(Role.SERVER)
    end.take()
    end.feed(PREFACE + pack_settings({}))
    block = HeaderWriter(0).request(ConnectRequest("10.0.0.2:80"))
    requests = [pack_frame(frames.HEADERS, frames.END_HEADERS, 2 * n + 1, block) for n in range(20)]
    left = end.feed_by_work(b"".join(requests), 1000)
    assert [gone // len(requests[0]) for gone in left] == [10, 0]


def test_the_story_was_understood(make_end: "type[End]") -> None:
    seen, answers = seen_of(make_end, [])
    assert [request.authority for request in seen.opened] == ["10.0.0.2:80", "10.0.0.2:81", "a:1"]
    assert seen.ended == [1, 3, 5]
    assert seen.resets == [(1, ErrorCode.CANCEL)]
    assert seen.payload[1].endswith(b"reserved bit")
    assert len(seen.pongs) == 6
    assert [str(one) for one in seen.goaways] == ["GOAWAY ENHANCE_YOUR_CALM: " + ("bye" * 200)[:256]]
    assert answers.endswith(pack_frame(frames.PING, frames.ACK, 0, b"the last"))


def test_a_frame_larger_than_a_batch_is_passed_on_as_it_comes(make_end: "type[End]", greeting: Greeting) -> None:
    end = make_end(Role.SERVER)
    end.feed(greeting[Role.SERVER] + OPEN_1)
    frame = data(1, bytes(range(256)) * 4096, end=True)
    for start in range(0, len(frame), 100_000):
        end.feed(frame[start : start + 100_000])
        assert len(end.seen.payload[1]) == min(start + 100_000, len(frame)) - 9
    assert end.seen.payload[1] == frame[9:]
    assert end.seen.ended == [1]


def test_payload_is_handed_out_without_a_copy(make_end: "type[End]", greeting: Greeting) -> None:
    connection = make_end(Role.SERVER).connection
    batch = bytearray(greeting[Role.SERVER] + OPEN_1 + data(1, b"abc") + data(1, b"def"))
    slices = connection.received(memoryview(batch)).data[1]
    assert [bytes(one) for one in slices] == [b"abc", b"def"]
    assert all(one.obj is batch for one in slices)


def test_a_stream_that_is_reset_in_the_middle_of_a_frame(make_end: "type[End]", greeting: Greeting) -> None:
    end = make_end(Role.SERVER, SMALL)
    end.feed(greeting[Role.SERVER] + OPEN_1)
    frame = data(1, bytes(40_000), end=True)
    end.feed(frame[:10_000])
    end.connection.reset(1, ErrorCode.CANCEL)
    end.feed(frame[10_000:])
    assert len(end.seen.payload[1]) == 10_000 - 9
    assert end.seen.ended == []
    assert end.connection._state.inbound.held == 0


# ---- flow control of what arrives


def test_padding_is_credited_at_once(make_end: "type[End]", greeting: Greeting) -> None:
    end = make_end(Role.SERVER, SMALL)
    end.feed(greeting[Role.SERVER] + OPEN_1 + padded(1, b"x", 255) * 100)
    window = end.connection._state.streams[1].inbound
    assert end.seen.payload[1] == b"x" * 100
    assert window.held == 100
    assert end.connection._state.inbound.held == 100


@pytest.mark.parametrize(
    ("before", "hostile", "code"),
    [
        pytest.param(b"", data(1, bytes(50_000)) + data(1, bytes(20_001)), ErrorCode.FLOW_CONTROL_ERROR, id="stream"),
        pytest.param(
            pack_frame(frames.HEADERS, frames.END_HEADERS, 3, REQUEST),
            data(1, bytes(50_000)) + data(3, bytes(50_000)) + data(1, b"1"),
            ErrorCode.FLOW_CONTROL_ERROR,
            id="connection",
        ),
        pytest.param(b"", data(1, bytes(50_001)), ErrorCode.FRAME_SIZE_ERROR, id="frame larger than announced"),
        pytest.param(b"", data(0, b"x"), ErrorCode.PROTOCOL_ERROR, id="on the connection"),
        pytest.param(b"", data(2, b"x"), ErrorCode.PROTOCOL_ERROR, id="even id"),
        pytest.param(b"", data(3, b"x"), ErrorCode.PROTOCOL_ERROR, id="idle stream"),
        pytest.param(b"", data(1, b"", end=True) + data(1, b"x"), ErrorCode.STREAM_CLOSED, id="after the end"),
        pytest.param(b"", data(1, b"", end=True) + data(1, b""), ErrorCode.STREAM_CLOSED, id="empty after the end"),
        pytest.param(
            pack_frame(frames.HEADERS, 0, 3, REQUEST),
            data(1, b"x"),
            ErrorCode.PROTOCOL_ERROR,
            id="within a header block",
        ),
        pytest.param(
            b"",
            frames.pack_reset(1, 8) + data(1, b"x"),
            ErrorCode.STREAM_CLOSED,
            id="after its own reset",
        ),
        pytest.param(
            b"",
            pack_frame(frames.DATA, frames.PADDED, 1, b"\x02x"),
            ErrorCode.PROTOCOL_ERROR,
            id="padding longer than the frame",
        ),
        pytest.param(b"", data(1, b"") * 2000, ErrorCode.ENHANCE_YOUR_CALM, id="flood of empty frames"),
        pytest.param(b"", padded(1, b"", 3) * 2000, ErrorCode.ENHANCE_YOUR_CALM, id="flood of padding"),
    ],
)
def test_hostile_data(
    make_end: "type[End]", greeting: Greeting, before: bytes, hostile: bytes, code: ErrorCode
) -> None:
    for cuts in ([], [1]):
        end = make_end(Role.SERVER, SMALL)
        end.feed(greeting[Role.SERVER] + OPEN_1 + before)
        assert refusal(end, hostile).code is code
        other = make_end(Role.SERVER, SMALL)
        other.feed(greeting[Role.SERVER] + OPEN_1 + before)
        with pytest.raises(H2Error):
            other.feed(hostile, cuts)


def test_data_before_the_answer_ends_the_stream(make_end: "type[End]", greeting: Greeting) -> None:
    end = make_end(Role.CLIENT)
    end.connection.open(ConnectRequest("10.0.0.2:80"))
    end.feed(greeting[Role.CLIENT] + data(1, b"early"))
    assert end.seen.resets == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert end.seen.payload == {}
    assert end.connection._state.inbound.held == 0
    assert frames.pack_reset(1, ErrorCode.PROTOCOL_ERROR) in end.take()


def test_late_data_is_ignored_and_credited_as_far_as_it_was_allowed(make_end: "type[End]", greeting: Greeting) -> None:
    end = make_end(Role.SERVER, SMALL)
    end.feed(greeting[Role.SERVER] + OPEN_1 + data(1, bytes(20_000)))
    end.connection.reset(1, ErrorCode.CANCEL)
    late = data(1, bytes(25_000))
    end.feed(late)
    end.feed(late, [1000])
    assert len(end.seen.payload[1]) == 20_000
    assert end.connection._state.inbound.held == 0
    assert refusal(end, data(1, b"x")).code is ErrorCode.STREAM_CLOSED


# ---- garbage


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"],
    ids=repr,
)
def test_not_http2_is_refused_at_its_first_wrong_byte(make_end: "type[End]", garbage: bytes) -> None:
    error = refusal(make_end(Role.SERVER), garbage)
    assert (error.code, error.reason) == (ErrorCode.PROTOCOL_ERROR, Reason.H2_FAILED)
    assert error.check


@pytest.mark.parametrize("role", Role)
def test_the_first_frame_is_settings(make_end: "type[End]", role: Role) -> None:
    preface = PREFACE if role is Role.SERVER else b""
    for first in (pack_frame(frames.PING, 0, 0, bytes(8)), pack_frame(frames.SETTINGS, frames.ACK, 0), OPEN_1):
        assert refusal(make_end(role), preface + first).code is ErrorCode.PROTOCOL_ERROR


hostile_frames = st.lists(
    st.builds(
        pack_frame,
        st.sampled_from([*range(10), 10, 77]),
        st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x2D, 255]),
        st.sampled_from([0, 1, 1, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1]),
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([REQUEST, bytes(8), b"\0\0\0\x01", bytes(4), b"\0\4\0\0\0\0", b"\xff" * 6]),
        ),
    ),
    max_size=30,
)


@pytest.mark.parametrize("role", Role)
@given(story=hostile_frames, cuts=st.lists(st.integers(1, 60), max_size=4), calls=st.integers(0, 2**20))
def test_hostile_frames_are_nothing_but_h2_errors(
    make_end: "type[End]", greeting: Greeting, role: Role, story: list[bytes], cuts: list[int], calls: int
) -> None:
    """Whatever comes, and whatever the worker does in between."""
    end = make_end(role)
    connection = end.connection
    if role is Role.CLIENT:
        connection.open(ConnectRequest("10.0.0.2:80"))
    end.feed(greeting[role])
    try:
        for n, frame in enumerate(story):
            end.feed(frame, cuts)
            if calls >> n & 1:
                for request in end.seen.opened[n:]:
                    connection.respond(request.stream_id, 200 if n % 2 else 400, end=not n % 2)
                connection.send(1, memoryview(b"payload"))
                connection.end(3)
    except H2Error:
        assert connection.pending()
    assert connection._state.inbound.left >= 0
    assert connection.streams_open >= 0
    assert connection.is_idle or connection._state.streams
    end.take()


@pytest.mark.parametrize("role", Role)
@given(garbage=st.binary(max_size=300), cuts=st.lists(st.integers(1, 30), max_size=3))
def test_random_bytes_are_nothing_but_h2_errors(
    make_end: "type[End]", greeting: Greeting, role: Role, garbage: bytes, cuts: list[int]
) -> None:
    for start in (b"", greeting[role]):
        end = make_end(role)
        try:
            end.feed(start + garbage, cuts)
        except H2Error:
            assert end.take()


@given(position=st.integers(24, len(STORY) - 1), value=st.integers(0, 255), cuts=st.lists(st.integers(1, 500)))
def test_one_wrong_byte(make_end: "type[End]", position: int, value: int, cuts: list[int]) -> None:
    end = make_end(Role.SERVER)
    try:
        end.feed(STORY[:position] + bytes([value]) + STORY[position + 1 :], cuts)
    except H2Error:
        assert end.take()
