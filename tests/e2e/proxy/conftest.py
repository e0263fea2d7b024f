# SPDX-License-Identifier: Apache-2.0
"""Real workers without eBPF, for the tests of this folder and for those that borrow them."""

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.proxy.messages import WorkerConfig
from tests.e2e.proxy.authority import Authority
from tests.e2e.proxy.mesh import CLIENT, CONFIG, Mesh
from tests.e2e.proxy.peer import HbonePeer
from tests.e2e.proxy.wires import Wires


@pytest.fixture(scope="session")
def wires() -> Wires:
    return Wires()


@pytest.fixture
def config() -> WorkerConfig:
    return CONFIG


@pytest.fixture
def kernel_tls() -> KernelTls | None:
    """What the workers are told of it: that it is not asked for."""
    return None


@pytest.fixture
def mesh(wires: Wires, config: WorkerConfig, kernel_tls: KernelTls | None) -> Iterator[Mesh]:
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.closing(Mesh(wires, config, Path(directory), kernel_tls)) as made,
    ):
        Path(directory).chmod(0o755)  # unlike pytest's own, it lets the workers in
        yield made
        for worker in made.workers:
            assert worker.lost == 0
            if worker.process.poll() is None:
                assert worker.counters.get("bugs", 0) == 0


@pytest.fixture
def peer(mesh: Mesh) -> Iterator[Callable[..., HbonePeer]]:
    """Makes peers that the server's worker accepts, unless the names say otherwise."""
    peers: list[HbonePeer] = []

    def connect(*names: str, authority: Authority | None = None) -> HbonePeer:
        peers.append(HbonePeer(mesh.wires, authority or mesh.authority, *(names or (str(CLIENT),))))
        return peers[-1]

    yield connect
    for made in peers:
        made.close()


@pytest.fixture
def app(mesh: Mesh) -> Iterator[socket.socket]:
    """The server's application: a listening socket."""
    with mesh.wires.server.listen() as sock:
        yield sock
