# SPDX-License-Identifier: Apache-2.0
"""Connections that are routed by the name in their ClientHello, which passes through two workers as it was sent."""

import socket
import ssl
from collections.abc import Iterator

import msgspec
import pytest

from nodeagent.model.address import Ip, Port
from nodeagent.model.reason import Reason
from nodeagent.model.traffic import Destination, ServiceTraffic, TcpMatch, TcpRoute
from nodeagent.model.workload import Service, ServicePort, Vip
from tests.e2e.proxy.mesh import Mesh

pytestmark = pytest.mark.e2e

PORT, CANARY_PORT = 8080, 9090
CANARY = Service(
    name="canary",
    namespace="apps",
    hostname="canary.example",
    vips=(Vip("", Ip("10.9.0.2")),),
    ports=(ServicePort(Port(PORT), CANARY_PORT),),
)


@pytest.fixture
def canary(mesh: Mesh) -> Iterator[socket.socket]:
    """Where `web` is led by the names under canary.example; nothing else is."""
    match = TcpMatch(server_names=("*.canary.example",))
    route = TcpRoute((Destination(service=CANARY.key, weight=1),), (match,))
    traffic = ServiceTraffic(service=mesh.web.key, tls_routes=(route,))
    both = {mesh.web.key: mesh.web.ports, CANARY.key: CANARY.ports}
    endpoint = msgspec.structs.replace(mesh.server, services=both)
    for worker in (mesh.near, mesh.far):
        worker.apply(services=(mesh.web, CANARY), workloads=(endpoint,), extensions=(traffic,))
    with mesh.wires.server.listen(CANARY_PORT) as sock:
        yield sock


def hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def receive(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += sock.recv(size - len(got))
    return got


@pytest.mark.parametrize(
    ("name", "is_led"), [("a.canary.example", True), ("canary.example", False), ("b.other.example", False)]
)
def test_the_name_leads_and_every_byte_arrives(
    mesh: Mesh, app: socket.socket, canary: socket.socket, name: str, *, is_led: bool
) -> None:
    sent = hello(name)
    with mesh.wires.client.connect(mesh.vip, PORT) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(sent), 100):
            client.sendall(sent[at : at + 100])
        served, _ = (canary if is_led else app).accept()
        with served:
            assert receive(served, len(sent)) == sent
            served.sendall(b"answer")
            assert receive(client, 6) == b"answer"
    [record] = mesh.near.ended()
    assert record.service == (CANARY.key if is_led else mesh.web.key)
    assert record.destination_port == (CANARY_PORT if is_led else PORT)


def test_what_is_no_tls_goes_on_by_the_next_routes(mesh: Mesh, app: socket.socket, canary: socket.socket) -> None:
    del canary
    with mesh.wires.client.connect(mesh.vip, PORT) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        served, _ = app.accept()
        with served:
            assert receive(served, 18) == b"GET / HTTP/1.1\r\n\r\n"


def test_a_server_that_speaks_first_is_reached_where_no_name_is_asked_for(
    mesh: Mesh, app: socket.socket, canary: socket.socket
) -> None:
    del app
    with mesh.wires.client.connect("10.9.0.2", PORT) as client:
        served, _ = canary.accept()  # before the client says a word
        with served:
            served.sendall(b"220 ready")
            assert receive(client, 9) == b"220 ready"
    assert mesh.near.ended()[0].service == CANARY.key


def test_a_client_that_leaves_before_its_name_is_known_has_its_record(mesh: Mesh, canary: socket.socket) -> None:
    client = mesh.wires.client.connect(mesh.vip, PORT)
    client.sendall(hello("a.canary.example")[:50])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    [record] = mesh.near.ended()
    assert record.reason == Reason.RESET.value
    canary.settimeout(0)
    with pytest.raises(BlockingIOError):
        canary.accept()
