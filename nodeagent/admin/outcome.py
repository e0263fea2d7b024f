# SPDX-License-Identifier: Apache-2.0
"""Every way in which one connection may go, each with its verdict, for `explain`. Pure.

routing.decide says where, policy.judge says whether, both as for the proxy; a Service is asked once for each endpoint
that could be drawn, of each destination of its routes. Nothing here has an opinion of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, assert_never

from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip, is_ipv6, join_host_port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Service, TunnelProtocol, Workload
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Pending
from nodeagent.policy.judge import Judgement, judge_for, verdict_words
from nodeagent.routing.candidates import candidates, target_port
from nodeagent.routing.decide import decide, server_names
from nodeagent.routing.inbound import resolve_inbound
from nodeagent.routing.lookup import find_service
from nodeagent.routing.route import HBONE_PORT, PROXY_PORTS, Direct, Refuse, Route, Target, Tunnel

MAX_ENDPOINTS = 256
"""Asked of one address: each costs a fraction of a millisecond of the agent's loop, and answers repeat."""
_MOST_NAMES = 16
"""Of TLS routes that are asked about."""

_Option = TypeVar("_Option")


@dataclass(frozen=True)
class Client:
    workload: Workload
    """Of a client outside the mesh a workload without a name."""
    is_captured: bool
    identity: Identity | None
    is_known: bool
    direct_node: str = ""
    """Its node, if the kernel there lets allowed connections between its pods pass without the proxy."""
    drawn: frozenset[Target] = frozenset()
    """Addresses and ports of Services whose endpoint is drawn when it calls connect(2)."""


@dataclass(frozen=True)
class Answer:
    """What became of the connection by one route."""

    verdict: str
    """ALLOWED, DENIED, PENDING, REFUSED (by routing) or PASSES (nobody's policy applies)."""
    reason: str
    words: str
    transport: str
    path: tuple[str, ...]
    endpoint: str
    judgement: Judgement | None = None
    server_name: str = ""
    """That the client's ClientHello has to have for it."""
    at: Target | None = None
    """Where its application, or whoever it is left to, is dialled in the end; None: nobody is."""
    destination: Workload | None = None
    tunnel: str = ""
    """Of an HBONE connection: who dials it, and who has to answer."""


def find_targets(mesh: Mesh, source: Workload, found: Workload | Service | Ip, port: int) -> list[Target]:
    """Where the client's connect() would go: of several addresses the first of the family that the client has first."""
    wants_ipv6 = bool(source.addresses) and is_ipv6(source.addresses[0])
    match found:
        case Workload():
            addresses: Sequence[Ip] = mesh.addresses(found)
        case Service():
            addresses = [vip.ip for vip in found.vips if vip.ip]
            if not addresses:  # headless: the client's resolver gives it every endpoint
                return [
                    Target(own[0], port) for endpoint in mesh.endpoints(found.key) if (own := mesh.addresses(endpoint))
                ] or _no_address(f"service {found.key}")
        case _:
            return [Target(found, port)]
    chosen = sorted(addresses, key=lambda ip: is_ipv6(ip) is not wants_ipv6)
    return [Target(chosen[0], port)] if chosen else _no_address(f"{found.namespace}/{found.name}")


def _no_address(name: str) -> list[Target]:
    raise ConfigError(f"{name} has no address to connect to", check="Is it running, and has it an endpoint?")


def find_answers(mesh: Mesh, client: Client, target: Target) -> Iterator[Answer]:
    """One for each route that may be taken."""
    if target.ip in client.workload.addresses and client.is_known:
        yield _to_itself(target)
        return
    if not client.is_captured or target not in client.drawn:
        yield from _answers(mesh, client, target)
        return
    for answer in _answers(mesh, client, target):
        yield replace(answer, path=("pod -> connect(2): the endpoint is drawn in the kernel", *answer.path))


def _to_itself(target: Target) -> Answer:
    """By its own address; by that of a Service it goes out and may be led back."""
    words = "a pod's connection to its own address never leaves it: nobody is asked"
    return Answer("PASSES", "", words, "TCP", ("pod",), join_host_port(target.ip, target.port), at=target)


def _answers(mesh: Mesh, client: Client, target: Target) -> Iterator[Answer]:
    if not client.is_captured and mesh.workload_at(client.workload.network, target.ip) is None:
        service = find_service(mesh, client.workload.network, target.ip, client.workload.namespace)
        if service is None or mesh.traffic(service.key) is not None:  # what extensions say is for the captured
            yield from _as_kube_proxy(mesh, client, target, service)
            return
    for name in server_names(target, client.workload, mesh)[:_MOST_NAMES] if client.is_captured else ():
        named = Target(target.ip, target.port, name.replace("*", "any"))
        for answer in _by_route(mesh, client, named):
            yield replace(answer, path=(f"TLS for {name}", *answer.path), server_name=name)
    yield from _by_route(mesh, client, target)


def _by_route(mesh: Mesh, client: Client, target: Target) -> Iterator[Answer]:
    for route in _routes(mesh, client.workload, target):
        match route:
            case Refuse():
                yield Answer("REFUSED", route.reason.value, route.detail, "", (_start(client), "refused"), "")
            case Tunnel() if client.is_captured:
                yield _tunnelled(mesh, client, route, is_drawn=target in client.drawn)
            case Tunnel(is_to_waypoint=True):
                yield from _as_kube_proxy(mesh, client, target, route.service)
            case Tunnel():
                yield _plain(mesh, client, route.destination, Target(route.ip, route.port_at_destination))
            case Direct():
                yield _plain(mesh, client, route.destination, Target(route.ip, route.port), route.service)


def _routes(mesh: Mesh, source: Workload, target: Target) -> Iterator[Route]:
    """decide() once for each way in which it might draw."""
    draw = _EveryWay()
    for _ in range(MAX_ENDPOINTS):
        yield decide(target, source, mesh, draw)
        if not draw.turn():
            return


class _EveryWay:
    """A Pick that goes through all that may be drawn: destinations of a route, and the endpoints of each.

    It learns how many there are when it is asked, and turns as an odometer does: the last wheel first.
    """

    def __init__(self) -> None:
        self._wheels: list[tuple[int, int]] = []
        """What was drawn in this decision, in order: its number, and of how many."""
        self._asked = 0

    def __call__(self, options: Sequence[_Option], _weights: Sequence[int]) -> _Option:
        if self._asked == len(self._wheels):
            self._wheels.append((0, len(options)))
        number, _ = self._wheels[self._asked]
        self._asked += 1
        return options[number]

    def turn(self) -> bool:
        """To the next way; False after the last."""
        self._asked = 0
        while self._wheels:
            number, count = self._wheels.pop()
            if number + 1 < count:
                self._wheels.append((number + 1, count))
                return True
        return False


def _tunnelled(mesh: Mesh, client: Client, route: Tunnel, *, is_drawn: bool) -> Answer:
    tunnel = _tunnel_words(client, route)
    if route.is_to_waypoint:
        hop = join_host_port(route.ip, route.port)
        words = "the waypoint in front of the destination decides"
        at, way = Target(route.ip, route.port), (_start(client), f"HBONE {hop}", "waypoint")
        return Answer("PASSES", "", words, "HBONE", way, hop, at=at, tunnel=tunnel)
    assert route.destination is not None  # routing names who terminates the stream
    at = Target(route.ip, route.port_at_destination)
    if client.direct_node and route.destination.node == client.direct_node:
        return _on_one_node(mesh, client, route, at, is_direct=is_drawn or route.service is None)
    inbound = resolve_inbound(at.ip, at.port, at.ip, route.destination, mesh, route.host)
    path = (
        _start(client),
        "HBONE to port 15008 of the endpoint",
        "worker of the destination's node: policy",
        "application",
    )
    if isinstance(inbound, Refuse):
        endpoint = _spell(route.destination, at)
        refused = Answer("REFUSED", inbound.reason.value, inbound.detail, "HBONE", (*path[:2], "refused"), endpoint)
        return replace(refused, at=at, destination=route.destination, tunnel=tunnel)
    return replace(_judged(mesh, client, route.destination, at, "HBONE", path), tunnel=tunnel)


def _tunnel_words(client: Client, route: Tunnel) -> str:
    """The endpoint's address is left out: endpoints that differ in nothing else are told together."""
    expected = " or ".join(sorted(identity.principal for identity in route.expected)) or "anybody of the mesh"
    own = client.identity.principal if client.identity is not None else "nobody"
    return f"mutual TLS as {own}; who answers has to be {expected}"


def _on_one_node(mesh: Mesh, client: Client, route: Tunnel, at: Target, *, is_direct: bool) -> Answer:
    """What the kernel's table of verdicts allows never leaves the kernel; the worker answers for everything else."""
    assert route.destination is not None
    if at.port in PROXY_PORTS:
        words, endpoint = f"port {at.port} is the proxy's own", _spell(route.destination, at)
        refused = Answer("REFUSED", Reason.SELF_CALL.value, words, "TCP", (_start(client), "refused"), endpoint)
        return replace(refused, at=at, destination=route.destination)
    by_worker = ("worker of this node: policy", "application")
    answer = _judged(mesh, client, route.destination, at, "TCP", (_start(client), *by_worker))
    if answer.verdict != "ALLOWED" or not is_direct or mesh.limits(route.destination.uid) is not None:
        return answer
    return replace(answer, path=("pod", "from_pod: the kernel's table of verdicts", "application"))


def _plain(
    mesh: Mesh, client: Client, destination: Workload | None, at: Target, service: Service | None = None
) -> Answer:
    """Plain TCP, because one of the two ends is outside the mesh."""
    path = (_start(client), "plain TCP")
    if destination is None:
        who = "nobody in the mesh has this address"
        if service is not None:
            who = f"{service.key} is outside of the mesh"
        elif client.is_captured and mesh.services_at(client.workload.network, at.ip):
            who = "the client's Sidecar does not show the Service that has this address"
        words = f"{who}: it goes where it was going, untouched"
        return Answer("PASSES", "", words, "TCP", path, join_host_port(at.ip, at.port), at=at)
    if destination.protocol is TunnelProtocol.TCP:
        words = "the destination is not in the mesh: plain text, and no policy is enforced"
        return Answer("PASSES", "", words, "TCP", path, _spell(destination, at), at=at, destination=destination)
    if at.port in PROXY_PORTS:
        is_hbone = at.port == HBONE_PORT
        reason = Reason.TLS_NOT_TLS if is_hbone else Reason.SELF_CALL
        words = f"port {at.port} is the proxy's own" + (", and speaks TLS alone" if is_hbone else "")
        endpoint = _spell(destination, at)
        refused = Answer("REFUSED", reason.value, words, "TCP", (*path, "refused"), endpoint)
        return replace(refused, at=at, destination=destination)
    steered = "steered by to_pod -> worker of the destination's node: policy"
    return _judged(mesh, client, destination, at, "TCP", (*path, steered, "application"))


def _as_kube_proxy(mesh: Mesh, client: Client, target: Target, service: Service | None) -> list[Answer]:
    """A client outside the mesh knows no waypoint and no routes."""
    reached = _past_the_mesh(mesh, client, target, service)
    return [_plain(mesh, client, endpoint, at) for endpoint, at in reached] or [_nobody(client)]


def _past_the_mesh(
    mesh: Mesh, client: Client, target: Target, service: Service | None
) -> Iterator[tuple[Workload | None, Target]]:
    """The workload itself, or any endpoint of the Service."""
    if service is None:
        yield mesh.workload_at(client.workload.network, target.ip), target
        return
    for endpoint in candidates(service, target.port, client.workload, mesh).endpoints[:MAX_ENDPOINTS]:
        yield endpoint, Target(mesh.addresses(endpoint)[0], target_port(service, target.port, endpoint))


def _nobody(client: Client) -> Answer:
    reason = Reason.NO_HEALTHY_ENDPOINT
    return Answer("REFUSED", reason.value, reason.check, "TCP", (_start(client), "refused"), "")


def _start(client: Client) -> str:
    return "pod -> steered by from_pod -> worker" if client.is_captured else "client"


def _judged(
    mesh: Mesh, client: Client, destination: Workload, at: Target, transport: str, path: tuple[str, ...]
) -> Answer:
    judgement = judge_for(mesh, destination, ConnectionFacts(client.identity, _source_ip(client, at), at.ip, at.port))
    match judgement.verdict:
        case Allow():
            verdict, reason = "ALLOWED", ""
        case Deny():
            verdict, reason = "DENIED", judgement.verdict.reason.value
        case Pending():
            verdict, reason = "PENDING", Reason.POLICY_PENDING.value
        case unreachable:
            assert_never(unreachable)
    words, endpoint = verdict_words(judgement.verdict), _spell(destination, at)
    return Answer(verdict, reason, words, transport, path, endpoint, judgement, at=at, destination=destination)


def _source_ip(client: Client, at: Target) -> Ip:
    """The client's address of the destination's family, since the two families do not talk."""
    addresses = client.workload.addresses
    same = [ip for ip in addresses if is_ipv6(ip) is is_ipv6(at.ip)]
    return same[0] if same else addresses[0] if addresses else Ip("")


def _spell(workload: Workload, at: Target) -> str:
    name = f"{workload.hostname} is " if workload.is_named else ""
    node = f", {workload.node}" if workload.node else ""
    return f"{workload.namespace}/{workload.name} ({name}{join_host_port(at.ip, at.port)}{node})"
