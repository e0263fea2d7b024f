# SPDX-License-Identifier: Apache-2.0
"""What two applications see of a connection that two workers carry: everything that they would see without them."""

import contextlib
import hashlib
import os
import socket
import struct
import threading

import msgspec
import pytest

from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction, Transport
from nodeagent.model.workload import TunnelProtocol
from tests.e2e.proxy.mesh import Mesh, workload
from tests.e2e.proxy.wires import PATIENCE_SECONDS, PORT

pytestmark = pytest.mark.e2e

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.vm
@FAMILIES
def test_the_application_sees_the_client_and_both_ends_know_both_identities(
    mesh: Mesh, app: socket.socket, family: int
) -> None:
    address = mesh.wires.server.addresses[family]
    with mesh.wires.client.connect(address, PORT, source_port=40001) as client:
        served, seen = app.accept()
        with served:
            assert seen[0].removeprefix("::ffff:") == mesh.wires.client.addresses[family]
            assert seen[1] == 40001
            client.sendall(b"question")
            assert served.recv(100) == b"question"
            served.sendall(b"answer")
            assert client.recv(100) == b"answer"
            [outbound], [inbound] = mesh.near.connections(), mesh.far.connections()
    for record in (outbound, inbound):
        assert record.source_identity == mesh.client.identity
        assert record.destination_identity == mesh.server.identity
        assert record.transport is Transport.HBONE
        assert record.sent_bytes == len(b"question")
        assert record.received_bytes == len(b"answer")
        assert (record.source_ip, record.source_port) == (mesh.wires.client.addresses[family], 40001)
        assert (record.destination_ip, record.destination_port) == (address, PORT)
    assert (outbound.direction, inbound.direction) == (Direction.OUTBOUND, Direction.INBOUND)


class Bulk:
    """The same random megabyte again and again, with its hash."""

    def __init__(self, size: int) -> None:
        block = os.urandom(1 << 20)
        self._blocks = [block] * (size // len(block)) + [block[: size % len(block)]]
        digest = hashlib.sha256()
        for each in self._blocks:
            digest.update(each)
        self.digest = digest.hexdigest()
        self.received: list[str] = []

    def send(self, sock: socket.socket) -> None:
        for block in self._blocks:
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)

    def receive(self, sock: socket.socket) -> None:
        digest, buffer = hashlib.sha256(), bytearray(1 << 18)
        while size := sock.recv_into(buffer):
            digest.update(memoryview(buffer)[:size])
        self.received.append(digest.hexdigest())


@FAMILIES
def test_bulk_in_both_directions_arrives_unchanged(mesh: Mesh, app: socket.socket, family: int) -> None:
    size = 200_000_000
    bulk = Bulk(size)
    with mesh.wires.client.connect(mesh.wires.server.addresses[family], PORT) as client:
        served, _ = app.accept()
        with served:
            jobs = [(bulk.send, client), (bulk.send, served), (bulk.receive, client), (bulk.receive, served)]
            threads = [threading.Thread(target=job, args=(sock,)) for job, sock in jobs]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert bulk.received == [bulk.digest, bulk.digest]
    for worker in (mesh.near, mesh.far):
        [record] = worker.ended()
        assert (record.reason, record.sent_bytes, record.received_bytes) == (Reason.CLOSED.value, size, size)


def test_each_direction_ends_by_itself(mesh: Mesh, app: socket.socket) -> None:
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client:
        served, _ = app.accept()
        with served:
            client.sendall(b"all of it")
            client.shutdown(socket.SHUT_WR)
            assert served.recv(100) == b"all of it"
            assert served.recv(100) == b""
            served.sendall(b"late answer")
            assert client.recv(100) == b"late answer"
        assert client.recv(100) == b""
    assert mesh.near.ended()[0].reason == Reason.CLOSED.value
    assert mesh.far.ended()[0].reason == Reason.CLOSED.value


def test_the_applications_reset_reaches_the_client(mesh: Mesh, app: socket.socket) -> None:
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client:
        served, _ = app.accept()
        served.sendall(b"half an ans")
        assert client.recv(100) == b"half an ans"
        reset(served)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert [worker.ended()[0].reason for worker in (mesh.near, mesh.far)] == [Reason.RESET.value] * 2


def test_the_clients_reset_reaches_the_application(mesh: Mesh, app: socket.socket) -> None:
    client = mesh.wires.client.connect(mesh.wires.server.v4, PORT)
    served, _ = app.accept()
    with served:
        reset(client)
        with pytest.raises(ConnectionResetError):
            served.recv(1)
    assert [worker.ended()[0].reason for worker in (mesh.near, mesh.far)] == [Reason.RESET.value] * 2


def test_a_reader_that_stops_stops_the_sender_and_bounds_the_workers_memory(mesh: Mesh, app: socket.socket) -> None:
    """What the client can send is what sockets and one stream's window hold, until the application reads on."""
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client:
        served, _ = app.accept()
        with served:
            served.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            before = memory(mesh.far.process.pid)
            sent = fill(client)
            assert sent < 50_000_000
            assert memory(mesh.far.process.pid) - before < 12 << 20
            client.settimeout(PATIENCE_SECONDS)
            got = 0
            while got < sent:
                got += len(served.recv(1 << 20))
            client.sendall(b"on")
            assert served.recv(10) == b"on"


def fill(sock: socket.socket) -> int:
    """Sends until nothing is taken any more."""
    sock.settimeout(0.5)
    sent = 0
    try:
        while sent < 100_000_000:
            sent += sock.send(b"x" * 65536)
    except TimeoutError:
        sock.settimeout(PATIENCE_SECONDS)
    return sent


def memory(pid: int) -> int:
    """Resident bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:  # noqa: PTH123 - one line of proc
        return int(statm.read().split()[1]) * 4096


def test_a_blocked_connection_does_not_stop_its_neighbour(mesh: Mesh, app: socket.socket) -> None:
    """Both are streams of one tunnel."""
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as slow:
        slow_served, _ = app.accept()
        fill(slow)
        with slow_served, mesh.wires.client.connect(mesh.wires.server.v4, PORT) as quick:
            served, _ = app.accept()
            with served:
                quick.sendall(b"ping")
                assert served.recv(10) == b"ping"
                served.sendall(b"pong")
                assert quick.recv(10) == b"pong"
    mesh.near.eventually(lambda: mesh.near.counters.get("tunnels_opened") == 1)


def test_nobody_listening_is_a_reset_with_its_reason(mesh: Mesh) -> None:
    assert mesh.wires.client.is_refused(mesh.wires.server.v4)
    assert mesh.near.ended()[0].reason == Reason.HBONE_REFUSED.value
    assert mesh.near.closed[0].error == "http status: 503"
    assert mesh.far.ended()[0].reason == Reason.CONNECT_REFUSED.value


def test_a_service_address_leads_to_its_endpoint(mesh: Mesh, app: socket.socket) -> None:
    mesh.publish_service()
    with mesh.wires.client.connect(mesh.vip, PORT, source_port=40002) as client:
        served, seen = app.accept()
        with served:
            assert seen[1] == 40002
            client.sendall(b"x")
            assert served.recv(1) == b"x"
            [outbound], [inbound] = mesh.near.connections(), mesh.far.connections()
    assert outbound.original_ip == mesh.vip
    assert outbound.service == inbound.service == mesh.web.key


def test_a_workload_that_is_not_enrolled_is_reached_in_plain_text(mesh: Mesh) -> None:
    outsider = mesh.wires.outsider
    known = workload("outsider", outsider, mesh.server.identity)
    mesh.near.apply(workloads=(msgspec.structs.replace(known, protocol=TunnelProtocol.TCP),))
    with outsider.listen() as listener, mesh.wires.client.connect(outsider.v4, PORT, source_port=40003) as client:
        served, seen = listener.accept()
        with served:
            assert seen[0] == f"::ffff:{mesh.wires.client.v4}"
            assert seen[1] == 40003
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert served.recv(10) == b"hello"
            assert served.recv(10) == b""
            served.sendall(b"bye")
        assert client.recv(10) == b"bye"
        assert client.recv(10) == b""
    [record] = mesh.near.ended()
    assert (record.reason, record.transport) == (Reason.CLOSED.value, Transport.TCP)
    assert (record.sent_bytes, record.received_bytes) == (5, 3)


@FAMILIES
def test_a_plaintext_client_reaches_the_application_with_its_own_address(
    mesh: Mesh, app: socket.socket, family: int
) -> None:
    with mesh.wires.outsider.connect(mesh.wires.server.addresses[family], PORT, source_port=40004) as client:
        served, seen = app.accept()
        with served:
            assert seen[0].removeprefix("::ffff:") == mesh.wires.outsider.addresses[family]
            assert seen[1] == 40004
            bulk = Bulk(20_000_000)
            sender = threading.Thread(target=bulk.send, args=(client,))
            sender.start()
            bulk.receive(served)
            sender.join()
            assert bulk.received == [bulk.digest]
    [record] = mesh.far.ended()
    assert record.source_identity is None
    assert (record.reason, record.transport) == (Reason.CLOSED.value, Transport.TCP)


def test_a_taken_source_port_is_replaced_and_the_record_says_so(mesh: Mesh, app: socket.socket) -> None:
    """The client reaches the same application by two addresses from one port: legal for it, one 4-tuple behind us."""
    mesh.publish_service()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(mesh.wires.client.connect(mesh.wires.server.v4, PORT, source_port=40005))
        served, _ = app.accept()
        second = stack.enter_context(mesh.wires.client.connect(mesh.vip, PORT, source_port=40005))
        also_served, seen = app.accept()
        assert seen[1] != 40005
        second.sendall(b"through")
        assert also_served.recv(10) == b"through"
        records = mesh.far.connections()
        served.close()
        also_served.close()
        assert first.recv(1) == b""
    assert sorted(record.keeps_source_port for record in records) == [False, True]
