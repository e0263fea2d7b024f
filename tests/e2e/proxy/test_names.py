# SPDX-License-Identifier: Apache-2.0
"""An endpoint that is known by its name alone is reached at the addresses that the agent's resolver has found."""

import pytest

from nodeagent.model.address import Ip, Port
from nodeagent.model.reason import Reason
from nodeagent.model.record import Transport
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.traffic import MeshTraffic
from nodeagent.model.workload import Service, ServicePort, TunnelProtocol, Vip, Workload
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.wires import PORT

pytestmark = pytest.mark.e2e

NAME, TARGET_PORT = "api.example", 8443
VIPS = (Ip("10.9.7.7"), Ip("fd00:9::7"))
ENTRY = Service(
    name="outside",
    namespace="apps",
    hostname=NAME,
    vips=tuple(Vip("", ip) for ip in VIPS),
    ports=(ServicePort(Port(PORT), TARGET_PORT),),
)
HOST = Workload(
    uid=f"Kubernetes/networking.istio.io/ServiceEntry/apps/outside/{NAME}",
    name="outside",
    namespace="apps",
    hostname=NAME,
    protocol=TunnelProtocol.TCP,
    services={ENTRY.key: ENTRY.ports},
)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_a_connection_goes_to_an_address_of_its_family(mesh: Mesh, family: int) -> None:
    outside = mesh.wires.outsider
    known = ResolvedName(hostname=NAME, addresses=outside.addresses)
    mesh.near.apply(services=(ENTRY,), workloads=(HOST,), names=(known,))
    with outside.listen(TARGET_PORT) as listener, mesh.wires.client.connect(VIPS[family], PORT) as client:
        served, seen = listener.accept()
        with served:
            assert seen[0].removeprefix("::ffff:") == mesh.wires.client.addresses[family]
            served.sendall(b"welcome")
            assert client.recv(7) == b"welcome"
    [record] = mesh.near.ended()
    assert (record.service, record.reason) == (ENTRY.key, Reason.CLOSED.value)
    assert (record.destination_ip, record.destination_port) == (outside.addresses[family], TARGET_PORT)
    assert (record.destination.workload, record.transport) == ("outside", Transport.TCP)


def test_the_first_answer_is_waited_for(mesh: Mesh) -> None:
    outside = mesh.wires.outsider
    mesh.near.apply(services=(ENTRY,), workloads=(HOST,))
    with outside.listen(TARGET_PORT) as listener, mesh.wires.client.connect(VIPS[0], PORT) as client:
        mesh.near.apply(names=(ResolvedName(hostname=NAME, addresses=outside.addresses),))
        with listener.accept()[0] as served:
            served.sendall(b"welcome")
            assert client.recv(7) == b"welcome"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "which is not resolved yet"),
        ((ResolvedName(hostname=NAME, error="there is no such name"),), "cannot be resolved: there is no such name"),
        ((ResolvedName(hostname=NAME, addresses=(Ip("fd00:3::2"),)),), "has no IPv4 address"),
    ],
)
def test_without_an_answer_it_is_refused_by_name(mesh: Mesh, names: tuple[ResolvedName, ...], words: str) -> None:
    mesh.near.apply(services=(ENTRY,), workloads=(HOST,), names=names)
    assert mesh.wires.client.is_refused(VIPS[0])
    [record] = mesh.near.ended()
    assert (record.reason, record.service) == (Reason.DNS_FAILED.value, ENTRY.key)
    assert words in record.error


def test_who_has_resolved_the_name_by_himself_is_led_by_its_entry(mesh: Mesh) -> None:
    outside = mesh.wires.outsider
    only = MeshTraffic(is_registry_only=True)
    mesh.near.apply(services=(ENTRY,), workloads=(HOST,), extensions=(only,))
    with outside.listen(TARGET_PORT) as listener, mesh.wires.client.connect(outside.addresses[0], PORT) as client:
        # Steered already, but the worker hears of it only now.
        mesh.near.apply(names=(ResolvedName(hostname=NAME, addresses=outside.addresses),))
        with listener.accept()[0] as served:
            served.sendall(b"welcome")
            assert client.recv(7) == b"welcome"
    [record] = mesh.near.ended()
    assert (record.service, record.destination_ip) == (ENTRY.key, outside.addresses[0])
