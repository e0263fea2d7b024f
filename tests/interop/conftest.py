# SPDX-License-Identifier: Apache-2.0
"""A real Envoy between two real workers, in both roles.

As HBONE client it tunnels to the far worker, beside which the server's application listens; as HBONE server it is
reached through the near worker, which serves the client pod. One Envoy and one pair of workers serve most tests of a
run, so each test also shows that the ones before it did no harm; what they share is checked after every test.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent.model.policy import Action, Clause, Match, MatchKind, Policy, PolicyScope, Rule, StringMatch
from nodeagent.model.reason import Reason
from nodeagent.proxy.kernel_trial import KernelTls
from tests.e2e.proxy.mesh import CONFIG, Mesh, workload
from tests.e2e.proxy.running import Running
from tests.e2e.proxy.wires import PORT, Wires
from tests.interop.envoy import BEHIND_GATES, DENIED, ENVOY, NOBODY, Envoy, wait_until
from tests.interop.traffic import accept

_BROKEN_HTTP2 = (
    ".rx_messaging_error",
    ".downstream_cx_protocol_error",
    "_flood",
    ".header_overflow",
    ".headers_cb_no_stream",
    ".keepalive_timeout",
)
"""What Envoy counts when its peer breaks HTTP/2. Not `upstream_cx_protocol_error`: it grows also when Envoy closes a
connection of its own accord, while it reads from it."""


@dataclass(frozen=True)
class Peers:
    """What a test works with."""

    mesh: Mesh
    envoy: Envoy

    def replace(self, former: Running) -> Running:
        """Its successor knows all that it does, and gets what it has open."""
        if former is self.mesh.near:
            return self.mesh.replace(former, lambda worker: _tell_near(worker, self.mesh, self.envoy))
        return self.mesh.replace(former, _tell_far)

    def through_way(self, name: str) -> "Passage":
        """Applications beside Envoy speak with the server's: Envoy is the client, the far worker the server."""
        outsider, port = self.mesh.wires.outsider, self.envoy.ways[name].port
        return Passage(
            connect=lambda: outsider.connect("127.0.0.1", port),
            listen=self.mesh.wires.server.listen,
            worker=self.mesh.far,
            tunnels=lambda: self.envoy.stats()[f"cluster.way.{name}.upstream_cx_total"],
        )

    def through_gate(self, name: str, family: int = 0) -> "Passage":
        """The client pod speaks with applications beside Envoy: the near worker is the client, Envoy the server."""
        client, address = self.mesh.wires.client, self.envoy.gates[name].addresses[family]
        return Passage(
            connect=lambda: client.connect(address, PORT),
            listen=lambda: self.mesh.wires.outsider.listen(BEHIND_GATES),
            worker=self.mesh.near,
            tunnels=lambda: self.envoy.stats()[f"http.{name}.downstream_cx_total"],
        )


@dataclass(frozen=True)
class Passage:
    """A way or a gate, as tests that do not care about the direction use it."""

    connect: Callable[[], socket.socket]
    listen: Callable[[], socket.socket]
    worker: Running
    """The one of the two that takes part."""
    tunnels: Callable[[], int]
    """How many Envoy has counted so far."""

    @contextlib.contextmanager
    def join(self, listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
        """One connection, from both ends: the client's and the application's."""
        with self.connect() as client:
            application, _ = accept(listener)
            with application:
                yield client, application


def _publish(mesh: Mesh, envoy: Envoy) -> None:
    """Makes the wires carry the address of each gate, and tells the workers of them."""
    for gate in envoy.gates.values():
        for ip in gate.addresses:
            if ip not in mesh.wires.outsider.addresses:
                mesh.wires.outsider.ip("address", "add", f"{ip}/32", "dev", "eth0")
                mesh.wires.near.ip("route", "add", ip, "dev", "outsider")
    _tell_near(mesh.near, mesh, envoy)
    _tell_far(mesh.far)


def _tell_near(worker: Running, mesh: Mesh, envoy: Envoy) -> None:
    """It sees a workload at each gate."""
    claimed = {gate.name: NOBODY if gate.name == "impostor" else ENVOY for gate in envoy.gates.values()}
    worker.apply(
        workloads=tuple(
            workload(gate.name, mesh.wires.outsider, claimed[gate.name], addresses=gate.addresses)
            for gate in envoy.gates.values()
        )
    )


def _tell_far(worker: Running) -> None:
    """It denies somebody something."""
    principal = StringMatch(MatchKind.EXACT, str(DENIED).removeprefix("spiffe://"))
    rules = (Rule((Clause((Match(principals=(principal,)),)),)),)
    worker.apply(
        policies=(
            Policy(name="no-denied", namespace="apps", scope=PolicyScope.NAMESPACE, action=Action.DENY, rules=rules),
        )
    )


@contextlib.contextmanager
def start(make_directory: Callable[[str], Path], binary: str, kernel_tls: KernelTls | None = None) -> Iterator[Peers]:
    """`kernel_tls`: what the workers are told of it."""
    rendezvous = make_directory("workers")
    rendezvous.chmod(0o755)
    with contextlib.ExitStack() as stack:
        mesh = stack.enter_context(contextlib.closing(Mesh(Wires(), CONFIG, rendezvous, kernel_tls)))
        envoy = Envoy(binary, mesh.wires, mesh.authority, make_directory("envoy"))
        stack.enter_context(contextlib.closing(envoy))
        _publish(mesh, envoy)
        wait_until(envoy.is_ready)
        yield Peers(mesh, envoy)


@pytest.fixture(scope="session")
def shared_peers(tmp_path_factory: pytest.TempPathFactory, envoy: str) -> Iterator[Peers]:
    with start(tmp_path_factory.mktemp, envoy) as peers:
        yield peers


@pytest.fixture
def peers(shared_peers: Peers) -> Iterator[Peers]:
    """What is shared, and after the test: nothing is left open, nobody met a bug, nobody broke HTTP/2."""
    workers = (shared_peers.mesh.near, shared_peers.mesh.far)
    for worker in workers:
        worker.closed.clear()
        worker.opened.clear()
    yield shared_peers
    wait_until(lambda: not any(worker.connections() for worker in workers))
    for worker in workers:  # else a record of this test would be the next one's first
        worker.hear_what_came()
    checked(shared_peers)


@pytest.fixture
def own_peers(tmp_path_factory: pytest.TempPathFactory, envoy: str) -> Iterator[Peers]:
    """Of this test alone, which may stop the workers."""
    with start(tmp_path_factory.mktemp, envoy) as peers:
        yield peers
        checked(peers)


def checked(peers: Peers) -> None:
    """Nobody met a bug, nobody broke HTTP/2."""
    for worker in peers.mesh.workers:
        assert worker.counters.get("bugs", 0) == 0
        assert [record for record in worker.closed if record.reason == Reason.BUG.value] == []
    assert peers.envoy.process.poll() is None
    counted = peers.envoy.stats()
    assert {name: count for name, count in counted.items() if count and name.endswith(_BROKEN_HTTP2)} == {}


@pytest.fixture
def passage(peers: Peers, request: pytest.FixtureRequest) -> Passage:
    """By a name like `way:wide`, `gate:wide` or `gate:wide6`."""
    direction, _, name = str(request.param).partition(":")
    if direction == "way":
        return peers.through_way(name)
    return peers.through_gate(name.removesuffix("6"), family=int(name.endswith("6")))
