# SPDX-License-Identifier: Apache-2.0
"""The networks of the mesh: which one is here, and by which gateways the others are reached. Pure.

A Gateway of the class istio-remote with the label topology.istio.io/network is the way to that network.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping

from nodeagent.controlplane.gateway_spec import AddressType
from nodeagent.controlplane.objects import Gateway, MeshConfig, Namespace
from nodeagent.model.address import Port, parse_ip
from nodeagent.model.workload import GatewayAddress, Workload

NETWORK_LABEL = "topology.istio.io/network"
SYSTEM_NAMESPACE = "istio-system"
"""Where istiod stands; its label says which network the cluster is on."""
_REMOTE = "istio-remote"


@dataclasses.dataclass(frozen=True, slots=True)
class NetworkGateway:
    network: str
    namespace: str
    service_account: str
    address: str
    port: Port

    def as_workload(self, mesh: MeshConfig) -> Workload:
        """What stands behind the reference below: its identity is the one to expect there."""
        uid = f"NetworkGateway/{self.network}/{self.address}/{self.port}"
        hop = self.as_hop()
        return Workload(
            uid=uid,
            name=uid,
            namespace=self.namespace,
            addresses=(hop.ip,) if hop.ip else (),
            hostname="" if hop.ip else self.address,
            network=self.network,
            trust_domain=mesh.trust_domain,
            service_account=self.service_account,
            cluster="",
            workload_type="deployment",
        )

    def as_hop(self) -> GatewayAddress:
        try:
            return GatewayAddress(self.port, network=self.network, ip=parse_ip(self.address))
        except ValueError:
            return GatewayAddress(self.port, service=f"{self.namespace}/{self.address}")


def local_network(mesh: MeshConfig, namespaces: Mapping[str, Namespace]) -> str:
    """MeshConfig's own field, else the label of istiod's namespace."""
    system = namespaces.get(SYSTEM_NAMESPACE)
    return mesh.network or (system.meta.labels.get(NETWORK_LABEL, "") if system is not None else "")


def network_gateways(gateways: Iterable[Gateway]) -> dict[str, list[NetworkGateway]]:
    """By network; the first of each is the one that is used."""
    found: dict[str, list[NetworkGateway]] = defaultdict(list)
    for gateway in sorted(gateways, key=lambda gateway: gateway.meta.key):
        network = gateway.meta.labels.get(NETWORK_LABEL, "")
        port = next((listener.port for listener in gateway.listeners if listener.protocol == "HBONE"), None)
        if not network or gateway.class_name != _REMOTE or port is None:
            continue
        account = gateway.meta.annotations.get("gateway.istio.io/service-account")
        found[network].extend(
            NetworkGateway(
                network, gateway.meta.namespace, account or f"{gateway.meta.name}-{_REMOTE}", address.value, port
            )
            for address in gateway.addresses
            if address.type is not AddressType.OTHER
        )
    return dict(found)
