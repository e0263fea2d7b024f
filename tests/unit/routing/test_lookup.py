# SPDX-License-Identifier: Apache-2.0
"""Names and addresses to Services, as a client of one namespace sees them."""

import pytest

from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.workload import GatewayAddress, Service, ServicePort, Vip, Workload
from nodeagent.routing.lookup import find_gateway, find_hostname, find_service

ADDRESS = Ip("10.9.0.1")


def service(namespace: str, at: str = ADDRESS, *, canonical: bool = False, private: bool = False) -> Service:
    vip = Vip("", block=Cidr.parse(at)) if "/" in at else Vip("", Ip(at))
    return Service(
        name="s",
        namespace=namespace,
        hostname="s.example",
        vips=(vip,),
        is_canonical=canonical,
        is_namespace_private=private,
    )


def mesh_of(*services: Service, workloads: tuple[Workload, ...] = ()) -> Mesh:
    mesh = Mesh()
    mesh.apply(Changes(services=services, workloads=workloads))
    return mesh


@pytest.mark.parametrize(
    ("services", "namespace"),
    [
        pytest.param([], None, id="none"),
        pytest.param([service("a")], "a", id="one of another namespace"),
        pytest.param([service("a"), service("b")], "a", id="the first, nothing else tells"),
        pytest.param([service("a"), service("b", canonical=True)], "b", id="the canonical one"),
        pytest.param([service("a", canonical=True), service("shop")], "shop", id="the client's own namespace first"),
        pytest.param([service("a", private=True)], None, id="private to another namespace"),
        pytest.param([service("a", private=True, canonical=True), service("b")], "b", id="private ones do not compete"),
        pytest.param([service("shop", private=True)], "shop", id="private to the client's own"),
    ],
)
def test_of_several_services_the_client_sees_one(services: list[Service], namespace: str | None) -> None:
    mesh = mesh_of(*services)
    by_address = find_service(mesh, "", ADDRESS, "shop")
    by_name = find_hostname(mesh, "s.example", "shop")
    assert (by_address.namespace if by_address else None) == namespace
    assert by_name == by_address


@pytest.mark.parametrize(
    ("services", "namespace"),
    [
        pytest.param([service("a", "10.0.0.0/8"), service("b", "10.9.0.0/16")], "b", id="the longer prefix"),
        pytest.param(
            [service("shop", "10.0.0.0/8"), service("b", "10.9.0.0/16")], "shop", id="the own namespace first"
        ),
        pytest.param([service("a", "10.9.0.0/16"), service("b", "10.9.0.0/16", canonical=True)], "b", id="canonical"),
        pytest.param([service("a", "10.0.0.0/8"), service("b", "10.9.0.0/16", private=True)], "a", id="hidden"),
        pytest.param([service("shop", "10.0.0.0/8"), service("b")], "b", id="the exact address before every block"),
        pytest.param([service("a", "10.0.0.0/8"), service("b", private=True)], "a", id="unless it is hidden"),
        pytest.param([service("a", "11.0.0.0/8")], None, id="no block"),
        pytest.param([service("a", "::/0")], None, id="a block of the other family"),
    ],
)
def test_blocks_are_ranked(services: list[Service], namespace: str | None) -> None:
    found = find_service(mesh_of(*services), "", ADDRESS, "shop")
    assert (found.namespace if found else None) == namespace


def test_another_network_has_other_services() -> None:
    assert find_service(mesh_of(service("a"), service("b", "10.0.0.0/8")), "far", ADDRESS, "shop") is None


WAYPOINT = Workload(uid="w", name="w", namespace="shop", addresses=(Ip("10.0.2.1"),), network="n")


@pytest.mark.parametrize(
    ("gateway", "found"),
    [
        (GatewayAddress(Port(15008), service="a/s.example"), "s"),
        (GatewayAddress(Port(15008), service="b/s.example"), None),
        (GatewayAddress(Port(15008), network="", ip=ADDRESS), "s"),
        (GatewayAddress(Port(15008), network="n", ip=Ip("10.0.2.1")), "w"),
        (GatewayAddress(Port(15008), network="", ip=Ip("10.0.2.1")), None),
    ],
)
def test_a_gateway_is_found_by_name_or_by_address_in_its_network(gateway: GatewayAddress, found: str | None) -> None:
    value = find_gateway(mesh_of(service("a"), workloads=(WAYPOINT,)), gateway, "shop")
    assert (value.name if value else None) == found


@pytest.mark.parametrize(
    ("services", "port", "namespace"),
    [
        pytest.param([], 443, "out", id="by what the name means"),
        pytest.param([], 80, None, id="for its own ports"),
        pytest.param([], 0, None, id="not where nobody says which port"),
        pytest.param([service("a")], 443, "a", id="an exact address goes before"),
        pytest.param([service("a", private=True)], 443, "out", id="unless it is hidden"),
        pytest.param([service("shop", "10.9.0.0/16")], 443, "out", id="a block comes after"),
        pytest.param([service("shop", "10.9.0.0/16")], 80, "shop", id="and has the other ports"),
    ],
)
def test_a_name_stands_between_addresses_and_blocks(services: list[Service], port: int, namespace: str | None) -> None:
    named = Service(name="o", namespace="out", hostname="o.example", ports=(ServicePort(Port(443), 443),))
    host = Workload(uid="o", name="o", namespace="out", hostname="o.example", services={named.key: ()})
    mesh = mesh_of(*services, named, workloads=(host,))
    mesh.apply(Changes(names=(ResolvedName(hostname="o.example", addresses=(ADDRESS,)),)))
    found = find_service(mesh, "", ADDRESS, "shop", port=port)
    assert (found.namespace if found else None) == namespace
