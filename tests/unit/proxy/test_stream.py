# SPDX-License-Identifier: Apache-2.0
"""One stream joined to one socket, with a codec's twin behind the tunnel instead of TLS."""

import socket
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.hbone.connection import Connection
from nodeagent.hbone.events import Received
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Role
from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.proxy import stream
from nodeagent.proxy.backlog import Backlog
from nodeagent.proxy.carried import Carried
from nodeagent.proxy.guard import OpenConnections
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import Closed, Opened, WorkerConfig
from nodeagent.proxy.sockets import prepare
from nodeagent.proxy.stream import StreamRelay
from nodeagent.proxy.tunnel import Tunnel
from tests.unit.proxy.workers import Chain, Issue

pytestmark = pytest.mark.usefixtures("hot_path")

_SHARE = 64 << 10


class BareTunnel:
    """A tunnel of one stream without socket and TLS; `flush` is the test's to call."""

    def __init__(self) -> None:
        self.connection, self.peer = Connection(Role.CLIENT), Connection(Role.SERVER)
        self.is_blocked = False
        self.stalled: list[Carried] = []
        self.released: list[int] = []
        self.id = self.connection.open(ConnectRequest("10.0.0.2:80")) or 0
        self.carry()
        self.peer.respond(self.id, 200)
        self.carry()

    def carry(self) -> tuple[Received, Received]:
        """What each end has to say: (heard here, heard at the peer)."""
        heard = []
        for one, other in ((self.connection, self.peer), (self.peer, self.connection)):
            sent = b""
            while pending := one.pending():
                sent += bytes(pending)
                one.taken(len(pending))
            heard.append(other.received(memoryview(sent)))
        return heard[1], heard[0]

    def flush(self) -> None:
        """The real one seals and sends; here the test does."""

    def flush_later(self) -> None:
        """As flush."""

    def stall(self, stream: Carried) -> None:
        self.stalled.append(stream)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        self.connection.reset(stream_id, code)
        self.released.append(stream_id)

    def release(self, stream_id: int) -> None:
        self.released.append(stream_id)


class Relayed:
    def __init__(self) -> None:
        self.loop, self.emitted = Loop(), list[Opened | Closed]()
        table = OpenConnections(self.emitted.append, lambda: self.loop.now, lambda: 0.0)
        guard = table.begin(Direction.OUTBOUND, (Ip("10.0.0.1"), 1), (Ip("10.0.0.2"), 2))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        prepare(ours)
        self.client.settimeout(60)
        self.tunnel, self.record = BareTunnel(), guard.record
        self.relay = StreamRelay(self.loop, cast("Tunnel", self.tunnel), self.tunnel.id, ours, guard, is_outbound=True)

    def peer_hears(self) -> Received:
        return self.tunnel.carry()[1]

    def peer_sends(self, payload: bytes, *, frame: int = 16384) -> None:
        """In frames of this size, delivered to the relay as one batch."""
        peer, stream_id = self.tunnel.peer, self.tunnel.id
        for start in range(0, len(payload), frame):
            part = payload[start : start + frame]
            views = peer.reserve(stream_id, len(part))
            while not views:
                self.hear()
                views = peer.reserve(stream_id, len(part))
            views[0][: len(part)] = part
            peer.commit(stream_id, len(part))
        self.hear()

    def peer_ends(self) -> None:
        self.tunnel.peer.end(self.tunnel.id)
        self.hear()

    def hear(self) -> None:
        received = self.tunnel.carry()[0]
        for stream_id, views in received.data.items():
            self.relay.payload(views, stream_id in received.ended)
        for _ in received.ended:
            self.relay.ended()
        for _, code in received.resets:
            self.relay.was_reset(code)
        for _ in received.writable:
            self.relay.can_send()

    def close(self) -> None:
        self.relay.gone(Reason.DRAINED, "")
        self.client.close()
        assert self.loop.bugs == 0
        assert self.loop.watched == 0
        assert len(self.emitted) == 1


@pytest.fixture
def relayed() -> Iterator[Relayed]:
    made = Relayed()
    yield made
    made.close()


def receive(sock: socket.socket, size: int, turn: Callable[[], None] = lambda: None) -> bytes:
    got = b""
    while len(got) < size:
        turn()
        got += sock.recv(1 << 20)
    return got


def test_what_waits_costs_what_it_is_however_small_its_frames_are(relayed: Relayed) -> None:
    """One byte a batch is the worst that a peer can do to an application that does not read."""
    while not relayed.relay._backlog:
        relayed.peer_sends(b"x" * 65536)
    relayed.peer_sends(b"x" * 65536)  # a whole piece, whatever the socket took of the last: what follows begins another
    tracemalloc.start()
    try:
        for _ in range(2000):
            relayed.peer_sends(b"x", frame=1)
        assert tracemalloc.get_traced_memory()[0] < 64_000, "it was 500,000 with an object for each"
    finally:
        tracemalloc.stop()


def test_the_sockets_bytes_become_data(relayed: Relayed) -> None:
    relayed.client.sendall(b"question")
    relayed.loop.turn(60)
    [[view]] = relayed.peer_hears().data.values()
    assert bytes(view) == b"question"
    assert relayed.record.sent_bytes == 8


def test_the_last_bytes_of_a_socket_and_its_end_leave_together(relayed: Relayed) -> None:
    relayed.client.sendall(b"question")
    relayed.client.shutdown(socket.SHUT_WR)
    relayed.loop.turn(1)
    heard = relayed.peer_hears()
    assert [bytes(view) for views in heard.data.values() for view in views] == [b"question"]
    assert heard.ended == [relayed.tunnel.id]


def segments_received(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    return int.from_bytes(info[140:144], sys.byteorder)  # tcpi_segs_in of linux/tcp.h


def test_the_last_bytes_of_a_stream_and_its_end_are_one_packet(relayed: Relayed) -> None:
    before = segments_received(relayed.client)
    relayed.tunnel.peer.send(relayed.tunnel.id, memoryview(b"answer"))
    relayed.peer_ends()
    assert receive(relayed.client, 6) == b"answer"
    assert relayed.client.recv(1) == b""
    assert segments_received(relayed.client) == before + 1


def test_the_last_bytes_of_a_stream_wait_for_a_socket_that_is_full(relayed: Relayed) -> None:
    size = 0
    while not relayed.relay._backlog:
        relayed.peer_sends(b"x" * 65536)
        size += 65536
    relayed.tunnel.peer.send(relayed.tunnel.id, memoryview(b"last"))
    relayed.peer_ends()
    received = receive(relayed.client, size + 4, lambda: relayed.loop.turn(0))
    assert received == b"x" * size + b"last"
    relayed.loop.turn(0)
    assert relayed.client.recv(1) == b""


def test_data_become_the_sockets_bytes_and_are_credited(relayed: Relayed) -> None:
    relayed.peer_sends(b"answer")
    assert relayed.client.recv(100) == b"answer"
    assert relayed.record.received_bytes == 6


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 70_000), st.integers(1, 20_000)), max_size=6))
def test_whatever_the_frames_are_the_bytes_are_the_same(parts: list[tuple[int, int]]) -> None:
    relayed, expected = Relayed(), b""
    for number, (size, frame) in enumerate(parts):
        payload = bytes([number]) * size
        expected += payload
        relayed.peer_sends(payload, frame=frame)
    assert receive(relayed.client, len(expected), lambda: relayed.loop.turn(0)) == expected
    relayed.close()


def test_a_thousand_tiny_frames_in_one_batch(relayed: Relayed) -> None:
    """More slices than one sendmsg takes."""
    payload = bytes(range(256)) * 12
    relayed.peer_sends(payload, frame=1)
    assert receive(relayed.client, len(payload)) == payload


def test_only_what_the_socket_took_is_credited(relayed: Relayed) -> None:
    """So the peer can send one window, and then nothing, until the client reads."""
    sent = 0
    while relayed.tunnel.peer.room(relayed.tunnel.id) and sent < 100 << 20:
        size = min(65536, relayed.tunnel.peer.room(relayed.tunnel.id))
        relayed.peer_sends(b"x" * size)
        relayed.loop.turn(0)
        sent += size
    assert sent < 16 << 20
    assert relayed.record.received_bytes < sent
    got = receive(relayed.client, sent, lambda: relayed.loop.turn(0))
    assert len(got) == sent
    relayed.hear()
    relayed.loop.turn(0)
    relayed.hear()
    assert relayed.tunnel.peer.room(relayed.tunnel.id) > 3 << 20


def test_without_a_window_the_socket_is_not_read(relayed: Relayed) -> None:
    relayed.client.settimeout(0)
    sent = 0
    for _ in range(1000):
        try:
            sent += relayed.client.send(b"x" * 65536)
        except BlockingIOError:
            if not relayed.relay._interest:
                break
        relayed.loop.turn(0)
        heard = relayed.peer_hears()
        assert relayed.tunnel.id in heard.data or not heard.data
    assert relayed.record.sent_bytes <= 4 << 20
    relayed.tunnel.peer.delivered(relayed.tunnel.id, relayed.record.sent_bytes)
    before = relayed.record.sent_bytes
    relayed.hear()
    relayed.loop.turn(60)
    assert relayed.record.sent_bytes > before


def test_behind_a_blocked_tunnel_the_socket_is_not_read(relayed: Relayed) -> None:
    relayed.tunnel.is_blocked = True
    relayed.client.sendall(b"later")
    relayed.loop.turn(60)
    assert relayed.tunnel.stalled == [relayed.relay]
    assert relayed.record.sent_bytes == 0
    relayed.tunnel.is_blocked = False
    relayed.relay.can_flush()
    relayed.loop.turn(60)
    assert relayed.record.sent_bytes == 5


@pytest.mark.parametrize("peer_first", [True, False])
def test_both_directions_end_by_themselves(relayed: Relayed, peer_first: bool) -> None:  # noqa: FBT001 - a case
    def client_ends() -> None:
        relayed.client.shutdown(socket.SHUT_WR)
        relayed.loop.turn(60)
        assert relayed.peer_hears().ended == [relayed.tunnel.id]

    def peer_ends() -> None:
        relayed.peer_sends(b"last")
        relayed.peer_ends()
        assert receive(relayed.client, 4) == b"last"
        assert relayed.client.recv(1) == b""

    for end in (peer_ends, client_ends) if peer_first else (client_ends, peer_ends):
        assert relayed.record.reason == ""
        end()
    assert relayed.record.reason == Reason.CLOSED.value
    assert relayed.tunnel.released == [relayed.tunnel.id]


def test_the_clients_reset_is_told_to_the_peer(relayed: Relayed) -> None:
    relayed.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    relayed.client.close()
    relayed.loop.turn(60)
    assert relayed.peer_hears().resets == [(relayed.tunnel.id, ErrorCode.CANCEL)]
    assert relayed.record.reason == Reason.RESET.value


@pytest.mark.parametrize(
    ("code", "reason"), [(ErrorCode.CANCEL, Reason.RESET), (ErrorCode.REFUSED_STREAM, Reason.HBONE_REFUSED)]
)
def test_the_peers_reset_is_told_to_the_client(relayed: Relayed, code: ErrorCode, reason: Reason) -> None:
    relayed.tunnel.peer.reset(relayed.tunnel.id, code)
    relayed.hear()
    with pytest.raises(ConnectionResetError):
        relayed.client.recv(1)
    assert relayed.record.reason == reason.value


def test_a_peer_that_has_ended_and_wants_no_more_is_no_reset(relayed: Relayed) -> None:
    """RFC 9113 §8.1: END_STREAM and then RST_STREAM(NO_ERROR), as servers do that answered in full."""
    relayed.peer_sends(b"all of it")
    relayed.peer_ends()
    relayed.relay.was_reset(ErrorCode.NO_ERROR)
    assert receive(relayed.client, 9) == b"all of it"
    assert relayed.client.recv(1) == b""
    assert relayed.record.reason == Reason.CLOSED.value


def test_what_came_early_is_written_first(relayed: Relayed) -> None:
    connection, stream_id = relayed.tunnel.peer, relayed.tunnel.id
    [view] = connection.reserve(stream_id, 6)
    view[:] = b"early "
    connection.commit(stream_id, 6)
    early = Backlog()
    early.add(relayed.tunnel.carry()[0].data[stream_id])
    relayed.relay.payload_before(early)
    assert not early
    relayed.peer_sends(b"late")
    assert receive(relayed.client, 10) == b"early late"


def test_a_cut_resets_both_ends(relayed: Relayed) -> None:
    relayed.relay.cut(Reason.POLICY_CHANGED, "now denied")
    with pytest.raises(ConnectionResetError):
        relayed.client.recv(1)
    assert relayed.peer_hears().resets == [(relayed.tunnel.id, ErrorCode.CANCEL)]
    assert relayed.record.reason == Reason.POLICY_CHANGED.value


def test_both_ends_of_a_tunnel_leave_little_unsent_in_the_kernel(
    config: WorkerConfig, authority: Callable[[], Issue]
) -> None:
    chain = Chain(config, authority())
    chain.talk()
    [dialled], [accepted] = chain.near.pool.all(), chain.far.inbound.tunnels
    for end in (dialled, accepted):
        assert end.tunnel is not None
        assert end.tunnel._socket is not None
        assert end.tunnel._socket.getsockopt(socket.IPPROTO_TCP, 25) == 1 << 20  # TCP_NOTSENT_LOWAT
    chain.close()


@pytest.mark.parametrize("side", [0, 1], ids=["client", "application"])
def test_one_that_has_much_to_say_gets_its_share_of_a_turn_and_no_more(
    config: WorkerConfig, authority: Callable[[], Issue], monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """Whoever has little to say beside it is heard in the same turns."""
    monkeypatch.setattr(stream, "READ_BYTES", _SHARE)
    chain = Chain(config, authority())
    bulk, *small = [chain.talk(number) for number in range(20)]
    worker = (chain.near, chain.far)[side]
    first, *others = sorted(
        (guard.record for guard in worker.connections.all() if guard.is_established), key=lambda record: record.id
    )
    turns = 0

    def heard(record: ConnectionRecord) -> int:
        return record.received_bytes if side else record.sent_bytes

    def all_are_heard() -> bool:
        nonlocal turns
        turns += 1
        bulk.say(side, 4 * _SHARE)
        assert heard(first) <= turns * _SHARE
        return all(heard(record) == 1000 for record in others)

    for talk in small:
        talk.say(side, 1000)
    deadline = time.monotonic() + 60
    while not all_are_heard():
        assert time.monotonic() < deadline
        worker.loop.turn(0)
    assert heard(first) > 0
    chain.close()
