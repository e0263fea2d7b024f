# SPDX-License-Identifier: Apache-2.0
"""What is encoded here is what an agent decodes: the two sides are written apart, and checked against each other."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from nodeagent.controlplane.encode import encode_policy, encode_service, encode_workload
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.hints import AppProtocol, IpFamilies, ServiceHints, WorkloadHints
from nodeagent.controlplane.objects import MeshObject
from nodeagent.controlplane.translate import translate
from nodeagent.controlplane.waypoints import Binding, Weighted
from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.policy import (
    Action,
    Clause,
    Match,
    MatchKind,
    Policy,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
)
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
from nodeagent.proto import workload_pb2
from nodeagent.xds.decode import decode_resource
from nodeagent.xds.delta import Kind

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]
ROOT = Path(__file__).parents[3]
INPUTS = [
    *sorted((ROOT / "tests/data/istiod").glob("*/input.yaml")),
    *sorted((ROOT / "examples/mesh.d").glob("*.yaml")),
]

WORKLOAD = Workload(
    uid="c1//Pod/shop/web-0",
    name="web-0",
    namespace="shop",
    addresses=(Ip("10.0.0.1"), Ip("fd00::1")),
    network="net-1",
    protocol=TunnelProtocol.HBONE,
    trust_domain="corp.example",
    service_account="web",
    node="node-a",
    cluster="c1",
    canonical_name="web",
    canonical_revision="v1",
    workload_name="web",
    native_tunnel=True,
    services={
        "shop/web.shop.svc.cluster.local": (ServicePort(Port(80), 8080), ServicePort(Port(81), 81)),
        "shop/none.shop.svc.cluster.local": (),
    },
    policies=("shop/a", "shop/b"),
    is_healthy=False,
    is_host_network=True,
    waypoint=GatewayAddress(Port(15008), service="shop/waypoint.shop.svc.cluster.local"),
    network_gateway=GatewayAddress(Port(15009), network="net-2", ip=Ip("fd00::9")),
    application_tunnel_port=15088,
    region="r",
    zone="z",
    subzone="s",
    capacity=7,
)
SERVICE = Service(
    name="web",
    namespace="shop",
    hostname="web.shop.svc.cluster.local",
    vips=(Vip("net-1", Ip("10.0.0.1")), Vip("net-1", Ip("fd00::1")), Vip("net-1", block=Cidr.parse("10.9.0.0/16"))),
    waypoint=GatewayAddress(Port(15008), network="net-1", ip=Ip("10.0.0.7")),
    ports=(ServicePort(Port(80), 8080), ServicePort(Port(81), 0)),
    subject_alt_names=("spiffe://cluster.local/ns/shop/sa/web",),
    balancing=LoadBalancing(BalancingMode.FAILOVER, (Scope.NETWORK, Scope.ZONE), takes_unhealthy=True),
    is_canonical=True,
    is_namespace_private=True,
)
POLICY = Policy(
    name="p",
    namespace="shop",
    scope=PolicyScope.WORKLOAD_SELECTOR,
    action=Action.DENY,
    is_dry_run=True,
    rules=(
        Rule(),
        Rule((Clause(), Clause((Match(),)))),
        Rule(
            (
                Clause(
                    (
                        Match(
                            namespaces=(StringMatch(MatchKind.PRESENCE), StringMatch(MatchKind.PREFIX, "a-")),
                            not_namespaces=(StringMatch(MatchKind.SUFFIX, "-b"),),
                            principals=(StringMatch(MatchKind.EXACT, "cluster.local/ns/a/sa/b"),),
                            not_principals=(StringMatch(MatchKind.PRESENCE),),
                            service_accounts=(ServiceAccountMatch("a", "b.c"),),
                            not_service_accounts=(ServiceAccountMatch("a", "d"),),
                            source_ips=(Cidr.parse("10.0.0.0/8"), Cidr.parse("fd00::/8")),
                            not_source_ips=(Cidr.parse("10.1.2.3"),),
                            destination_ips=(Cidr.parse("0.0.0.0/0"),),
                            not_destination_ips=(Cidr.parse("::/0"),),
                            destination_ports=(Port(1), Port(65535)),
                            not_destination_ports=(Port(80),),
                        ),
                        Match(destination_ports=(Port(443),)),
                    )
                ),
            )
        ),
    ),
)


@pytest.mark.parametrize("workload", [WORKLOAD, Workload(uid="u", name="n", namespace="ns")])
def test_a_workload_comes_back(workload: Workload) -> None:
    assert decode_resource(Kind.ADDRESS, workload.uid, encode_workload(workload).value) == workload


@pytest.mark.parametrize("service", [SERVICE, Service(name="n", namespace="ns", hostname="h")])
def test_a_service_comes_back(service: Service) -> None:
    assert decode_resource(Kind.ADDRESS, service.key, encode_service(service, ServiceHints()).value) == service


@pytest.mark.parametrize(
    "policy", [POLICY, Policy(name="n", namespace="ns", scope=PolicyScope.GLOBAL, action=Action.ALLOW)]
)
def test_a_policy_comes_back(policy: Policy) -> None:
    assert decode_resource(Kind.AUTHORIZATION, policy.key, encode_policy(policy).value) == policy


def with_canonical_blocks(policy: Policy) -> Policy:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Policy)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_agent_takes_everything_that_is_published(read: Read, path: Path) -> None:
    objects, _ = read(path.read_text())
    translation = translate(objects)
    for key, policy in translation.policies.items():
        assert decode_resource(Kind.AUTHORIZATION, key, encode_policy(policy).value) == with_canonical_blocks(policy)
    for key, service in translation.services.items():
        resource = encode_service(service, translation.hints[key])
        assert decode_resource(Kind.ADDRESS, key, resource.value) == service
    for uid, workload in translation.workloads.items():
        decoded = decode_resource(Kind.ADDRESS, uid, encode_workload(workload).value)
        # Of what is no pod the account may be unknown, of a gateway the cluster: an agent reads these as the defaults.
        assert decoded == msgspec.structs.replace(
            workload,
            service_account=workload.service_account or "default",
            cluster=workload.cluster or "Kubernetes",
        )


def test_hints_are_on_the_wire() -> None:
    canary = Weighted(GatewayAddress(Port(15008), service="shop/canary"), 10)
    hints = ServiceHints((AppProtocol.HTTP2, AppProtocol.TLS), IpFamilies.DUAL, wants_ingress=True, weighted=(canary,))
    service = workload_pb2.Address.FromString(encode_service(SERVICE, hints).value).service
    assert [port.app_protocol for port in service.ports] == [workload_pb2.HTTP2, workload_pb2.TLS]
    assert (service.ip_families, service.ingress_use_waypoint) == (workload_pb2.DUAL, True)
    assert [(one.destination.hostname.hostname, one.weight) for one in service.weighted_waypoints] == [("canary", 10)]


def test_a_weight_of_one_is_told_if_it_is_written() -> None:
    workload = Workload(uid="u", name="n", namespace="ns")
    for is_written in (False, True):
        value = encode_workload(workload, WorkloadHints(has_capacity=is_written)).value
        assert workload_pb2.Address.FromString(value).workload.HasField("capacity") == is_written


@pytest.mark.parametrize(
    "binding", [Binding(speaks_proxy_protocol=True, port=0), Binding(speaks_proxy_protocol=False, port=9)]
)
def test_a_binding_is_told_as_it_is_written(binding: Binding) -> None:
    workload = Workload(uid="u", name="n", namespace="ns")
    tunnel = workload_pb2.Address.FromString(
        encode_workload(workload, WorkloadHints(binding=binding)).value
    ).workload.application_tunnel
    assert (bool(tunnel.protocol), tunnel.port) == (binding.speaks_proxy_protocol, binding.port)


def test_aliases_are_addresses_and_blocks() -> None:
    assert encode_service(SERVICE, ServiceHints()).aliases == ("net-1/10.0.0.1", "net-1/fd00::1", "net-1/10.9.0.0/16")


def test_the_version_is_of_the_content() -> None:
    assert encode_workload(WORKLOAD).version == encode_workload(WORKLOAD).version
    assert encode_policy(POLICY).version != encode_policy(msgspec.structs.replace(POLICY, is_dry_run=False)).version
