# SPDX-License-Identifier: Apache-2.0
"""A Service is drawn early only where the proxy would do the same, over all endpoints, with their shares."""

from collections import Counter
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.mesh import Changes, Mesh
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
from nodeagent.routing.candidates import Candidates
from nodeagent.routing.draws import MOST_LOTS, Lots, basis_of, service_lots, shares
from nodeagent.routing.route import Target

HTTP = (ServicePort(Port(80), 8080),)
KEY = "shop/s"
VIP = Ip("10.96.0.1")


def pod(name: str, *addresses: str, node: str = "here", **fields: Any) -> Workload:
    fields.setdefault("protocol", TunnelProtocol.HBONE)
    return Workload(uid=name, name=name, namespace="shop", addresses=tuple(map(Ip, addresses)), node=node, **fields)


def endpoint(name: str, *addresses: str, **fields: Any) -> Workload:
    return pod(name, *addresses, services={KEY: HTTP}, **fields)


def service(*vips: str, **fields: Any) -> Service:
    fields.setdefault("ports", HTTP)
    return Service(
        name="s", namespace="shop", hostname="s", vips=tuple(Vip("", Ip(vip)) for vip in vips or (VIP,)), **fields
    )


CLIENT = pod("client", "10.0.0.1", "fd00::1")
NEAR = endpoint("near", "10.0.0.2", "fd00::2")
FAR = endpoint("far", "10.0.1.2", "fd00:1::2", node="there")


def lots(*values: Workload | Service, sources: tuple[Workload, ...] = (CLIENT, NEAR)) -> list[Lots]:
    mesh = Mesh()
    mesh.apply(
        Changes(
            services=tuple(value for value in values if isinstance(value, Service)),
            workloads=tuple(value for value in values if isinstance(value, Workload)),
        )
    )
    return list(service_lots(mesh, sources, {ip for source in sources for ip in source.addresses}))


def test_all_endpoints_wherever_they_run_by_the_family_that_was_dialled() -> None:
    found = lots(service("10.96.0.1", "fd00:96::1"), CLIENT, NEAR, FAR)
    assert found == [
        Lots(Target(VIP, 80), (Target(Ip("10.0.0.2"), 8080), Target(Ip("10.0.1.2"), 8080))),
        Lots(Target(Ip("fd00:96::1"), 80), (Target(Ip("fd00::2"), 8080), Target(Ip("fd00:1::2"), 8080))),
    ]


def test_a_plain_text_endpoint_is_one_too() -> None:
    plain = endpoint("plain", "10.0.1.3", node="there", protocol=TunnelProtocol.TCP)
    (found,) = lots(service(), CLIENT, NEAR, plain)
    assert Target(Ip("10.0.1.3"), 8080) in found.endpoints


def test_weights_and_health_count() -> None:
    heavy = endpoint("far", "10.0.1.2", node="there", capacity=6)
    ill = endpoint("ill", "10.0.1.9", node="there", is_healthy=False)
    light = endpoint("near", "10.0.0.2", capacity=2)
    (found,) = lots(service(), CLIENT, light, heavy, ill, sources=(CLIENT, light))
    assert Counter(end.ip for end in found.endpoints) == {"10.0.0.2": 1, "10.0.1.2": 3}


def test_locality_is_the_nodes() -> None:
    balancing = LoadBalancing(mode=BalancingMode.FAILOVER, scopes=(Scope.NODE,))
    (found,) = lots(service(balancing=balancing), CLIENT, NEAR, FAR)
    assert found.endpoints == (Target(Ip("10.0.0.2"), 8080),)


@pytest.mark.parametrize(
    ("changed", "more"),
    [
        pytest.param(service(waypoint=GatewayAddress(Port(15008), ip=Ip("10.0.0.9"))), (), id="behind a waypoint"),
        pytest.param(service(balancing=LoadBalancing(mode=BalancingMode.PASSTHROUGH)), (), id="passthrough"),
        pytest.param(service(subject_alt_names=("spiffe://td/ns/a/sa/b",)), (), id="others may answer by its name"),
        pytest.param(service(ports=()), (), id="no port"),
        pytest.param(
            service(),
            (endpoint("wp", "10.0.1.9", waypoint=GatewayAddress(Port(15008), ip=Ip("10.0.0.9"))),),
            id="an endpoint with a waypoint of its own, which its own address leads through",
        ),
        pytest.param(service("fd00:96::1"), (endpoint("four", "10.0.1.9"),), id="an endpoint of the other family"),
        pytest.param(service("10.0.0.2"), (), id="its address is a pod's"),
        pytest.param(service(), (endpoint("outside", hostname="db.example"),), id="an endpoint known by its name"),
    ],
)
def test_what_the_proxy_must_see_is_left_to_it(changed: Service, more: tuple[Workload, ...]) -> None:
    assert lots(changed, CLIENT, NEAR, *more) == []


def test_a_service_that_has_nobody_here_is_left_alone() -> None:
    assert lots(service(), CLIENT, FAR, sources=(CLIENT,)) == []
    ill = endpoint("near", "10.0.0.2", is_healthy=False)
    assert lots(service(), CLIENT, ill, FAR, sources=(CLIENT, ill)) == []


WAYPOINT = GatewayAddress(Port(15008), ip=Ip("10.0.0.9"))


@pytest.mark.parametrize("behind", ["the Service", "an endpoint"])
def test_that_the_waypoint_itself_would_not_go_through_it_makes_no_way_around_it(behind: str) -> None:
    """To its own instances the Service is as any other; all other pods of the node must meet it."""
    waypoint = pod("waypoint", "10.0.0.9")
    changed = service(waypoint=WAYPOINT) if behind == "the Service" else service()
    near = NEAR if behind == "the Service" else endpoint("near", "10.0.0.2", waypoint=WAYPOINT)
    assert lots(changed, CLIENT, near, waypoint, sources=(CLIENT, near, waypoint)) == []
    assert lots(changed, near, waypoint, sources=(near, waypoint)) == []


def test_that_another_service_has_the_same_address_in_one_namespace_leaves_it_to_the_proxy() -> None:
    stranger = Workload(
        uid="x", name="x", namespace="other", node="here", addresses=(Ip("10.0.0.7"),), protocol=TunnelProtocol.HBONE
    )
    other = msgspec.structs.replace(service(), namespace="other")
    assert len(lots(service(), CLIENT, NEAR, stranger, sources=(CLIENT, NEAR, stranger))) == 1
    assert lots(service(), other, CLIENT, NEAR, stranger, sources=(CLIENT, NEAR, stranger)) == []


def _bases(*steps: Workload | Service | str, sources: tuple[Workload, ...] = (CLIENT, NEAR)) -> list[bool]:
    """Whether what the lots of the Service are made from is another after each step than before it."""
    mesh = Mesh()
    mesh.apply(Changes(services=(service(),), workloads=(CLIENT, NEAR, FAR)))
    found = [basis_of(KEY, mesh, sources)]
    for step in steps:
        match step:
            case Service():
                mesh.apply(Changes(services=(step,)))
            case Workload():
                mesh.apply(Changes(workloads=(step,)))
            case str():
                mesh.apply(Changes(removed_services=(step,)))
        found.append(basis_of(KEY, mesh, sources))
    return [before != after for before, after in pairwise(found)]


def test_what_lots_are_made_from() -> None:
    elsewhere = Service(name="o", namespace="shop", hostname="o", vips=(Vip("", Ip("10.96.9.9")),))
    assert _bases(pod("other", "10.0.3.3"), elsewhere) == [False, False]
    same_address = Service(name="o", namespace="shop", hostname="o", vips=(Vip("", VIP),))
    assert _bases(same_address) == [True]
    block = Vip("", block=Cidr.parse("10.96.0.0/16"))
    assert _bases(Service(name="o", namespace="shop", hostname="o", vips=(block,))) == [True]
    assert _bases(pod("thief", "10.0.0.2")) == [True], "an endpoint's address is another's"
    assert _bases(pod("thief", VIP)) == [True], "the Service's is"
    assert _bases(endpoint("far", "10.0.1.2", node="there", is_healthy=False), service(ports=()), KEY) == [True] * 3


def test_another_view_is_another_basis() -> None:
    mesh = Mesh()
    mesh.apply(Changes(services=(service(),), workloads=(CLIENT, NEAR)))
    second = pod("second", "10.0.0.5")
    assert basis_of(KEY, mesh, (CLIENT, NEAR)) == basis_of(KEY, mesh, (CLIENT, NEAR, second))
    foreign = msgspec.structs.replace(second, namespace="other")
    assert basis_of(KEY, mesh, (CLIENT, NEAR)) != basis_of(KEY, mesh, (CLIENT, NEAR, foreign))


def test_a_name_that_only_some_namespaces_know_is_left_alone() -> None:
    stranger = Workload(
        uid="x", name="x", namespace="other", node="here", addresses=(Ip("10.0.0.7"),), protocol=TunnelProtocol.HBONE
    )
    private = service(is_namespace_private=True)
    assert len(lots(private, CLIENT, NEAR)) == 1
    assert lots(private, CLIENT, NEAR, stranger, sources=(CLIENT, NEAR, stranger)) == []


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=200))
def test_shares_are_those_of_the_weights(weights: list[int]) -> None:
    found = shares(Candidates((), tuple(accumulate(weights))))
    assert len(found) == len(weights)
    assert min(found) >= 1
    assert sum(found) <= MOST_LOTS + len(weights)
    for weight, times in zip(weights, found, strict=True):
        wanted = weight / sum(weights)
        assert abs(times / sum(found) - wanted) <= 1 / MOST_LOTS * (1 + len(weights) * wanted) + 1e-9


@given(st.lists(st.integers(1, 20), min_size=1, max_size=100))
def test_small_weights_are_exact(weights: list[int]) -> None:
    found = shares(Candidates((), tuple(accumulate(weights))))
    assert all(a * weights[0] == found[0] * b for a, b in zip(found, weights, strict=True))


def test_more_endpoints_than_lots_have_one_each() -> None:
    count = MOST_LOTS + 10
    assert shares(Candidates((), tuple(range(1, count + 1)))) == [1] * count
