# SPDX-License-Identifier: Apache-2.0
"""Where a new outbound connection goes: ztunnel's algorithm (src/proxy/outbound.rs: build_request) as a pure function.

1. A port of the proxy itself on loopback is refused.
2. The target is a workload's address, else a Service's: by exact address, else by the best block. Between the two a
   ServiceEntry is found by what its endpoint's name means, for its own ports; a ztunnel does not do that.
3. A Service with a waypoint: a tunnel to the waypoint, which learns the client's own target.
4. A Service without: one endpoint is drawn; PASSTHROUGH keeps the target; no endpoint is a refusal. Here alone an
   extension has a say (`legs.py`): it may lead to a subset of the endpoints, or to another Service.
5. A workload that was addressed by its own address and has a waypoint: as in 3.
6. An HBONE workload is reached by a tunnel to its port 15008, any other by plain TCP.
7. An endpoint that is known by its name alone has the addresses that the name has at the moment. One of the family by
   which the client came is drawn, since the connection will leave from the client's own address of that family.
8. What nobody knows, or the client does not see (`visibility.py`), goes where it was going, unless an extension says
   that only what is registered may be reached.

Waypoints are not sent through themselves. A destination in another network needs a tunnel within a tunnel through its
gateway, which is not built: it is refused with NO_GATEWAY.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar, assert_never

import msgspec

from nodeagent.model.address import Ip, is_ipv6, join_host_port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.workload import BalancingMode, GatewayAddress, Service, TunnelProtocol, Workload
from nodeagent.routing.candidates import (
    BY_NAME,
    Candidates,
    FindCandidates,
    Pick,
    Terms,
    candidates,
    in_subset,
    is_pending,
    lists_port,
    obstacle,
    target_port,
    usable_addresses,
)
from nodeagent.routing.legs import Leg, asked_names, choose_leg
from nodeagent.routing.lookup import find_gateway, find_service
from nodeagent.routing.route import PROXY_PORTS, Direct, Refuse, Route, Target, Tunnel
from nodeagent.routing.visibility import sees

Choose: TypeAlias = Callable[[Candidates], Workload | None]
"""None: there is none to choose at the moment."""


def decide(
    target: Target,
    source: Workload,
    mesh: Mesh,
    pick: Pick,
    find_candidates: FindCandidates = candidates,
    choose: Choose | None = None,
) -> Route:
    """Total: every input has a Route, and a refusal says why.

    Args:
        target: where the client connected to.
        source: the local workload that did.
        mesh: what is known at this moment.
        pick: draws an endpoint; see Pick.
        find_candidates: `candidates`, or a Balancer's, which remembers.
        choose: an endpoint where a policy says how; None: `pick` draws it there too.
    """
    if target.port in PROXY_PORTS and (target.ip.startswith("127.") or target.ip == "::1"):
        return Refuse(reason=Reason.SELF_CALL, detail=f"{_show(target)} is a listener of the proxy")
    decision = _Decision(target, source, mesh, pick, find_candidates, choose)
    workload = mesh.workload_at(source.network, target.ip)
    if workload is not None:
        return decision.to_workload(workload)
    service = _find_service(target, source, mesh)
    if service is not None:
        return decision.to_service(service)
    if mesh.is_registry_only(source):
        return Refuse(reason=Reason.UNKNOWN_DESTINATION, detail=_unregistered(target, source, mesh))
    return Direct(ip=target.ip, port=target.port)


def _find_service(target: Target, source: Workload, mesh: Mesh) -> Service | None:
    """That the client sees there."""
    scope = mesh.scope(source)
    return find_service(
        mesh,
        source.network,
        target.ip,
        source.namespace,
        lambda service: sees(scope, source, service, target.port),
        target.port,
    )


def _unregistered(target: Target, source: Workload, mesh: Mesh) -> str:
    scope = mesh.scope(source)
    hidden = find_service(mesh, source.network, target.ip, source.namespace, port=target.port)
    if scope is not None and hidden is not None:
        return f"Sidecar {scope.name} does not show {hidden.key} to its clients, and is REGISTRY_ONLY"
    return (
        f"nobody has registered {_show(target)}, and nothing else may be reached (REGISTRY_ONLY): the kernel drops it "
        "as NOT_REGISTERED, unless it is excluded or an address of the client's node"
    )


def server_names(target: Target, source: Workload, mesh: Mesh) -> tuple[str, ...]:
    """Patterns of names that the client's ClientHello may have and for which decide() could answer otherwise.

    Only if there are any may somebody wait for the client's first bytes: in many protocols the server speaks first.
    """
    if mesh.workload_at(source.network, target.ip) is not None:
        return ()
    service = _find_service(target, source, mesh)
    traffic = mesh.traffic(service.key) if service is not None else None
    if service is None or traffic is None or service.waypoint is not None or not lists_port(service, target.port):
        return ()
    return tuple(asked_names(traffic.tls_routes, target, source, mesh))


def is_reached_directly(workload: Workload, mesh: Mesh) -> bool:
    """Whoever of its network connects to an address of `workload` gets there, and nowhere else first.

    The answer is the same for every port but those of the proxy itself, and for every client, since a workload without
    a waypoint is asked about.
    """
    if workload.waypoint is not None or workload.expects_proxy_protocol:
        return False
    routes = [decide(Target(ip, _ANY_PORT), workload, mesh, _nobody) for ip in workload.addresses]
    return all(
        isinstance(route, Tunnel) and not route.is_to_waypoint and route.destination == workload for route in routes
    )


_ANY_PORT = 1
_Option = TypeVar("_Option")


def _nobody(options: Sequence[_Option], _weights: Sequence[int]) -> _Option:
    """The Pick for an address that is no Service's: what it draws is not the workload that was asked about."""
    return options[0]


class _Decision:
    """The steps of one decision; holds its arguments, so that they are not passed through every step."""

    def __init__(
        self,
        target: Target,
        source: Workload,
        mesh: Mesh,
        pick: Pick,
        find_candidates: FindCandidates,
        choose: Choose | None,
    ) -> None:
        self._target, self._source, self._mesh = target, source, mesh
        self._pick, self._find_candidates, self._choose = pick, find_candidates, choose
        self._terms: Terms | None = None
        """Of the endpoint that was drawn."""

    def to_workload(self, workload: Workload) -> Route:
        """The client named the workload by its own address."""
        if workload.waypoint is not None and not self._is_from(workload.waypoint):
            return self._to_waypoint(workload.waypoint, None, self._target)
        return self._to_endpoint(workload, self._target.ip, self._target.port, None)

    def to_service(self, service: Service) -> Route:
        traffic = self._mesh.traffic(service.key)
        # A waypoint has the routes of its Services itself.
        if traffic is None or not (traffic.tls_routes or traffic.routes) or service.waypoint is not None:
            return self._to_leg(Leg(service, self._target.port), self._target)
        if not lists_port(service, self._target.port):
            return _no_port(service, self._target.port)
        leg = choose_leg(service, traffic, self._target, self._source, self._mesh, self._pick)
        if isinstance(leg, str):
            return Refuse(reason=Reason.NO_HEALTHY_ENDPOINT, detail=leg, service=service)
        if leg.service is service:
            return self._to_leg(leg, self._target)
        # What a waypoint of that Service is to be told: as if the client had dialled it.
        return self._to_leg(leg, Target(_vip_of(leg.service, self._target.ip), leg.port))

    def _to_leg(self, leg: Leg, dialled: Target) -> Route:
        service = leg.service
        if service.waypoint is not None and not self._is_from(service.waypoint):
            return self._to_waypoint(service.waypoint, service, dialled)
        if service.balancing.mode is BalancingMode.PASSTHROUGH:
            return Direct(ip=self._target.ip, port=self._target.port, service=service)
        if not lists_port(service, leg.port):
            return _no_port(service, leg.port)
        endpoint = self._drawn(service, leg.port, leg.subset)
        if isinstance(endpoint, Refuse):
            return endpoint
        ip = self._address_of(endpoint, service, self._target.ip)
        if isinstance(ip, Refuse):
            return ip
        return self._to_endpoint(endpoint, ip, target_port(service, leg.port, endpoint), service)

    def _to_endpoint(self, endpoint: Workload, ip: Ip, port: int, service: Service | None) -> Route:
        if endpoint.protocol is TunnelProtocol.TCP:
            return Direct(ip=ip, port=port, destination=endpoint, service=service, terms=self._terms)
        return Tunnel(
            ip=ip,
            authority=join_host_port(ip, port),
            expected=_expected(endpoint, service),
            destination=endpoint,
            service=service,
            port_at_destination=port,
            host=service.hostname if service else "",
            terms=self._terms,
        )

    def _to_waypoint(self, gateway: GatewayAddress, addressed: Service | None, dialled: Target) -> Route:
        """To a waypoint it is always HBONE, whatever protocol its workloads state: its GatewayAddress has the port."""
        hop = self._instance_of(gateway)
        if isinstance(hop, Refuse):
            return Refuse(reason=hop.reason, detail=f"waypoint {_name(gateway)}: {hop.detail}", service=addressed)
        return Tunnel(
            ip=hop.ip,
            port=hop.port,
            authority=_show(dialled),
            expected=hop.expected,
            destination=hop.workload,
            service=addressed,
            port_at_destination=dialled.port,
            host=addressed.hostname if addressed else "",
            is_to_waypoint=True,
        )

    def _instance_of(self, gateway: GatewayAddress) -> "_Hop | Refuse":
        """One that is named by its address keeps the family of that address; by name, it follows the client's."""
        like = gateway.ip or self._target.ip
        match find_gateway(self._mesh, gateway, self._source.namespace):
            case None:
                return Refuse(reason=Reason.NO_GATEWAY, detail="it is not known")
            case Service() as service:
                instance = self._drawn(service, gateway.hbone_port)
                if isinstance(instance, Refuse):
                    return instance
                port = target_port(service, gateway.hbone_port, instance)
                ip = self._address_of(instance, service, like)
                return ip if isinstance(ip, Refuse) else _Hop(ip, port, instance, _expected(instance, service))
            case Workload() as workload:
                if workload.network != self._source.network:
                    return Refuse(reason=Reason.NO_GATEWAY, detail=f"it is on network {workload.network!r}")
                return _Hop(gateway.ip, gateway.hbone_port, workload, _expected(workload, None))
            case unreachable:
                assert_never(unreachable)

    def _drawn(self, service: Service, port: int, subset: str = "") -> Workload | Refuse:
        found = self._find_candidates(service, port, self._source, self._mesh, subset)
        if found.endpoints:
            self._terms = found.terms
            if found.terms is None or self._choose is None:
                return self._pick(found.endpoints, found.cumulative)
            chosen = self._choose(found)
            if chosen is not None:
                return chosen
            detail = f"{Leg(service, port, subset)}: every endpoint for port {port} is ejected (outlierDetection)"
            return Refuse(reason=Reason.NO_HEALTHY_ENDPOINT, detail=detail, service=service)
        return _refusal(Leg(service, port, subset), self._source, self._mesh)

    def _address_of(self, endpoint: Workload, service: Service, like: Ip) -> Ip | Refuse:
        """One of the family of `like`, else its first; never of a family that the Service excludes.

        Of a name `like` itself, if it means or meant that: the client has resolved it by itself.
        """
        usable = usable_addresses(service, endpoint, self._mesh)
        same = [ip for ip in usable if is_ipv6(ip) is is_ipv6(like)]
        if not endpoint.is_named:
            return same[0] if same else usable[0]
        if not same:
            family = "IPv6" if is_ipv6(like) else "IPv4"
            detail = f"the name {endpoint.hostname} has no {family} address, and the client came by {family}"
            return Refuse(reason=Reason.DNS_FAILED, detail=detail, service=service)
        found = self._mesh.resolved[endpoint.hostname]
        if like in found.addresses or like in found.former:
            return like
        return self._pick(same, range(1, len(same) + 1))

    def _is_from(self, gateway: GatewayAddress) -> bool:
        """True when the source is an instance of this waypoint: sent to itself, its traffic would never arrive."""
        found = find_gateway(self._mesh, gateway, self._source.namespace)
        if isinstance(found, Service):
            return found.key in self._source.services
        return found is not None and found.uid == self._source.uid


class _Hop(msgspec.Struct, frozen=True):
    """An instance of a waypoint, and how to reach it."""

    ip: Ip
    port: int
    workload: Workload
    expected: frozenset[Identity]


def _expected(endpoint: Workload, service: Service | None) -> frozenset[Identity]:
    """Who may answer: the endpoint, or whom the Service names instead; names that are no identity are skipped."""
    names = service.subject_alt_names if service else ()
    return frozenset({endpoint.identity, *filter(None, map(_parse_identity, names))})


def _parse_identity(name: str) -> Identity | None:
    try:
        return Identity.parse(name)
    except ValueError:
        return None


def _vip_of(service: Service, like: Ip) -> Ip:
    """Its address of the family of `like`, else its first; `like` where it has none, and no waypoint that asks."""
    addresses = [vip.ip for vip in service.vips if vip.ip]
    return min(addresses, key=lambda ip: is_ipv6(ip) is not is_ipv6(like), default=like)


def _no_port(service: Service, port: int) -> Refuse:
    detail = f"service {service.key} has no port {port}"
    return Refuse(reason=Reason.NO_SERVICE_PORT, detail=detail, service=service)


def _refusal(leg: Leg, source: Workload, mesh: Mesh) -> Refuse:
    """Counts why each endpoint was left out, since "no healthy endpoint" alone sends the reader looking."""
    service, port = leg.service, leg.port
    endpoints = list(in_subset(service, leg.subset, mesh))
    obstacles = Counter(obstacle(service, port, source, endpoint, mesh) or "too far" for endpoint in endpoints)
    told = ", ".join(f"{count} {words}" for words, count in sorted(obstacles.items())) or "it has none"
    reason = Reason.NO_HEALTHY_ENDPOINT
    if obstacles and all("needs a gateway" in words for words in obstacles):
        reason = Reason.NO_GATEWAY
    elif any(words.startswith(BY_NAME) for words in obstacles):
        reason = Reason.DNS_FAILED
    return Refuse(
        reason=reason,
        detail=f"{leg} has no endpoint for port {port}: {told}",
        service=service,
        is_pending=reason is Reason.DNS_FAILED and any(is_pending(endpoint, mesh) for endpoint in endpoints),
    )


def _show(target: Target) -> str:
    return join_host_port(target.ip, target.port)


def _name(gateway: GatewayAddress) -> str:
    return gateway.service or join_host_port(gateway.ip, gateway.hbone_port)
