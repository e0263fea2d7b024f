# SPDX-License-Identifier: Apache-2.0
"""Every route that may be taken gives an answer: also through waypoints, to headless Services, from other families."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nodeagent.admin.outcome import MAX_ENDPOINTS, Answer, Client, find_answers, find_targets
from nodeagent.errors import ConfigError
from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.traffic import (
    ClientScope,
    ClientScopes,
    Destination,
    MeshTraffic,
    ServiceTraffic,
    Subset,
    TcpMatch,
    TcpRoute,
    WorkloadLabels,
    WorkloadLimits,
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
from nodeagent.routing.route import Target

_DB = "shop/db.shop.svc.cluster.local"
Ask = Callable[..., list[Answer]]


def _find(mesh: Mesh, name: str) -> Workload:
    return next(workload for workload in mesh.workloads.values() if workload.name == name)


def _change(mesh: Mesh, found: Workload | Service, **fields: Any) -> None:
    changed = msgspec.structs.replace(found, **fields)
    if isinstance(changed, Service):
        mesh.apply(Changes(services=(changed,)))
    else:
        mesh.apply(Changes(workloads=(changed,)))


@pytest.fixture
def ask(mesh: Mesh) -> Ask:
    def answers(ip: str, port: int, *, is_captured: bool = True) -> list[Answer]:
        web = _find(mesh, "web")
        client = Client(web, is_captured, web.identity if is_captured else None, is_known=True)
        return list(find_answers(mesh, client, Target(Ip(ip), port)))

    return answers


def test_one_answer_for_each_endpoint(mesh: Mesh, ask: Ask) -> None:
    assert [answer.endpoint for answer in ask("10.96.0.5", 5432)] == [
        "shop/db-0 (10.242.0.1:5432, node-b)",
        "shop/db-1 (10.242.0.2:5432, node-b)",
    ]
    _change(mesh, _find(mesh, "db-0"), is_healthy=False)
    assert [answer.endpoint for answer in ask("10.96.0.5", 5432)] == ["shop/db-1 (10.242.0.2:5432, node-b)"]


def test_a_service_of_many_is_asked_so_many_times_and_no_more(mesh: Mesh, ask: Ask) -> None:
    db = _find(mesh, "db-0")
    mesh.apply(
        Changes(
            workloads=tuple(
                msgspec.structs.replace(db, uid=f"many-{n}", addresses=(Ip(f"10.9.{n // 250}.{n % 250 + 1}"),))
                for n in range(MAX_ENDPOINTS + 10)
            )
        )
    )
    assert len(ask("10.96.0.5", 5432)) == MAX_ENDPOINTS


def test_every_destination_of_a_route_with_each_of_its_endpoints(mesh: Mesh, ask: Ask) -> None:
    """For clients of the mesh: nobody routes others."""
    destinations = (Destination(service=_DB, weight=9, subset="a"), Destination(service=_DB, weight=1))
    traffic = ServiceTraffic(service=_DB, routes=(TcpRoute(destinations),), subsets=(Subset("a", {"x": "y"}),))
    uid = _find(mesh, "db-1").uid
    mesh.apply(Changes(extensions=(traffic, WorkloadLabels(uid=uid, labels={"x": "y"}))))

    def names(**how: bool) -> list[str]:
        return [answer.endpoint.split()[0] for answer in ask("10.96.0.5", 5432, **how)]

    assert names() == ["shop/db-1", "shop/db-0", "shop/db-1"]
    assert names(is_captured=False) == ["shop/db-0", "shop/db-1"]
    mesh.apply(Changes(removed_extensions=(f"workload/{uid}",)))
    assert [(answer.verdict, answer.reason) for answer in ask("10.96.0.5", 5432)] == [
        ("REFUSED", "no_healthy_endpoint"),
        ("ALLOWED", ""),
        ("ALLOWED", ""),
    ]


def test_each_name_that_a_clienthello_may_have_is_a_way_of_its_own(mesh: Mesh, ask: Ask) -> None:
    led = TcpRoute(
        (Destination(service="shop/gone", weight=1),), (TcpMatch(server_names=("a.example", "*.b.example")),)
    )
    mesh.apply(Changes(extensions=(ServiceTraffic(service=_DB, tls_routes=(led,)),)))
    assert [(answer.server_name, answer.verdict) for answer in ask("10.96.0.5", 5432)] == [
        ("a.example", "REFUSED"),
        ("*.b.example", "REFUSED"),
        ("", "ALLOWED"),
        ("", "ALLOWED"),
    ]
    assert ask("10.96.0.5", 5432)[1].path[0] == "TLS for *.b.example"
    assert len(ask("10.96.0.5", 5432, is_captured=False)) == 2


def test_what_nobody_has_registered_is_refused_to_clients_of_the_mesh_alone(mesh: Mesh, ask: Ask) -> None:
    assert [answer.verdict for answer in ask("192.0.2.1", 443)] == ["PASSES"]
    mesh.apply(Changes(extensions=(MeshTraffic(is_registry_only=True),)))
    assert [answer.verdict for answer in ask("192.0.2.1", 443)] == ["REFUSED"]
    assert [answer.verdict for answer in ask("192.0.2.1", 443, is_captured=False)] == ["PASSES"]
    assert {answer.verdict for answer in ask("10.96.0.5", 5432, is_captured=False)} <= {"ALLOWED", "DENIED"}


def test_what_a_sidecar_does_not_show_is_told_to_be_that(mesh: Mesh, ask: Ask) -> None:
    web = _find(mesh, "web")
    scope = ClientScope(name=f"{web.namespace}/few", egress=())
    mesh.apply(Changes(extensions=(ClientScopes(namespace=web.namespace, scopes=(scope,)),)))
    (answer,) = ask("10.96.0.5", 5432)
    assert (answer.verdict, answer.transport) == ("PASSES", "TCP")
    assert "Sidecar does not show the Service" in answer.words
    (answer,) = ask("192.0.2.1", 443)
    assert answer.words.startswith("nobody in the mesh has this address")


def test_a_block_of_addresses_outside_is_its_services(mesh: Mesh, ask: Ask) -> None:
    outside = Service(
        name="out",
        namespace="shop",
        hostname="*.example",
        vips=(Vip("", block=Cidr.parse("192.0.2.0/24")),),
        balancing=LoadBalancing(BalancingMode.PASSTHROUGH),
    )
    mesh.apply(Changes(services=(outside,)))
    (answer,) = ask("192.0.2.1", 443)
    assert answer.words.startswith("shop/*.example is outside of the mesh")


def test_a_waypoint_decides_for_clients_of_the_mesh(mesh: Mesh, ask: Ask) -> None:
    gateway = GatewayAddress(Port(15008), network="", ip=Ip("10.241.0.13"))
    _change(mesh, mesh.services[_DB], waypoint=gateway)
    (answer,) = ask("10.96.0.5", 5432)
    assert (answer.verdict, answer.transport, answer.endpoint) == ("PASSES", "HBONE", "10.241.0.13:15008")
    assert "waypoint" in answer.words


def test_clients_outside_the_mesh_go_past_a_waypoint(mesh: Mesh, ask: Ask) -> None:
    gateway = GatewayAddress(Port(15008), network="", ip=Ip("10.241.0.13"))
    _change(mesh, mesh.services[_DB], waypoint=gateway)
    _change(mesh, _find(mesh, "job"), waypoint=None)
    assert [(answer.verdict, answer.transport) for answer in ask("10.96.0.5", 5432, is_captured=False)] == [
        ("DENIED", "TCP"),
        ("DENIED", "TCP"),
    ]
    for name in ("db-0", "db-1"):
        _change(mesh, _find(mesh, name), is_healthy=False)
    (answer,) = ask("10.96.0.5", 5432, is_captured=False)
    assert (answer.verdict, answer.reason) == ("REFUSED", "no_healthy_endpoint")


def test_a_workloads_own_waypoint(mesh: Mesh, ask: Ask) -> None:
    gateway = GatewayAddress(Port(15008), network="", ip=Ip("10.241.0.13"))
    _change(mesh, _find(mesh, "db-0"), waypoint=gateway)
    (answer,) = ask("10.242.0.1", 5432)
    assert answer.endpoint == "10.241.0.13:15008"
    (answer,) = ask("10.242.0.1", 5432, is_captured=False)
    assert (answer.verdict, answer.endpoint) == ("DENIED", "shop/db-0 (10.242.0.1:5432, node-b)")


def test_the_destinations_proxy_may_refuse(ask: Ask) -> None:
    (answer,) = ask("10.242.0.1", 15001)
    assert (answer.verdict, answer.reason) == ("REFUSED", "self_call")


def test_targets(mesh: Mesh) -> None:
    web, db = _find(mesh, "web"), mesh.services[_DB]
    assert find_targets(mesh, web, db, 80) == [Target(Ip("10.96.0.5"), 80)]
    assert find_targets(mesh, web, Ip("fd00::1"), 80) == [Target(Ip("fd00::1"), 80)]
    assert find_targets(mesh, web, _find(mesh, "db-0"), 80) == [Target(Ip("10.242.0.1"), 80)]
    only_ipv6 = msgspec.structs.replace(web, addresses=(Ip("fd00::12"),))
    assert find_targets(mesh, only_ipv6, _find(mesh, "db-0"), 80) == [Target(Ip("fd00::1"), 80)]


def test_a_headless_service_is_its_endpoints(mesh: Mesh) -> None:
    headless = msgspec.structs.replace(mesh.services[_DB], vips=())
    found = find_targets(mesh, _find(mesh, "web"), headless, 5432)
    assert found == [Target(Ip("10.242.0.1"), 5432), Target(Ip("10.242.0.2"), 5432)]


def test_what_has_no_address(mesh: Mesh) -> None:
    web = _find(mesh, "web")
    empty = msgspec.structs.replace(mesh.services["shop/empty.shop.svc.cluster.local"], vips=())
    with pytest.raises(ConfigError, match="has no address"):
        find_targets(mesh, web, empty, 80)
    with pytest.raises(ConfigError, match="has no address"):
        find_targets(mesh, web, msgspec.structs.replace(web, addresses=()), 80)


def test_policy_sees_the_clients_address_of_the_destinations_family(ask: Ask) -> None:
    (answer,) = ask("fd00::1", 5432)
    assert answer.judgement is not None
    assert answer.judgement.facts.source_ip == Ip("fd00::12")


def test_a_destination_outside_the_mesh_is_nobodys_to_judge(mesh: Mesh, ask: Ask) -> None:
    assert _find(mesh, "legacy").protocol is TunnelProtocol.TCP
    (answer,) = ask("10.242.0.9", 80)
    assert (answer.verdict, answer.transport, answer.judgement) == ("PASSES", "TCP", None)


@pytest.fixture
def ask_here(mesh: Mesh) -> Ask:
    """From web, to a database on web's own node, where the kernel lets allowed connections through."""
    _change(mesh, _find(mesh, "db-0"), node="node-a")

    def answers(ip: str, port: int, name: str = "web") -> list[Answer]:
        source = _find(mesh, name)
        client = Client(source, is_captured=True, identity=source.identity, is_known=True, direct_node="node-a")
        return list(find_answers(mesh, client, Target(Ip(ip), port)))

    return answers


def test_between_pods_of_one_node_the_kernel_decides_what_is_allowed(ask_here: Ask) -> None:
    (allowed,) = ask_here("10.242.0.1", 5432)
    assert (allowed.verdict, allowed.transport) == ("ALLOWED", "TCP")
    assert allowed.path == ("pod", "from_pod: the kernel's table of verdicts", "application")
    (denied,) = ask_here("10.242.0.1", 5433)
    assert (denied.verdict, denied.reason) == ("DENIED", "policy_not_allowed")
    assert "worker of this node: policy" in denied.path
    (elsewhere,) = ask_here("10.242.0.2", 5432)
    assert elsewhere.transport == "HBONE"


def test_a_services_address_on_one_node_goes_by_the_worker(ask_here: Ask) -> None:
    found = {answer.transport: answer.path for answer in ask_here("10.96.0.5", 5432)}
    assert found.keys() == {"TCP", "HBONE"}
    assert found["TCP"][1] == "worker of this node: policy"


def test_a_service_that_is_drawn_in_the_kernel_goes_as_its_endpoints_do(mesh: Mesh) -> None:
    _change(mesh, _find(mesh, "db-0"), node="node-a")
    web, target = _find(mesh, "web"), Target(Ip("10.96.0.5"), 5432)
    client = Client(
        web,
        is_captured=True,
        identity=web.identity,
        is_known=True,
        direct_node="node-a",
        drawn=frozenset({target}),
    )
    found = {answer.transport: answer.path for answer in find_answers(mesh, client, target)}
    drawn = "pod -> connect(2): the endpoint is drawn in the kernel"
    assert found["TCP"] == (drawn, "pod", "from_pod: the kernel's table of verdicts", "application")
    assert found["HBONE"][:2] == (drawn, "pod -> steered by from_pod -> worker")


def test_the_proxys_ports_are_nobodys_on_one_node_too(ask_here: Ask) -> None:
    (answer,) = ask_here("10.242.0.1", 15008)
    assert (answer.verdict, answer.reason) == ("REFUSED", "self_call")


def test_a_destination_whose_connections_are_counted_goes_by_the_worker(mesh: Mesh, ask_here: Ask) -> None:
    (direct,) = ask_here("10.242.0.1", 5432)
    assert direct.path[1] == "from_pod: the kernel's table of verdicts"
    mesh.apply(Changes(extensions=(WorkloadLimits(uid=_find(mesh, "db-0").uid, concurrent=1),)))
    (counted,) = ask_here("10.242.0.1", 5432)
    assert counted.path[1] == "worker of this node: policy"


@pytest.fixture
def outside(mesh: Mesh) -> Service:
    """A ServiceEntry's: its endpoint is known by its name alone."""
    ports = (ServicePort(Port(443), 443),)
    vips = (Vip("", Ip("240.240.0.1")), Vip("", Ip("2001:2::1")))
    entry = Service(name="api", namespace="shop", hostname="api.example", vips=vips, ports=ports)
    host = Workload(uid="api", name="api", namespace="shop", hostname="api.example", services={entry.key: ports})
    mesh.apply(Changes(services=(entry,), workloads=(host,)))
    return entry


def test_every_address_of_a_name_is_a_way(mesh: Mesh, ask: Ask, outside: Service) -> None:
    both = ResolvedName(hostname="api.example", addresses=(Ip("203.0.113.7"), Ip("203.0.113.8"), Ip("2001:db8::7")))
    mesh.apply(Changes(names=(both,)))
    answers = ask("240.240.0.1", 443)
    assert {(one.verdict, one.endpoint) for one in answers} == {
        ("PASSES", "shop/api (api.example is 203.0.113.7:443)"),
        ("PASSES", "shop/api (api.example is 203.0.113.8:443)"),
    }
    (six,) = ask("2001:2::1", 443)
    assert six.endpoint == "shop/api (api.example is [2001:db8::7]:443)"
    mesh.apply(Changes(extensions=(ServiceTraffic(service=outside.key),)))  # of which only the captured know
    (past_the_mesh,) = ask("240.240.0.1", 443, is_captured=False)
    assert past_the_mesh.endpoint == "shop/api (api.example is 203.0.113.7:443)"


def test_a_name_that_means_nothing_is_told_with_why(mesh: Mesh, ask: Ask, outside: Service) -> None:
    mesh.apply(Changes(names=(ResolvedName(hostname="api.example", error="there is no such name"),)))
    (answer,) = ask("240.240.0.1", 443)
    assert (answer.verdict, answer.reason) == ("REFUSED", "dns_failed")
    assert answer.words.endswith("known only by the name api.example, which cannot be resolved: there is no such name")


def test_where_a_workload_known_by_its_name_would_be_dialled(mesh: Mesh, outside: Service) -> None:
    web, host = _find(mesh, "web"), _find(mesh, "api")
    with pytest.raises(ConfigError, match="has no address"):
        find_targets(mesh, web, host, 443)
    mesh.apply(Changes(names=(ResolvedName(hostname="api.example", addresses=(Ip("203.0.113.7"),)),)))
    assert find_targets(mesh, web, host, 443) == [Target(Ip("203.0.113.7"), 443)]


@pytest.mark.parametrize(("port", "reason"), [(15001, "self_call"), (15006, "self_call"), (15008, "tls_not_tls")])
def test_plain_text_to_a_port_of_the_proxy(ask: Ask, port: int, reason: str) -> None:
    (answer,) = ask("10.242.0.1", port, is_captured=False)
    assert (answer.verdict, answer.reason) == ("REFUSED", reason)


@pytest.mark.parametrize("is_captured", [True, False])
def test_what_never_leaves_the_pod(ask: Ask, *, is_captured: bool) -> None:
    (answer,) = ask("10.241.0.12", 80, is_captured=is_captured)
    assert (answer.verdict, answer.path) == ("PASSES", ("pod",))


def test_each_answer_says_where_it_would_be_dialled(ask: Ask) -> None:
    answers = ask("10.96.0.5", 5432)
    assert [answer.at for answer in answers] == [Target(Ip("10.242.0.1"), 5432), Target(Ip("10.242.0.2"), 5432)]
    assert {answer.destination.name for answer in answers if answer.destination} == {"db-0", "db-1"}
