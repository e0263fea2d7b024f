# SPDX-License-Identifier: Apache-2.0
"""Our client and our server as stories, then at random, against each other and against the h2 library."""

from typing import TYPE_CHECKING

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes, Settings
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.hbone.events import Response
from nodeagent.hbone.frames import CONTINUATION, DEFAULT_WINDOW, END_STREAM, HEADERS, RST_STREAM, ErrorCode
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Limits, Role

if TYPE_CHECKING:
    from tests.unit.hbone.conftest import End, Pair

DB = ConnectRequest("10.0.0.2:5432", baggage="k8s.namespace.name=shop", forwarded='for="10.0.0.1:4"')
SMALL = Limits(stream_window=DEFAULT_WINDOW, connection_window=DEFAULT_WINDOW, max_frame=16384, max_streams=200)
"""Windows that random tests can exhaust."""

every_cut = pytest.mark.parametrize("cuts", [(), (1,), (7, 10), (9,), (100, 1, 5)], ids=str)


def opened_stream(pair: "Pair") -> int:
    pair.carry()
    stream_id = pair.client.connection.open(DB)
    assert stream_id is not None
    pair.carry()
    pair.server.connection.respond(stream_id, 200)
    pair.carry()
    return stream_id


# ---- stories


@every_cut
def test_a_connection_from_open_to_close(make_pair: "type[Pair]", cuts: tuple[int, ...]) -> None:
    pair = make_pair()
    client, server = pair.client, pair.server
    stream_id = client.connection.open(DB)
    assert stream_id == 1
    pair.carry(cuts)
    [request] = server.seen.opened
    assert (request.authority, request.problem) == ("10.0.0.2:5432", "")
    assert (request.baggage, request.forwarded) == (DB.baggage, DB.forwarded)

    server.connection.respond(1, 200, [("baggage", "service.name=db")])
    pair.carry(cuts)
    assert client.seen.responded == [Response(1, 200, "service.name=db", (("baggage", "service.name=db"),))]

    assert client.connection.send(1, memoryview(b"question" * 1000)) == 8000
    client.connection.end(1)
    pair.carry(cuts)
    assert server.seen.payload == {1: b"question" * 1000}
    assert server.seen.ended == [1]
    server.deliver_all(1)

    assert server.connection.send(1, memoryview(b"answer")) == 6
    pair.carry(cuts)
    assert client.seen.payload == {1: b"answer"}
    assert client.seen.ended == []
    client.deliver_all(1)
    server.connection.end(1)
    pair.carry(cuts)
    assert client.seen.ended == [1]
    assert client.connection.is_idle
    assert server.connection.is_idle
    assert client.seen.resets == server.seen.resets == []


def test_a_refusal_is_an_answer_and_the_end(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    pair.client.connection.open(DB)
    pair.carry()
    pair.server.connection.respond(1, 503, end=True)
    pair.carry()
    assert [response.status for response in pair.client.seen.responded] == [503]
    assert pair.client.seen.ended == [1]
    assert pair.client.seen.resets == [(1, ErrorCode.NO_ERROR)]
    assert pair.client.connection.is_idle
    assert pair.server.connection.is_idle


def test_a_refusal_of_a_client_that_has_ended_needs_no_reset(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    pair.client.connection.open(DB)
    pair.client.connection.end(1)
    pair.carry()
    assert pair.server.seen.ended == [1]
    pair.server.connection.respond(1, 401, end=True)
    pair.carry()
    assert pair.client.seen.resets == []
    assert pair.client.connection.is_idle
    assert pair.server.connection.is_idle


def test_a_full_window_blocks_and_delivery_unblocks(make_pair: "type[Pair]") -> None:
    pair = make_pair(SMALL, SMALL)
    stream_id = opened_stream(pair)
    client, server = pair.client, pair.server
    assert client.connection.send(stream_id, memoryview(bytes(100_000))) == DEFAULT_WINDOW
    assert client.connection.room(stream_id) == 0
    assert client.connection.reserve(stream_id, 1) == []
    pair.carry()

    server.connection.delivered(stream_id, DEFAULT_WINDOW // 4)
    pair.carry()
    assert client.seen.writable == []
    server.connection.delivered(stream_id, DEFAULT_WINDOW - DEFAULT_WINDOW // 4)
    pair.carry()
    assert client.seen.writable == [stream_id]
    assert client.connection.room(stream_id) == DEFAULT_WINDOW


def test_one_stream_waits_for_the_connection_window_of_another(make_pair: "type[Pair]") -> None:
    pair = make_pair(SMALL, SMALL)
    first, second = opened_stream(pair), opened_stream(pair)
    pair.client.connection.send(first, memoryview(bytes(DEFAULT_WINDOW)))
    assert pair.client.connection.room(second) == 0
    pair.carry()
    pair.server.connection.delivered(first, DEFAULT_WINDOW)
    pair.carry()
    assert pair.client.seen.writable == [second]


def test_a_blocked_stream_that_was_reset_is_not_writable(make_pair: "type[Pair]") -> None:
    pair = make_pair(SMALL, SMALL)
    first, second = opened_stream(pair), opened_stream(pair)
    pair.client.connection.send(first, memoryview(bytes(DEFAULT_WINDOW)))
    assert pair.client.connection.room(second) == 0
    pair.server.connection.reset(second, ErrorCode.CANCEL)
    pair.carry()
    pair.server.connection.delivered(first, DEFAULT_WINDOW)
    pair.carry()
    assert pair.client.seen.resets == [(second, ErrorCode.CANCEL)]
    assert pair.client.seen.writable == []
    assert pair.client.connection.room(second) == 0


def test_reset_is_told_with_its_code(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    stream_id = opened_stream(pair)
    pair.client.connection.reset(stream_id, ErrorCode.CONNECT_ERROR)
    pair.carry()
    assert pair.server.seen.resets == [(stream_id, ErrorCode.CONNECT_ERROR)]
    assert pair.server.connection.is_idle


def test_calls_for_a_stream_that_is_gone_do_nothing(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    stream_id = opened_stream(pair)
    client = pair.client.connection
    client.reset(stream_id, ErrorCode.CANCEL)
    pair.carry()
    client.delivered(stream_id, 5)
    client.end(stream_id)
    client.reset(stream_id, ErrorCode.CANCEL)
    pair.server.connection.respond(stream_id, 200)
    assert client.send(stream_id, memoryview(b"x")) == 0
    assert not client.pending()
    assert not pair.server.connection.pending()


def test_nothing_is_sent_behind_the_end(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    stream_id = opened_stream(pair)
    pair.client.connection.end(stream_id)
    pair.client.connection.end(stream_id)
    assert pair.client.connection.room(stream_id) == 0
    pair.carry()
    assert pair.server.seen.ended == [stream_id]


def test_ping(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    pair.client.connection.ping(b"12345678")
    pair.server.connection.ping(b"abcdefgh")
    pair.carry()
    assert pair.client.seen.pongs == [b"12345678"]
    assert pair.server.seen.pongs == [b"abcdefgh"]


def test_a_client_opens_as_many_streams_as_it_may(make_pair: "type[Pair]") -> None:
    pair = make_pair(None, Limits(max_streams=3))
    client = pair.client.connection
    before = [client.open(DB) for _ in range(102)]
    assert before == [*range(1, 200, 2), None, None]
    pair.carry()
    assert not client.can_open
    assert pair.server.seen.refused == 97
    assert len(pair.server.seen.opened) == 3
    assert pair.client.seen.resets == [(stream_id, ErrorCode.REFUSED_STREAM) for stream_id in range(7, 200, 2)]
    client.reset(1, ErrorCode.CANCEL)
    assert client.open(DB) == 201


def test_a_server_opens_nothing(make_end: "type[End]") -> None:
    server = make_end(Role.SERVER).connection
    assert not server.can_open
    assert server.open(DB) is None


def test_headers_longer_than_a_frame_are_continued(make_pair: "type[Pair]") -> None:
    pair = make_pair()
    pair.carry()
    stream_id = pair.client.connection.open(DB)
    assert stream_id is not None
    pair.carry()
    long = [("x-long", "v" * 15_000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair.server.connection._state.peer, "max_frame", 4096)
        pair.server.connection.respond(stream_id, 200, long, end=True)
    frames = pair.server.take()
    pair.client.feed(frames)
    [response] = pair.client.seen.responded
    assert response.headers == tuple(long)
    kinds = []
    while frames:
        length = int.from_bytes(frames[:3], "big")
        kinds.append((frames[3], frames[4]))
        frames = frames[9 + length :]
    assert kinds == [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, 0), (CONTINUATION, 4), (RST_STREAM, 0)]


# ---- at random, our two ends


class Story:
    """Applies random steps to both ends and remembers what must come out."""

    def __init__(self, pair: "Pair") -> None:
        self.pair = pair
        self.sent: dict[tuple[Role, int], bytes] = {}
        self.ended: set[tuple[Role, int]] = set()
        self.reset: set[int] = set()
        self.delivered: dict[tuple[Role, int], int] = {}

    def live(self) -> list[int]:
        return [request.stream_id for request in self.pair.server.seen.opened if request.stream_id not in self.reset]

    def end_of(self, role: Role) -> "End":
        return self.pair.client if role is Role.CLIENT else self.pair.server

    def step(self, kind: str, role: Role, choice: int, size: int, cuts: list[int]) -> None:
        if kind == "open":
            self._open(cuts)
            return
        if kind == "carry":
            self.pair.carry(cuts)
            return
        if not self.live():
            return
        stream_id = self.live()[choice % len(self.live())]
        key, end = (role, stream_id), self.end_of(role)
        match kind:
            case "send" if key not in self.ended:
                payload = bytes(((size + i) * 7) & 0xFF for i in range(256)) * (size // 256 + 1)
                n = end.connection.send(stream_id, memoryview(payload)[:size])
                self.sent[key] = self.sent.get(key, b"") + payload[:n]
            case "end":
                end.connection.end(stream_id)
                self.ended.add(key)
            case "deliver":
                held = len(end.seen.payload.get(stream_id, b"")) - self.delivered.get(key, 0)
                n = min(size, held)
                end.connection.delivered(stream_id, n)
                self.delivered[key] = self.delivered.get(key, 0) + n
            case "reset":
                end.connection.reset(stream_id, ErrorCode.CANCEL)
                self.reset.add(stream_id)
            case _:
                pass

    def _open(self, cuts: list[int]) -> None:
        stream_id = self.pair.client.connection.open(DB)
        assert stream_id is not None
        self.pair.carry(cuts)
        self.pair.server.connection.respond(stream_id, 200)
        self.pair.carry(cuts)

    def finish(self) -> None:
        """Everything that can be delivered is, and every stream ends."""
        for stream_id in self.live():
            for role in Role:
                self.step("end", role, self.live().index(stream_id), 0, [])
        self.pair.carry()
        for role in Role:
            seen, delivered = self.end_of(role).seen, self.delivered
            for stream_id, payload in seen.payload.items():  # of streams that are gone too: then it does nothing
                self.end_of(role).connection.delivered(stream_id, len(payload) - delivered.get((role, stream_id), 0))
        self.pair.carry()

    def check(self) -> None:
        for role, other in ((Role.CLIENT, Role.SERVER), (Role.SERVER, Role.CLIENT)):
            seen = self.end_of(other).seen
            for stream_id in self.live():
                assert seen.payload.get(stream_id, b"") == self.sent.get((role, stream_id), b"")
                assert seen.ended.count(stream_id) == 1
            for stream_id in self.reset:
                assert self.sent.get((role, stream_id), b"").startswith(seen.payload.get(stream_id, b""))
            connection = self.end_of(role).connection
            assert connection.is_idle
            assert connection.streams_open == 0
            window = connection._state.inbound
            assert window.held == 0, "the connection window leaks"
            assert connection._window.left + self.end_of(other).connection._state.inbound.credit == DEFAULT_WINDOW


steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "carry", "send", "send", "send", "deliver", "deliver", "end", "reset"]),
        st.sampled_from(Role),
        st.integers(0, 5),
        st.integers(0, 40_000),
        st.lists(st.integers(1, 3000), max_size=3),
    ),
    max_size=60,
)


@given(steps=steps)
def test_any_story_ends_with_equal_bytes_and_no_leak(
    make_pair: "type[Pair]", steps: list[tuple[str, Role, int, int, list[int]]]
) -> None:
    story = Story(make_pair(SMALL, SMALL))
    story.step("open", Role.CLIENT, 0, 0, [])
    for step in steps:
        story.step(*step)
    story.finish()
    story.check()


@given(steps=steps, movers=st.sampled_from([("client",), ("server",), ("client", "server")]))
@settings(max_examples=60)
def test_no_story_tells_that_an_end_went_on_in_another_process(
    make_pair: "type[Pair]", steps: list[tuple[str, Role, int, int, list[int]]], movers: tuple[str, ...]
) -> None:
    still, moving = Story(make_pair(SMALL, SMALL)), Story(make_pair(SMALL, SMALL))
    for name in movers:
        getattr(moving.pair, name).moves = True
    for story in (still, moving):
        story.step("open", Role.CLIENT, 0, 0, [])
        for step in steps:
            story.step(*step)
        story.finish()
    for name in ("client", "server"):
        assert getattr(moving.pair, name).said == getattr(still.pair, name).said
        assert getattr(moving.pair, name).seen == getattr(still.pair, name).seen


# ---- at random, against the h2 library


class H2End:
    """The h2 library in the other role. It checks our flow control, frames and states by its own lights."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.h2 = H2Connection(
            H2Configuration(client_side=role is Role.CLIENT, header_encoding="utf-8", validate_outbound_headers=False)
        )
        self.h2.local_settings = Settings(
            client=role is Role.CLIENT, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 30_000}
        )
        self.h2.initiate_connection()
        self.requests: dict[int, dict[str, str]] = {}
        self.statuses: dict[int, str] = {}
        self.payload: dict[int, bytes] = {}
        self.held: dict[int, int] = {}
        self.ended: list[int] = []
        self.resets: list[tuple[int, int]] = []

    def feed(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case RequestReceived():
                    self.requests[event.stream_id] = {str(name): str(value) for name, value in event.headers}
                case ResponseReceived():
                    self.statuses[event.stream_id] = next(
                        str(value) for name, value in event.headers if str(name) == ":status"
                    )
                case DataReceived():
                    self.payload[event.stream_id] = self.payload.get(event.stream_id, b"") + event.data
                    length = event.flow_controlled_length
                    self.held[event.stream_id] = self.held.get(event.stream_id, 0) + length
                case StreamEnded():
                    self.ended.append(event.stream_id)
                case StreamReset():
                    self.resets.append((event.stream_id, int(event.error_code)))
                case _:
                    pass

    def deliver(self, stream_id: int) -> None:
        n = self.held.pop(stream_id, 0)
        if n:
            self.h2.acknowledge_received_data(n, stream_id)


class Mixed:
    """One end is ours, the other h2's."""

    def __init__(self, ours: "End", other: H2End) -> None:
        self.ours, self.h2 = ours, other
        self.streams: list[int] = []
        self.gone: set[int] = set()
        self.ended: set[tuple[str, int]] = set()
        self.sent: dict[tuple[str, int], bytes] = {}
        self.delivered: dict[int, int] = {}

    def carry(self, cuts: list[int]) -> None:
        while True:
            forth, back = self.ours.take(), self.h2.h2.data_to_send()
            self.h2.feed(forth)
            self.ours.feed(back, cuts)
            if not forth and not back:
                return

    def open(self, cuts: list[int]) -> None:
        if self.ours.connection.role is Role.CLIENT:
            stream_id = self.ours.connection.open(DB)
            assert stream_id is not None
            self.carry(cuts)
            assert self.h2.requests[stream_id] == {
                ":method": "CONNECT",
                ":authority": DB.authority,
                "baggage": DB.baggage,
                "forwarded": DB.forwarded,
            }
            self.h2.h2.send_headers(stream_id, [(":status", "200"), ("baggage", "b")])
            self.carry(cuts)
            assert self.ours.seen.responded[-1] == Response(stream_id, 200, "b", (("baggage", "b"),))
        else:
            stream_id = self.h2.h2.get_next_available_stream_id()
            self.h2.h2.send_headers(
                stream_id, [(":method", "CONNECT"), (":authority", DB.authority), ("baggage", DB.baggage)]
            )
            self.carry(cuts)
            request = self.ours.seen.opened[-1]
            assert (request.stream_id, request.authority, request.baggage) == (stream_id, DB.authority, DB.baggage)
            assert request.problem == ""
            self.ours.connection.respond(stream_id, 200)
            self.carry(cuts)
            assert self.h2.statuses[stream_id] == "200"
        self.streams.append(stream_id)

    def step(self, kind: str, choice: int, size: int, cuts: list[int]) -> None:
        live = [one for one in self.streams if one not in self.gone]
        if kind == "open" or not live:
            self.open(cuts)
            return
        stream_id = live[choice % len(live)]
        if kind.startswith("they"):
            self._they(kind, stream_id, size, cuts)
        elif kind == "carry":
            self.carry(cuts)
        else:
            self._we(kind, stream_id, size)

    def _we(self, kind: str, stream_id: int, size: int) -> None:
        match kind:
            case "we send" if ("ours", stream_id) not in self.ended:
                payload = bytes([size & 0xFF]) * size
                n = self.ours.connection.send(stream_id, memoryview(payload))
                self._sent("ours", stream_id, payload[:n])
            case "we end" if ("ours", stream_id) not in self.ended:
                self.carry([])
                # h2 refuses empty DATA in a negative window, which RFC 9113 §6.9 allows.
                if self.h2.h2.remote_flow_control_window(stream_id) >= 0:
                    self.ours.connection.end(stream_id)
                    self.ended.add(("ours", stream_id))
            case "we deliver":
                n = len(self.ours.seen.payload.get(stream_id, b"")) - self.delivered.get(stream_id, 0)
                self.ours.connection.delivered(stream_id, n)
                self.delivered[stream_id] = self.delivered.get(stream_id, 0) + n
            case "we reset":
                self.ours.connection.reset(stream_id, ErrorCode.CANCEL)
                self.gone.add(stream_id)
            case _:
                pass

    def _they(self, kind: str, stream_id: int, size: int, cuts: list[int]) -> None:
        match kind:
            case "they send" if ("h2", stream_id) not in self.ended:
                room = self.h2.h2.local_flow_control_window(stream_id)
                n = min(size, room, self.h2.h2.max_outbound_frame_size)
                pad = size & 0xFF if size & 1 and n + 256 < room else None
                payload = bytes([size & 0xFF]) * (n if pad is None else min(n, 10_000))
                self.h2.h2.send_data(stream_id, payload, pad_length=pad)
                self._sent("h2", stream_id, payload)
            case "they end" if ("h2", stream_id) not in self.ended:
                self.h2.h2.end_stream(stream_id)
                self.ended.add(("h2", stream_id))
            case "they deliver":
                self.h2.deliver(stream_id)
            case "they reset" if not {("ours", stream_id), ("h2", stream_id)} <= self.ended:
                self.carry(cuts)
                self.h2.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
                self.gone.add(stream_id)
                self.carry(cuts)
                assert (stream_id, ErrorCode.CANCEL) in self.ours.seen.resets
            case "they resize":
                self.h2.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})
            case _:
                pass

    def _sent(self, who: str, stream_id: int, payload: bytes) -> None:
        self.sent[who, stream_id] = self.sent.get((who, stream_id), b"") + payload

    def finish(self) -> None:
        self.carry([])
        for stream_id in self.streams:
            if stream_id in self.gone:
                continue
            assert self.ours.seen.payload.get(stream_id, b"") == self.sent.get(("h2", stream_id), b"")
            assert self.h2.payload.get(stream_id, b"") == self.sent.get(("ours", stream_id), b"")
            assert (stream_id in self.ours.seen.ended) == (("h2", stream_id) in self.ended)
            assert (stream_id in self.h2.ended) == (("ours", stream_id) in self.ended)
        codes = {code for _, code in [*self.ours.seen.resets, *self.h2.resets]}
        assert codes <= {ErrorCode.CANCEL, ErrorCode.STREAM_CLOSED}
        assert self.h2.h2.remote_settings.max_frame_size == 16384 or self.h2.h2.max_outbound_frame_size > 16384


mixed_steps = st.lists(
    st.tuples(
        st.sampled_from(
            [f"{who} {what}" for who in ("we", "they") for what in ("send", "end", "deliver", "reset")]
            + ["open", "carry", "carry", "they resize"]
        ),
        st.integers(0, 5),
        st.integers(0, 40_000),
        st.lists(st.integers(1, 3000), max_size=3),
    ),
    max_size=50,
)


@pytest.mark.parametrize("role", Role)
@given(steps=mixed_steps)
def test_any_story_with_the_h2_library(
    make_end: "type[End]", role: Role, steps: list[tuple[str, int, int, list[int]]]
) -> None:
    other = Role.SERVER if role is Role.CLIENT else Role.CLIENT
    mixed = Mixed(make_end(role, SMALL), H2End(other))
    mixed.carry([])
    for step in steps:
        mixed.step(*step)
    mixed.finish()
