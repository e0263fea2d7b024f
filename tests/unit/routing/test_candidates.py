# SPDX-License-Identifier: Apache-2.0
"""Endpoints that may serve a client: health, reach, ports, scopes, weights, and that remembering changes nothing."""

from typing import Any

import msgspec
import pytest

from nodeagent.model.address import Ip, Port
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.traffic import (
    Distribution,
    LocalityBalancing,
    OutlierDetection,
    PortPolicy,
    ServiceTraffic,
    TrafficPolicy,
    WorkloadLabels,
)
from nodeagent.model.workload import BalancingMode, LoadBalancing, Scope, Service, ServicePort, Workload
from nodeagent.routing.candidates import Balancer, candidates, lists_port, obstacle, target_port, usable_addresses

FOUR = ResolvedName(hostname="four", addresses=(Ip("203.0.113.7"),))
GONE = ResolvedName(hostname="gone", error="there is no such name")
CLIENT = Workload(
    uid="client",
    name="client",
    namespace="shop",
    network="n",
    region="r",
    zone="z",
    subzone="s",
    node="here",
    cluster="c",
)


def endpoint(name: str, **fields: Any) -> Workload:
    """Beside the client unless said otherwise."""
    near = {"network": "n", "region": "r", "zone": "z", "subzone": "s", "node": "here", "cluster": "c"}
    given = {"addresses": (Ip("10.0.0.1"),), "services": {"shop/s": ()}} | near | fields
    return Workload(uid=name, name=name, namespace="shop", **given)


def service(**fields: Any) -> Service:
    return Service(name="s", namespace="shop", hostname="s", **{"ports": (ServicePort(Port(80), 8080),)} | fields)


def mesh_of(changes: Changes = Changes()) -> Mesh:  # noqa: B008 - frozen
    """That knows what the names mean, too."""
    mesh = Mesh()
    mesh.apply(Changes(names=(FOUR, GONE)))
    mesh.apply(changes)
    return mesh


def names(backend: Service, *endpoints: Workload, port: int = 80) -> list[str]:
    mesh = mesh_of(Changes(services=(backend,), workloads=endpoints))
    return [found.name for found in candidates(backend, port, CLIENT, mesh).endpoints]


@pytest.mark.parametrize(
    ("backend", "fields", "words"),
    [
        (service(), {}, None),
        (service(), {"is_healthy": False}, "not ready"),
        (service(balancing=LoadBalancing(takes_unhealthy=True)), {"is_healthy": False}, None),
        (service(), {"network": "far"}, "on network 'far', which needs a gateway"),
        (service(), {"capacity": 0}, "of weight 0"),
        (service(), {"addresses": ()}, "without a usable address"),
        (service(), {"addresses": (), "hostname": "h"}, "known only by the name h, which is not resolved yet"),
        (service(), {"addresses": (), "hostname": "four"}, None),
        (
            service(prefers_ipv6=True),
            {"addresses": (), "hostname": "four"},
            "known only by the name four, which has no address of the family that the service asks for",
        ),
        (
            service(),
            {"addresses": (), "hostname": "gone"},
            "known only by the name gone, which cannot be resolved: there is no such name",
        ),
        (service(), {"hostname": "gone"}, None),
        (service(prefers_ipv6=True), {}, "without a usable address"),
        (service(prefers_ipv6=True), {"addresses": (Ip("10.0.0.1"), Ip("fd00::1"))}, None),
        (service(prefers_ipv6=False), {"addresses": (Ip("fd00::1"),)}, "without a usable address"),
        (service(ports=(ServicePort(Port(80), 0),)), {}, "without port 80"),
        (service(ports=(ServicePort(Port(80), 0),)), {"services": {"shop/s": (ServicePort(Port(80), 1),)}}, None),
        (service(ports=()), {"application_tunnel_port": 15088}, None),
    ],
)
def test_what_keeps_an_endpoint_from_serving(backend: Service, fields: dict[str, Any], words: str | None) -> None:
    candidate = endpoint("e", **fields)
    assert obstacle(backend, 80, CLIENT, candidate, mesh_of()) == words
    assert names(backend, candidate) == ([] if words else ["e"])


@pytest.mark.parametrize(
    ("own", "shared", "tunnel", "port"),
    [
        ({}, (), 0, 0),
        ({}, (ServicePort(Port(80), 8080),), 0, 8080),
        ({"shop/s": (ServicePort(Port(80), 9090),)}, (ServicePort(Port(80), 8080),), 0, 9090),
        ({"shop/s": (ServicePort(Port(81), 9090),)}, (ServicePort(Port(80), 8080),), 0, 8080),
        ({"shop/other": (ServicePort(Port(80), 9090),)}, (ServicePort(Port(80), 0),), 0, 0),
        ({}, (ServicePort(Port(81), 8080),), 0, 0),
        ({}, (), 15088, 80),
    ],
)
def test_the_port_behind_a_services_port(
    own: dict[str, tuple[ServicePort, ...]], shared: tuple[ServicePort, ...], tunnel: int, port: int
) -> None:
    found = target_port(service(ports=shared), 80, endpoint("e", services=own, application_tunnel_port=tunnel))
    assert found == port


def test_a_listed_port_may_be_a_named_one() -> None:
    assert lists_port(service(ports=(ServicePort(Port(80), 0),)), 80)
    assert not lists_port(service(), 8080)


def test_the_usable_addresses_are_those_of_the_services_family() -> None:
    both = endpoint("e", addresses=(Ip("10.0.0.1"), Ip("fd00::1")))
    mesh = mesh_of()
    assert list(usable_addresses(service(), both, mesh)) == ["10.0.0.1", "fd00::1"]
    assert list(usable_addresses(service(prefers_ipv6=True), both, mesh)) == ["fd00::1"]
    assert list(usable_addresses(service(prefers_ipv6=False), both, mesh)) == ["10.0.0.1"]
    assert list(usable_addresses(service(), endpoint("e", addresses=(), hostname="four"), mesh)) == ["203.0.113.7"]


BESIDE = endpoint("beside")
OTHER_NODE = endpoint("node", node="far")
OTHER_SUBZONE = endpoint("subzone", node="far", subzone="far")
OTHER_ZONE = endpoint("zone", node="far", subzone="far", zone="far")
OTHER_REGION = endpoint("region", node="far", subzone="far", zone="far", region="far")
SAME_NAMES_ELSEWHERE = endpoint("namesake", region="far")
ALL = [OTHER_REGION, OTHER_ZONE, OTHER_SUBZONE, OTHER_NODE, BESIDE]
CLOSE = (Scope.NETWORK, Scope.REGION, Scope.ZONE)
SAME_NODE = (*CLOSE, Scope.SUBZONE, Scope.NODE)


@pytest.mark.parametrize(
    ("mode", "scopes", "there", "expected"),
    [
        (BalancingMode.STANDARD, SAME_NODE, ALL, ["region", "zone", "subzone", "node", "beside"]),
        (BalancingMode.FAILOVER, (), ALL, ["region", "zone", "subzone", "node", "beside"]),
        (BalancingMode.FAILOVER, CLOSE, ALL, ["subzone", "node", "beside"]),
        (BalancingMode.FAILOVER, CLOSE, ALL[:2], ["zone"]),
        (BalancingMode.FAILOVER, CLOSE, ALL[:1], ["region"]),
        (BalancingMode.FAILOVER, SAME_NODE, ALL, ["beside"]),
        (BalancingMode.FAILOVER, SAME_NODE, ALL[:4], ["node"]),
        (BalancingMode.FAILOVER, (Scope.REGION, Scope.NODE), [SAME_NAMES_ELSEWHERE, OTHER_NODE], ["node"]),
        (BalancingMode.FAILOVER, (Scope.CLUSTER,), [endpoint("a", cluster="x"), endpoint("b")], ["b"]),
        (BalancingMode.FAILOVER, CLOSE, [], []),
        (BalancingMode.STRICT, (Scope.NODE,), ALL, ["beside"]),
        (BalancingMode.STRICT, (Scope.NODE,), ALL[:4], []),
        (BalancingMode.STRICT, (Scope.REGION, Scope.ZONE), ALL, ["subzone", "node", "beside"]),
        (BalancingMode.STRICT, (), ALL, ["region", "zone", "subzone", "node", "beside"]),
        (BalancingMode.STRICT, (), [], []),
    ],
)
def test_how_near_an_endpoint_must_be(
    mode: BalancingMode, scopes: tuple[Scope, ...], there: list[Workload], expected: list[str]
) -> None:
    assert names(service(balancing=LoadBalancing(mode, scopes)), *there) == expected


def test_an_endpoint_that_cannot_serve_does_not_hold_back_the_spill_over() -> None:
    near_but_ill = endpoint("ill", is_healthy=False)
    assert names(service(balancing=LoadBalancing(BalancingMode.FAILOVER, CLOSE)), near_but_ill, OTHER_ZONE) == ["zone"]


def test_the_weights_are_cumulative() -> None:
    mesh = Mesh()
    mesh.apply(Changes(workloads=(endpoint("a", capacity=2), endpoint("b", capacity=0), endpoint("c", capacity=5))))
    found = candidates(service(), 80, CLIENT, mesh)
    assert ([one.name for one in found.endpoints], found.cumulative) == (["a", "c"], (2, 7))


# ---- remembering -------------------------------------------------------------------------------------------------


@pytest.fixture
def mesh() -> Mesh:
    mesh = Mesh()
    mesh.apply(Changes(services=(service(),), workloads=(endpoint("a"),)))
    return mesh


def test_a_balancer_remembers_until_the_service_or_an_endpoint_changes(mesh: Mesh) -> None:
    balancer = Balancer()
    before = balancer.candidates(service(), 80, CLIENT, mesh)
    mesh.apply(Changes(workloads=(Workload(uid="x", name="x", namespace="x"),)))
    assert balancer.candidates(service(), 80, CLIENT, mesh) is before

    mesh.apply(Changes(workloads=(endpoint("b"),)))
    assert [one.name for one in balancer.candidates(service(), 80, CLIENT, mesh).endpoints] == ["a", "b"]
    mesh.apply(Changes(removed_workloads=("a",)))
    assert [one.name for one in balancer.candidates(service(), 80, CLIENT, mesh).endpoints] == ["b"]
    healed = service(prefers_ipv6=True)
    mesh.apply(Changes(services=(healed,)))
    assert balancer.candidates(healed, 80, CLIENT, mesh).endpoints == ()


@pytest.mark.parametrize("attribute", ["network", "region", "zone", "subzone", "node", "cluster"])
def test_a_balancer_keeps_clients_of_different_places_apart(attribute: str, mesh: Mesh) -> None:
    scope = {"network": "NETWORK", "cluster": "CLUSTER"}.get(attribute, attribute.upper())
    strict = service(balancing=LoadBalancing(BalancingMode.STRICT, (Scope[scope],)))
    balancer = Balancer()
    here = balancer.candidates(strict, 80, CLIENT, mesh)
    place = {name: getattr(CLIENT, name) for name in ("network", "region", "zone", "subzone", "node", "cluster")}
    stranger = Workload(uid="s", name="s", namespace="shop", **place | {attribute: "elsewhere"})
    assert len(here.endpoints) == 1
    assert balancer.candidates(strict, 80, stranger, mesh).endpoints == ()


def test_a_balancers_memory_is_bounded(mesh: Mesh) -> None:
    balancer = Balancer()
    for port in range(Balancer._LIMIT + 10):
        balancer.candidates(service(), port, CLIENT, mesh)
    assert len(balancer._known) == 10


# ---- by locality -----------------------------------------------------------------------------------------------------


def located(locality: LocalityBalancing, *, counts: bool = True, **labels: dict[str, str]) -> Changes:
    outlier = OutlierDetection(failures=1, base_ejection_seconds=1, max_ejection_percent=100, interval_seconds=1)
    policy = TrafficPolicy(locality=locality, outlier=outlier if counts else None)
    traffic = ServiceTraffic(service="shop/s", policies=(PortPolicy(0, policy),))
    return Changes(extensions=(traffic, *(WorkloadLabels(uid=uid, labels=given) for uid, given in labels.items())))


NEAR, FAR = endpoint("near"), endpoint("far", zone="elsewhere")
PREFERS_CLOSE = service(balancing=LoadBalancing(BalancingMode.FAILOVER, (Scope.ZONE,)))
NODE_ONLY = service(balancing=LoadBalancing(BalancingMode.STRICT, (Scope.ZONE,)))


@pytest.mark.parametrize(
    ("backend", "locality", "counts", "expected"),
    [
        pytest.param(service(), LocalityBalancing(), True, [["near"], ["far"]], id="failover"),
        pytest.param(PREFERS_CLOSE, LocalityBalancing(), True, [["near"], ["far"]], id="it goes before the Service's"),
        pytest.param(NODE_ONLY, LocalityBalancing(), True, [["near"]], id="but not before a strict one"),
        pytest.param(service(), LocalityBalancing(), False, [], id="nobody counts failures"),
        pytest.param(
            service(),
            LocalityBalancing(distributions=(Distribution("r", (("r/elsewhere", 100),)),)),
            False,
            [["far"]],
            id="shared out",
        ),
    ],
)
def test_candidates_in_groups(
    backend: Service, locality: LocalityBalancing, expected: list[list[str]], *, counts: bool
) -> None:
    mesh = Mesh()
    mesh.apply(Changes(services=(backend,), workloads=(NEAR, FAR)))
    mesh.apply(located(locality, counts=counts))
    found = candidates(backend, 80, CLIENT, mesh)
    assert [[one.name for one in group.endpoints] for group in found.groups] == expected
    everyone = [name for group in expected for name in group] or ["near", "far"]
    assert [one.name for one in found.endpoints] == everyone
    assert len(found.cumulative) == len(everyone)


def test_a_balancer_keeps_clients_of_different_labels_apart(mesh: Mesh) -> None:
    mesh.apply(Changes(workloads=(endpoint("b"),)))
    mesh.apply(located(LocalityBalancing(priority_labels=("v",)), a={"v": "1"}, client={"v": "1"}, other={"v": "2"}))
    other = msgspec.structs.replace(CLIENT, uid="other")
    balancer = Balancer()
    for client in (CLIENT, other, CLIENT):
        assert balancer.candidates(mesh.services["shop/s"], 80, client, mesh) == candidates(
            mesh.services["shop/s"], 80, client, mesh
        )
    assert len(balancer.candidates(mesh.services["shop/s"], 80, CLIENT, mesh).groups) == 2


def test_a_remembered_answer_is_not_used_when_a_name_means_something_else() -> None:
    balancer, backend = Balancer(), service()
    mesh = mesh_of(Changes(services=(backend,), workloads=(endpoint("e", addresses=(), hostname="late"),)))
    assert balancer.candidates(backend, 80, CLIENT, mesh).endpoints == ()
    mesh.apply(Changes(names=(ResolvedName(hostname="late", addresses=FOUR.addresses),)))
    assert len(balancer.candidates(backend, 80, CLIENT, mesh).endpoints) == 1
    mesh.apply(Changes(removed_names=("late",)))
    assert balancer.candidates(backend, 80, CLIENT, mesh).endpoints == ()
