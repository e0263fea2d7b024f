# SPDX-License-Identifier: Apache-2.0
"""Two workers whose kernel makes the records of the tunnel between them: what arrives, and how it ends.

On a kernel without TLS these tests are skipped; `make test-kernels` runs them where it has it. The same by an emulated
kernel, on any: tests/unit/proxy/test_kernel_channel.py and test_tunnel*.py.
"""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.kernel.netns import enter_netns
from nodeagent.model.reason import Reason
from nodeagent.proxy.kernel_tls import load_module
from nodeagent.proxy.kernel_trial import KernelTls, try_kernel_tls
from nodeagent.proxy.messages import Ready
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.peer import HbonePeer
from tests.e2e.proxy.running import Running
from tests.e2e.proxy.wires import PORT, Proxy, Wires

pytestmark = [pytest.mark.e2e, pytest.mark.vm]

SIZE = 5_000_000
"""More than a stream's window."""
LOSSY_SIZE = 1_000_000
BLOCK = 100_000
"""Not a whole number of records."""
PAUSE_SECONDS = 0.05
"""Between blocks of who only goes on until something else is done, which has one emulated processor with them."""
SECONDS = 120
"""Until a test is given up, in which an emulated processor seals and opens some MiB."""


@pytest.fixture
def kernel_tls() -> KernelTls:
    load_module()
    found = try_kernel_tls()
    if not found.works:
        pytest.skip(f"this kernel's TLS {found}")
    return found


@pytest.fixture
def lossy(wires: Wires, kernel_tls: KernelTls) -> Iterator[None]:
    """The wire between the workers loses packets, and delivers others late and out of order."""
    rule = ["netem", "delay", "2ms", "1ms", "reorder", "25%", "50%", "loss", "1%"]
    sides = ((wires.near, "far"), (wires.far, "near"))
    for proxy, device in sides:
        # Each packet by itself, and not 64 KiB of them as one.
        proxy.ip("link", "set", "dev", device, "gso_max_segs", "1")
        proxy.tc("qdisc", "add", "dev", device, "root", *rule)
    yield
    for proxy, device in sides:
        proxy.tc("qdisc", "del", "dev", device, "root")
        proxy.ip("link", "set", "dev", device, "gso_max_segs", "65535")


class Talk:
    """A connection on which both ends speak at the same time; each compares the hash of what it heard."""

    def __init__(self, mesh: Mesh, app: socket.socket, size: int, *, goes_on: bool = False) -> None:
        """`size` bytes each way; with `goes_on` as many more as it takes until `finish`."""
        self.client = mesh.wires.client.connect(mesh.wires.server.v4, PORT)
        self.served, _ = app.accept()
        self._block, self._size, self._may_end = os.urandom(BLOCK), size, threading.Event()
        self._said: dict[socket.socket, str] = {}
        self._heard: dict[socket.socket, str] = {}
        ends = (self.client, self.served)
        self._jobs = [
            threading.Thread(target=job, args=(sock,), daemon=True) for sock in ends for job in (self._say, self._hear)
        ]
        for sock in ends:
            sock.settimeout(SECONDS)
        if not goes_on:
            self._may_end.set()
        for job in self._jobs:
            job.start()

    def finish(self) -> None:
        self._may_end.set()
        for job in self._jobs:
            job.join()
        assert self._heard == {self.client: self._said[self.served], self.served: self._said[self.client]}
        self.client.close()
        self.served.close()

    def _say(self, sock: socket.socket) -> None:
        digest, said = hashlib.sha256(), 0
        while said < self._size or not self._may_end.is_set():
            if said >= self._size:
                time.sleep(PAUSE_SECONDS)
            sock.sendall(self._block)
            digest.update(self._block)
            said += BLOCK
        sock.shutdown(socket.SHUT_WR)
        self._said[sock] = digest.hexdigest()

    def _hear(self, sock: socket.socket) -> None:
        digest = hashlib.sha256()
        while part := sock.recv(1 << 16):
            digest.update(part)
        self._heard[sock] = digest.hexdigest()


def is_in_kernel(worker: Running, tunnels: int = 1) -> None:
    """So many tunnels so far, and none that is not."""
    worker.eventually(lambda: worker.counters.get("kernel_tls_tunnels") == tunnels)
    assert worker.counters.get("kernel_tls_declined", 0) == worker.counters.get("kernel_tls_failed", 0) == 0


def in_use(proxy: Proxy) -> dict[str, int]:
    """What the kernel itself counts in this namespace."""
    with enter_netns(proxy.fd):
        told = Path("/proc/thread-self/net/tls_stat").read_text(encoding="ascii")
    return {name: int(value) for name, value in map(str.split, told.splitlines())}


def test_a_worker_tells_whether_it_asks_the_kernel(mesh: Mesh) -> None:
    [ready] = [answer for answer in mesh.near.answers if isinstance(answer, Ready)]
    assert ready.kernel_tls
    assert "TLS_AES_256_GCM_SHA384" in ready.kernel_tls_found


def test_both_directions_pass_the_kernel_unchanged(mesh: Mesh, app: socket.socket) -> None:
    Talk(mesh, app, SIZE).finish()
    for worker, proxy in ((mesh.near, mesh.wires.near), (mesh.far, mesh.wires.far)):
        is_in_kernel(worker)
        [record] = worker.ended()
        assert (record.reason, record.sent_bytes, record.received_bytes) == (Reason.CLOSED.value, SIZE, SIZE)
        counts = in_use(proxy)
        assert counts["TlsCurrTxSw"] == counts["TlsCurrRxSw"] == 1
        assert counts["TlsDecryptError"] == 0


@pytest.mark.usefixtures("lossy")
def test_nothing_is_lost_or_changed_by_loss_and_reordering(mesh: Mesh, app: socket.socket) -> None:
    talks = [Talk(mesh, app, LOSSY_SIZE) for _ in range(4)]
    for talk in talks:
        talk.finish()
    for worker in (mesh.near, mesh.far):
        is_in_kernel(worker)
        assert {record.reason for record in worker.ended(len(talks))} == {Reason.CLOSED.value}


@pytest.mark.parametrize("side", ["near", "far"])
def test_a_successor_goes_on_with_what_is_in_the_kernel(mesh: Mesh, app: socket.socket, side: str) -> None:
    talks = [Talk(mesh, app, LOSSY_SIZE, goes_on=True) for _ in range(2)]
    former: Running = getattr(mesh, side)
    is_in_kernel(former)
    successor = mesh.replace(former)
    former.eventually(lambda: len(former.handed_over) == len(talks))
    for talk in talks:
        talk.finish()
    assert {record.reason for record in successor.ended(len(talks))} == {Reason.CLOSED.value}
    assert not former.closed
    assert successor.counters.get("kernel_tls_tunnels", 0) == 0, "another tunnel was made"
    former.hear_out()


def test_a_peer_that_may_change_its_keys(
    mesh: Mesh, app: socket.socket, peer: Callable[..., HbonePeer], kernel_tls: KernelTls
) -> None:
    """OpenSSL by hand, which says nothing of its keys: only a kernel that can follow it takes its records."""
    client = peer()
    stream = client.open(f"{mesh.server.addresses[0]}:{PORT}")
    served, _ = app.accept()
    with served:
        assert client.status(stream) == 200
        client.send(stream, b"question")
        assert served.recv(100) == b"question"
        served.sendall(b"answer")
        assert client.payload(stream, 6) == b"answer"
    can_rekey = kernel_tls.can_rekey
    name = "kernel_tls_tunnels" if can_rekey else "kernel_tls_declined"
    mesh.far.eventually(lambda: mesh.far.counters.get(name) == 1)
    assert mesh.far.counters.get("kernel_tls_declined" if can_rekey else "kernel_tls_tunnels", 0) == 0
