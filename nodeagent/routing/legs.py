# SPDX-License-Identifier: Apache-2.0
"""Which Service, port and subset of endpoints a connection to a Service is for, by the routes of an extension.

Istio's `tls` and then its `tcp` routes at layer 4: the first that matches counts, one of its destinations is drawn by
weight, and without a match the Service itself is meant. A destination that is not there is a refusal, never a detour:
whoever has routed connections to a subset does not want them elsewhere.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate

import msgspec

from nodeagent.model.mesh import Mesh
from nodeagent.model.traffic import Destination, ServiceTraffic, TcpMatch, TcpRoute
from nodeagent.model.workload import BalancingMode, Service, Workload
from nodeagent.routing.candidates import Pick, has_labels
from nodeagent.routing.route import Target


class Leg(msgspec.Struct, frozen=True):
    service: Service
    port: int
    """Of the Service."""
    subset: str = ""
    """Empty: every endpoint."""

    def __str__(self) -> str:
        return f"subset {self.subset} of service {self.service.key}" if self.subset else f"service {self.service.key}"


def choose_leg(
    service: Service, traffic: ServiceTraffic, target: Target, source: Workload, mesh: Mesh, pick: Pick
) -> Leg | str:
    """Where a connection from `source` to `target`, an address of `service`, is to go; or why it cannot, in words."""
    for route in (*traffic.tls_routes, *traffic.routes):
        if matches(route, target, source, mesh):
            weights = tuple(accumulate(destination.weight for destination in route.destinations))
            return _leg_to(pick(route.destinations, weights), service, target.port, mesh)
    return Leg(service, target.port)


def asked_names(routes: Iterable[TcpRoute], target: Target, source: Workload, mesh: Mesh) -> Iterator[str]:
    """Patterns of names that a ClientHello would have to have, where all else of the match is met."""
    matches = (match for route in routes for match in route.matches)
    return (name for match in matches if _may_match(match, target, source, mesh) for name in match.server_names)


def matches(route: TcpRoute, target: Target, source: Workload, mesh: Mesh) -> bool:
    return not route.matches or any(_matches(match, target, source, mesh) for match in route.matches)


def _matches(match: TcpMatch, target: Target, source: Workload, mesh: Mesh) -> bool:
    if match.server_names and not any(_is_named(target.server_name, pattern) for pattern in match.server_names):
        return False
    return _may_match(match, target, source, mesh)


def _is_named(name: str, pattern: str) -> bool:
    """A client that names no server meets no pattern, not even `*`."""
    if pattern.startswith("*"):
        return len(name) > len(pattern) - 1 and name.endswith(pattern[1:])
    return name == pattern


def _may_match(match: TcpMatch, target: Target, source: Workload, mesh: Mesh) -> bool:
    if match.port and match.port != target.port:
        return False
    if match.source_namespace and match.source_namespace != source.namespace:
        return False
    if match.destination_blocks and not any(block.contains(target.ip) for block in match.destination_blocks):
        return False
    return has_labels(mesh.labels(source.uid), match.source_labels)


def _leg_to(destination: Destination, dialled: Service, port: int, mesh: Mesh) -> Leg | str:
    words = f"a route of service {dialled.key} leads to {destination.service}, which"
    service = mesh.services.get(destination.service)
    if service is None:
        return f"{words} is not known"
    if service.key == dialled.key:
        service = dialled
    elif service.balancing.mode is BalancingMode.PASSTHROUGH:
        return f"{words} has no endpoints of its own"
    elif service.waypoint is not None and not any(vip.ip for vip in service.vips):
        return f"{words} has a waypoint and no address to ask it for"
    traffic = mesh.traffic(service.key)
    if destination.subset and (traffic is None or traffic.subset(destination.subset) is None):
        return f"{words} has no subset {destination.subset!r}"
    return Leg(service, destination.port or _only_port(service) or port, destination.subset)


def _only_port(service: Service) -> int:
    return service.ports[0].service_port if len(service.ports) == 1 else 0
