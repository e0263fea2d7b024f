# SPDX-License-Identifier: Apache-2.0
"""What a workload depends on besides its own object. Pure."""

import dataclasses
from collections.abc import Iterator, Mapping

from nodeagent.controlplane.label_selector import SelectorIndex
from nodeagent.controlplane.mesh_services import MeshService
from nodeagent.controlplane.networks import NetworkGateway
from nodeagent.controlplane.objects import Key, MeshConfig, Namespace, Node
from nodeagent.controlplane.peer_authentication import PeerAuthentications
from nodeagent.controlplane.waypoints import Waypoints
from nodeagent.model.workload import GatewayAddress


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    mesh: MeshConfig
    """With the network that it is on."""
    namespaces: Mapping[str, Namespace]
    nodes: Mapping[str, Node]
    services: Mapping[str, SelectorIndex[MeshService]]
    """By namespace."""
    by_source: Mapping[Key, list[MeshService]]
    """By the object that they come from; without those that another beats."""
    sliced: Mapping[tuple[str, str], list[MeshService]]
    """By `namespace/pod` and uid: Services whose EndpointSlices name this pod."""
    waypoints: Waypoints
    gateways: Mapping[str, list[NetworkGateway]]
    """By network."""
    policies: Mapping[str, SelectorIndex[str]]
    """By namespace: names of policies with a selector."""
    peers: PeerAuthentications

    def selected(self, namespace: str, labels: Mapping[str, str]) -> Iterator[MeshService]:
        index = self.services.get(namespace)
        return index.selecting(labels) if index is not None else iter(())

    def policies_of(self, namespace: str, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Keys of what is listed by a workload with these labels. The root namespace's policies select everywhere.

        A workload without any label lists every policy with a selector, as from istiod.
        """
        listed = [
            f"{owner}/{name}"
            for owner in {namespace, self.mesh.root_namespace}
            if owner in self.policies
            for name in (self.policies[owner].selecting(labels) if labels else self.policies[owner].values())
        ]
        return (*sorted(listed), *self.peers.listed_by(namespace, labels))

    def gateway_to(self, network: str) -> GatewayAddress | None:
        gateways = self.gateways.get(network)
        return gateways[0].as_hop() if gateways else None
