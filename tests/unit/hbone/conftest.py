# SPDX-License-Identifier: Apache-2.0
"""Two ends of a connection without a network: bytes carried in any cuts, and what they meant as plain values."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import pytest

from nodeagent.hbone.connection import Connection
from nodeagent.hbone.events import GoAway, Received, Request, Response
from nodeagent.hbone.frames import PREFACE, Setting, pack_settings
from nodeagent.hbone.limits import Limits, Role
from nodeagent.hbone.snapshot import Snapshot


@dataclass
class Seen:
    """All events of a connection so far. Payload is copied, so it may be compared after the batch is gone."""

    opened: list[Request] = field(default_factory=list)
    responded: list[Response] = field(default_factory=list)
    payload: dict[int, bytes] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    resets: list[tuple[int, int]] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    writable: list[int] = field(default_factory=list)
    goaways: list[GoAway] = field(default_factory=list)
    refused: int = 0

    def note(self, events: Received) -> None:
        self.opened += events.opened
        self.responded += events.responded
        for stream_id, slices in events.data.items():
            self.payload[stream_id] = self.payload.get(stream_id, b"") + b"".join(slices)
        self.ended += events.ended
        self.resets += events.resets
        self.pongs += events.pongs
        self.writable += events.writable
        self.refused += events.refused
        if events.goaway is not None:
            self.goaways.append(events.goaway)


class End:
    """A connection, what it has seen, and what waits to be carried to the other end."""

    def __init__(self, role: Role, limits: Limits | None = None) -> None:
        self.connection = Connection(role, limits)
        self.seen = Seen()
        self.said = b""
        """Everything that was taken so far."""
        self.moves = False
        """It goes on in another process behind each batch and before each flush."""

    def move(self) -> None:
        """As if by a socket into another process."""
        said = msgspec.msgpack.encode(self.connection.snapshot())
        self.connection = Connection.resume(msgspec.msgpack.decode(said, type=Snapshot))

    def take(self) -> bytes:
        """Everything that is pending."""
        if self.moves:
            self.move()
        parts = []
        while pending := self.connection.pending():
            parts.append(bytes(pending))
            self.connection.taken(len(pending))
        said = b"".join(parts)
        self.said += said
        return said

    def feed_by_work(self, data: bytes, most_work: int) -> list[int]:
        """One batch, with as many calls as that needs; how many bytes each has left."""
        left = []
        while data:
            batch = bytearray(data)
            events = self.connection.received(memoryview(batch), most_work)
            self.seen.note(events)
            data = bytes(events.unread)
            left.append(len(data))
            batch[:] = b"\xff" * len(batch)
        return left

    def feed(self, data: bytes, cuts: Iterable[int] = ()) -> None:
        """`cuts` are the sizes of the batches, over and over; none means one batch."""
        sizes = itertools.cycle(list(cuts) or [max(len(data), 1)])
        while data:
            size = next(sizes)
            # A copy that is spoilt afterwards: nothing may be read from a batch once its call is over.
            batch, data = bytearray(data[:size]), data[size:]
            self.seen.note(self.connection.received(memoryview(batch)))
            batch[:] = b"\xff" * len(batch)
            if self.moves:
                self.move()

    def deliver_all(self, *stream_ids: int) -> None:
        """The application has read what came for these streams, counted from the beginning."""
        for stream_id in stream_ids:
            self.connection.delivered(stream_id, len(self.seen.payload.get(stream_id, b"")))


class Pair:
    """Our client and our server, connected."""

    def __init__(self, client_limits: Limits | None = None, server_limits: Limits | None = None) -> None:
        self.client = End(Role.CLIENT, client_limits)
        self.server = End(Role.SERVER, server_limits)

    def carry(self, cuts: Iterable[int] = ()) -> None:
        """Until both ends are silent."""
        cuts = list(cuts)
        while True:
            forth = self.client.take()
            self.server.feed(forth, cuts)
            back = self.server.take()
            self.client.feed(back, cuts)
            if not forth and not back:
                return


@pytest.fixture(scope="session")
def make_end() -> type[End]:
    return End


@pytest.fixture(scope="session")
def make_pair() -> type[Pair]:
    return Pair


@pytest.fixture(scope="session")
def greeting() -> dict[Role, bytes]:
    """What a peer sends first, by the role of the end that receives it."""
    settings = pack_settings({Setting.INITIAL_WINDOW_SIZE: 65535})
    return {Role.SERVER: PREFACE + settings, Role.CLIENT: settings}
