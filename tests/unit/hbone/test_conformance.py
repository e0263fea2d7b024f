# SPDX-License-Identifier: Apache-2.0
"""RFC 9113 for a peer that speaks CONNECT only: one row for each rule that what a receiver does can be tested by.

A row says what the peer sends, to whom and when, and what comes of it, at the level and with the code of the RFC. Where
the RFC has a stream error and ours ends the connection, as §5.4.1 allows, the row says so: `harder`. Each row is sent
in one piece and byte by byte. Rules for senders are tests of what is sent (test_connection.py, test_limits.py).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from nodeagent.hbone import frames
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.frames import (
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADERS,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
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

if TYPE_CHECKING:
    from tests.unit.hbone.conftest import End

SERVER, CLIENT = Role.SERVER, Role.CLIENT
BOTH = (SERVER, CLIENT)

PROTOCOL, FLOW, SIZE = ErrorCode.PROTOCOL_ERROR, ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.FRAME_SIZE_ERROR
CLOSED, COMPRESSION = ErrorCode.STREAM_CLOSED, ErrorCode.COMPRESSION_ERROR

LIMITS = Limits(
    stream_window=DEFAULT_WINDOW, connection_window=2 * DEFAULT_WINDOW, max_frame=DEFAULT_FRAME, max_streams=2
)
DB = ConnectRequest("10.0.0.2:80")
LAST = END_HEADERS | END_STREAM
ACKNOWLEDGED = pack_frame(SETTINGS, frames.ACK, 0)
ASKED, ANSWERED = pack_frame(PING, 0, 0, b"01234567"), pack_frame(PING, frames.ACK, 0, b"01234567")

# ---- when ----------------------------------------------------------------------------------------------------------

State = Callable[["End"], None]
"""Brings an end, to which nothing was sent yet, where the row's bytes find it. Its stream is number 1."""


def fresh(end: "End") -> None:
    """Not even the preface came."""


def greeted(end: "End") -> None:
    end.feed((PREFACE if end.connection.role is SERVER else b"") + pack_settings({}) + ACKNOWLEDGED)


def requested(end: "End") -> None:
    """The stream is open and not answered."""
    greeted(end)
    if end.connection.role is SERVER:
        end.feed(headers(1))
    else:
        end.connection.open(DB)


def connected(end: "End") -> None:
    requested(end)
    if end.connection.role is SERVER:
        end.connection.respond(1, 200)
    else:
        end.feed(headers(1, status(200)))


def ended_by_the_peer(end: "End") -> None:
    """Half-closed (remote)."""
    connected(end)
    end.feed(pack_frame(DATA, END_STREAM, 1))


def ended_by_us(end: "End") -> None:
    """Half-closed (local)."""
    connected(end)
    end.connection.end(1)


def closed(end: "End") -> None:
    ended_by_the_peer(end)
    end.connection.end(1)


def reset_by_the_peer(end: "End") -> None:
    connected(end)
    end.feed(pack_reset(1, ErrorCode.CANCEL))


def reset_by_us(end: "End") -> None:
    connected(end)
    end.connection.reset(1, ErrorCode.CANCEL)


def going_away(end: "End") -> None:
    """Ours is the last word: stream 1 is served, a later one is not."""
    connected(end)
    end.connection.goaway(ErrorCode.NO_ERROR)
    end.connection.goaway(ErrorCode.NO_ERROR)


# ---- what comes of it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConnectionError_:  # noqa: N801 - not Python's
    """GOAWAY with this code, and nothing is heard any more (§5.4.1)."""

    code: ErrorCode
    harder: bool = False
    """The RFC has a stream error, or nothing, and allows this."""

    def check(self, end: "End", hostile: bytes, cuts: list[int]) -> None:
        with pytest.raises(H2Error) as caught:
            end.feed(hostile, cuts)
        assert caught.value.code is self.code
        last = end.connection._state.highest_peer_id  # 0 to a server: it opens nothing
        assert end.take().endswith(pack_goaway(last, self.code, str(caught.value).encode()))
        end.feed(ASKED)
        assert not end.take()


@dataclass(frozen=True)
class StreamError:
    """RST_STREAM with this code; the connection goes on (§5.4.2)."""

    code: ErrorCode
    stream_id: int = 1

    def check(self, end: "End", hostile: bytes, cuts: list[int]) -> None:
        end.feed(hostile + ASKED, cuts)
        assert end.take() == pack_reset(self.stream_id, self.code) + ANSWERED
        if self.code is not ErrorCode.REFUSED_STREAM:
            assert end.seen.resets == [(self.stream_id, self.code)]


@dataclass(frozen=True)
class Answered:
    """These bytes, and nothing is heard; with none it is ignored."""

    answer: bytes = b""

    def check(self, end: "End", hostile: bytes, cuts: list[int]) -> None:
        before = copy.deepcopy(end.seen)
        end.feed(hostile + ASKED, cuts)
        assert end.take() == self.answer + ANSWERED
        assert end.seen == before


@dataclass(frozen=True)
class Malformed:
    """A request that is answered with 400, as §8.1.1 allows; the connection goes on."""

    def check(self, end: "End", hostile: bytes, cuts: list[int]) -> None:
        end.feed(hostile, cuts)
        [request] = end.seen.opened
        assert request.problem
        end.connection.respond(1, 400, end=True)
        end.take()
        end.feed(headers(3, HeaderWriter(0).request(DB)) + ASKED)
        assert end.seen.opened[-1].problem == ""
        assert end.take() == ANSWERED


@dataclass(frozen=True)
class Heard:
    """As it was meant. `what` is a field of Seen."""

    what: str
    value: object

    def check(self, end: "End", hostile: bytes, cuts: list[int]) -> None:
        end.feed(hostile + ASKED, cuts)
        assert getattr(end.seen, self.what) == self.value
        assert end.take().endswith(ANSWERED)


@dataclass(frozen=True)
class Opened:
    """A request without a problem."""

    def check(self, end: "End", hostile: bytes, cuts: list[int]) -> None:
        end.feed(hostile + ASKED, cuts)
        assert [(one.authority, one.problem) for one in end.seen.opened] == [(DB.authority, "")]
        assert end.take() == ANSWERED


Outcome = ConnectionError_ | StreamError | Answered | Malformed | Heard | Opened
IGNORED = Answered()


# ---- what is sent --------------------------------------------------------------------------------------------------


def headers(stream_id: int, block: bytes | None = None, flags: int = END_HEADERS) -> bytes:
    return pack_frame(HEADERS, flags, stream_id, HeaderWriter(0).request(DB) if block is None else block)


def fields(*pairs: tuple[str, str]) -> bytes:
    """A block of these, as they are, with no use of the table."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("latin-1")


def status(code: int) -> bytes:
    return fields((":status", str(code)))


def request(*more: tuple[str, str]) -> bytes:
    return headers(1, fields((":method", "CONNECT"), (":authority", "10.0.0.2:80"), *more))


def data(payload: bytes = b"x", stream_id: int = 1, flags: int = 0) -> bytes:
    return pack_frame(DATA, flags, stream_id, payload)


def continuation(stream_id: int, block: bytes = b"", flags: int = END_HEADERS) -> bytes:
    return pack_frame(frames.CONTINUATION, flags, stream_id, block)


def settings(*pairs: tuple[int, int]) -> bytes:
    return pack_frame(
        SETTINGS, 0, 0, b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in pairs)
    )


PRIORITY_OF_1 = pack_frame(PRIORITY, 0, 1, bytes(5))
TRAILERS = headers(1, fields(("grpc-status", "0")), LAST)


@dataclass(frozen=True)
class Row:
    section: str
    says: str
    roles: Role | tuple[Role, ...]
    state: State
    sent: bytes
    outcome: Outcome

    def cases(self) -> list[tuple[Role, "Row"]]:
        return [(role, self) for role in (self.roles if isinstance(self.roles, tuple) else (self.roles,))]

    def __str__(self) -> str:
        return f"{self.section} {self.says}"


def broken(code: ErrorCode) -> ConnectionError_:
    return ConnectionError_(code)


def harder(code: ErrorCode) -> ConnectionError_:
    return ConnectionError_(code, harder=True)


# fmt: off
ROWS = [
    # ---- 3.4 the preface
    Row("3.4", "what is not the preface", SERVER, fresh, b"GET / HTTP/1.1\r\n\r\n", broken(PROTOCOL)),
    Row("3.4", "a preface with a wrong last byte", SERVER, fresh, PREFACE[:-1] + b"\r", broken(PROTOCOL)),
    Row("3.4", "first frame of a client is not SETTINGS", SERVER, fresh, PREFACE + ASKED, broken(PROTOCOL)),
    Row("3.4", "first frame of a server is not SETTINGS", CLIENT, fresh, ASKED, broken(PROTOCOL)),
    Row("3.4", "first SETTINGS is an acknowledgement", CLIENT, fresh, ACKNOWLEDGED, broken(PROTOCOL)),
    Row("3.4", "empty SETTINGS are enough", CLIENT, fresh, settings(), Answered(ACKNOWLEDGED)),
    Row("3.4", "a client may go on without waiting", SERVER, fresh, PREFACE + settings() + request(),
        Heard("refused", 0)),

    # ---- 4.1 the format
    Row("4.1", "unknown type on the connection", BOTH, greeted, pack_frame(0xFA, 0xFF, 0, b"?"), IGNORED),
    Row("4.1", "unknown type on an open stream", BOTH, connected, pack_frame(0xFA, 0xFF, 1, b"?" * 99), IGNORED),
    Row("4.1", "unknown flags of PING", BOTH, greeted, pack_frame(PING, 0xFE, 0, b"flagged!"),
        Answered(pack_frame(PING, frames.ACK, 0, b"flagged!"))),
    Row("4.1", "unknown flags of DATA", BOTH, connected, data(b"flagged", flags=0xF6),
        Heard("payload", {1: b"flagged"})),
    Row("4.1", "the reserved bit of a connection frame", BOTH, greeted, pack_frame(PING, 0, 1 << 31, b"reserved"),
        Answered(pack_frame(PING, frames.ACK, 0, b"reserved"))),
    Row("4.1", "the reserved bit of DATA", BOTH, connected, data(b"x", 1 | 1 << 31), Heard("payload", {1: b"x"})),

    # ---- 4.2 sizes
    Row("4.2", "DATA of the largest size", BOTH, connected, data(bytes(DEFAULT_FRAME)),
        Heard("payload", {1: bytes(DEFAULT_FRAME)})),
    Row("4.2", "DATA beyond it", BOTH, connected, data(bytes(DEFAULT_FRAME + 1)), harder(SIZE)),
    Row("4.2", "HEADERS beyond it", SERVER, greeted, headers(1, bytes(DEFAULT_FRAME + 1)), broken(SIZE)),
    Row("4.2", "an unknown frame beyond it", BOTH, greeted, pack_frame(0xFA, 0, 0, bytes(DEFAULT_FRAME + 1)),
        broken(SIZE)),
    Row("4.2", "no room for the length of the padding", SERVER, greeted, headers(1, b"", LAST | PADDED), broken(SIZE)),
    Row("4.2", "no room for the priority", SERVER, greeted, headers(1, bytes(4), LAST | HAS_PRIORITY), broken(SIZE)),
    Row("4.2", "no room for padding's length and priority", SERVER, greeted,
        headers(1, bytes(5), LAST | HAS_PRIORITY | PADDED), broken(SIZE)),
    Row("4.2", "padded DATA without a byte", BOTH, connected, data(b"", flags=PADDED), harder(SIZE)),

    # ---- 4.3 field blocks
    Row("4.3", "an index without an entry", SERVER, greeted, headers(1, b"\xff\x00"), broken(COMPRESSION)),
    Row("4.3", "index 0", SERVER, greeted, headers(1, b"\x80"), broken(COMPRESSION)),
    Row("4.3", "a string longer than the block", SERVER, greeted, headers(1, b"\0\x7f\x10a"), broken(COMPRESSION)),
    Row("4.3", "a Huffman code that holds EOS", SERVER, greeted, headers(1, b"\x41\x84" + b"\xff" * 4),
        broken(COMPRESSION)),
    Row("4.3", "Huffman padding of a whole byte", SERVER, greeted, headers(1, b"\x41\x82\x1f\xff"),
        broken(COMPRESSION)),
    Row("4.3", "Huffman padding with zeros", SERVER, greeted, headers(1, b"\x41\x81\x18"), broken(COMPRESSION)),
    Row("4.3", "a table larger than announced", SERVER, greeted, headers(1, b"\x3f\xe2\x1f"), broken(COMPRESSION)),
    Row("4.3", "a change of the table behind a field", SERVER, greeted,
        headers(1, fields((":method", "CONNECT"), (":authority", "a:1")) + b"\x20"), broken(COMPRESSION)),
    Row("4.3", "the same in an answer", CLIENT, requested, headers(1, b"\xff\x00"), broken(COMPRESSION)),
    Row("4.3", "the same for a stream that is gone", CLIENT, reset_by_us, headers(1, b"\x80", LAST),
        broken(COMPRESSION)),
    Row("4.3", "PING within a block", SERVER, greeted, headers(1, flags=0) + ASKED, broken(PROTOCOL)),
    Row("4.3", "DATA within a block", SERVER, greeted, headers(1, flags=0) + data(), broken(PROTOCOL)),
    Row("4.3", "HEADERS of another stream within a block", SERVER, greeted, headers(1, flags=0) + headers(3),
        broken(PROTOCOL)),
    Row("4.3", "SETTINGS within a block", CLIENT, requested, headers(1, status(200), 0) + settings(), broken(PROTOCOL)),

    # ---- 5.1 states: idle
    Row("5.1", "DATA on an idle stream", BOTH, greeted, data(stream_id=5), broken(PROTOCOL)),
    Row("5.1", "RST_STREAM on an idle stream", BOTH, greeted, pack_reset(5, 8), broken(PROTOCOL)),
    Row("5.1", "WINDOW_UPDATE on an idle stream", BOTH, greeted, pack_window_update(5, 1), broken(PROTOCOL)),
    Row("5.1", "CONTINUATION on an idle stream", BOTH, greeted, continuation(5), broken(PROTOCOL)),
    Row("5.1", "HEADERS of a server on an idle stream", CLIENT, requested, headers(3, status(200)), broken(PROTOCOL)),
    Row("5.1", "PRIORITY on an idle stream", BOTH, greeted, pack_frame(PRIORITY, 0, 5, bytes(5)), IGNORED),
    # and in the state that is called half-closed (remote)
    Row("5.1", "DATA after END_STREAM", BOTH, ended_by_the_peer, data(), harder(CLOSED)),
    Row("5.1", "empty DATA after END_STREAM", BOTH, ended_by_the_peer, data(b""), harder(CLOSED)),
    Row("5.1", "HEADERS after END_STREAM", BOTH, ended_by_the_peer, TRAILERS, harder(CLOSED)),
    Row("5.1", "WINDOW_UPDATE after END_STREAM", BOTH, ended_by_the_peer, pack_window_update(1, 1), IGNORED),
    Row("5.1", "PRIORITY after END_STREAM", BOTH, ended_by_the_peer, PRIORITY_OF_1, IGNORED),
    Row("5.1", "RST_STREAM after END_STREAM", BOTH, ended_by_the_peer, pack_reset(1, 8), Heard("resets", [(1, 8)])),
    # and in the other one, half-closed (local)
    Row("5.1", "DATA after our END_STREAM", BOTH, ended_by_us, data(), Heard("payload", {1: b"x"})),
    Row("5.1", "WINDOW_UPDATE after our END_STREAM", BOTH, ended_by_us, pack_window_update(1, 1), IGNORED),
    Row("5.1", "END_STREAM after ours", BOTH, ended_by_us, data(b"", flags=END_STREAM), Heard("ended", [1])),
    # closed
    Row("5.1", "DATA on a closed stream", BOTH, closed, data(), harder(CLOSED)),
    Row("5.1", "WINDOW_UPDATE on a closed stream", BOTH, closed, pack_window_update(1, 1), IGNORED),
    Row("5.1", "RST_STREAM on a closed stream", BOTH, closed, pack_reset(1, 8), IGNORED),
    Row("5.1", "PRIORITY on a closed stream", BOTH, closed, PRIORITY_OF_1, IGNORED),
    Row("5.1", "DATA after the peer's own reset", BOTH, reset_by_the_peer, data(), harder(CLOSED)),
    Row("5.1", "PRIORITY after the peer's own reset", BOTH, reset_by_the_peer, PRIORITY_OF_1, IGNORED),
    Row("5.1", "DATA that crossed our reset", BOTH, reset_by_us, data(), IGNORED),
    Row("5.1", "END_STREAM that crossed our reset", BOTH, reset_by_us, data(b"", flags=END_STREAM), IGNORED),
    Row("5.1", "trailers that crossed our reset", BOTH, reset_by_us, TRAILERS, IGNORED),
    Row("5.1", "WINDOW_UPDATE that crossed our reset", BOTH, reset_by_us, pack_window_update(1, 1), IGNORED),
    Row("5.1", "RST_STREAM that crossed our reset", BOTH, reset_by_us, pack_reset(1, 8), IGNORED),
    Row("5.1", "more than the window behind our reset", BOTH, reset_by_us,
        data(bytes(DEFAULT_FRAME)) * 4 + data(), harder(CLOSED)),

    # ---- 5.1.1 and 5.1.2 numbers
    Row("5.1.1", "a client's even id", SERVER, greeted, headers(2), broken(PROTOCOL)),
    Row("5.1.1", "an id below one that was used", SERVER, greeted, headers(5) + headers(3), broken(PROTOCOL)),
    Row("5.1.1", "the id of a closed stream", SERVER, closed, headers(1), broken(PROTOCOL)),
    Row("5.1.1", "the id of a closed stream, ended at once", SERVER, closed, headers(1, flags=LAST), broken(PROTOCOL)),
    Row("5.1.1", "the id of a stream that was reset", SERVER, reset_by_the_peer, headers(1), broken(PROTOCOL)),
    Row("5.1.1", "an answer on an even id", CLIENT, requested, headers(2, status(200)), broken(PROTOCOL)),
    Row("5.1.1", "the largest id", SERVER, greeted, headers(MAX_STREAM_ID), Opened()),
    Row("5.1.2", "more streams than announced", SERVER, connected, headers(3) + headers(5),
        StreamError(ErrorCode.REFUSED_STREAM, 5)),

    # ---- 5.2 and 5.5
    Row("5.2", "padding is flow controlled", BOTH, connected,
        data(b"\xff" + bytes(255), flags=PADDED) * 255 + data(b"x" * 512), Heard("payload", {1: b"x" * 512})),
    Row("5.5", "an unknown frame within a block", SERVER, greeted, headers(1, flags=0) + pack_frame(0xFA, 0, 1),
        broken(PROTOCOL)),
    Row("5.5", "an unknown frame on an idle stream", BOTH, greeted, pack_frame(0xFA, 0, 7), IGNORED),
    Row("5.5", "an unknown frame on a closed stream", BOTH, closed, pack_frame(0xFA, 0, 1), IGNORED),

    # ---- 6.1 DATA
    Row("6.1", "DATA on stream 0", BOTH, connected, data(stream_id=0), broken(PROTOCOL)),
    Row("6.1", "padding as long as the frame", BOTH, connected, data(b"\x03abc"[:3], flags=PADDED), broken(PROTOCOL)),
    Row("6.1", "padding longer than the frame", BOTH, connected, data(b"\xffabc", flags=PADDED), broken(PROTOCOL)),
    Row("6.1", "padding is no payload", BOTH, connected, data(b"\x02ab\0\0", flags=PADDED),
        Heard("payload", {1: b"ab"})),
    Row("6.1", "padding that is not zero", BOTH, connected, data(b"\x02ab\1\2", flags=PADDED),
        Heard("payload", {1: b"ab"})),
    Row("6.1", "nothing but padding", BOTH, connected, data(b"\x02\0\0", flags=PADDED | END_STREAM),
        Heard("ended", [1])),

    # ---- 6.2 HEADERS
    Row("6.2", "HEADERS on stream 0", BOTH, greeted, headers(0), broken(PROTOCOL)),
    Row("6.2", "padding longer than the fragment", SERVER, greeted, headers(1, b"\x04abc", END_HEADERS | PADDED),
        broken(PROTOCOL)),
    Row("6.2", "padding that reaches into the priority", SERVER, greeted,
        headers(1, b"\x02" + bytes(6), LAST | PADDED | HAS_PRIORITY), broken(PROTOCOL)),
    Row("6.2", "padding and priority", SERVER, greeted,
        headers(1, b"\x02" + bytes(5) + HeaderWriter(0).request(DB) + b"\0\0", END_HEADERS | PADDED | HAS_PRIORITY),
        Opened()),
    Row("6.2", "END_STREAM counts behind CONTINUATION", SERVER, greeted,
        headers(1, b"", END_STREAM) + continuation(1, HeaderWriter(0).request(DB)), Heard("ended", [1])),

    # ---- 6.3 PRIORITY
    Row("6.3", "PRIORITY on stream 0", BOTH, greeted, pack_frame(PRIORITY, 0, 0, bytes(5)), broken(PROTOCOL)),
    Row("6.3", "PRIORITY of 4 bytes", BOTH, connected, pack_frame(PRIORITY, 0, 1, bytes(4)), harder(SIZE)),
    Row("6.3", "PRIORITY on an open stream", BOTH, connected, PRIORITY_OF_1, IGNORED),
    Row("6.3", "PRIORITY within a block", SERVER, greeted, headers(1, flags=0) + PRIORITY_OF_1, broken(PROTOCOL)),

    # ---- 6.4 RST_STREAM
    Row("6.4", "RST_STREAM on stream 0", BOTH, connected, pack_reset(0, 8), broken(PROTOCOL)),
    Row("6.4", "RST_STREAM of 3 bytes", BOTH, connected, pack_frame(frames.RST_STREAM, 0, 1, bytes(3)), broken(SIZE)),
    Row("6.4", "RST_STREAM of 5 bytes", BOTH, connected, pack_frame(frames.RST_STREAM, 0, 1, bytes(5)), broken(SIZE)),
    Row("6.4", "no RST_STREAM in answer to one (§5.4.2)", BOTH, connected, pack_reset(1, 8), Heard("resets", [(1, 8)])),
    Row("7", "an unknown error code of RST_STREAM", BOTH, connected, pack_reset(1, 0xBEEF),
        Heard("resets", [(1, 0xBEEF)])),

    # ---- 6.5 SETTINGS
    Row("6.5", "SETTINGS are acknowledged", BOTH, greeted, settings((4, 100_000)), Answered(ACKNOWLEDGED)),
    Row("6.5", "an acknowledgement is not answered", BOTH, greeted, ACKNOWLEDGED, IGNORED),
    Row("6.5", "an acknowledgement with settings", BOTH, greeted, pack_frame(SETTINGS, frames.ACK, 0, bytes(6)),
        broken(SIZE)),
    Row("6.5", "SETTINGS on a stream", BOTH, connected, pack_frame(SETTINGS, 0, 1), broken(PROTOCOL)),
    Row("6.5", "SETTINGS of 5 bytes", BOTH, greeted, pack_frame(SETTINGS, 0, 0, bytes(5)), broken(SIZE)),
    Row("6.5.2", "an unknown setting", BOTH, greeted, settings((0xFA, 1)), Answered(ACKNOWLEDGED)),
    Row("6.5.2", "ENABLE_PUSH of 2", BOTH, greeted, settings((Setting.ENABLE_PUSH, 2)), broken(PROTOCOL)),
    Row("6.5.2", "a server that says ENABLE_PUSH 1", CLIENT, greeted, settings((Setting.ENABLE_PUSH, 1)),
        broken(PROTOCOL)),
    Row("6.5.2", "a client that says ENABLE_PUSH 1", SERVER, greeted, settings((Setting.ENABLE_PUSH, 1)),
        Answered(ACKNOWLEDGED)),
    Row("6.5.2", "a window beyond 2^31-1", BOTH, greeted, settings((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW + 1)),
        broken(FLOW)),
    Row("6.5.2", "a window of 2^31-1", BOTH, greeted, settings((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW)),
        Answered(ACKNOWLEDGED)),
    Row("6.5.2", "frames below 2^14", BOTH, greeted, settings((Setting.MAX_FRAME_SIZE, DEFAULT_FRAME - 1)),
        broken(PROTOCOL)),
    Row("6.5.2", "frames above 2^24-1", BOTH, greeted, settings((Setting.MAX_FRAME_SIZE, 1 << 24)), broken(PROTOCOL)),
    Row("6.5.2", "frames of 2^24-1", BOTH, greeted, settings((Setting.MAX_FRAME_SIZE, (1 << 24) - 1)),
        Answered(ACKNOWLEDGED)),
    Row("6.5.3", "settings count in their order", BOTH, greeted,
        settings((Setting.MAX_FRAME_SIZE, 1 << 20), (Setting.MAX_FRAME_SIZE, 16383)), broken(PROTOCOL)),

    # ---- 6.6 PUSH_PROMISE
    Row("6.6", "PUSH_PROMISE of a server that may not", CLIENT, connected, pack_frame(PUSH_PROMISE, 4, 1, bytes(4)),
        broken(PROTOCOL)),
    Row("6.6", "PUSH_PROMISE of a client", SERVER, connected, pack_frame(PUSH_PROMISE, 4, 1, bytes(4)),
        broken(PROTOCOL)),

    # ---- 6.7 PING
    Row("6.7", "PING is answered with its bytes", BOTH, greeted, pack_frame(PING, 0, 0, b"whatever"),
        Answered(pack_frame(PING, frames.ACK, 0, b"whatever"))),
    Row("6.7", "an answer is not answered", BOTH, greeted, pack_frame(PING, frames.ACK, 0, b"whatever"),
        Heard("pongs", [b"whatever"])),
    Row("6.7", "PING on a stream", BOTH, connected, pack_frame(PING, 0, 1, bytes(8)), broken(PROTOCOL)),
    Row("6.7", "PING of 7 bytes", BOTH, greeted, pack_frame(PING, 0, 0, bytes(7)), broken(SIZE)),
    Row("6.7", "PING of 9 bytes", BOTH, greeted, pack_frame(PING, 0, 0, bytes(9)), broken(SIZE)),

    # ---- 6.8 GOAWAY
    Row("6.8", "GOAWAY on a stream", BOTH, connected, pack_frame(frames.GOAWAY, 0, 1, bytes(8)), broken(PROTOCOL)),
    Row("6.8", "GOAWAY of 7 bytes", BOTH, greeted, pack_frame(frames.GOAWAY, 0, 0, bytes(7)), broken(SIZE)),
    Row("6.8", "streams up to the last go on", CLIENT, connected, pack_goaway(1, 0) + data(),
        Heard("payload", {1: b"x"})),
    Row("6.8", "streams beyond the last are over", CLIENT, requested, pack_goaway(0, 0),
        Heard("resets", [(1, ErrorCode.REFUSED_STREAM)])),
    Row("6.8", "the reserved bit of the last id", CLIENT, connected, pack_goaway(1 | 1 << 31, 0), Heard("resets", [])),
    Row("6.8", "a last id that grows", CLIENT, connected, pack_goaway(1, 0) + pack_goaway(3, 0), harder(PROTOCOL)),
    Row("6.8", "a stream behind our GOAWAY", SERVER, going_away, headers(3) + data(stream_id=3), IGNORED),
    Row("6.8", "a stream from before our GOAWAY", SERVER, going_away, data(), Heard("payload", {1: b"x"})),
    Row("7", "an unknown error code of GOAWAY", CLIENT, connected, pack_goaway(1, 0xBEEF), Heard("resets", [])),

    # ---- 6.9 WINDOW_UPDATE
    Row("6.9", "an update by 0 of a stream", BOTH, connected, pack_window_update(1, 0), StreamError(PROTOCOL)),
    Row("6.9", "an update by 0 of the connection", BOTH, greeted, pack_window_update(0, 0), broken(PROTOCOL)),
    Row("6.9", "the reserved bit of an update by 0", BOTH, greeted, pack_window_update(0, 1 << 31), broken(PROTOCOL)),
    Row("6.9", "the reserved bit of an update", BOTH, connected, pack_window_update(1, 1 | 1 << 31), IGNORED),
    Row("6.9", "WINDOW_UPDATE of 3 bytes", BOTH, connected, pack_frame(frames.WINDOW_UPDATE, 0, 1, bytes(3)),
        broken(SIZE)),
    Row("6.9", "WINDOW_UPDATE of 5 bytes", BOTH, greeted, pack_frame(frames.WINDOW_UPDATE, 0, 0, bytes(5)),
        broken(SIZE)),
    Row("6.9.1", "a stream's window beyond 2^31-1", BOTH, connected, pack_window_update(1, MAX_WINDOW),
        StreamError(FLOW)),
    Row("6.9.1", "the connection's window beyond 2^31-1", BOTH, greeted, pack_window_update(0, MAX_WINDOW),
        broken(FLOW)),
    Row("6.9.1", "more than a stream's window", BOTH, connected, data(bytes(DEFAULT_FRAME)) * 4, harder(FLOW)),
    Row("6.9.1", "all of a stream's window", BOTH, connected, data(bytes(DEFAULT_FRAME)) * 3 + data(bytes(16383)),
        Heard("resets", [])),
    Row("6.9.1", "more than the connection's window", SERVER, connected,
        headers(3) + (data(bytes(DEFAULT_FRAME)) + data(bytes(DEFAULT_FRAME), 3)) * 3
        + data(bytes(DEFAULT_FRAME - 1)) + data(bytes(DEFAULT_FRAME - 1), 3) + data(), broken(FLOW)),
    Row("6.9.2", "SETTINGS that widen a window beyond 2^31-1", BOTH, connected,
        pack_window_update(1, MAX_WINDOW - DEFAULT_WINDOW) + settings((4, DEFAULT_WINDOW + 1)), broken(FLOW)),
    Row("6.9.2", "SETTINGS do not change the connection's window", BOTH, greeted,
        pack_window_update(0, MAX_WINDOW - DEFAULT_WINDOW) + settings((4, MAX_WINDOW)), Answered(ACKNOWLEDGED)),

    # ---- 6.10 CONTINUATION
    Row("6.10", "CONTINUATION of nothing", BOTH, connected, continuation(1), broken(PROTOCOL)),
    Row("6.10", "CONTINUATION behind END_HEADERS", SERVER, greeted, headers(1) + continuation(1), broken(PROTOCOL)),
    Row("6.10", "CONTINUATION of another stream", SERVER, greeted, headers(1, flags=0) + continuation(3),
        broken(PROTOCOL)),
    Row("6.10", "CONTINUATION on stream 0", BOTH, greeted, continuation(0), broken(PROTOCOL)),
    Row("6.10", "CONTINUATION behind DATA", SERVER, connected, data() + continuation(1), broken(PROTOCOL)),
    Row("6.10", "a block in many pieces", SERVER, greeted,
        headers(1, b"", 0) + b"".join(continuation(1, bytes([one]), 0) for one in HeaderWriter(0).request(DB))
        + continuation(1), Opened()),

    # ---- 8.1 messages
    Row("8.1", "trailers without END_STREAM", SERVER, connected, headers(1, fields(("a", "b"))), StreamError(PROTOCOL)),
    Row("8.1", "a second final answer", CLIENT, connected, headers(1, status(200)), StreamError(PROTOCOL)),
    Row("8.1", "interim answers", CLIENT, requested, headers(1, status(103)) + headers(1, status(100)), IGNORED),
    Row("8.1", "an interim answer that ends the stream", CLIENT, requested, headers(1, status(100), LAST),
        StreamError(PROTOCOL)),
    Row("8.1", "an answer that ends the stream", CLIENT, requested, headers(1, status(503), LAST), Heard("ended", [1])),
    Row("8.1", "DATA before the answer", CLIENT, requested, data(), StreamError(PROTOCOL)),
    Row("8.1", "DATA behind an interim answer", CLIENT, requested, headers(1, status(100)) + data(),
        StreamError(PROTOCOL)),
    Row("8.1", "a refusal and RST_STREAM(NO_ERROR)", CLIENT, requested,
        headers(1, status(503), LAST) + pack_reset(1, 0), Heard("resets", [(1, 0)])),

    # ---- 8.2 fields
    Row("8.2.1", "upper case in a name", SERVER, greeted, request(("Forwarded", "x")), Malformed()),
    Row("8.2.1", "a space in a name", SERVER, greeted, request(("a b", "x")), Malformed()),
    Row("8.2.1", "a control character in a name", SERVER, greeted, request(("a\x01", "x")), Malformed()),
    Row("8.2.1", "DEL in a name", SERVER, greeted, request(("a\x7f", "x")), Malformed()),
    Row("8.2.1", "a name beyond ASCII", SERVER, greeted, request(("\xe4", "x")), Malformed()),
    Row("8.2.1", "an empty name", SERVER, greeted, request(("", "x")), Malformed()),
    Row("8.2.1", "a colon in a name", SERVER, greeted, request(("a:b", "x")), Malformed()),
    Row("8.2.1", "NUL in a value", SERVER, greeted, request(("a", "x\0y")), Malformed()),
    Row("8.2.1", "LF in a value", SERVER, greeted, request(("a", "x\ny")), Malformed()),
    Row("8.2.1", "CR in a value", SERVER, greeted, request(("a", "x\ry")), Malformed()),
    Row("8.2.1", "a space before a value", SERVER, greeted, request(("a", " x")), Malformed()),
    Row("8.2.1", "a tab behind a value", SERVER, greeted, request(("a", "x\t")), Malformed()),
    Row("8.2.1", "the same in an answer", CLIENT, requested,
        headers(1, fields((":status", "200"), ("A", "x"))), StreamError(PROTOCOL)),
    Row("8.2.2", "connection", SERVER, greeted, request(("connection", "close")), Malformed()),
    Row("8.2.2", "proxy-connection", SERVER, greeted, request(("proxy-connection", "x")), Malformed()),
    Row("8.2.2", "keep-alive", SERVER, greeted, request(("keep-alive", "1")), Malformed()),
    Row("8.2.2", "transfer-encoding", SERVER, greeted, request(("transfer-encoding", "chunked")), Malformed()),
    Row("8.2.2", "upgrade", SERVER, greeted, request(("upgrade", "h2c")), Malformed()),
    Row("8.2.2", "te other than trailers", SERVER, greeted, request(("te", "gzip")), Malformed()),
    Row("8.2.2", "te: trailers", SERVER, greeted, request(("te", "trailers")), Opened()),
    Row("8.2.2", "connection in an answer", CLIENT, requested,
        headers(1, fields((":status", "200"), ("connection", "close"))), StreamError(PROTOCOL)),

    # ---- 8.3 pseudo-headers
    Row("8.3", "an unknown one", SERVER, greeted, headers(1, fields((":method", "CONNECT"), (":test", "x"))),
        Malformed()),
    Row("8.3", "one of answers in a request", SERVER, greeted, request((":status", "200")), Malformed()),
    Row("8.3", "one of requests in an answer", CLIENT, requested,
        headers(1, fields((":status", "200"), (":path", "/"))), StreamError(PROTOCOL)),
    Row("8.3", "one behind other fields", SERVER, greeted,
        headers(1, fields((":method", "CONNECT"), ("a", "b"), (":authority", "a:1"))), Malformed()),
    Row("8.3", "one twice", SERVER, greeted, request((":authority", "10.0.0.2:80")), Malformed()),
    Row("8.3", "one in trailers", SERVER, connected, headers(1, status(200), LAST), StreamError(PROTOCOL)),
    Row("8.3.1", "no :method", SERVER, greeted, headers(1, fields((":authority", "a:1"))), Malformed()),
    Row("8.3.1", "an empty block", SERVER, greeted, headers(1, b""), Malformed()),
    Row("8.3.2", "no :status", CLIENT, requested, headers(1, fields(("a", "b"))), StreamError(PROTOCOL)),
    Row("8.3.2", "a status of four digits", CLIENT, requested, headers(1, status(2000)), StreamError(PROTOCOL)),
    Row("8.6", "101", CLIENT, requested, headers(1, status(101)), StreamError(PROTOCOL)),

    # ---- 8.5 CONNECT
    Row("8.5", "CONNECT", SERVER, greeted, request(), Opened()),
    Row("8.5", "another method", SERVER, greeted,
        headers(1, fields((":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a"))), Malformed()),
    Row("8.5", "CONNECT with :scheme", SERVER, greeted, request((":scheme", "https")), Malformed()),
    Row("8.5", "CONNECT with :path", SERVER, greeted, request((":path", "/")), Malformed()),
    Row("8.5", "CONNECT with :protocol, which was not announced", SERVER, greeted, request((":protocol", "x")),
        Malformed()),
    Row("8.5", "CONNECT without :authority", SERVER, greeted, headers(1, fields((":method", "CONNECT"))), Malformed()),
    Row("8.5", "trailers in a tunnel", BOTH, connected, TRAILERS, StreamError(PROTOCOL)),
    Row("8.5", "END_STREAM ends one direction", BOTH, connected, data(b"", flags=END_STREAM), Heard("ended", [1])),

    # ---- 9.1 the connection outlives its streams
    Row("9.1", "a stream behind one that was closed", SERVER, closed, headers(3) + data(b"x", 3),
        Heard("payload", {3: b"x"})),
]
# fmt: on

CASES = [case for row in ROWS for case in row.cases()]


@pytest.mark.parametrize(("role", "row"), CASES, ids=[f"{row} ({role.value})" for role, row in CASES])
@pytest.mark.parametrize("cuts", [pytest.param([], id="whole"), pytest.param([1], id="bytewise")])
def test_conformance(make_end: "type[End]", role: Role, row: Row, cuts: list[int]) -> None:
    end = make_end(role, LIMITS)
    row.state(end)
    end.take()
    row.outcome.check(end, row.sent, cuts)


def test_each_row_is_there_once() -> None:
    names = [str(row) for row in ROWS]
    assert sorted(set(names)) == sorted(names)


SECTIONS = """
    3.4 4.1 4.2 4.3 5.1 5.1.1 5.1.2 5.2 5.5 6.1 6.2 6.3 6.4 6.5 6.5.2 6.5.3 6.6 6.7 6.8 6.9 6.9.1 6.9.2 6.10
    7 8.1 8.2.1 8.2.2 8.3 8.3.1 8.3.2 8.5 9.1
"""


def test_each_section_has_a_row() -> None:
    assert set(SECTIONS.split()) <= {row.section for row in ROWS}
