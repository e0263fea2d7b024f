# SPDX-License-Identifier: Apache-2.0
"""Routes of a Service: which one counts, what is drawn, and that nothing takes a detour."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest

from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.traffic import (
    Destination,
    PortPolicy,
    ServiceTraffic,
    Subset,
    TcpMatch,
    TcpRoute,
    TrafficPolicy,
    WorkloadLabels,
)
from nodeagent.model.workload import (
    BalancingMode,
    GatewayAddress,
    LoadBalancing,
    Service,
    ServicePort,
    TunnelProtocol,
    Vip,
    Workload,
)
from nodeagent.routing.candidates import Balancer, Candidates, Terms, candidates
from nodeagent.routing.decide import decide, server_names
from nodeagent.routing.draws import service_lots
from nodeagent.routing.legs import matches
from nodeagent.routing.route import Direct, Refuse, Route, Target, Tunnel

Option = TypeVar("Option")
VIP, CANARY_VIP = Ip("10.9.0.1"), Ip("10.9.0.2")
PORTS = (ServicePort(Port(80), 8080), ServicePort(Port(90), 9090))


def first(options: Sequence[Option], _: Sequence[int]) -> Option:
    return options[0]


def last(options: Sequence[Option], _: Sequence[int]) -> Option:
    return options[-1]


def pod(name: str, ip: str, *services: str, **fields: Any) -> Workload:
    return Workload(
        uid=name,
        name=name,
        namespace=fields.pop("namespace", "shop"),
        service_account=name,
        addresses=(Ip(ip),),
        protocol=TunnelProtocol.HBONE,
        services=dict.fromkeys(services, ()),
        **fields,
    )


def service(name: str, vip: Ip, **fields: Any) -> Service:
    fields.setdefault("ports", PORTS)
    return Service(name=name, namespace="shop", hostname=name, vips=(Vip("", vip),), **fields)


CLIENT = pod("client", "10.0.0.1")
V1, V2 = pod("v1", "10.0.1.1", "shop/db"), pod("v2", "10.0.1.2", "shop/db")
OTHER = pod("other", "10.0.1.3", "shop/canary")
DB, CANARY = service("db", VIP), service("canary", CANARY_VIP)
LABELS = (
    WorkloadLabels(uid="v1", labels={"version": "v1"}),
    WorkloadLabels(uid="v2", labels={"version": "v2"}),
    WorkloadLabels(uid="client", labels={"tier": "gold"}),
)
SUBSETS = (
    Subset("v1", {"version": "v1"}),
    Subset("v2", {"version": "v2"}),
    Subset("all"),
    Subset("v3", {"version": "v3"}),
)


def to(subset: str = "", weight: int = 1, name: str = "shop/db", port: int = 0) -> Destination:
    return Destination(service=name, weight=weight, port=port, subset=subset)


def mesh_of(*routes: TcpRoute, more: Sequence[Service] = (), db: Service = DB) -> Mesh:
    mesh = Mesh()
    traffic = ServiceTraffic(service="shop/db", routes=routes, subsets=SUBSETS)
    mesh.apply(Changes(extensions=(traffic, *LABELS), services=(db, CANARY, *more), workloads=(CLIENT, V1, V2, OTHER)))
    return mesh


def route(*routes: TcpRoute, port: int = 80, pick: Any = first, ip: Ip = VIP, **fields: Any) -> Route:
    return decide(Target(ip, port), CLIENT, mesh_of(*routes, **fields), pick)


def reached(found: Route) -> tuple[str, int]:
    assert isinstance(found, Tunnel), found
    assert found.destination is not None
    return found.destination.name, found.port_at_destination


def test_without_a_match_the_service_itself_is_meant() -> None:
    never = TcpRoute((to("v2"),), (TcpMatch(port=90),))
    assert reached(route(never)) == ("v1", 8080)
    assert reached(route(never, port=90)) == ("v2", 9090)
    assert reached(route()) == ("v1", 8080)


def test_the_first_route_that_matches_counts() -> None:
    assert reached(route(TcpRoute((to("v2"),)), TcpRoute((to("v1"),)))) == ("v2", 8080)


@pytest.mark.parametrize(
    ("match", "is_met"),
    [
        (TcpMatch(), True),
        (TcpMatch(port=80), True),
        (TcpMatch(port=8080), False),
        (TcpMatch(source_namespace="shop"), True),
        (TcpMatch(source_namespace="office"), False),
        (TcpMatch(source_labels={"tier": "gold"}), True),
        (TcpMatch(source_labels={"tier": "gold", "app": "x"}), False),
        (TcpMatch(source_labels={"tier": ""}), False),
        (TcpMatch(destination_blocks=(Cidr.parse("10.9.0.0/16"),)), True),
        (TcpMatch(destination_blocks=(Cidr.parse("10.8.0.0/16"), Cidr.parse("10.9.0.1"))), True),
        (TcpMatch(destination_blocks=(Cidr.parse("10.8.0.0/16"),)), False),
        (TcpMatch(port=80, source_namespace="office"), False),
    ],
    ids=repr,
)
def test_fields_of_a_match_are_anded(match: TcpMatch, *, is_met: bool) -> None:
    assert matches(TcpRoute((to(),), (match,)), Target(VIP, 80), CLIENT, mesh_of()) is is_met


def test_matches_are_ored_and_none_is_every_connection() -> None:
    target, mesh = Target(VIP, 80), mesh_of()
    assert matches(TcpRoute((to(),), (TcpMatch(port=1), TcpMatch(port=80))), target, CLIENT, mesh)
    assert matches(TcpRoute((to(),)), target, CLIENT, mesh)


def test_a_destination_is_drawn_by_its_weight() -> None:
    asked: list[tuple[int, ...]] = []

    def draw(options: Sequence[Option], cumulative: Sequence[int]) -> Option:
        asked.append(tuple(cumulative))
        return options[-1]

    assert reached(route(TcpRoute((to("v1", 90), to("v2", 10))), pick=draw)) == ("v2", 8080)
    assert asked == [(90, 100), (1,)]


def test_a_subset_is_those_endpoints_that_have_its_labels() -> None:
    mesh, balancer = mesh_of(), Balancer()
    for find in (candidates, balancer.candidates):
        found = {
            name: [one.name for one in find(DB, 80, CLIENT, mesh, name).endpoints] for name in ("", "all", "v1", "v3")
        }
        assert found == {"": ["v1", "v2"], "all": ["v1", "v2"], "v1": ["v1"], "v3": []}
    mesh.apply(Changes(extensions=(WorkloadLabels(uid="v2", labels={"version": "v1"}),)))
    assert len(balancer.candidates(DB, 80, CLIENT, mesh, "v1").endpoints) == 2


def test_another_service_takes_the_place_of_the_one_that_was_dialled() -> None:
    found = route(TcpRoute((to(name="shop/canary", port=90),)))
    assert reached(found) == ("other", 9090)
    assert isinstance(found, Tunnel)
    assert (found.service, found.host) == (CANARY, "canary")


@pytest.mark.parametrize(
    ("ports", "reached_port"), [((ServicePort(Port(1), 2),), 2), (PORTS, 8080)], ids=["its only port", "as dialled"]
)
def test_without_a_port_it_is_the_only_one_else_the_dialled_one(
    ports: tuple[ServicePort, ...], reached_port: int
) -> None:
    canary = service("canary", CANARY_VIP, ports=ports)
    assert reached(route(TcpRoute((to(name="shop/canary"),)), more=(canary,))) == ("other", reached_port)


@pytest.mark.parametrize(
    ("destination", "reason", "words"),
    [
        (to(name="shop/gone"), Reason.NO_HEALTHY_ENDPOINT, "leads to shop/gone, which is not known"),
        (to("v9"), Reason.NO_HEALTHY_ENDPOINT, "which has no subset 'v9'"),
        (to("v3"), Reason.NO_HEALTHY_ENDPOINT, "subset v3 of service shop/db has no endpoint for port 80: it has none"),
        (to(port=81), Reason.NO_SERVICE_PORT, "service shop/db has no port 81"),
    ],
)
def test_a_destination_that_is_not_there_is_a_refusal_and_no_detour(
    destination: Destination, reason: Reason, words: str
) -> None:
    found = route(TcpRoute((destination,)))
    assert isinstance(found, Refuse)
    assert found.reason is reason
    assert words in found.detail


def test_a_port_that_the_service_does_not_list_has_no_routes() -> None:
    found = route(TcpRoute((to(port=80),)), port=81)
    assert isinstance(found, Refuse)
    assert found.reason is Reason.NO_SERVICE_PORT


# ---- by the name in the ClientHello --------------------------------------------------------------------------------


def named(*names: str, to_subset: str = "v2", **fields: Any) -> TcpRoute:
    return TcpRoute((to(to_subset),), (TcpMatch(server_names=names, **fields),))


def by_name(
    tls: Sequence[TcpRoute], tcp: Sequence[TcpRoute] = (), db: Service = DB, source: Workload = CLIENT, port: int = 80
) -> tuple[Mesh, Workload, int]:
    mesh = mesh_of(db=db)
    traffic = ServiceTraffic(service="shop/db", routes=tuple(tcp), tls_routes=tuple(tls), subsets=SUBSETS)
    mesh.apply(Changes(extensions=(traffic,), workloads=(source,)))
    return mesh, source, port


@pytest.mark.parametrize(
    ("pattern", "name", "is_met"),
    [
        ("a.example", "a.example", True),
        ("a.example", "b.a.example", False),
        ("a.example", "", False),
        ("*.example", "a.example", True),
        ("*.example", "b.a.example", True),
        ("*.example", "example", False),
        ("*.example", ".example", False),
        ("*.example", "aexample", False),
        ("*", "anything", True),
        ("*", "", False),
    ],
)
def test_a_name_meets_a_pattern(pattern: str, name: str, *, is_met: bool) -> None:
    mesh, source, _ = by_name([named("other.example", pattern)])
    found = decide(Target(VIP, 80, name), source, mesh, first)
    assert reached(found)[0] == ("v2" if is_met else "v1")


def test_tls_routes_go_before_tcp_routes_and_those_before_the_service() -> None:
    tls, tcp = [named("a"), named("a", "b", to_subset="v1")], [TcpRoute((to(name="shop/canary"),))]
    mesh, source, _ = by_name(tls, tcp)
    assert [reached(decide(Target(VIP, 80, name), source, mesh, first))[0] for name in ("a", "b", "c", "")] == [
        "v2",
        "v1",
        "other",
        "other",
    ]
    mesh, source, _ = by_name(tls)
    assert [reached(decide(Target(VIP, 80, name), source, mesh, last))[0] for name in ("a", "b", "")] == [
        "v2",
        "v1",
        "v2",
    ]


@pytest.mark.parametrize(
    ("tls", "fields", "needs"),
    [
        pytest.param([named("a")], {}, True, id="a route"),
        pytest.param([named("a", port=80)], {}, True, id="of this port"),
        pytest.param([named("a", port=90)], {}, False, id="of another port"),
        pytest.param([named("a", source_namespace="office")], {}, False, id="for another namespace"),
        pytest.param([named("a", source_labels={"tier": "gold"})], {}, True, id="for these clients"),
        pytest.param([named("a", source_labels={"tier": "silver"})], {}, False, id="for other clients"),
        pytest.param([named("a", destination_blocks=(Cidr.parse("10.8.0.0/16"),))], {}, False, id="another address"),
        pytest.param([named("a", port=90), named("b")], {}, True, id="the second"),
        pytest.param([], {"tcp": [TcpRoute((to(),))]}, False, id="tcp routes alone"),
        pytest.param([named("a")], {"port": 81}, False, id="a port that is not the Service's"),
        pytest.param(
            [named("a")],
            {"db": service("db", VIP, waypoint=GatewayAddress(Port(15008), ip=Ip("10.0.1.3")))},
            False,
            id="a waypoint's",
        ),
    ],
)
def test_the_clients_first_bytes_are_waited_for_only_where_they_decide(
    tls: list[TcpRoute], fields: dict[str, Any], *, needs: bool
) -> None:
    mesh, source, port = by_name(tls, **fields)
    assert bool(server_names(Target(VIP, port), source, mesh)) is needs
    assert not server_names(Target(CANARY_VIP, 80), source, mesh), "another Service"
    assert not server_names(Target(V1.addresses[0], 80), source, mesh), "a pod"
    assert not server_names(Target(Ip("192.0.2.1"), 80), source, mesh), "nobody's address"


# ---- waypoints and services without endpoints ----------------------------------------------------------------------


WAYPOINT = GatewayAddress(Port(15008), ip=OTHER.addresses[0])


def test_routes_of_a_service_with_a_waypoint_are_the_waypoints() -> None:
    behind = service("db", VIP, waypoint=WAYPOINT)
    found = route(TcpRoute((to("v9"),)), db=behind)
    assert isinstance(found, Tunnel)
    assert (found.is_to_waypoint, found.authority, found.service) == (True, f"{VIP}:80", behind)


def test_a_route_to_a_service_with_a_waypoint_names_that_service_to_it() -> None:
    canary = service("canary", CANARY_VIP, waypoint=WAYPOINT)
    found = route(TcpRoute((to(name="shop/canary", port=90),)), more=(canary,))
    assert isinstance(found, Tunnel)
    assert (found.is_to_waypoint, found.authority, found.service) == (True, f"{CANARY_VIP}:90", canary)
    assert (found.port_at_destination, found.host) == (90, "canary")


@pytest.mark.parametrize(
    ("canary", "words"),
    [
        (
            Service(name="canary", namespace="shop", hostname="canary", ports=PORTS, waypoint=WAYPOINT),
            "has a waypoint and no address to ask it for",
        ),
        (
            service("canary", CANARY_VIP, balancing=LoadBalancing(mode=BalancingMode.PASSTHROUGH)),
            "has no endpoints of its own",
        ),
    ],
)
def test_where_no_route_can_lead(canary: Service, words: str) -> None:
    found = route(TcpRoute((to(name="shop/canary"),)), more=(canary,))
    assert isinstance(found, Refuse)
    assert words in found.detail


def test_a_passthrough_service_stays_one() -> None:
    passing = service("db", VIP, balancing=LoadBalancing(mode=BalancingMode.PASSTHROUGH))
    assert route(TcpRoute((to(),)), db=passing) == Direct(ip=VIP, port=80, service=passing)


# ---- policies ------------------------------------------------------------------------------------------------------


def limited(port: int, policy: TrafficPolicy, subset: str = "") -> Mesh:
    mesh = mesh_of()
    subsets = (Subset("v1", {"version": "v1"}, (PortPolicy(0, policy),)),) if subset else ()
    policies = () if subset else (PortPolicy(port, policy),)
    mesh.apply(Changes(extensions=(ServiceTraffic(service="shop/db", subsets=subsets, policies=policies),)))
    return mesh


def test_an_endpoint_is_chosen_as_the_policy_of_its_port_says_and_the_route_carries_it() -> None:
    policy = TrafficPolicy(max_connections=1)
    mesh, asked = limited(80, policy), []

    def choose(found: Candidates) -> Workload | None:
        asked.append(found.terms)
        return found.endpoints[-1]

    terms = Terms(policy, "shop/db", 80)
    found = decide(Target(VIP, 80), CLIENT, mesh, first, candidates, choose)
    assert isinstance(found, Tunnel)
    assert (reached(found), found.terms, asked) == (("v2", 8080), terms, [terms])
    other = decide(Target(VIP, 90), CLIENT, mesh, first, candidates, choose)
    assert isinstance(other, Tunnel)
    assert (reached(other), other.terms, len(asked)) == (("v1", 9090), None, 1)


def test_when_nobody_can_be_chosen_the_words_say_why() -> None:
    mesh = limited(0, TrafficPolicy(max_connections=1))
    found = decide(Target(VIP, 80), CLIENT, mesh, first, candidates, lambda _: None)
    assert isinstance(found, Refuse)
    assert found.reason is Reason.NO_HEALTHY_ENDPOINT
    assert "ejected (outlierDetection)" in found.detail


def test_a_subset_has_terms_of_its_own() -> None:
    policy = TrafficPolicy(max_connections=1)
    mesh = limited(0, policy, "v1")
    assert candidates(DB, 80, CLIENT, mesh, "v1").terms == Terms(policy, "shop/db", 80, "v1")
    assert candidates(DB, 80, CLIENT, mesh).terms is None


# ---- what is drawn in the kernel -----------------------------------------------------------------------------------


def test_a_service_of_which_an_extension_speaks_is_left_to_the_proxy() -> None:
    mesh, sources = mesh_of(), (CLIENT, V1, V2, OTHER)
    local = {ip for source in sources for ip in source.addresses}
    assert {lots.target.ip for lots in service_lots(mesh, sources, local)} == {CANARY_VIP}
    mesh.apply(Changes(removed_extensions=("service/shop/db",)))
    assert {lots.target.ip for lots in service_lots(mesh, sources, local)} == {VIP, CANARY_VIP}


def test_all_of_a_route_is_drawn_in_its_shares() -> None:
    seen: Counter[str] = Counter()
    mesh = mesh_of(TcpRoute((to("v1", 3), to("v2", 1))))
    for pick in (first, last):
        seen[reached(decide(Target(VIP, 80), CLIENT, mesh, pick))[0]] += 1
    assert seen == {"v1": 1, "v2": 1}
