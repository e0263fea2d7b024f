# SPDX-License-Identifier: Apache-2.0
"""A worker's life: how it starts without privileges, outlives its agent, changes certificates, drains, and dies."""

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nodeagent.lab.ready import readable
from nodeagent.model.policy import Action, Policy, PolicyScope, Rule
from nodeagent.model.reason import Reason
from nodeagent.proxy.messages import Drain, Hello, LocalPods, Resync, WorkerConfig
from tests.e2e.proxy.agent import Agent
from tests.e2e.proxy.authority import Authority
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.peer import HbonePeer
from tests.e2e.proxy.running import Running
from tests.e2e.proxy.wires import PATIENCE_SECONDS, PORT

pytestmark = pytest.mark.e2e

DENY_ALL = Policy(name="no", namespace="apps", scope=PolicyScope.NAMESPACE, action=Action.ALLOW)


@contextlib.contextmanager
def connection(mesh: Mesh, app: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Client's and application's end."""
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client, app.accept()[0] as served:
        yield client, served


def works(client: socket.socket, served: socket.socket) -> bool:
    client.sendall(b"there")
    served.sendall(b"back")
    return (served.recv(100), client.recv(100)) == (b"there", b"back")


@pytest.mark.vm
def test_a_worker_has_no_privilege_left(mesh: Mesh) -> None:
    pid = mesh.near.process.pid
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == status["Gid"].split() == ["54321"] * 4
    assert status["Groups"].strip() == ""
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0  # not dumpable: nobody of its own uid can look inside
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        assert not str(descriptor.readlink()).startswith("net:")


def test_a_killed_worker_never_looks_like_a_clean_end(mesh: Mesh, app: socket.socket) -> None:
    with connection(mesh, app) as (client, served):
        client.sendall(b"half of")
        assert served.recv(100) == b"half of"
        mesh.near.kill()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionResetError):
            served.recv(1)
    [record] = mesh.far.ended()
    assert record.reason == Reason.PEER_LOST.value


def test_connections_wait_in_the_backlog_for_the_replacement(mesh: Mesh, app: socket.socket) -> None:
    mesh.near.kill()
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client:
        mesh.start(mesh.wires.near, mesh.wires.client, mesh.client.identity)
        with app.accept()[0] as served:
            assert works(client, served)


def test_a_killed_destination_worker_is_replaced_without_a_refusal(mesh: Mesh, app: socket.socket) -> None:
    with connection(mesh, app) as (client, served):
        assert works(client, served)
        mesh.far.kill()
        mesh.start(mesh.wires.far, mesh.wires.server, mesh.server.identity)
    with connection(mesh, app) as (client, served):
        assert works(client, served)


def test_a_tunnel_that_is_cut_in_its_handshake_is_dialled_again(mesh: Mesh, app: socket.socket) -> None:
    """Who answered the dial had gone, and its successor is there: the client waits, and is not refused."""
    mesh.far.kill()
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client:
        listener = mesh.listeners[mesh.wires.far][1]
        assert readable([listener], PATIENCE_SECONDS), "nobody dials"
        cut, _ = listener.accept()
        assert readable([cut], PATIENCE_SECONDS), "no ClientHello"
        cut.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        cut.close()
        mesh.start(mesh.wires.far, mesh.wires.server, mesh.server.identity)
        with app.accept()[0] as served:
            assert works(client, served)


def test_new_certificates_cut_nothing_and_are_used_for_the_next_tunnel(mesh: Mesh, app: socket.socket) -> None:
    stop = threading.Event()
    failures: list[str] = []

    def traffic(client: socket.socket, served: socket.socket) -> None:
        while not stop.is_set():
            if not works(client, served):
                failures.append("lost")

    with connection(mesh, app) as (client, served):
        thread = threading.Thread(target=traffic, args=(client, served))
        thread.start()
        for _ in range(5):
            for worker, identity in ((mesh.near, mesh.client.identity), (mesh.far, mesh.server.identity)):
                worker.certify(identity, mesh.authority)
                worker.apply()
        stop.set()
        thread.join()
        assert failures == []
        with connection(mesh, app) as pair:
            assert works(*pair)
    assert mesh.far.counters.get("certificates_refused", 0) == 0


def test_a_certificate_that_cannot_be_loaded_leaves_the_old_one_in_use(mesh: Mesh, app: socket.socket) -> None:
    mesh.near.certify(mesh.client.identity, mesh.authority, roots=b"no PEM")
    mesh.near.apply()
    with connection(mesh, app) as pair:
        assert works(*pair)
    mesh.near.eventually(lambda: mesh.near.counters.get("certificates_refused") == 1)


@pytest.mark.parametrize("is_server", [False, True], ids=["client", "server"])
def test_a_tunnel_takes_nothing_new_by_roots_that_are_trusted_no_more(
    mesh: Mesh, app: socket.socket, *, is_server: bool
) -> None:
    worker, own = (mesh.far, mesh.server) if is_server else (mesh.near, mesh.client)
    with connection(mesh, app) as (client, served):
        assert works(client, served)
        worker.certify(own.identity, mesh.authority, roots=Authority("another mesh").roots)
        worker.apply()
        assert works(client, served)
        assert mesh.wires.client.is_refused(mesh.wires.server.v4), "the GOAWAY came before the answer above"
        assert works(client, served)
    assert worker.ended()[0].reason == Reason.TLS_UNKNOWN_CA.value


# ---- without an agent --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def rendezvous(worker: Running, uid: int = 0) -> Iterator[socket.socket]:
    path = worker.process.args[-1]  # type: ignore[index]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        Path(str(path)).chmod(0o777)
        os.seteuid(uid)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        listener.settimeout(PATIENCE_SECONDS)
        yield listener


def adopt(listener: socket.socket) -> tuple[Agent, Hello]:
    agent = Agent(listener.accept()[0])
    return agent, agent.adopt()


def test_a_worker_serves_on_without_an_agent_and_is_adopted_by_the_next(mesh: Mesh, app: socket.socket) -> None:
    far, generation = mesh.far, mesh.far.generation
    far.apply(policies=(msgspec.structs.replace(DENY_ALL, name="yes", rules=(Rule(),)),))
    with connection(mesh, app) as (client, served):
        far.leave()
        assert works(client, served)
        with connection(mesh, app) as pair:  # a new one, while nobody is there
            assert works(*pair)
        with rendezvous(far) as listener:
            agent, hello = adopt(listener)
        assert (hello.pid, hello.slot, hello.generation) == (far.process.pid, 1, generation + 1)
        assert hello.identities == (mesh.server.identity,)
        # What happened in between is told to the successor, the connection that was opened before is listed.
        assert agent.ended()[0].reason == Reason.CLOSED.value
        assert [record.source_port for record in agent.connections()] == [client.getsockname()[1]]
        assert [listener.getsockname()[1] for listener in agent.listeners] == [82, 15008, 8080]

        # The policy is not in what the successor sends, so it is gone; the workloads are, so all goes on.
        agent.send(Resync(mesh.config))
        agent.send(LocalPods(frozenset(mesh.wires.server.addresses)))
        agent.apply(workloads=(mesh.client, mesh.server))
        assert works(client, served)
        agent.apply(policies=(DENY_ALL,))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert agent.ended(2)[1].reason == Reason.POLICY_CHANGED.value
        agent.close()


def test_what_a_resync_does_not_name_is_gone(mesh: Mesh, app: socket.socket) -> None:
    mesh.far.apply(policies=(DENY_ALL,))
    mesh.far.leave()
    with rendezvous(mesh.far) as listener:
        agent, _ = adopt(listener)
    agent.send(Resync(mesh.config))
    agent.send(LocalPods(frozenset(mesh.wires.server.addresses)))
    agent.apply(workloads=(mesh.client, mesh.server))
    with connection(mesh, app) as pair:
        assert works(*pair)
    agent.close()


def test_a_rendezvous_of_somebody_else_is_not_believed(mesh: Mesh) -> None:
    """The uid behind the socket, which is that of whoever called listen(), must be the first agent's."""
    mesh.far.leave()
    with rendezvous(mesh.far, uid=65534) as listener:
        stranger = Agent(listener.accept()[0])
        with pytest.raises(AssertionError, match="the worker is gone"):
            stranger.eventually(lambda: bool(stranger.answers))
        stranger.close()
        Path(listener.getsockname()).unlink()
    with rendezvous(mesh.far) as listener:
        agent, _ = adopt(listener)
        agent.close()


# ---- drain -------------------------------------------------------------------------------------------------------


def test_a_drained_worker_lets_connections_end_and_goes(mesh: Mesh, app: socket.socket) -> None:
    with connection(mesh, app) as (client, served):
        mesh.far.send(Drain(PATIENCE_SECONDS))
        assert works(client, served)
        client.shutdown(socket.SHUT_WR)
        assert served.recv(1) == b""
    assert mesh.far.process.wait(PATIENCE_SECONDS) == 0
    assert mesh.far.ended()[0].reason == Reason.CLOSED.value


def test_what_lasts_longer_than_the_drain_is_reset(mesh: Mesh, app: socket.socket) -> None:
    with connection(mesh, app) as (client, served):
        started = time.monotonic()
        mesh.near.send(Drain(0.5))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionResetError):
            served.recv(1)
        assert time.monotonic() - started > 0.4
    assert mesh.near.process.wait(PATIENCE_SECONDS) == 0
    assert mesh.near.ended()[0].reason == Reason.DRAINED.value


def test_a_draining_destination_sends_its_clients_to_the_successor(mesh: Mesh, app: socket.socket) -> None:
    """GOAWAY: the pooled tunnel is left, and the next connection opens one to whoever listens then."""
    with connection(mesh, app) as (client, served):
        mesh.far.send(Drain(PATIENCE_SECONDS))
        mesh.start(mesh.wires.far, mesh.wires.server, mesh.server.identity)
        with connection(mesh, app) as pair:
            assert works(*pair)
        assert works(client, served)


class TestSignals:
    @pytest.fixture
    def config(self, config: WorkerConfig) -> WorkerConfig:
        return msgspec.structs.replace(config, drain_seconds=0.3)

    def test_sigterm_drains_and_sigint_does_nothing(self, mesh: Mesh, app: socket.socket) -> None:
        with connection(mesh, app) as (client, served):
            mesh.near.process.send_signal(signal.SIGINT)
            assert works(client, served)
            mesh.near.process.send_signal(signal.SIGTERM)
            assert mesh.near.process.wait(PATIENCE_SECONDS) == 0
        assert mesh.near.ended()[0].reason == Reason.DRAINED.value


class TestIdleTunnels:
    @pytest.fixture
    def config(self, config: WorkerConfig) -> WorkerConfig:
        return msgspec.structs.replace(config, pool_idle_seconds=0.3)

    def test_an_idle_tunnel_is_closed_and_the_next_connection_opens_another(
        self, mesh: Mesh, app: socket.socket
    ) -> None:
        for opened in (1, 2):
            with connection(mesh, app) as pair:
                assert works(*pair)
            mesh.near.eventually(lambda opened=opened: mesh.near.counters.get("tunnels_opened") == opened)  # type: ignore[misc]
            mesh.near.eventually(lambda opened=opened: mesh.near.counters.get("tunnels_closed") == opened)  # type: ignore[misc]


def test_the_same_tunnel_carries_the_connections_of_a_source(
    mesh: Mesh, app: socket.socket, peer: Callable[..., HbonePeer]
) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            assert works(*stack.enter_context(connection(mesh, app)))
        mesh.near.eventually(lambda: mesh.near.counters.get("tunnels_opened") == 1)
