# SPDX-License-Identifier: Apache-2.0
"""The nearer endpoint serves while it can, and the one of another region when it cannot."""

import contextlib
import socket

import msgspec
import pytest

from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.traffic import LocalityBalancing, OutlierDetection, PortPolicy, ServiceTraffic, TrafficPolicy
from nodeagent.model.workload import TunnelProtocol
from tests.e2e.proxy.mesh import Mesh, workload
from tests.e2e.proxy.wires import PORT

pytestmark = pytest.mark.e2e

NEAR = Identity("cluster.local", "apps", "near")
OUTLIER = OutlierDetection(failures=1, base_ejection_seconds=300, max_ejection_percent=50, interval_seconds=10)


def test_the_nearer_endpoint_serves_until_it_fails(mesh: Mesh, app: socket.socket) -> None:
    serving = {mesh.web.key: mesh.web.ports}
    near = workload("near", mesh.wires.outsider, NEAR, protocol=TunnelProtocol.TCP, region="r1", services=serving)
    far = msgspec.structs.replace(mesh.server, region="r2", services=serving)
    client = msgspec.structs.replace(mesh.client, region="r1")
    policy = TrafficPolicy(outlier=OUTLIER, locality=LocalityBalancing())
    traffic = ServiceTraffic(service=mesh.web.key, policies=(PortPolicy(0, policy),))
    for worker in (mesh.near, mesh.far):
        worker.apply(services=(mesh.web,), workloads=(near, far, client), extensions=(traffic,))

    with mesh.wires.outsider.listen(PORT) as nearer:
        for _ in range(8):
            with mesh.wires.client.connect(mesh.vip, PORT):
                nearer.accept()[0].close()
    assert mesh.wires.client.is_refused(mesh.vip)  # nobody listens there any more
    for _ in range(8):
        with mesh.wires.client.connect(mesh.vip, PORT), contextlib.closing(app.accept()[0]) as served:
            served.sendall(b"far")

    records = mesh.near.ended(17)
    assert [record.destination_ip for record in records] == [near.addresses[0]] * 9 + [far.addresses[0]] * 8
    assert records[8].reason == Reason.CONNECT_REFUSED.value
