# SPDX-License-Identifier: Apache-2.0
"""Services: load balancing, families and protocol hints."""

import pytest

from nodeagent.controlplane.objects import DEFAULT_MESH, Key, Meta, Origin, PortSpec, Service
from nodeagent.controlplane.services import AppProtocol, IpFamilies, translate_service
from nodeagent.model.address import Ip, Port
from nodeagent.model.workload import BalancingMode, LoadBalancing, Scope

ZONE = LoadBalancing(BalancingMode.FAILOVER, (Scope.NETWORK, Scope.REGION, Scope.ZONE))
NODE = LoadBalancing(BalancingMode.FAILOVER, (*ZONE.scopes, Scope.SUBZONE, Scope.NODE))
LOCAL = LoadBalancing(BalancingMode.STRICT, (Scope.NODE,))
ANNOTATION = "networking.istio.io/traffic-distribution"


def meta(**annotations: str) -> Meta:
    return Meta(
        key=Key("Service", "shop", "web"),
        origin=Origin("a.yaml", 1),
        annotations={ANNOTATION: annotations["value"]} if annotations else {},
    )


@pytest.mark.parametrize(
    ("service", "of_namespace", "expected"),
    [
        (Service(meta=meta()), {}, LoadBalancing()),
        (Service(meta=meta(), traffic_distribution="preferclose"), {}, ZONE),
        (Service(meta=meta(), traffic_distribution="prefersamezone"), {}, ZONE),
        (Service(meta=meta(), traffic_distribution="prefersamenode"), {}, NODE),
        (Service(meta=meta(), traffic_distribution="anything"), {ANNOTATION: "PreferClose"}, LoadBalancing()),
        (Service(meta=meta(value="PreferSameNode")), {ANNOTATION: "PreferClose"}, NODE),
        (Service(meta=meta()), {ANNOTATION: "PreferClose"}, ZONE),
        (Service(meta=meta(), is_node_local=True, traffic_distribution="preferclose"), {}, LOCAL),
        (Service(meta=meta(), publishes_not_ready=True), {}, LoadBalancing(takes_unhealthy=True)),
    ],
)
def test_balancing(service: Service, of_namespace: dict[str, str], expected: LoadBalancing) -> None:
    translated, _ = translate_service(service, DEFAULT_MESH, of_namespace)
    assert translated.balancing == expected


@pytest.mark.parametrize(
    ("families", "ips", "expected", "prefers_ipv6"),
    [
        (("IPv4",), (), IpFamilies.IPV4_ONLY, False),
        (("IPv6",), (), IpFamilies.IPV6_ONLY, True),
        (("IPv4", "IPv6"), (), IpFamilies.DUAL, None),
        ((), (), IpFamilies.AUTOMATIC, None),
        ((), (Ip("10.0.0.1"),), IpFamilies.IPV4_ONLY, False),
        ((), (Ip("10.0.0.1"), Ip("fd00::1")), IpFamilies.DUAL, None),
    ],
)
def test_families(
    *,
    families: tuple[str, ...],
    ips: tuple[Ip, ...],
    expected: IpFamilies,
    prefers_ipv6: bool | None,
) -> None:
    service, hints = translate_service(Service(meta=meta(), ip_families=families, ips=ips), DEFAULT_MESH, {})
    assert (hints.ip_families, service.prefers_ipv6) == (expected, prefers_ipv6)
    assert [vip.ip for vip in service.vips] == list(ips)


@pytest.mark.parametrize(
    ("name", "app_protocol", "port", "expected"),
    [
        ("http", "", 80, AppProtocol.HTTP11),
        ("http-admin", "", 80, AppProtocol.HTTP11),
        ("http2", "", 80, AppProtocol.HTTP2),
        ("grpc", "", 80, AppProtocol.GRPC),
        ("grpc-web", "", 80, AppProtocol.HTTP11),
        ("https", "", 443, AppProtocol.TLS),
        ("tls-x", "", 443, AppProtocol.TLS),
        ("tcp-x", "", 80, AppProtocol.TCP),
        ("db", "", 5432, AppProtocol.UNKNOWN),
        ("db", "", 3306, AppProtocol.TCP),
        ("x", "kubernetes.io/h2c", 80, AppProtocol.HTTP2),
        ("x", "kubernetes.io/wss", 80, AppProtocol.TLS),
        ("tcp", "http", 80, AppProtocol.HTTP11),
    ],
)
def test_protocol_hints(name: str, app_protocol: str, port: int, expected: AppProtocol) -> None:
    spec = PortSpec(name, Port(port), port, "", app_protocol)
    _, hints = translate_service(Service(meta=meta(), ports=(spec,)), DEFAULT_MESH, {})
    assert hints.app_protocols == (expected,)
