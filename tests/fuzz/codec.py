# SPDX-License-Identifier: Apache-2.0
"""The codec as subject, in one role: only H2Error comes out of it, and nothing is left of what a peer did.

The worker is played by a byte for each batch: it answers, sends, delivers, ends, resets, reads the socket or does not.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from nodeagent.hbone import outbox
from nodeagent.hbone.connection import Connection
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.events import Received
from nodeagent.hbone.frames import DEFAULT_WINDOW, ErrorCode, pack_frame
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Limits, Role
from nodeagent.hbone.rules import HEADERS_OVERHEAD
from tests.fuzz.mutate import cut, mutate
from tests.fuzz.sessions import FIELDS, SESSIONS
from tests.fuzz.subject import Input, make_calls

_PAYLOAD = memoryview(bytes(range(256)) * 8)
_REQUEST = ConnectRequest(FIELDS[1][1], baggage=FIELDS[2][1], forwarded=FIELDS[3][1])
_SMALL = Limits(
    stream_window=DEFAULT_WINDOW, connection_window=100_000, max_frame=1 << 20, max_header_bytes=2000, max_streams=3,
    max_fragments=4, max_control_bytes=500, max_queued_bytes=5000, idle_frames=40, wasted_streams=4,
)  # fmt: skip
"""So small that a session of twenty frames reaches each."""


class Lent:
    """Send buffers that the pool has given and not got back."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        borrow, give_back = outbox.BufferPool.borrow, outbox.BufferPool.give_back

        def counting_borrow(pool: outbox.BufferPool) -> memoryview:
            self.count += 1
            return borrow(pool)

        def counting_give_back(pool: outbox.BufferPool, buffer: memoryview) -> None:
            self.count -= 1
            give_back(pool, buffer)

        with (
            patch.object(outbox.BufferPool, "borrow", counting_borrow),
            patch.object(outbox.BufferPool, "give_back", counting_give_back),
        ):
            yield


class Codec:
    def __init__(self, role: Role) -> None:
        self.name, self._role = f"codec-{role.value}", role
        self._sessions = SESSIONS[role]
        self._donors = [session for sessions in SESSIONS.values() for session in sessions]

    def make(self, rng: random.Random) -> Input:
        said = mutate(rng, rng.choice(self._sessions), self._donors)
        return Input(self.name, tuple(cut(rng, b"".join(said))), make_calls(rng))

    def run(self, given: Input) -> None:
        lent = Lent()
        with lent.counted():
            heard = self._play(given)
            assert lent.count == 0, "a send buffer was not given back"
            if not given.calls and len(given.pieces) > 1:
                whole = self._play(Input(self.name, (b"".join(given.pieces),)))
                assert whole.error == heard.error, "the cuts decide how it ends"
                assert whole.error or whole.events == heard.events, "the cuts decide what is heard"

    def _play(self, given: Input) -> "_Played":
        played = _Played(self._role, Limits.of(self._role) if given.call(0) & 1 else _SMALL)
        for n, piece in enumerate(given.pieces):
            if not played.receive(piece):
                break
            played.call(given.call(n))
            played.check_bounds()
        played.leave_nothing()
        return played


class _Played:
    """One connection, what was heard, and what its worker owes."""

    def __init__(self, role: Role, limits: Limits) -> None:
        self.connection, self._limits, self._role = Connection(role, limits), limits, role
        self.error = ""
        self.events: list[tuple[str, int, object]] = []
        self._held: dict[int, int] = {}
        self._unanswered: list[int] = []
        self._known: list[int] = []
        self._received = 0
        if role is Role.CLIENT:
            self._known = [self.connection.open(_REQUEST) or 0 for _ in range(3)]

    def receive(self, piece: bytes) -> bool:
        """Whether it goes on."""
        batch = bytearray(piece)
        self._received += len(piece)
        try:
            events = self.connection.received(memoryview(batch))
        except H2Error as error:
            self.error = str(error)
            return False
        self._note(events)
        batch[:] = b"\xff" * len(batch)  # whatever is kept of it is wrong from here on
        return True

    def call(self, code: int) -> None:  # noqa: C901, PLR0912 - a table
        connection, kind, choice = self.connection, code & 15, code >> 4
        stream_id = self._known[choice % len(self._known)] if self._known else 1
        match kind:
            case 1 | 2 | 3 if self._unanswered:
                connection.respond(self._unanswered.pop(), (200, 200, 503)[kind - 1], end=kind == 3)
            case 4:
                _drain(connection)
            case 5:
                connection.taken(len(connection.pending()[:100]))
            case 6 if stream_id not in self._unanswered:  # a worker answers first
                connection.send(stream_id, _PAYLOAD)
            case 7 if stream_id not in self._unanswered:
                connection.end(stream_id)
            case 8:
                connection.reset(stream_id, ErrorCode.CANCEL)
            case 9:
                self._deliver(stream_id, 1)
            case 10:
                self._deliver(stream_id, 2)
            case 11:
                connection.ping(b"nodeping")
            case 12 if choice == 0:
                connection.goaway()
            case 13 if self._role is Role.CLIENT:
                self._known.append(connection.open(_REQUEST) or 1)
            case 14:
                connection.room(stream_id)
            case _:
                pass

    def check_bounds(self) -> None:
        """What each limit promises, at every moment."""
        state, limits = self.connection._state, self._limits
        assert len(self.connection._receiver._partial) <= limits.max_header_bytes + HEADERS_OVERHEAD + 9
        assert state.outbox.queued_bytes <= limits.max_queued_bytes + self._received * 3 + 2000
        assert 0 <= state.inbound.held <= limits.connection_window
        assert sum(stream.inbound.held for stream in state.streams.values()) <= state.inbound.held
        assert all(0 <= stream.inbound.held <= limits.stream_window for stream in state.streams.values())
        if self._role is Role.SERVER:
            assert len(state.streams) <= 2 * limits.max_streams
            assert state.streams_open <= limits.max_streams

    def leave_nothing(self) -> None:
        """The worker ends everything that it was told of; then nothing may be known, held or blocked any more."""
        connection, state = self.connection, self.connection._state
        if self.error:
            assert self.error.encode() in _drain(connection), "GOAWAY has its words"
            events = connection.received(memoryview(pack_frame(0, 0, 1, b"more")))
            assert not events.data
            assert not events.opened
            assert not connection.pending()
            return
        assert set(state.streams) <= set(self._known), "a stream that nobody was told of"
        for stream_id in self._known:
            connection.reset(stream_id, ErrorCode.CANCEL)
        _drain(connection)
        assert connection.is_idle
        assert (connection.streams_open, state._lingering, state.inbound.held, state.blocked) == (0, 0, 0, {})
        assert state.late_bytes >= 0

    def _note(self, events: Received) -> None:
        for request in events.opened:
            self._known.append(request.stream_id)
            self._unanswered.append(request.stream_id)
            self.events.append(("opened", request.stream_id, request))
        self.events += [("responded", response.stream_id, response) for response in events.responded]
        for stream_id, views in events.data.items():
            payload = b"".join(views)
            self._held[stream_id] = self._held.get(stream_id, 0) + len(payload)
            self.events.append(("data", stream_id, payload))
        self.events += [("ended", stream_id, 0) for stream_id in events.ended]
        self.events += [("reset", *reset) for reset in events.resets]
        self.events.sort(key=lambda event: event[1])  # streams are independent of each other
        self._join()

    def _join(self) -> None:
        """Payload of one stream is one run of bytes, in whatever batches it came."""
        joined: list[tuple[str, int, object]] = []
        for event in self.events:
            if joined and event[0] == "data" and joined[-1][:2] == event[:2]:
                before, more = joined[-1][2], event[2]
                assert isinstance(before, bytes)
                assert isinstance(more, bytes)
                joined[-1] = (*event[:2], before + more)
            else:
                joined.append(event)
        self.events = joined

    def _deliver(self, stream_id: int, share: int) -> None:
        size = self._held.get(stream_id, 0) // share
        if stream_id in self.connection._streams:
            self.connection.delivered(stream_id, size)
            self._held[stream_id] = self._held.get(stream_id, 0) - size


def _drain(connection: Connection) -> bytes:
    said = b""
    while pending := connection.pending():
        said += bytes(pending)
        connection.taken(len(pending))
    return said
