# SPDX-License-Identifier: Apache-2.0
"""What a workload depends on besides its own object. Pure."""

import dataclasses
from collections.abc import Iterator, Mapping

from nodeagent.controlplane.mesh_services import MeshService
from nodeagent.controlplane.networks import NetworkGateway
from nodeagent.controlplane.objects import AuthorizationPolicy, Key, MeshConfig, Namespace, Node
from nodeagent.controlplane.peer_authentication import PeerAuthentications
from nodeagent.controlplane.waypoints import Waypoints
from nodeagent.model.workload import GatewayAddress


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    mesh: MeshConfig
    """With the network that it is on."""
    namespaces: Mapping[str, Namespace]
    nodes: Mapping[str, Node]
    services: Mapping[str, list[MeshService]]
    """By namespace."""
    by_source: Mapping[Key, list[MeshService]]
    """By the object that they come from; without those that another beats."""
    sliced: Mapping[tuple[str, str], list[MeshService]]
    """By `namespace/pod` and uid: Services whose EndpointSlices name this pod."""
    waypoints: Waypoints
    gateways: Mapping[str, list[NetworkGateway]]
    """By network."""
    selecting: Mapping[str, list[AuthorizationPolicy]]
    """By namespace: policies with a selector."""
    peers: PeerAuthentications

    def selected(self, namespace: str, labels: Mapping[str, str]) -> Iterator[MeshService]:
        return (service for service in self.services.get(namespace, ()) if service.selects(labels))

    def policies_of(self, namespace: str, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Keys of what is listed by a workload with these labels. The root namespace's policies select everywhere."""
        items = labels.items()
        listed = sorted(
            f"{owner}/{policy.meta.name}"
            for owner in {namespace, self.mesh.root_namespace}
            for policy in self.selecting.get(owner, ())
            if policy.selector is not None and policy.selector.items() <= items
        )
        return (*listed, *self.peers.listed_by(namespace, labels))

    def gateway_to(self, network: str) -> GatewayAddress | None:
        gateways = self.gateways.get(network)
        return gateways[0].as_hop() if gateways else None
