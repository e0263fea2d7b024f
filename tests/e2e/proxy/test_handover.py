# SPDX-License-Identifier: Apache-2.0
"""Open connections pass from a worker to its successor, under load, and neither end notices."""

import contextlib
import random
import select
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.proxy.conftest import Mesh, Pod, Running

PORT = 8080
CLIENT = "spiffe://cluster.local/ns/apps/sa/client"
SERVER = "spiffe://cluster.local/ns/apps/sa/server"
PATTERN = random.Random(1).randbytes(1 << 20) * 2
PERIOD = 1 << 20
AHEAD = 256 << 10
CHUNK = 64 << 10

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
                        sock.settimeout(5)
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

    def __init__(self, sock: socket.socket, start: int) -> None:
        self.sock, self.start = sock, start
        self.sent = self.received = 0
        self.heard = time.monotonic()
        self.pauses: list[float] = []
        self.broken = ""
        sock.settimeout(0)

    def step(self, *, is_ending: bool = False) -> None:
        try:
            if not is_ending and self.sent - self.received < AHEAD:
                at = (self.start + self.sent) % PERIOD
                self.sent += self.sock.send(PATTERN[at : at + CHUNK])
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

    def __init__(self, pod: "Pod", address: str, conversations: int, new_a_second: float) -> None:
        super().__init__(daemon=True)
        self._pod, self._address = pod, address
        self.talks = [Conversation(pod.connect(address, PORT), 7919 * number) for number in range(conversations)]
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

    def finish(self) -> None:
        """Everything that was sent has come back, or never will."""
        self._ending.set()
        if self._opener.is_alive():
            self._opener.join()
        deadline = time.monotonic() + 10
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


def gone(worker: "Running") -> None:
    """It has ended by itself, in good order, and had no bug."""
    worker.hear_out()
    assert worker.process.wait(10) == 0
    assert worker.counters.get("bugs", 0) == 0
    assert [record.reason for record in worker.closed if record.reason != "closed"] == []


def test_twenty_replacements_cut_nothing(mesh: "Mesh", echo: None) -> None:
    load = Load(mesh.wires.client, mesh.wires.server.v4, conversations=24, new_a_second=50)
    load.start()
    time.sleep(0.5)
    formers = []
    for number in range(20):
        former = mesh.near if number % 2 else mesh.far
        mesh.replace(former)
        gone(former)
        formers.append(former)
    time.sleep(0.3)
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
        assert record.source_identity is None or str(record.source_identity) == CLIENT
