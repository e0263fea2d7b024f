# SPDX-License-Identifier: Apache-2.0
"""What each end of a tunnel between Envoy and a worker learns of the other, and what the applications learn."""

import pytest

from nodeagent.model.address import join_host_port
from nodeagent.model.record import Direction, Transport
from tests.e2e.proxy.mesh import CLIENT, SERVER
from tests.e2e.proxy.wires import PORT
from tests.interop.configuration import HBONE
from tests.interop.conftest import Peers
from tests.interop.envoy import ENVOY, wait_until
from tests.interop.traffic import accept, read_exactly

pytestmark = pytest.mark.interop


@pytest.mark.parametrize(("way", "family"), [("wide", 0), ("wide6", 1)])
def test_the_worker_knows_envoy_by_its_certificate_and_the_application_by_its_address(
    peers: Peers, way: str, family: int
) -> None:
    passage, wires = peers.through_way(way), peers.mesh.wires
    with passage.listen() as listener, passage.connect() as client:
        client.sendall(b"question")
        application, seen = accept(listener)
        with application:
            assert read_exactly(application, 8) == b"question"
            application.sendall(b"answer")
            assert read_exactly(client, 6) == b"answer"
            # The port comes from Envoy's `forwarded`, the address from the tunnel.
            assert seen == (wires.outsider.addresses[family], client.getsockname()[1])
            [record] = passage.worker.connections()
    assert (record.direction, record.transport) == (Direction.INBOUND, Transport.HBONE)
    assert (record.source_identity, record.destination_identity) == (ENVOY, SERVER)
    assert (record.source.namespace, record.source.workload_name) == ("apps", "envoy")
    assert (record.destination_ip, record.destination_port) == (wires.server.addresses[family], PORT)
    assert (record.sent_bytes, record.received_bytes) == (8, 6)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_envoy_knows_the_pod_by_its_certificate_and_its_address(peers: Peers, family: int) -> None:
    passage, pod = peers.through_gate("wide", family), peers.mesh.wires.client
    gate = peers.envoy.gates["wide"].addresses[family]
    with passage.listen() as listener, passage.join(listener) as (client, application):
        application.sendall(b"greeting")
        assert read_exactly(client, 8) == b"greeting"
        forwarded = f'for="{join_host_port(pod.addresses[family], client.getsockname()[1])}"'
        [record] = passage.worker.connections()
    assert (record.direction, record.transport) == (Direction.OUTBOUND, Transport.HBONE)
    assert (record.source_identity, record.destination_identity) == (CLIENT, ENVOY)
    assert record.hop == join_host_port(gate, HBONE)
    assert (record.sent_bytes, record.received_bytes) == (0, 8)

    wait_until(lambda: any(connect["forwarded"] == forwarded for connect in peers.envoy.connects()))
    [connect] = [connect for connect in peers.envoy.connects() if connect["forwarded"] == forwarded]
    assert connect == {
        "peer": str(CLIENT),
        "tls": "TLSv1.3",
        "method": "CONNECT",
        "authority": join_host_port(gate, PORT),
        "forwarded": forwarded,
        "baggage": "k8s.cluster.name=Kubernetes,k8s.namespace.name=apps,k8s.pod.name=client",
    }
