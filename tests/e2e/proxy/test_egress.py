# SPDX-License-Identifier: Apache-2.0
"""Destinations outside of the mesh that a ServiceEntry registers: reached, by its name, also where nothing else is."""

import pytest

from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.reason import Reason
from nodeagent.model.record import Transport
from nodeagent.model.traffic import MeshTraffic
from nodeagent.model.workload import BalancingMode, LoadBalancing, Service, ServicePort, TunnelProtocol, Vip, Workload
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.wires import PORT

pytestmark = pytest.mark.e2e

KEEPS_ADDRESS = LoadBalancing(BalancingMode.PASSTHROUGH, takes_unhealthy=True)


def entry(hostname: str, vip: Vip, balancing: LoadBalancing = LoadBalancing()) -> Service:  # noqa: B008 - frozen
    return Service(
        name="outside",
        namespace="apps",
        hostname=hostname,
        vips=(vip,),
        ports=(ServicePort(Port(PORT), PORT),),
        balancing=balancing,
    )


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_what_is_registered_is_reached_by_its_name_though_nothing_else_is(mesh: Mesh, family: int) -> None:
    outside = mesh.wires.outsider
    block = Cidr.parse(("10.3.0.0/24", "fd00:3::/64")[family])
    named = entry("api.example", Vip("", Ip(("10.9.7.7", "fd00:9::7")[family])))
    host = Workload(
        uid="Kubernetes/networking.istio.io/ServiceEntry/apps/outside/a",
        name="outside",
        namespace="apps",
        addresses=outside.addresses,
        is_host_network=True,  # found by the name alone: its address is the block's
        protocol=TunnelProtocol.TCP,
        services={named.key: named.ports},
    )
    blocks = entry("*.example", Vip("", block=block), KEEPS_ADDRESS)
    mesh.near.apply(services=(blocks, named), workloads=(host,), extensions=(MeshTraffic(is_registry_only=True),))
    with outside.listen(PORT) as listener:
        for address, service in ((outside.addresses[family], blocks), (named.vips[0].ip, named)):
            before = len(mesh.near.closed)
            with mesh.wires.client.connect(address, PORT) as client:
                served, seen = listener.accept()
                with served:
                    assert seen[0].removeprefix("::ffff:") == mesh.wires.client.addresses[family]
                    served.sendall(b"welcome")
                    assert client.recv(7) == b"welcome"
            record = mesh.near.ended(before + 1)[-1]
            assert (record.service, record.reason) == (service.key, Reason.CLOSED.value)
            assert (record.destination_ip, record.transport) == (outside.addresses[family], Transport.TCP)
