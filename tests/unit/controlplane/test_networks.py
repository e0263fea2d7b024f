# SPDX-License-Identifier: Apache-2.0
"""The mesh's networks: whose is the local one, and how others are reached."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.translate import Translation
from nodeagent.model.address import Ip, Port
from nodeagent.model.workload import GatewayAddress

Translated = Callable[[str], Translation]
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gw, namespace: istio-gateways, labels: {{topology.istio.io/network: net-2}}{annotations}}}
spec: {{gatewayClassName: {of_class}, listeners: [{{name: x, port: {port}, protocol: {protocol}}}]}}
status: {{addresses: [{address}]}}
---
"""
FAR = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: far, namespace: shop}
spec: {address: 10.77.0.5, network: net-2}
---
"""
SYSTEM = (
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, labels: {topology.istio.io/network: net-1}}\n---\n"
)
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nstatus: {podIP: 10.244.1.7}\n---\n"


def gateway(  # what the rows below vary
    *,
    of_class: str = "istio-remote",
    port: int = 15008,
    protocol: str = "HBONE",
    address: str = "{type: IPAddress, value: 203.0.113.9}",
    annotations: str = "",
) -> str:
    return GATEWAY.format(of_class=of_class, port=port, protocol=protocol, address=address, annotations=annotations)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "", id="none"),
        pytest.param(SYSTEM, "net-1", id="the label of istiod's namespace"),
        pytest.param(SYSTEM + "kind: MeshConfig\nnetwork: mine\n---\n", "mine", id="MeshConfig"),
    ],
)
def test_the_local_network(translated: Translated, text: str, expected: str) -> None:
    (workload,) = translated(text + POD).workloads.values()
    assert workload.network == expected


def test_the_network_of_a_pod_is_that_of_its_cluster_whatever_its_label(translated: Translated) -> None:
    text = POD.replace("namespace: shop", "namespace: shop, labels: {topology.istio.io/network: net-2}")
    assert next(iter(translated(SYSTEM + text).workloads.values())).network == "net-1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(gateway(), GatewayAddress(Port(15008), network="net-2", ip=Ip("203.0.113.9")), id="by address"),
        pytest.param(
            gateway(address="{type: Hostname, value: gw.example.test}", port=15443),
            GatewayAddress(Port(15443), service="istio-gateways/gw.example.test"),
            id="by name, and by the port of its listener",
        ),
        pytest.param(gateway(of_class="istio-east-west"), None, id="another class is a gateway of this network"),
        pytest.param(gateway(protocol="TLS"), None, id="no HBONE listener"),
        pytest.param(gateway(address=""), None, id="not ready"),
        pytest.param(gateway().replace("net-2", "net-3"), None, id="to another network"),
    ],
)
def test_the_way_to_another_network(translated: Translated, text: str, expected: GatewayAddress | None) -> None:
    found = translated(SYSTEM + FAR + text).workloads["Kubernetes/networking.istio.io/WorkloadEntry/shop/far"]
    assert (found.network, found.network_gateway) == ("net-2", expected)


@pytest.mark.parametrize(
    ("annotations", "account"),
    [("", "gw-istio-remote"), (", annotations: {gateway.istio.io/service-account: eastwest}", "eastwest")],
)
def test_a_gateway_is_a_workload_with_its_identity(translated: Translated, annotations: str, account: str) -> None:
    found = translated(gateway(annotations=annotations)).workloads["NetworkGateway/net-2/203.0.113.9/15008"]
    assert (found.namespace, found.service_account, found.network) == ("istio-gateways", account, "net-2")
    assert (found.addresses, found.hostname, found.cluster) == ((Ip("203.0.113.9"),), "", "")


def test_a_gateway_with_a_name_is_a_workload_to_resolve(translated: Translated) -> None:
    found = translated(gateway(address="{type: Hostname, value: gw.example.test}")).workloads
    assert found["NetworkGateway/net-2/gw.example.test/15008"].hostname == "gw.example.test"
