# SPDX-License-Identifier: Apache-2.0
"""Services whose endpoint can be drawn when a pod of this node calls connect(2), with the lots to draw from.

Nothing is decided here: decide() is asked once for each endpoint that it might draw, and once more for the endpoint's
own address. A Service is drawn early only if the two answers are the same for all of its endpoints and for all pods of
the node, so that a connection ends up where the proxy would have brought it, and as often. What the proxy must see
itself is left to it: waypoints, refusals, names of a Service that a peer may answer by, names that only some namespaces
know, endpoints that are known by name alone, and whatever an extension says about a Service.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from nodeagent.model.address import Ip, is_ipv6
from nodeagent.model.mesh import Mesh
from nodeagent.model.workload import Service, Workload
from nodeagent.routing.candidates import Balancer, Candidates, FindCandidates
from nodeagent.routing.decide import decide
from nodeagent.routing.route import Direct, Refuse, Target, Tunnel

MOST_LOTS = 4096
"""Of one Service and port: shares are exact up to here, and to one in 4096 beyond."""


class Lots(NamedTuple):
    target: Target
    """Address and port of the Service."""
    endpoints: tuple[Target, ...]
    """One of them is drawn, all with the same chance: each stands here as often as is its share."""


def service_lots(mesh: Mesh, sources: Sequence[Workload], local: Collection[Ip]) -> Iterator[Lots]:
    """Of every Service that has an endpoint among `local`; without one nothing would be saved.

    Args:
        mesh: what is known at this moment.
        sources: the enrolled pods of this node.
        local: their addresses.
    """
    for key in services_here(sources):
        yield from (lots for lots in lots_of(key, mesh, sources) if is_here(lots, local))


def services_here(sources: Sequence[Workload]) -> list[str]:
    """Keys of the Services that a pod of this node serves."""
    return sorted({key for source in sources for key in source.services})


def is_here(lots: Lots, local: Collection[Ip]) -> bool:
    return any(endpoint.ip in local for endpoint in lots.endpoints)


def lots_of(key: str, mesh: Mesh, sources: Sequence[Workload]) -> tuple[Lots, ...]:
    """Of one Service, by its addresses and ports; without those that are the proxy's to draw."""
    service = mesh.services.get(key)
    if service is None or service.waypoint is not None:  # an instance of the waypoint, alone, would not go through it
        return ()
    if mesh.traffic(key) is not None or any(endpoint.is_named for endpoint in mesh.endpoints(key)):
        return ()
    views = {_view(source, mesh): source for source in sources}.values()
    targets = [Target(vip.ip, port.service_port) for vip in service.vips if vip.ip for port in service.ports]
    found = ((target, _draw_for_all(target, service, mesh, views)) for target in targets)
    return tuple(Lots(target, endpoints) for target, endpoints in found if endpoints)


def basis_of(key: str, mesh: Mesh, sources: Sequence[Workload]) -> object:
    """The answer of lots_of can be another one only if this is. Much cheaper: an index is asked for each address."""
    service = mesh.services.get(key)
    if service is None:
        return None
    targets = [(vip.network, vip.ip) for vip in service.vips if vip.ip]
    endpoints = [(one.network, ip) for one in mesh.endpoints(key) for ip in one.addresses]
    return (
        mesh.changed(key),
        frozenset(_view(source, mesh) for source in sources),
        [(mesh.services_at_ip(*target), mesh.services_at_block(*target)) for target in targets],
        [mesh.workload_at(*place) for place in (*targets, *endpoints)],
    )


def _view(source: Workload, mesh: Mesh) -> tuple[object, ...]:
    """What decide() may ask of a client that is no waypoint; those of one node differ in little."""
    scope = mesh.scope(source)
    seen = (scope.egress, scope.is_registry_only) if scope is not None else ()
    return (source.namespace, *_place(source), *seen)


def _place(source: Workload) -> tuple[str, ...]:
    """What it may ask about endpoints: the namespace only tells which Service has an address."""
    return (source.network, source.region, source.zone, source.subzone, source.node, source.cluster)


def _draw_for_all(
    target: Target, service: Service, mesh: Mesh, views: Collection[Workload]
) -> tuple[Target, ...] | None:
    """None when it is the proxy's to draw."""
    find = Balancer().candidates  # remembers, for the length of this question
    by_place = {_place(source): source for source in views}
    found = {_draw_all(target, service, mesh, source, find) for source in by_place.values()}
    firsts = {_reach(target, service, 0, source, mesh, find) for source in views if len(found) == 1}
    return found.pop() if len(firsts) == 1 else None


def _draw_all(
    target: Target, service: Service, mesh: Mesh, source: Workload, find: FindCandidates
) -> tuple[Target, ...] | None:
    found = find(service, target.port, source, mesh)
    reached = []
    for number in range(len(found.endpoints)):
        endpoint = _reach(target, service, number, source, mesh, find)
        if endpoint is None:
            return None
        reached.append(endpoint)
    return tuple(endpoint for endpoint, times in zip(reached, shares(found), strict=True) for _ in range(times))


def _reach(
    target: Target, service: Service, number: int, source: Workload, mesh: Mesh, find: FindCandidates
) -> Target | None:
    """Where the endpoint of this number is reached; None when its own address leads somewhere else."""
    route = decide(target, source, mesh, lambda endpoints, _: endpoints[number], find)
    if isinstance(route, Refuse) or route.service != service:
        return None
    if route.destination is None or route.destination.waypoint is not None:
        return None
    endpoint = Target(route.ip, route.port_at_destination if isinstance(route, Tunnel) else route.port)
    if endpoint == target or is_ipv6(endpoint.ip) is not is_ipv6(target.ip):
        return None
    direct = decide(endpoint, source, mesh, lambda endpoints, _: endpoints[0], find)
    return endpoint if direct == _by_own_address(route) else None


def _by_own_address(route: Tunnel | Direct) -> Tunnel | Direct:
    """The same route, without the Service by whose address it was found."""
    if isinstance(route, Tunnel):
        return msgspec.structs.replace(route, service=None, host="")
    return msgspec.structs.replace(route, service=None)


def shares(found: Candidates) -> list[int]:
    """How often each endpoint is among the lots: in proportion to its weight, by the largest remainder if need be.

    Every endpoint is there at least once; of more than MOST_LOTS endpoints each is there once.
    """
    weights = [after - before for before, after in pairwise((0, *found.cumulative))]
    divisor = math.gcd(*weights)
    total = sum(weights)
    if divisor and total // divisor <= MOST_LOTS:
        return [weight // divisor for weight in weights]
    quotas = [weight * MOST_LOTS / total for weight in weights]
    lots = [max(1, int(quota)) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda place: lots[place] - quotas[place])
    for place in by_remainder[: max(0, MOST_LOTS - sum(lots))]:
        lots[place] += 1
    return lots
