# SPDX-License-Identifier: Apache-2.0
"""What a peer with a good certificate can make a worker hold and do: each abuse ends by name, below a measured ceiling.

The ceilings are of resident memory, and beside each abuse a connection of somebody else goes on; how much slower it
becomes is `make bench BENCH=abuse`. docs/limits.md has the limits, and which test reaches each.
"""

import contextlib
import socket
import statistics
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from nodeagent.hbone.frames import ErrorCode, pack_reset
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.model.reason import Reason
from nodeagent.proxy.messages import WorkerConfig
from tests.e2e.proxy.abuses import FLOODS, SERVED, SINK, STROKES, TRICKLES, request
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.peer import HbonePeer
from tests.e2e.proxy.wires import HBONE, PATIENCE_SECONDS, PORT

pytestmark = pytest.mark.e2e

MIB, PIECE = 1 << 20, 1 << 16
BLOCKED_SECONDS = 0.25
"""Of a processor, that the workers use at most between what a neighbour says and what it hears. What other processes
use beside them is not theirs, so a busy machine changes nothing."""

Connect = Callable[..., HbonePeer]


def memory(pid: int) -> int:
    """Resident bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:  # noqa: PTH123 - one line of proc
        return int(statm.read().split()[1]) * 4096


def read(sock: socket.socket, size: int) -> None:
    """So many bytes, whatever they are."""
    while size:
        got = len(sock.recv(size))
        assert got, f"{size} bytes are missing"
        size -= got


def processor_seconds(pid: int) -> float:
    """That this process has used so far."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) has it


class Neighbour:
    """A connection of somebody else through the same workers."""

    def __init__(self, client: socket.socket, served: socket.socket, workers: tuple[int, ...]) -> None:
        self._client, self._served, self._workers = client, served, workers
        self.seconds: list[float] = []
        """Of the workers, for each time that it asked."""

    def asks(self, times: int = 1) -> None:
        """And is answered."""
        for _ in range(times):
            before = self._used()
            self._client.sendall(b"ping")
            assert self._served.recv(4, socket.MSG_WAITALL) == b"ping"
            self._served.sendall(b"pong")
            assert self._client.recv(4, socket.MSG_WAITALL) == b"pong"
            self.seconds.append(self._used() - before)

    def _used(self) -> float:
        return sum(map(processor_seconds, self._workers))

    @property
    def slowest(self) -> float:
        return max(self.seconds)


@pytest.fixture
def neighbour(mesh: Mesh, app: socket.socket) -> Iterator[Neighbour]:
    """Its record must not come while the test lasts."""
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client, app.accept()[0] as served:
        served.settimeout(client.gettimeout())
        made = Neighbour(client, served, (mesh.near.process.pid, mesh.far.process.pid))
        made.asks(20)
        assert statistics.median(made.seconds) < BLOCKED_SECONDS
        yield made
        made.asks()
        assert mesh.near.closed == []


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_by_name_and_costs_no_memory(mesh: Mesh, peer: Connect, neighbour: Neighbour, flood: str) -> None:
    """As fast as the socket takes it, and nothing is read. Thirty thousand frames are enough for every limit."""
    hostile = peer()
    hostile.flush()
    before = memory(mesh.far.process.pid)
    with contextlib.suppress(OSError):  # the worker ends it
        for n in range(0, 30_000, 100):
            hostile.tls.sendall(b"".join(FLOODS[flood](one) for one in range(n, n + 100)))
            if n % 1000 == 0:
                neighbour.asks()
    neighbour.asks()
    assert memory(mesh.far.process.pid) - before < 8 * MIB
    assert neighbour.slowest < BLOCKED_SECONDS
    mesh.far.eventually(lambda: bool(ends(mesh)))
    mesh.far.lost = 0  # nobody hears a worker while a peer floods it: it does not wait for that


def ends(mesh: Mesh) -> set[str]:
    """How tunnels ended by the rules of HTTP/2."""
    names = {Reason.H2_FAILED.value, Reason.H2_TOO_MANY_STREAMS.value, Reason.H2_HEADERS_TOO_LARGE.value}
    return {record.reason for record in mesh.far.closed if record.reason in names}


REASONS = {
    "CONTINUATION without end": Reason.H2_HEADERS_TOO_LARGE,
    "HPACK bomb": Reason.H2_HEADERS_TOO_LARGE,
}
"""Of strokes; of the others H2_FAILED."""


@pytest.mark.parametrize("stroke", STROKES)
def test_one_stroke_ends_by_name_and_costs_no_memory(
    mesh: Mesh, peer: Connect, neighbour: Neighbour, stroke: str
) -> None:
    client = peer()
    client.flush()
    before = memory(mesh.far.process.pid)
    with contextlib.suppress(OSError):
        client.tls.sendall(STROKES[stroke])
    reason = REASONS.get(stroke, Reason.H2_FAILED)
    mesh.far.eventually(lambda: reason.value in ends(mesh))
    assert memory(mesh.far.process.pid) - before < 12 * MIB
    neighbour.asks()
    assert neighbour.slowest < BLOCKED_SECONDS


@pytest.mark.parametrize("trickle", TRICKLES)
def test_a_trickle_passes_and_costs_no_memory(
    mesh: Mesh, peer: Connect, app: socket.socket, neighbour: Neighbour, trickle: str
) -> None:
    """Many frames of a byte each; the application reads. Padded ones rest, which takes their time and nobody else's."""
    client = peer()
    client.flush()
    before, count = memory(mesh.far.process.pid), 50_000 if "padded" in trickle else 200_000
    client.tls.sendall(TRICKLES[trickle](0))
    with app.accept()[0] as served:
        served.settimeout(PATIENCE_SECONDS)
        assert served.recv(1) == SINK
        frame, left = TRICKLES[trickle](1), count
        while left:
            client.tls.sendall(frame * 1000)
            left -= 1000
            read(served, 1000)
        neighbour.asks()
        assert neighbour.slowest < BLOCKED_SECONDS
        assert memory(mesh.far.process.pid) - before < 8 * MIB


# ---- who does not read ---------------------------------------------------------------------------------------------


def test_applications_that_do_not_read_hold_one_window_of_the_tunnel(
    mesh: Mesh, peer: Connect, app: socket.socket, neighbour: Neighbour
) -> None:
    """Whatever their number, and however the peer ends its streams: 16 MiB, and what it costs to hold them."""
    client, before, served = peer(), memory(mesh.far.process.pid), []
    sent = 0
    try:
        for n in range(16):
            stream_id = client.open(SERVED)
            assert client.status(stream_id) == 200
            served.append(app.accept()[0])
            while (room := client.connection.room(stream_id)) > 0:
                part = bytes(min(room, 1 << 16))
                client.send(stream_id, part)
                sent += len(part)
            if n % 2:
                client.connection.end(stream_id)
                client.flush()
                client.tls.sendall(pack_reset(stream_id, ErrorCode.NO_ERROR))
                client.connection.reset(stream_id, ErrorCode.NO_ERROR)
                client.flush()
        assert sent >= 16 * MIB
        neighbour.asks(20)
        assert memory(mesh.far.process.pid) - before < 24 * MIB
        assert neighbour.slowest < BLOCKED_SECONDS
    finally:
        for one in served:
            one.close()


def block(client: HbonePeer, app: socket.socket, stack: contextlib.ExitStack) -> None:
    """Twenty applications send more than windows and sockets take, and the peer does not read."""
    client.tls.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    for _ in range(20):
        client.connection.open(ConnectRequest(SERVED))
    client.flush()
    served = [stack.enter_context(app.accept()[0]) for _ in range(20)]
    for one in served:
        one.settimeout(0)
    for _ in range(300):
        for one in served:
            with contextlib.suppress(BlockingIOError):
                one.send(bytes(1 << 16))


def test_a_peer_that_does_not_read_holds_what_one_turn_made(
    mesh: Mesh, peer: Connect, app: socket.socket, neighbour: Neighbour
) -> None:
    client, before = peer(), memory(mesh.far.process.pid)
    with contextlib.ExitStack() as stack:
        block(client, app, stack)
        neighbour.asks(20)
        assert memory(mesh.far.process.pid) - before < 8 * MIB
        assert neighbour.slowest < BLOCKED_SECONDS


def test_answers_do_not_pile_up_behind_a_peer_that_does_not_read(
    mesh: Mesh, peer: Connect, app: socket.socket, neighbour: Neighbour
) -> None:
    client = peer()
    with contextlib.ExitStack() as stack:
        block(client, app, stack)
        before = memory(mesh.far.process.pid)
        with contextlib.suppress(OSError):  # it ends behind a MiB of answers, each of 23 bytes
            for n in range(100, 120_000, 80):  # so few that none is one too many
                client.tls.sendall(b"".join(request(2 * one + 1, "10.9.9.9:1") for one in range(n, n + 80)))
                mesh.far.listen(0)
                neighbour.asks()
        assert memory(mesh.far.process.pid) - before < 12 * MIB
        assert neighbour.slowest < BLOCKED_SECONDS
        mesh.far.eventually(lambda: Reason.H2_FAILED.value in ends(mesh))


class TestHeld:
    @pytest.fixture
    def config(self, config: WorkerConfig) -> WorkerConfig:
        return msgspec.structs.replace(config, max_held_mib=4)

    def test_a_tunnel_that_makes_a_worker_hold_too_much_is_cut_by_name(
        self, mesh: Mesh, peer: Connect, app: socket.socket, neighbour: Neighbour
    ) -> None:
        """Its streams are, and nobody else's. What it held is free again."""
        modest, greedy, before = peer(), peer(), memory(mesh.far.process.pid)
        with contextlib.ExitStack() as stack:
            kept = modest.open(SERVED)
            assert modest.status(kept) == 200
            served = stack.enter_context(app.accept()[0])
            modest.send(kept, bytes(PIECE))
            with contextlib.suppress(OSError):
                for _ in range(4):
                    stream_id = greedy.open(SERVED)
                    assert greedy.status(stream_id) == 200
                    stack.enter_context(app.accept()[0]).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    while (room := greedy.connection.room(stream_id)) > 0:
                        greedy.send(stream_id, bytes(min(room, PIECE)))
            mesh.far.eventually(lambda: any(record.reason == Reason.MEMORY_LIMIT.value for record in mesh.far.closed))
            assert memory(mesh.far.process.pid) - before < 12 * MIB
            neighbour.asks()
            modest.send(kept, b"still here")
            read(served, PIECE + 10)
            assert {record.reason for record in mesh.far.closed} == {Reason.MEMORY_LIMIT.value}
        another = peer()
        stream_id = another.open(SERVED)
        assert another.status(stream_id) == 200
        with app.accept()[0] as served:
            for _ in range(8 * MIB // PIECE):  # twice what is held, to one that reads
                while another.connection.room(stream_id) < PIECE:
                    another.receive()
                another.send(stream_id, bytes(PIECE))
                read(served, PIECE)


# ---- who does not go on ------------------------------------------------------------------------------------------


class TestLate:
    @pytest.fixture
    def config(self, config: WorkerConfig) -> WorkerConfig:
        return msgspec.structs.replace(config, handshake_seconds=4)

    def test_slow_handshakes_have_a_deadline_and_a_price(self, mesh: Mesh, neighbour: Neighbour) -> None:
        """Three hundred peers that say three bytes and wait: a quarter of a MiB each would be 75."""
        before = memory(mesh.far.process.pid)
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                client = stack.enter_context(mesh.wires.outsider.connect(mesh.wires.server.v4, HBONE))
                client.sendall(b"\x16\x03\x01")
            neighbour.asks(20)
            assert memory(mesh.far.process.pid) - before < 300 * (64 << 10)
            assert neighbour.slowest < BLOCKED_SECONDS
            mesh.far.eventually(lambda: len(mesh.far.closed) >= 300)
            assert {record.reason for record in mesh.far.closed} == {Reason.TLS_TIMEOUT.value}
        mesh.far.eventually(lambda: mesh.far.counters.get("handshakes_failed") == 300)


def test_connections_that_come_and_go_leave_no_memory(mesh: Mesh, neighbour: Neighbour) -> None:
    """A flood of them, without a byte. The next thousands cost nothing, not even until the collector comes."""

    def unrecorded() -> int:
        """But for those refused ones that left a record."""
        names = [record.reason for record in mesh.far.closed]
        return mesh.far.counters.get("tunnels_refused", 0) - names.count(Reason.SOURCE_WASTEFUL.value)

    def flood(number: int) -> int:
        for _ in range(1000):
            with contextlib.suppress(ConnectionError):  # refused as soon as it was there
                mesh.wires.outsider.connect(mesh.wires.server.v4, HBONE).close()
        neighbour.asks(5)
        mesh.far.eventually(lambda: unrecorded() + len(mesh.far.closed) >= number * 1000)
        return memory(mesh.far.process.pid)

    first = flood(1)
    flood(2)
    assert flood(3) - first < MIB
    assert neighbour.slowest < BLOCKED_SECONDS


# ---- who wastes tunnel after tunnel --------------------------------------------------------------------------------


def waste(mesh: Mesh, until: str) -> None:
    """A hundred at once that are no TLS, again and again, until the worker has counted that."""
    outsider, server = mesh.wires.outsider, mesh.wires.server.v4
    for _ in range(50):
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(100):
                with contextlib.suppress(ConnectionError):  # refused as soon as it was there
                    clients.append(stack.enter_context(outsider.connect(server, HBONE)))
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.recv(1)
        mesh.far.listen(0)
        if mesh.far.counters.get(until):
            return
    raise AssertionError(mesh.far.counters)


def is_served(peer: Connect, app: socket.socket) -> bool:
    try:
        client = peer()
        assert client.status(client.open(SERVED)) == 200
    except OSError:
        return False
    app.accept()[0].close()
    return True


def test_a_source_whose_tunnels_come_to_nothing_waits_and_is_served(
    mesh: Mesh, peer: Connect, app: socket.socket, neighbour: Neighbour
) -> None:
    waste(mesh, until="tunnels_delayed")
    neighbour.asks()
    assert neighbour.slowest < BLOCKED_SECONDS
    mesh.far.eventually(lambda: is_served(peer, app))
    assert {record.reason for record in mesh.far.closed} <= {Reason.TLS_NOT_TLS.value, Reason.SOURCE_WASTEFUL.value}


def test_too_many_of_such_a_source_are_refused_by_name_and_it_is_served_later(
    mesh: Mesh, peer: Connect, app: socket.socket, neighbour: Neighbour
) -> None:
    waste(mesh, until="tunnels_refused")
    mesh.far.eventually(lambda: any(record.reason == Reason.SOURCE_WASTEFUL.value for record in mesh.far.closed))
    neighbour.asks()
    assert neighbour.slowest < BLOCKED_SECONDS
    mesh.far.eventually(lambda: is_served(peer, app))
