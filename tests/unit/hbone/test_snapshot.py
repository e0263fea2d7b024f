# SPDX-License-Identifier: Apache-2.0
"""A connection that goes on elsewhere: at every byte of what it hears, with all that it may be in the middle of."""

from typing import TYPE_CHECKING

import msgspec
import pytest

from nodeagent.hbone.connection import Connection
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.frames import CONTINUATION, DATA, END_HEADERS, HEADERS, PADDED, Setting, pack_frame, pack_settings
from nodeagent.hbone.headers import ConnectRequest, HeaderWriter
from nodeagent.hbone.limits import Limits, Role
from nodeagent.hbone.snapshot import StreamSnapshot

if TYPE_CHECKING:
    from tests.unit.hbone.conftest import End, Pair

DB = ConnectRequest("10.0.0.2:5432", baggage="k8s.namespace.name=shop", forwarded='for="10.0.0.1:4"')
UNREAD = 100_000


def conversation(greeting: bytes) -> bytes:
    """What a client says: streams by one frame and by three, DATA with and without padding, a PING, settings."""
    writer = HeaderWriter()
    first, second = writer.request(DB), writer.request(ConnectRequest("10.0.0.3:80", baggage="k8s.pod.name=b"))
    return b"".join(
        (
            greeting,
            pack_frame(HEADERS, END_HEADERS, 1, first),
            pack_frame(HEADERS, 0, 3, second[:5]),
            pack_frame(CONTINUATION, 0, 3, second[5:6]),
            pack_frame(CONTINUATION, END_HEADERS, 3, second[6:]),
            pack_frame(6, 0, 0, b"pingpong"),
            pack_settings({Setting.HEADER_TABLE_SIZE: 100, Setting.INITIAL_WINDOW_SIZE: 20_000}),
        )
    )


def test_wherever_it_is_cut_it_goes_on(make_end: "type[End]", greeting: dict[Role, bytes]) -> None:
    before = conversation(greeting[Role.SERVER])
    behind = b"".join(
        (
            pack_frame(DATA, 0, 1, b"abc"),
            pack_frame(DATA, PADDED, 3, b"\x04de\0\0\0\0"),
            pack_frame(3, 0, 1, bytes((0, 0, 0, 8))),
            pack_frame(DATA, 0, 3, b"f"),
        )
    )

    def told(cut: int | None) -> tuple[bytes, object]:
        end = make_end(Role.SERVER)
        for part, answer in ((before, True), (behind, False)):
            at = 0 if cut is None else min(cut, len(part))
            end.feed(part[:at])
            if cut is not None:
                end.move()
            end.feed(part[at:])
            if answer:
                end.connection.respond(1, 200, [("baggage", "k8s.pod.name=c")])
                end.connection.respond(3, 200, [("baggage", "k8s.pod.name=c")])
        return end.take(), end.seen

    still = told(None)
    for cut in range(len(before) + 1):
        assert told(cut) == still, cut


def test_what_waits_to_be_sent_goes_along_and_is_not_taken_for_control_frames(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    pair.carry()
    stream_id = pair.client.connection.open(DB)
    assert stream_id is not None
    pair.carry()
    pair.server.connection.respond(stream_id, 200)
    pair.carry()
    pair.client.connection.ping(b"12345678")
    payload = bytes(range(250)) * (UNREAD // 250)
    assert pair.client.connection.send(stream_id, memoryview(payload)) == UNREAD
    pair.client.connection.taken(len(pair.client.connection.pending()) // 2)
    # It would have been too much for what a peer may make us queue.
    pair.client.move()
    pair.client.feed(pack_frame(6, 0, 0, b"pingpong"))
    assert len(pair.client.take()) > 32_000


def test_another_versions_buffer_may_be_larger(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    pair.carry()
    pair.client.connection.open(DB)
    pair.client.take()
    snapshot = pair.client.connection.snapshot()
    larger = pack_frame(DATA, 0, 1, bytes(3 << 19))
    pair.client.connection = Connection.resume(msgspec.structs.replace(snapshot, buffered=larger, queued=b"behind"))
    pair.client.connection.ping(b"12345678")
    assert pair.client.connection.reserve(1, 100) == []
    assert pair.client.take() == larger + b"behind" + pack_frame(6, 0, 0, b"12345678")
    [view] = pair.client.connection.reserve(1, 100)
    pair.client.connection.commit(1, len(view))
    assert len(pair.client.take()) == 109


def test_a_stream_that_was_reset_in_the_middle_of_a_frame_stays_dropped(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    pair.carry()
    pair.client.connection.open(DB)
    pair.carry()
    pair.server.connection.respond(1, 200)
    pair.carry()
    pair.client.feed(pack_frame(DATA, 0, 1, b"abcdef")[:12])
    pair.client.connection.reset(1, 8)
    pair.client.move()
    pair.client.feed(b"def")
    assert pair.client.seen.payload == {1: b"abc"}
    assert pair.client.connection._state.inbound.held == 0


def test_what_no_connection_can_be_is_refused(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    pair.client.connection.open(DB)
    pair.carry()
    snapshot = pair.server.connection.snapshot()
    stream = StreamSnapshot(1, 5 << 20, 0, 0, True, True, False, False)  # noqa: FBT003 - array-like
    for changes in (
        {"version": 0},
        {"streams": (stream,)},
        {"blocked": (7,)},
        {"receive_left": -1},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            Connection.resume(msgspec.structs.replace(snapshot, **changes))


def test_a_header_block_beyond_its_limit_is_refused(make_end: "type[End]", greeting: dict[Role, bytes]) -> None:
    end = make_end(Role.SERVER)
    end.feed(greeting[Role.SERVER] + pack_frame(HEADERS, 0, 1, bytes(60_000)))
    snapshot = end.connection.snapshot()
    narrow = msgspec.structs.replace(snapshot, limits=Limits(max_streams=1))
    with pytest.raises(ValueError, match="limit"):
        Connection.resume(narrow)


def test_what_failed_does_not_go_on(make_end: "type[End]") -> None:
    end = make_end(Role.SERVER)
    with pytest.raises(H2Error):
        end.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(AssertionError):
        end.connection.snapshot()


def test_it_is_shown_without_its_bytes(make_pair: "type[Pair]") -> None:
    snapshot = make_pair().client.connection.snapshot()
    assert repr(snapshot) == "Snapshot(client, 0 streams)"
    assert list(snapshot.__rich_repr__()) == []
