# SPDX-License-Identifier: Apache-2.0
"""Open connections pass from a worker to its successor, under load, and neither end notices."""

import contextlib
import random
import select
import selectors
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nodeagent.lab.demo.versions import OTHER_HANDOVER, THIS_VERSION, make_version
from nodeagent.proxy.messages import Drain
from tests.e2e.proxy.mesh import CLIENT, CONFIG, Mesh
from tests.e2e.proxy.running import Running
from tests.e2e.proxy.wires import PATIENCE_SECONDS, PORT, Pod

PATTERN = random.Random(1).randbytes(1 << 20) * 2
PERIOD = 1 << 20
AHEAD = 256 << 10
CHUNK = 64 << 10
PACED = 4 << 10

pytestmark = pytest.mark.e2e


class Echo(threading.Thread):
    """The application: it says everything back, as slowly as it is read."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(daemon=True)
        self._listener, self._stopped = listener, threading.Event()

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, None)
            while not self._stopped.is_set():
                for key, _ in selector.select(0.1):
                    if key.data is None:
                        sock, _ = self._listener.accept()
                        sock.settimeout(PATIENCE_SECONDS)
                        selector.register(sock, selectors.EVENT_READ, sock)
                        continue
                    sock = key.data
                    with contextlib.suppress(OSError):
                        if said := sock.recv(CHUNK):
                            sock.sendall(said)
                            continue
                    selector.unregister(sock)
                    sock.close()
            for key in tuple(selector.get_map().values()):
                if key.data is not None:
                    key.data.close()

    def stop(self) -> None:
        self._stopped.set()
        self.join()


class Conversation:
    """A connection on which a known pattern goes forth and is compared when it comes back."""

    def __init__(self, sock: socket.socket, start: int, pace: float) -> None:
        self.sock, self.start, self.pace = sock, start, pace
        self.sent = self.received = 0
        self.heard = self._next = time.monotonic()
        self.pauses: list[float] = []
        self.broken = ""
        sock.settimeout(0)

    @property
    def is_due(self) -> bool:
        return bool(self.pace) and not self.broken and time.monotonic() >= self._next

    def step(self, *, is_ending: bool = False) -> None:
        try:
            if not is_ending and self.sent - self.received < AHEAD and time.monotonic() >= self._next:
                at = (self.start + self.sent) % PERIOD
                self.sent += self.sock.send(PATTERN[at : at + (PACED if self.pace else CHUNK)])
                self._next = time.monotonic() + self.pace
        except BlockingIOError:
            pass
        except OSError as error:
            self.broken = str(error)
        try:
            got = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self.broken = str(error)
            return
        at = (self.start + self.received) % PERIOD
        if got != PATTERN[at : at + len(got)] or not got:
            self.broken = f"{len(got)} bytes that were not expected after {self.received}"
        self.received += len(got)
        now = time.monotonic()
        self.pauses.append(now - self.heard)
        self.heard = now


class Load(threading.Thread):
    """Conversations that go on, and new connections beside them."""

    def __init__(self, pod: "Pod", address: str, conversations: int, new_a_second: float, pace: float = 0.0) -> None:
        """`pace`: seconds between two pieces of each; 0: as fast as it goes."""
        super().__init__(daemon=True)
        self._pod, self._address = pod, address
        self.talks = [Conversation(pod.connect(address, PORT), 7919 * number, pace) for number in range(conversations)]
        self.opened = 0
        self.refused: list[str] = []
        self._interval = 1 / new_a_second if new_a_second else 0
        self._stopped, self._ending = threading.Event(), threading.Event()
        self._opener = threading.Thread(target=self._open, daemon=True)

    def run(self) -> None:
        if self._interval:
            self._opener.start()
        poller = select.epoll()
        by_fd = {talk.sock.fileno(): talk for talk in self.talks}
        for fd in by_fd:
            poller.register(fd, select.EPOLLIN)
        for talk in self.talks:
            talk.step()
        while not self._stopped.is_set():
            for fd, _ in poller.poll(0.05):
                talk = by_fd[fd]
                talk.step(is_ending=self._ending.is_set())
                if talk.broken:
                    poller.unregister(fd)
            for talk in self.talks:
                if talk.is_due:
                    talk.step(is_ending=self._ending.is_set())
        poller.close()

    def _open(self) -> None:
        at = time.monotonic()
        while not self._ending.is_set():
            try:
                with self._pod.connect(self._address, PORT) as sock:
                    sock.sendall(b"hello")
                    got = b""
                    while len(got) < 5:
                        part = sock.recv(5)
                        assert part, "an end before the answer"
                        got += part
                assert got == b"hello"
                self.opened += 1
            except (OSError, AssertionError) as error:
                self.refused.append(repr(error))
            at += self._interval
            time.sleep(max(0.0, at - time.monotonic()))

    def wait_for_more(self) -> None:
        """Until each conversation has heard something again, so that it is one of both workers by now."""
        heard = [talk.received for talk in self.talks]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(talk.received == then and not talk.broken for talk, then in zip(self.talks, heard, strict=True)):
            assert time.monotonic() < deadline, "not everybody is heard"
            time.sleep(0.01)

    def finish(self) -> None:
        """Everything that was sent has come back, or never will."""
        self._ending.set()
        if self._opener.is_alive():
            self._opener.join()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(talk.sent != talk.received and not talk.broken for talk in self.talks):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        self._stopped.set()
        self.join()
        for talk in self.talks:
            talk.sock.close()


@pytest.fixture
def echo(app: socket.socket) -> Iterator[None]:
    thread = Echo(app)
    thread.start()
    yield
    thread.stop()


def gone(worker: "Running", within_seconds: float = PATIENCE_SECONDS) -> None:
    """It has ended by itself, in good order, and had no bug."""
    worker.hear_out(within_seconds)
    assert worker.process.wait(PATIENCE_SECONDS) == 0
    assert worker.counters.get("bugs", 0) == 0
    assert [record.reason for record in worker.closed if record.reason != "closed"] == []


def test_twenty_replacements_cut_nothing(mesh: "Mesh", echo: None) -> None:
    load = Load(mesh.wires.client, mesh.wires.server.v4, conversations=24, new_a_second=50)
    load.start()
    load.wait_for_more()
    formers = []
    for number in range(20):
        former = mesh.near if number % 2 else mesh.far
        mesh.replace(former)
        gone(former)
        formers.append(former)
    load.wait_for_more()
    load.finish()
    pauses = sorted(pause for talk in load.talks for pause in talk.pauses)
    worst = sorted(max(talk.pauses) for talk in load.talks)
    moved = sum(talk.received for talk in load.talks)
    print(
        f"{moved >> 20} MiB, {load.opened} new; pauses: p99 {pauses[len(pauses) * 99 // 100] * 1000:.1f} ms, "
        f"longest {worst[0] * 1000:.1f} to {worst[-1] * 1000:.1f} ms; "
        f"handed over {[len(former.handed_over) for former in formers]}"
    )
    assert [talk.broken for talk in load.talks if talk.broken] == []
    assert [talk.sent - talk.received for talk in load.talks] == [0] * len(load.talks)
    assert load.refused == []
    assert all(len(former.handed_over) >= 24 for former in formers)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(msgspec.structs.replace(CONFIG, pool_streams=1), id="a tunnel for each"),
        pytest.param(msgspec.structs.replace(CONFIG, pool_streams=1, drain_seconds=0.01), id="no time to drain"),
    ],
)
def test_two_hundred_tunnels_at_once(mesh: "Mesh", echo: None) -> None:
    """What is being handed over is not cut because that takes long."""
    load = Load(mesh.wires.client, mesh.wires.server.v4, conversations=200, new_a_second=20, pace=1.0)
    load.start()
    load.wait_for_more()
    for number in range(6):
        former = mesh.near if number % 2 else mesh.far
        mesh.replace(former)
        gone(former)
        assert len(former.handed_over) >= 200
    load.finish()
    assert [talk.broken for talk in load.talks if talk.broken] == []
    assert [talk.sent - talk.received for talk in load.talks] == [0] * len(load.talks)
    assert load.refused == []


def test_a_record_goes_on_with_its_id_its_start_and_its_bytes(mesh: "Mesh", app: socket.socket) -> None:
    client = mesh.wires.client.connect(mesh.wires.server.v4, PORT)
    server, _ = app.accept()
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    for side in ("near", "far"):
        former = getattr(mesh, side)
        former.eventually(lambda former=former: len(former.opened) == 1)
        [opened] = former.opened
        successor = mesh.replace(former)
        gone(former)
        assert former.handed_over == [(successor.process.pid, opened.id)]
        [listed] = successor.connections()
        assert (listed.id, listed.started, listed.source_port) == (opened.id, opened.started, opened.source_port)
        assert former.closed == []
    server.sendall(b"answer")
    assert client.recv(100) == b"answer"
    client.sendall(b"more")
    assert server.recv(100) == b"more"
    client.close()
    assert server.recv(100) == b""
    server.close()
    for worker in (mesh.near, mesh.far):
        [record] = worker.ended()
        assert (record.sent_bytes, record.received_bytes, record.reason) == (12, 6, "closed")
        assert record.source_identity is None or record.source_identity == CLIENT


def test_a_successor_that_does_not_answer_gets_nothing_and_its_death_cuts_nothing(
    mesh: "Mesh", app: socket.socket
) -> None:
    client = mesh.wires.client.connect(mesh.wires.server.v4, PORT)
    server, _ = app.accept()
    former = mesh.near
    successor = mesh.start(mesh.wires.near, mesh.wires.client, CLIENT)
    successor.apply()
    successor.process.send_signal(signal.SIGSTOP)
    mesh.hand_over(former, successor)
    for said in (b"while it is asked", b"and when it is dead"):
        client.sendall(said)
        assert server.recv(100) == said
        server.sendall(said)
        assert client.recv(100) == said
        successor.kill()
    assert former.handed_over == []
    client.close()
    assert server.recv(1) == b""
    server.close()
    gone(former)
    assert [record.reason for record in former.closed] == ["closed"]


def test_a_successor_that_dies_with_all_of_it_resets_it_at_once(mesh: "Mesh", app: socket.socket) -> None:
    client = mesh.wires.client.connect(mesh.wires.server.v4, PORT)
    server, _ = app.accept()
    former, successor = mesh.near, mesh.replace(mesh.near)
    gone(former)
    assert len(former.handed_over) == 1
    successor.kill()
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        sock.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)  # unlike pytest's own, it lets the workers in
        yield Path(made)


@pytest.mark.parametrize("config", [pytest.param(msgspec.structs.replace(CONFIG, drain_seconds=15), id="a long drain")])
@pytest.mark.parametrize("others", ["former", "successor"])
def test_what_a_successor_cannot_read_drains(mesh: "Mesh", app: socket.socket, folder: Path, others: str) -> None:
    """Two workers, one of them of a release in whose snapshots a stream has a field more."""
    version, place = make_version(folder, OTHER_HANDOVER), (mesh.wires.near, mesh.wires.client, CLIENT)
    if others == "former":
        mesh.near.send(Drain(0))
        gone(mesh.near)
        mesh.near = mesh.start(*place, version=version)
        mesh.near.apply()
    client = mesh.wires.client.connect(mesh.wires.server.v4, PORT)
    server, _ = app.accept()
    staying = mesh.wires.client.connect(mesh.wires.server.v4, PORT)
    stays, _ = app.accept()
    former, successor = mesh.near, mesh.start(*place, version=version if others == "successor" else THIS_VERSION)
    successor.apply()
    mesh.hand_over(former, successor)
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as new:
        newer, _ = app.accept()
        newer.close()
        assert new.recv(1) == b""
    assert len(successor.ended()) == 1, "what is new is the successor's"
    client.sendall(b"still here")
    assert server.recv(100) == b"still here"
    client.close()
    assert server.recv(1) == b""
    server.close()
    assert former.ended()[0].reason == "closed"
    former.hear_out()
    assert former.process.wait(PATIENCE_SECONDS) == 0
    assert former.handed_over == []
    assert [record.reason for record in former.closed] == ["closed", "drained"], "each says why it ended"
    for sock in (staying, stays):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        sock.close()
    assert successor.connections() == []
