# SPDX-License-Identifier: Apache-2.0
"""What a peer with a good certificate can make a worker hold and do: each abuse ends by name, below a measured ceiling.

The ceilings are of resident memory, and beside each abuse a connection of somebody else goes on. docs/limits.md has
the limits, and which test reaches each.
"""

import contextlib
import socket
import statistics
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from nodeagent.hbone import frames
from nodeagent.hbone.frames import ErrorCode, pack_frame, pack_reset, pack_settings, pack_window_update
from nodeagent.hbone.headers import ConnectRequest, HeaderWriter
from nodeagent.model.reason import Reason
from nodeagent.proxy.messages import WorkerConfig
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.peer import HbonePeer
from tests.e2e.proxy.wires import HBONE, PORT

pytestmark = pytest.mark.e2e

SERVER = "10.2.0.2:8080"
MIB = 1 << 20
BLOCKED_SECONDS = 0.25
"""Of a processor, that the workers use at most between what a neighbour says and what it hears. What other processes
use beside them is not theirs, so a busy machine changes nothing."""

Connect = Callable[..., "HbonePeer"]


def memory(pid: int) -> int:
    """Resident bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:  # noqa: PTH123 - one line of proc
        return int(statm.read().split()[1]) * 4096


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


def request(stream_id: int, authority: str = "10.2.0.2:1") -> bytes:
    """Where nobody listens, unless `authority` says otherwise."""
    block = HeaderWriter(0).request(ConnectRequest(authority))
    return pack_frame(frames.HEADERS, frames.END_HEADERS, stream_id, block)


def malformed(stream_id: int) -> bytes:
    """A GET: answered with 400, and no waste in the eyes of the codec."""
    return pack_frame(frames.HEADERS, frames.END_HEADERS, stream_id, b"\x82")


def _rapid_reset(n: int) -> bytes:
    return request(2 * n + 1) + pack_reset(2 * n + 1, 8)


def _swinging_windows(n: int) -> bytes:
    """64 in each frame, behind as many open streams as there can be."""
    streams = b"" if n else b"".join(request(2 * one + 1, SERVER) for one in range(200))
    return streams + pack_frame(frames.SETTINGS, 0, 0, (b"\0\4\0\1\0\0" + b"\0\4\0\2\0\0") * 32)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda n: pack_frame(frames.PING, 0, 0, n.to_bytes(8, "big")),
    "SETTINGS": lambda _: pack_settings({}),
    "SETTINGS with swinging windows": _swinging_windows,
    "PRIORITY": lambda _: pack_frame(frames.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": lambda _: pack_frame(0x42, 0, 0, bytes(100)),
    "WINDOW_UPDATE by 1": lambda _: pack_window_update(0, 1),
    "rapid reset": _rapid_reset,
    "streams beyond the limit": lambda n: request(2 * n + 1),
}


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


def ends(mesh: Mesh) -> set[str]:
    """How tunnels ended by the rules of HTTP/2."""
    names = {Reason.H2_FAILED.value, Reason.H2_TOO_MANY_STREAMS.value, Reason.H2_HEADERS_TOO_LARGE.value}
    return {record.reason for record in mesh.far.closed if record.reason in names}


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        pytest.param(
            pack_frame(frames.HEADERS, 0, 1, b"\x82") + pack_frame(frames.CONTINUATION, 0, 1, b"\x82") * 10_000,
            Reason.H2_HEADERS_TOO_LARGE,
            id="CONTINUATION without end",
        ),
        pytest.param(
            pack_frame(
                frames.HEADERS, frames.END_HEADERS, 1, b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 16_000
            ),
            Reason.H2_HEADERS_TOO_LARGE,
            id="HPACK bomb",
        ),
        pytest.param(
            pack_frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x20" * 60_000),
            Reason.H2_FAILED,
            id="HPACK table changes",
        ),
        pytest.param(pack_window_update(0, (1 << 31) - 1), Reason.H2_FAILED, id="window overflow"),
        pytest.param(
            request(1, SERVER) + pack_frame(frames.DATA, 0, 1, bytes(MIB)) * 40,
            Reason.H2_FAILED,
            id="a peer that ignores windows",
        ),
        pytest.param(
            malformed(1) + pack_frame(frames.DATA, 0, 1, bytes(MIB)) * 40,
            Reason.H2_FAILED,
            id="and those of a stream that is over",
        ),
    ],
)
def test_one_stroke_ends_by_name_and_costs_no_memory(
    mesh: Mesh, peer: Connect, neighbour: Neighbour, hostile: bytes, reason: Reason
) -> None:
    client = peer()
    client.flush()
    before = memory(mesh.far.process.pid)
    with contextlib.suppress(OSError):
        client.tls.sendall(hostile)
    mesh.far.eventually(lambda: reason.value in ends(mesh))
    assert memory(mesh.far.process.pid) - before < 12 * MIB
    neighbour.asks()
    assert neighbour.slowest < BLOCKED_SECONDS


# ---- who does not read ---------------------------------------------------------------------------------------------


def test_applications_that_do_not_read_hold_one_window_of_the_tunnel(
    mesh: Mesh, peer: Connect, app: socket.socket, neighbour: Neighbour
) -> None:
    """Whatever their number, and however the peer ends its streams: 16 MiB, and what it costs to hold them."""
    client, before, served = peer(), memory(mesh.far.process.pid), []
    sent = 0
    try:
        for n in range(16):
            stream_id = client.open(SERVER)
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
        client.connection.open(ConnectRequest(SERVER))
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
                client.tls.sendall(b"".join(malformed(2 * one + 1) for one in range(n, n + 80)))
                mesh.far.listen(0)
                neighbour.asks()
        assert memory(mesh.far.process.pid) - before < 12 * MIB
        assert neighbour.slowest < BLOCKED_SECONDS
        mesh.far.eventually(lambda: Reason.H2_FAILED.value in ends(mesh))


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

    def flood(number: int) -> int:
        for _ in range(1000):
            mesh.wires.outsider.connect(mesh.wires.server.v4, HBONE).close()
        neighbour.asks(5)
        mesh.far.eventually(lambda: len(mesh.far.closed) >= number * 1000)
        return memory(mesh.far.process.pid)

    first = flood(1)
    flood(2)
    assert flood(3) - first < MIB
    assert neighbour.slowest < BLOCKED_SECONDS
