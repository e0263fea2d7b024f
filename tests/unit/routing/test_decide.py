# SPDX-License-Identifier: Apache-2.0
"""Where a connection goes: a table for each step of ztunnel's outbound algorithm, and laws over random meshes."""

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Cidr, Ip, Port, is_ipv6
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.traffic import MeshTraffic
from nodeagent.model.workload import (
    BalancingMode,
    GatewayAddress,
    LoadBalancing,
    Scope,
    Service,
    ServicePort,
    TunnelProtocol,
    Vip,
    Workload,
)
from nodeagent.routing.candidates import Balancer
from nodeagent.routing.decide import decide, is_reached_directly
from nodeagent.routing.route import Direct, Refuse, Route, Target, Tunnel

VIP, VIP6 = Ip("10.9.0.1"), Ip("fd09::1")
HTTP = (ServicePort(Port(80), 8080),)


Option = TypeVar("Option")


def first(options: Sequence[Option], _: Sequence[int]) -> Option:
    return options[0]


def never(_: Sequence[Option], __: Sequence[int]) -> Option:
    raise AssertionError("nothing is drawn here")


def pod(name: str, *addresses: str, protocol: TunnelProtocol = TunnelProtocol.HBONE, **fields: Any) -> Workload:
    fields = {"namespace": "shop", "service_account": name} | fields
    return Workload(uid=name, name=name, addresses=tuple(map(Ip, addresses)), protocol=protocol, **fields)


def service(name: str = "s", *vips: str, **fields: Any) -> Service:
    fields = {"namespace": "shop", "ports": HTTP} | fields
    return Service(name=name, hostname=name, vips=tuple(Vip("", Ip(vip)) for vip in vips or (VIP, VIP6)), **fields)


def endpoint(
    name: str, *addresses: str, of: str = "shop/s", ports: tuple[ServicePort, ...] = (), **fields: Any
) -> Workload:
    return pod(name, *addresses, services={of: ports}, **fields)


def mesh_of(*values: Workload | Service) -> Mesh:
    mesh = Mesh()
    mesh.apply(
        Changes(
            services=tuple(value for value in values if isinstance(value, Service)),
            workloads=tuple(value for value in values if isinstance(value, Workload)),
        )
    )
    return mesh


CLIENT = pod("client", "10.0.0.1", "fd00::1")
DB = pod("db", "10.0.1.2", "fd00:1::2")


def route(ip: str, port: int, *values: Workload | Service, source: Workload = CLIENT, pick: Any = first) -> Route:
    return decide(Target(Ip(ip), port), source, mesh_of(source, *values), pick)


def tunnel(*args: Any, **kwargs: Any) -> Tunnel:
    found = route(*args, **kwargs)
    assert isinstance(found, Tunnel), found
    return found


def refusal(*args: Any, **kwargs: Any) -> tuple[Reason, str]:
    found = route(*args, **kwargs)
    assert isinstance(found, Refuse), found
    return found.reason, found.detail


# ---- 7: what nobody knows, where only what is registered may be reached --------------------------------------------


def test_what_nobody_has_registered_is_refused_if_an_extension_says_so() -> None:
    mesh = mesh_of(CLIENT, DB, service())
    mesh.apply(Changes(extensions=(MeshTraffic(is_registry_only=True),)))
    found = decide(Target(Ip("192.0.2.1"), 443), CLIENT, mesh, first)
    assert isinstance(found, Refuse)
    assert (found.reason, "REGISTRY_ONLY" in found.detail) == (Reason.UNKNOWN_DESTINATION, True)
    assert isinstance(decide(Target(DB.addresses[0], 80), CLIENT, mesh, first), Tunnel)
    assert is_reached_directly(DB, mesh)
    mesh.apply(Changes(extensions=(MeshTraffic(),)))
    assert decide(Target(Ip("192.0.2.1"), 443), CLIENT, mesh, first) == Direct(ip=Ip("192.0.2.1"), port=443)


# ---- 1: the proxy's own ports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [15001, 15006, 15008])
@pytest.mark.parametrize(
    ("ip", "is_refused"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("10.0.1.2", False),
        ("::1234", False),
        ("12.7.0.1", False),
    ],
)
def test_the_proxys_own_ports_are_refused_on_loopback_only(port: int, ip: str, *, is_refused: bool) -> None:
    found = route(ip, port, DB)
    assert (isinstance(found, Refuse) and found.reason is Reason.SELF_CALL) == is_refused
    assert not isinstance(route("127.0.0.1", 80), Refuse)


# ---- 2: who has this address -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ip", ["10.0.1.2", "fd00:1::2"])
def test_a_workload_is_reached_at_the_address_that_was_dialled(ip: str) -> None:
    found = tunnel(ip, 5432, DB, pick=never)
    shown = f"[{ip}]" if is_ipv6(Ip(ip)) else ip
    assert found == Tunnel(
        ip=Ip(ip),
        port=15008,
        authority=f"{shown}:5432",
        expected=frozenset({Identity("cluster.local", "shop", "db")}),
        destination=DB,
        service=None,
        port_at_destination=5432,
        host="",
        is_to_waypoint=False,
    )


def test_a_workloads_address_comes_before_a_service_with_the_same() -> None:
    found = tunnel("10.0.1.2", 80, DB, service("s", "10.0.1.2"), endpoint("e", "10.0.1.3"))
    assert (found.destination, found.service) == (DB, None)


def test_the_lookup_is_in_the_clients_network() -> None:
    away = pod("away", "10.0.1.2", network="other")
    assert route("10.0.1.2", 80, away) == Direct(ip=Ip("10.0.1.2"), port=80)
    at_home = pod("client", "10.0.0.1", network="other")
    assert tunnel("10.0.1.2", 80, away, source=at_home).destination == away


def test_a_host_network_workload_is_no_destination_of_its_address() -> None:
    assert route("10.0.1.2", 80, pod("host", "10.0.1.2", is_host_network=True)) == Direct(ip=Ip("10.0.1.2"), port=80)


@pytest.mark.parametrize(
    ("private", "expected"),
    [("shop", "s"), ("ops", None)],
)
def test_a_service_that_is_private_to_another_namespace_is_not_there(private: str, expected: str | None) -> None:
    hidden = service(namespace=private, is_namespace_private=True)
    found = route(VIP, 80, hidden, endpoint("e", "10.0.1.3", of=f"{private}/s"))
    if expected is None:
        assert found == Direct(ip=VIP, port=80)
    else:
        assert isinstance(found, Tunnel)
        assert found.service == hidden


# ---- 3 and 5: waypoints ------------------------------------------------------------------------------------------

BY_NAME = GatewayAddress(Port(15008), service="shop/waypoint")
BY_ADDRESS = GatewayAddress(Port(15008), ip=Ip("10.0.2.1"))
WAYPOINT = service(
    "waypoint", "10.9.0.9", ports=(ServicePort(Port(15008), 15008),), subject_alt_names=("spiffe://td/ns/a/sa/w",)
)
INSTANCE = endpoint("wp", "10.0.2.1", "fd00:2::1", of="shop/waypoint", protocol=TunnelProtocol.TCP)
W, ALIAS = Identity("cluster.local", "shop", "wp"), Identity("td", "a", "w")


@pytest.mark.parametrize(
    ("gateway", "target", "ip", "expected"),
    [
        pytest.param(BY_NAME, VIP, "10.0.2.1", {W, ALIAS}, id="by name"),
        pytest.param(BY_NAME, VIP6, "fd00:2::1", {W, ALIAS}, id="by name, in the client's family"),
        pytest.param(BY_ADDRESS, VIP, "10.0.2.1", {W}, id="by the address of an instance"),
        pytest.param(BY_ADDRESS, VIP6, "10.0.2.1", {W}, id="by address, which keeps its family"),
        pytest.param(
            GatewayAddress(Port(15008), ip=Ip("10.9.0.9")), VIP6, "10.0.2.1", {W, ALIAS}, id="by its Service's address"
        ),
    ],
)
def test_a_service_with_a_waypoint_is_reached_through_it(
    gateway: GatewayAddress, target: Ip, ip: str, expected: set[Identity]
) -> None:
    found = tunnel(target, 80, service(waypoint=gateway), endpoint("e", "10.0.1.3"), WAYPOINT, INSTANCE)
    assert (found.ip, found.port, found.destination, found.is_to_waypoint) == (ip, 15008, INSTANCE, True)
    assert found.expected == expected
    # Untranslated: the waypoint chooses the endpoint.
    assert found.authority == (f"[{target}]:80" if is_ipv6(target) else f"{target}:80")
    assert (found.port_at_destination, found.host) == (80, "s")


def test_a_waypoint_decides_about_ports_that_the_service_does_not_list() -> None:
    assert tunnel(VIP, 81, service(waypoint=BY_NAME), WAYPOINT, INSTANCE).authority == "10.9.0.1:81"


@pytest.mark.parametrize(("own", "shared", "port"), [(None, 15008, 15008), (None, 16008, 16008), (17008, 16008, 17008)])
def test_the_port_of_a_waypoint_is_translated(own: int | None, shared: int, port: int) -> None:
    way = service("waypoint", "10.9.0.9", ports=(ServicePort(Port(15008), shared),))
    ports = () if own is None else (ServicePort(Port(15008), own),)
    instance = endpoint("wp", "10.0.2.1", of="shop/waypoint", ports=ports)
    assert tunnel(VIP, 80, service(waypoint=BY_NAME), way, instance).port == port


def test_a_workload_with_a_waypoint_is_reached_through_it() -> None:
    guarded = pod("guarded", "10.0.1.9", waypoint=BY_NAME)
    found = tunnel("10.0.1.9", 80, guarded, WAYPOINT, INSTANCE)
    assert (found.authority, found.destination, found.service, found.host) == ("10.0.1.9:80", INSTANCE, None, "")


def test_a_workloads_waypoint_is_not_asked_when_its_service_was_addressed() -> None:
    guarded = endpoint("guarded", "10.0.1.9", waypoint=BY_NAME)
    assert tunnel(VIP, 80, service(), guarded, WAYPOINT, INSTANCE).destination == guarded


@pytest.mark.parametrize("gateway", [BY_NAME, BY_ADDRESS])
def test_a_waypoint_is_not_sent_through_itself(gateway: GatewayAddress) -> None:
    guarded = pod("guarded", "10.0.1.9", waypoint=gateway)
    backend = service(waypoint=gateway)
    there = [guarded, backend, endpoint("e", "10.0.1.3"), WAYPOINT]
    assert tunnel("10.0.1.9", 80, *there, source=INSTANCE).destination == guarded
    assert tunnel(VIP, 80, *there, source=INSTANCE).ip == "10.0.1.3"
    other = endpoint("wp2", "10.0.2.2", of="shop/other")
    assert tunnel("10.0.1.9", 80, *there, INSTANCE, source=other).destination == INSTANCE


@pytest.mark.parametrize(
    ("gateway", "there", "reason", "words"),
    [
        (BY_NAME, (), Reason.NO_GATEWAY, "waypoint shop/waypoint: it is not known"),
        (BY_ADDRESS, (), Reason.NO_GATEWAY, "waypoint 10.0.2.1:15008: it is not known"),
        (BY_NAME, (WAYPOINT,), Reason.NO_HEALTHY_ENDPOINT, "it has none"),
        (
            BY_NAME,
            (WAYPOINT, endpoint("wp", "10.0.2.1", of="shop/waypoint", is_healthy=False)),
            Reason.NO_HEALTHY_ENDPOINT,
            "1 not ready",
        ),
        (
            BY_NAME,
            (WAYPOINT, endpoint("wp", "10.0.2.1", of="shop/waypoint", network="far")),
            Reason.NO_GATEWAY,
            "1 on network 'far', which needs a gateway",
        ),
        (
            GatewayAddress(Port(15008), network="far", ip=Ip("10.0.2.1")),
            (pod("wp", "10.0.2.1", network="far"),),
            Reason.NO_GATEWAY,
            "it is on network 'far'",
        ),
        (
            BY_NAME,
            (service("waypoint", "10.9.0.9"), endpoint("wp", "10.0.2.1", of="shop/waypoint")),
            Reason.NO_HEALTHY_ENDPOINT,
            "1 without port 15008",
        ),
    ],
)
@pytest.mark.parametrize("target", [VIP, "10.0.1.9"])
def test_a_waypoint_that_cannot_be_reached_refuses_and_is_never_bypassed(
    gateway: GatewayAddress, there: tuple[Workload | Service, ...], reason: Reason, words: str, target: str
) -> None:
    backend, guarded = service(waypoint=gateway), pod("guarded", "10.0.1.9", waypoint=gateway)
    found = refusal(target, 80, backend, guarded, endpoint("e", "10.0.1.3"), *there)
    assert found[0] is reason
    assert words in found[1]
    assert "waypoint" in found[1]


# ---- 4: endpoints of a Service -----------------------------------------------------------------------------------


def test_a_service_leads_to_an_endpoint() -> None:
    backend, there = service(subject_alt_names=("spiffe://td/ns/a/sa/b", "not an identity")), endpoint("e", "10.0.1.3")
    assert route(VIP, 80, backend, there) == Tunnel(
        ip=Ip("10.0.1.3"),
        authority="10.0.1.3:8080",
        expected=frozenset({Identity("cluster.local", "shop", "e"), Identity("td", "a", "b")}),
        destination=there,
        service=backend,
        port_at_destination=8080,
        host="s",
    )


@pytest.mark.parametrize(
    ("shared", "own", "port"),
    [
        pytest.param(8080, None, 8080, id="the Service's"),
        pytest.param(8080, 9090, 9090, id="the endpoint's own first"),
        pytest.param(0, 9090, 9090, id="a named port"),
        pytest.param(8080, 0, 8080, id="an own port that says nothing"),
    ],
)
def test_the_port_is_translated(shared: int, own: int | None, port: int) -> None:
    ports = () if own is None else (ServicePort(Port(80), own),)
    found = tunnel(VIP, 80, service(ports=(ServicePort(Port(80), shared),)), endpoint("e", "10.0.1.3", ports=ports))
    assert (found.authority, found.port_at_destination, found.port) == (f"10.0.1.3:{port}", port, 15008)


@pytest.mark.parametrize(
    ("target", "addresses", "prefers_ipv6", "ip"),
    [
        (VIP, ("10.0.1.3", "fd00:1::3"), None, "10.0.1.3"),
        (VIP, ("fd00:1::3", "10.0.1.3"), None, "10.0.1.3"),
        (VIP6, ("10.0.1.3", "fd00:1::3"), None, "fd00:1::3"),
        (VIP6, ("10.0.1.3",), None, "10.0.1.3"),
        (VIP, ("fd00:1::3",), None, "fd00:1::3"),
        (VIP, ("10.0.1.3", "fd00:1::3"), True, "fd00:1::3"),
        (VIP6, ("10.0.1.3", "fd00:1::3"), False, "10.0.1.3"),
    ],
)
def test_the_address_of_an_endpoint_follows_the_client_and_the_service(
    target: Ip, addresses: tuple[str, ...], *, prefers_ipv6: bool | None, ip: str
) -> None:
    assert tunnel(target, 80, service(prefers_ipv6=prefers_ipv6), endpoint("e", *addresses)).ip == ip


@pytest.mark.parametrize(
    ("endpoints", "reason", "words"),
    [
        pytest.param((), Reason.NO_HEALTHY_ENDPOINT, "no endpoint for port 80: it has none", id="none"),
        pytest.param(
            (endpoint("a", "10.0.1.3", is_healthy=False), endpoint("b", "10.0.1.4", is_healthy=False)),
            Reason.NO_HEALTHY_ENDPOINT,
            "2 not ready",
            id="not ready",
        ),
        pytest.param(
            (endpoint("a", "10.0.1.3", network="far"),), Reason.NO_GATEWAY, "1 on network 'far'", id="another network"
        ),
        pytest.param(
            (endpoint("a", "10.0.1.3", network="far"), endpoint("b", is_healthy=False)),
            Reason.NO_HEALTHY_ENDPOINT,
            "1 not ready, 1 on network 'far'",
            id="various",
        ),
        pytest.param((endpoint("a"),), Reason.NO_HEALTHY_ENDPOINT, "1 without a usable address", id="no address"),
        pytest.param(
            (endpoint("a", hostname="db.example"),),
            Reason.DNS_FAILED,
            "1 known only by the name db.example, which is not resolved yet",
            id="name",
        ),
        pytest.param(
            (endpoint("a", hostname="db.example"), endpoint("b", "10.0.1.3", is_healthy=False)),
            Reason.DNS_FAILED,
            "1 not ready",
            id="name, and another that is not ready",
        ),
        pytest.param(
            (endpoint("a", "10.0.1.3", capacity=0),), Reason.NO_HEALTHY_ENDPOINT, "1 of weight 0", id="weight"
        ),
    ],
)
def test_a_service_without_an_endpoint_is_refused_and_says_why(
    endpoints: tuple[Workload, ...], reason: Reason, words: str
) -> None:
    found = refusal(VIP, 80, service(), *endpoints, pick=never)
    assert found[0] is reason
    assert words in found[1]


def resolved(hostname: str, *addresses: str, error: str = "") -> ResolvedName:
    return ResolvedName(hostname=hostname, addresses=tuple(map(Ip, addresses)), error=error)


def by_name(target: str, *names: ResolvedName, pick: Any = first, **fields: Any) -> Route:
    """To port 80 of a Service whose one endpoint is known by its name alone."""
    named = endpoint("a", hostname="db.example", **{"protocol": TunnelProtocol.TCP} | fields)
    mesh = mesh_of(CLIENT, service(), named)
    mesh.apply(Changes(names=names))
    return decide(Target(Ip(target), 80), CLIENT, mesh, pick)


DUAL = resolved("db.example", "203.0.113.7", "203.0.113.8", "2001:db8::7")


@pytest.mark.parametrize(
    ("target", "place", "ip"), [(VIP, 0, "203.0.113.7"), (VIP, 1, "203.0.113.8"), (VIP6, 0, "2001:db8::7")]
)
def test_an_address_of_a_name_is_drawn_from_those_of_the_clients_family(target: str, place: int, ip: str) -> None:
    drawn: list[int] = []

    def pick(options: Sequence[Option], cumulative: Sequence[int]) -> Option:
        drawn.append(len(options))
        assert list(cumulative) == list(range(1, len(options) + 1))
        return options[place if len(drawn) > 1 else 0]

    found = by_name(target, DUAL, pick=pick)
    assert isinstance(found, Direct)
    assert (found.ip, found.port, found.service) == (ip, 8080, service())
    assert drawn == [1, 1 if target == VIP6 else 2]


@pytest.mark.parametrize("ip", ["203.0.113.8", "203.0.113.9"])
def test_who_has_resolved_the_name_is_led_by_its_entry_to_where_he_was_going(ip: str) -> None:
    known = msgspec.structs.replace(DUAL, former=(Ip("203.0.113.9"),))
    found = by_name(ip, known)
    assert isinstance(found, Direct)
    assert (found.ip, found.port, found.service) == (ip, 8080, service())


def test_another_port_of_that_address_is_nobodys() -> None:
    mesh = mesh_of(CLIENT, service(), endpoint("a", hostname="db.example", protocol=TunnelProtocol.TCP))
    mesh.apply(Changes(names=(DUAL,)))
    assert decide(Target(DUAL.addresses[0], 81), CLIENT, mesh, never) == Direct(ip=DUAL.addresses[0], port=81)


def test_behind_a_waypoint_it_is_nobodys_either() -> None:
    """What is sent to its own address is not to leave in plain text when the worker that would tunnel it has died."""
    behind = service(waypoint=GatewayAddress(Port(15008), ip=Ip("10.9.0.9")))
    mesh = mesh_of(CLIENT, behind, endpoint("a", hostname="db.example", protocol=TunnelProtocol.TCP))
    mesh.apply(Changes(names=(DUAL,)))
    assert decide(Target(DUAL.addresses[0], 80), CLIENT, mesh, never) == Direct(ip=DUAL.addresses[0], port=80)


def test_an_endpoint_of_the_mesh_may_be_known_by_its_name() -> None:
    found = by_name(VIP, DUAL, protocol=TunnelProtocol.HBONE, ports=(ServicePort(Port(80), 9090),))
    assert isinstance(found, Tunnel)
    assert (found.ip, found.authority) == ("203.0.113.7", "203.0.113.7:9090")


@pytest.mark.parametrize(
    ("names", "words", "is_pending"),
    [
        ((), "1 known only by the name db.example, which is not resolved yet", True),
        ((resolved("db.example", error="there is no such name"),), "cannot be resolved: there is no such name", False),
        ((resolved("db.example", "2001:db8::7"),), "has no IPv4 address, and the client came by IPv4", False),
    ],
)
def test_without_an_address_it_is_refused_and_waited_for_where_that_helps(
    names: tuple[ResolvedName, ...], words: str, *, is_pending: bool
) -> None:
    found = by_name(VIP, *names)
    assert isinstance(found, Refuse)
    assert (found.reason, found.is_pending, found.service) == (Reason.DNS_FAILED, is_pending, service())
    assert words in found.detail


def test_a_waypoint_may_be_known_by_its_name() -> None:
    behind = service(waypoint=GatewayAddress(Port(15008), service="shop/gate"))
    gate = service("gate", "10.9.0.9", ports=(ServicePort(Port(15008), 15008),))
    mesh = mesh_of(CLIENT, behind, gate, endpoint("a", of="shop/gate", hostname="gate.example"))
    target = Target(VIP, 80)
    unknown = decide(target, CLIENT, mesh, first)
    mesh.apply(Changes(names=(resolved("gate.example", "203.0.113.7"),)))
    known = decide(target, CLIENT, mesh, first)
    assert isinstance(unknown, Refuse)
    assert unknown.reason is Reason.DNS_FAILED
    assert isinstance(known, Tunnel)
    assert (known.ip, known.authority) == ("203.0.113.7", f"{VIP}:80")


def test_a_named_port_that_no_endpoint_has_is_refused() -> None:
    named = service(ports=(ServicePort(Port(80), 0),))
    assert refusal(VIP, 80, named, endpoint("e", "10.0.1.3"))[1].endswith("1 without port 80")


def test_a_port_that_the_service_does_not_list_is_refused() -> None:
    assert refusal(VIP, 81, service(), endpoint("e", "10.0.1.3")) == (
        Reason.NO_SERVICE_PORT,
        "service shop/s has no port 81",
    )


def test_strict_balancing_refuses_rather_than_goes_far() -> None:
    here = service(balancing=LoadBalancing(BalancingMode.STRICT, (Scope.NODE,)))
    far = endpoint("e", "10.0.1.3", node="far")
    assert refusal(VIP, 80, here, far) == (
        Reason.NO_HEALTHY_ENDPOINT,
        "service shop/s has no endpoint for port 80: 1 too far",
    )


def test_a_refusal_names_the_service_that_was_addressed() -> None:
    found = route(VIP, 81, service())
    assert isinstance(found, Refuse)
    assert found.service == service()


@pytest.mark.parametrize("port", [80, 81])
def test_passthrough_keeps_the_target(port: int) -> None:
    through = service(balancing=LoadBalancing(BalancingMode.PASSTHROUGH, takes_unhealthy=True))
    found = route(VIP, port, through, endpoint("e", "10.0.1.3"), pick=never)
    assert found == Direct(ip=VIP, port=port, service=through)


def test_passthrough_within_a_block() -> None:
    through = Service(
        name="net",
        namespace="shop",
        hostname="net",
        vips=(Vip("", block=Cidr.parse("10.7.0.0/16")),),
        ports=HTTP,
        balancing=LoadBalancing(BalancingMode.PASSTHROUGH),
    )
    assert route("10.7.1.1", 80, through) == Direct(ip=Ip("10.7.1.1"), port=80, service=through)


def test_a_service_with_a_waypoint_goes_there_even_with_passthrough() -> None:
    through = service(waypoint=BY_NAME, balancing=LoadBalancing(BalancingMode.PASSTHROUGH))
    assert tunnel(VIP, 80, through, WAYPOINT, INSTANCE).destination == INSTANCE


def test_the_draw_is_the_callers_among_all_candidates_with_their_weights() -> None:
    there = [endpoint("a", "10.0.1.3", capacity=1), endpoint("b", "10.0.1.4", capacity=3), endpoint("c", "10.0.1.5")]
    asked: list[tuple[list[str], list[int]]] = []

    def last(workloads: Sequence[Workload], cumulative: Sequence[int]) -> Workload:
        asked.append(([workload.name for workload in workloads], list(cumulative)))
        return workloads[-1]

    assert tunnel(VIP, 80, service(), *there, pick=last).ip == "10.0.1.5"
    assert asked == [(["a", "b", "c"], [1, 4, 5])]


def test_a_client_may_be_an_endpoint_of_the_service_it_calls() -> None:
    client = endpoint("client", "10.0.0.1")
    assert tunnel(VIP, 80, service(), source=client).destination == client


# ---- 6 and 7: how it is reached ----------------------------------------------------------------------------------


def test_a_workload_outside_the_mesh_is_reached_in_plain_tcp() -> None:
    plain = endpoint("plain", "10.0.1.3", protocol=TunnelProtocol.TCP)
    assert route("10.0.1.3", 99, plain) == Direct(ip=Ip("10.0.1.3"), port=99, destination=plain)
    assert route(VIP, 80, service(), plain) == Direct(
        ip=Ip("10.0.1.3"), port=8080, destination=plain, service=service()
    )


@pytest.mark.parametrize("ip", ["1.2.3.4", "2001:db8::1", "127.0.0.1"])
def test_what_nobody_knows_goes_where_it_was_going(ip: str) -> None:
    assert route(ip, 443, DB, service(), pick=never) == Direct(ip=Ip(ip), port=443)


# ---- laws --------------------------------------------------------------------------------------------------------


def random_mesh(rng: random.Random) -> Mesh:
    gateways = [None, None, None, BY_NAME, BY_ADDRESS]
    keys = ["shop/s", "shop/t", "shop/waypoint"]
    services = [
        service(
            name,
            *rng.sample([VIP, VIP6, "10.0.0.2"], rng.randrange(3)),
            namespace=rng.choice(["shop", "shop", "ops"]),
            ports=tuple(ServicePort(Port(port), rng.choice([0, 8080])) for port in rng.sample([80, 81, 15008], 2)),
            waypoint=rng.choice(gateways),
            prefers_ipv6=rng.choice([None, None, True, False]),
            is_namespace_private=rng.random() < 0.2,
            balancing=LoadBalancing(
                rng.choice(list(BalancingMode)), tuple(rng.sample(list(Scope), rng.randrange(3))), rng.random() < 0.2
            ),
        )
        for name in ("s", "t", "waypoint")
    ]
    workloads = [
        pod(
            f"w{number}",
            *rng.sample([f"10.0.0.{number}", f"fd00::{number}"], rng.randrange(3)),
            services={key: (ServicePort(Port(80), 9090),) for key in rng.sample(keys, rng.randrange(3))},
            protocol=rng.choice(list(TunnelProtocol)),
            is_healthy=rng.random() < 0.8,
            network=rng.choice(["", "", "", "far"]),
            node=rng.choice("ab"),
            zone=rng.choice("xy"),
            capacity=rng.choice([0, 1, 5]),
            waypoint=rng.choice(gateways),
        )
        for number in range(6)
    ]
    return mesh_of(*services, *workloads)


@given(rng=st.randoms(use_true_random=False), port=st.sampled_from([80, 81, 15008, 443]))
def test_every_decision_is_total_and_keeps_its_promises(rng: random.Random, port: int) -> None:
    mesh = random_mesh(rng)
    source = rng.choice(list(mesh.workloads.values()))
    target = Target(
        rng.choice([VIP, VIP6, *(Ip(f"10.0.0.{n}") for n in range(7)), Ip("fd00::3"), Ip("127.0.0.1")]), port
    )

    found = decide(target, source, mesh, first)

    match found:
        case Tunnel():
            assert found.destination is not None
            assert found.destination.identity in found.expected
            assert found.ip in found.destination.addresses
            assert found.destination.network == source.network
            assert found.port_at_destination > 0
            assert found.host == (found.service.hostname if found.service else "")
            assert found.is_to_waypoint or found.destination.protocol is TunnelProtocol.HBONE
        case Direct():
            is_untouched = (found.ip, found.port) == (target.ip, target.port)
            assert found.destination is not None or is_untouched
            assert found.destination is None or found.destination.protocol is TunnelProtocol.TCP
        case Refuse():
            assert found.detail
            assert found.reason.flag == "CONNECT"


@given(rng=st.randoms(use_true_random=False))
def test_a_balancer_never_changes_a_decision(rng: random.Random) -> None:
    mesh, balancer = random_mesh(rng), Balancer()
    targets = [Target(ip, port) for ip in (VIP, VIP6, Ip("10.0.0.2")) for port in (80, 81)]
    for _ in range(4):
        for target in targets:
            source = rng.choice(list(mesh.workloads.values()))
            remembered = decide(target, source, mesh, first, balancer.candidates)
            assert remembered == decide(target, source, mesh, first)
        other = random_mesh(rng)
        kind = rng.choice(["workload", "service", "removal"])
        workloads = (rng.choice(list(other.workloads.values())),) if kind == "workload" else ()
        services = (rng.choice(list(other.services.values())),) if kind == "service" else ()
        removed = (rng.choice(["w1", "w2", "w3"]),) if kind == "removal" and len(mesh.workloads) > 1 else ()
        mesh.apply(Changes(workloads=workloads, services=services, removed_workloads=removed))


@pytest.mark.parametrize(
    ("workload", "others", "is_direct"),
    [
        pytest.param(DB, (), True, id="a pod of the mesh"),
        pytest.param(pod("db", "10.0.1.2", protocol=TunnelProtocol.TCP), (), False, id="plain text"),
        pytest.param(pod("db", "10.0.1.2", waypoint=BY_NAME), (WAYPOINT, INSTANCE), False, id="behind a waypoint"),
        pytest.param(pod("db", "10.0.1.2", application_tunnel_port=15088), (), False, id="it expects PROXY"),
        pytest.param(DB, (pod("heir", "10.0.1.2"),), False, id="one of its addresses leads to its successor"),
    ],
)
def test_who_is_reached_directly(
    workload: Workload, others: tuple[Workload | Service, ...], *, is_direct: bool
) -> None:
    assert is_reached_directly(workload, mesh_of(workload, *others)) is is_direct


@pytest.mark.parametrize("port", [1, 80, 15001, 65535])
@pytest.mark.parametrize("client", [CLIENT, pod("other", "10.0.0.9", service_account="x", node="elsewhere")])
def test_direct_is_what_every_client_and_port_finds(client: Workload, port: int) -> None:
    mesh = mesh_of(DB, client)
    assert is_reached_directly(DB, mesh)
    for ip in DB.addresses:
        found = decide(Target(ip, port), client, mesh, never)
        assert isinstance(found, Tunnel)
        assert (found.ip, found.port_at_destination, found.destination) == (ip, port, DB)
