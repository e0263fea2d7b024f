# SPDX-License-Identifier: Apache-2.0
"""Which Services a client sees, and what becomes of a connection to one that it does not."""

from typing import Any

import pytest

from nodeagent.model.address import Ip, Port
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.traffic import (
    ClientScope,
    ClientScopes,
    Destination,
    EgressHosts,
    MeshTraffic,
    ServiceTraffic,
    TcpMatch,
    TcpRoute,
    WorkloadLabels,
)
from nodeagent.model.workload import Service, ServicePort, TunnelProtocol, Vip, Workload
from nodeagent.routing.decide import decide, server_names
from nodeagent.routing.draws import basis_of, lots_of
from nodeagent.routing.route import Direct, Refuse, Route, Target, Tunnel
from nodeagent.routing.visibility import sees

VIP, PORTS = Ip("10.9.0.1"), (ServicePort(Port(80), 8080), ServicePort(Port(90), 8080))


def service(hostname: str, namespace: str, **fields: Any) -> Service:
    return Service(name=hostname, namespace=namespace, hostname=hostname, vips=(Vip("", VIP),), ports=PORTS, **fields)


def pod(name: str, ip: str, namespace: str = "shop", *services: str) -> Workload:
    return Workload(
        uid=name,
        name=name,
        namespace=namespace,
        addresses=(Ip(ip),),
        protocol=TunnelProtocol.HBONE,
        services=dict.fromkeys(services, ()),
    )


CLIENT, OTHER = pod("client", "10.0.0.1"), pod("other", "10.0.0.2")
DB = service("db.office", "office")
SERVER = pod("server", "10.0.1.1", "office", DB.key)


def scope(*hosts: str, is_registry_only: bool = False, port: int = 0, **labels: str) -> ClientScope:
    return ClientScope(
        name="shop/s", labels=labels, egress=(EgressHosts(hosts, port),), is_registry_only=is_registry_only
    )


def mesh_of(*scopes: ClientScope, namespace: str = "shop", **fields: Any) -> Mesh:
    mesh = Mesh()
    extensions = (ClientScopes(namespace=namespace, scopes=scopes), *fields.pop("extensions", ()))
    mesh.apply(Changes(services=(DB,), workloads=(CLIENT, OTHER, SERVER), extensions=extensions))
    return mesh


def route(mesh: Mesh, port: int = 80, source: Workload = CLIENT, ip: Ip = VIP) -> Route:
    return decide(Target(ip, port), source, mesh, lambda options, _: options[0])


@pytest.mark.parametrize(
    ("host", "is_seen"),
    [
        ("*/*", True),
        ("office/*", True),
        ("office/db.office", True),
        ("*/db.office", True),
        ("*/*.office", True),
        ("./*", False),
        ("~/*", False),
        ("shop/*", False),
        ("office/web.office", False),
        ("office/*.shop", False),
    ],
)
def test_a_host_names_services(host: str, *, is_seen: bool) -> None:
    assert sees(scope(host), CLIENT, DB, 80) is is_seen
    assert sees(scope("shop/none", host), CLIENT, DB, 80) is is_seen


def test_a_dot_is_the_clients_own_namespace() -> None:
    assert sees(scope("./*"), pod("x", "10.0.0.9", "office"), DB, 80)


def test_who_has_a_port_has_it_alone() -> None:
    both = ClientScope(name="s", egress=(EgressHosts(("*/*",)), EgressHosts(("~/*",), 90)))
    assert [sees(both, CLIENT, DB, port) for port in (80, 90)] == [True, False]
    assert [sees(scope("*/*", port=90), CLIENT, DB, port) for port in (80, 90)] == [False, True]


def test_without_words_everything_is_seen() -> None:
    assert sees(None, CLIENT, DB, 80)
    assert sees(ClientScope(name="s"), CLIENT, DB, 80)
    assert not sees(ClientScope(name="s", egress=()), CLIENT, DB, 80)


def test_what_is_not_seen_is_reached_as_if_nobody_had_registered_it() -> None:
    mesh = mesh_of(scope("./*"))
    assert route(mesh) == Direct(ip=VIP, port=80)
    assert isinstance(route(mesh, source=pod("x", "10.0.0.9", "office")), Tunnel), "of another namespace"
    assert isinstance(route(mesh, ip=SERVER.addresses[0]), Tunnel), "a pod's own address stays what it is"


def test_or_refused_where_nothing_else_may_be_reached() -> None:
    found = route(mesh_of(scope("./*", is_registry_only=True)))
    assert isinstance(found, Refuse)
    assert (found.reason, found.service) == (Reason.UNKNOWN_DESTINATION, None)
    assert "Sidecar shop/s does not show office/db.office" in found.detail
    assert isinstance(route(mesh_of(scope("office/*", is_registry_only=True))), Tunnel)


@pytest.mark.parametrize(
    ("extensions", "is_refused"),
    [
        ((), False),
        ((MeshTraffic(is_registry_only=True),), True),
        ((MeshTraffic(is_registry_only=True), ClientScopes(namespace="shop", scopes=(scope("*/*"),))), False),
        ((MeshTraffic(is_registry_only=True), ClientScopes(namespace="shop", scopes=(scope("*/*", a="b"),))), True),
        (
            (
                MeshTraffic(is_registry_only=True),
                ClientScopes(namespace="shop", scopes=(scope("*/*", a="b"),)),
                WorkloadLabels(uid="client", labels={"a": "b"}),
            ),
            False,
        ),
        ((ClientScopes(namespace="", scopes=(scope("*/*", is_registry_only=True),)),), True),
    ],
)
def test_whether_strangers_may_be_reached_is_each_clients_own(extensions: tuple[Any, ...], *, is_refused: bool) -> None:
    mesh = Mesh()
    mesh.apply(Changes(workloads=(CLIENT,), extensions=extensions))
    assert isinstance(route(mesh, ip=Ip("192.0.2.1")), Refuse) is is_refused
    assert mesh.is_registry_only(CLIENT) is is_refused


def test_of_two_services_at_one_address_the_one_that_is_seen() -> None:
    mesh = mesh_of(scope("*/web"))
    mesh.apply(Changes(services=(service("web", "away"),), workloads=(pod("web", "10.0.1.2", "away", "away/web"),)))
    found = route(mesh)
    assert isinstance(found, Tunnel)
    assert found.host == "web"


def test_nobody_waits_for_the_name_for_a_service_that_is_not_seen() -> None:
    led = TcpRoute((Destination(service=DB.key, weight=1),), (TcpMatch(server_names=("a",)),))
    traffic = (ServiceTraffic(service=DB.key, tls_routes=(led,)),)
    for host, names in (("./*", ()), ("*/*", ("a",))):
        assert server_names(Target(VIP, 80), CLIENT, mesh_of(scope(host), extensions=traffic)) == names


@pytest.mark.parametrize(
    ("scopes", "is_drawn"),
    [
        pytest.param((), True, id="nothing said"),
        pytest.param((scope("office/*"),), True, id="everybody sees it"),
        pytest.param((scope("./*"),), False, id="nobody does"),
        pytest.param((scope("./*", app="other"),), False, id="one of two does"),
    ],
)
def test_in_connect_a_service_is_drawn_only_if_every_pod_sees_it(
    scopes: tuple[ClientScope, ...], *, is_drawn: bool
) -> None:
    mesh = mesh_of(*scopes, extensions=(WorkloadLabels(uid="other", labels={"app": "other"}),))
    sources = (CLIENT, OTHER)
    assert bool(lots_of(DB.key, mesh, sources)) is is_drawn
    before = basis_of(DB.key, mesh, sources)
    mesh.apply(Changes(extensions=(ClientScopes(namespace="shop", scopes=(scope("*/none"),)),)))
    assert basis_of(DB.key, mesh, sources) != before
