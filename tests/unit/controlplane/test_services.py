# SPDX-License-Identifier: Apache-2.0
"""Services: load balancing, families and ports."""

import pytest

from nodeagent.controlplane.hints import AppProtocol, IpFamilies
from nodeagent.controlplane.objects import DEFAULT_MESH, Key, Meta, Namespace, Origin, PortSpec, Service
from nodeagent.controlplane.services import translate_service
from nodeagent.controlplane.waypoints import Waypoints
from nodeagent.model.address import Ip, Port
from nodeagent.model.workload import BalancingMode, LoadBalancing, Scope, ServicePort

NO_WAYPOINTS = Waypoints({}, {})
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
        (Service(meta=meta(), traffic_distribution="PreferClose"), {}, ZONE),
        (Service(meta=meta(), traffic_distribution="PreferSameZone"), {}, ZONE),
        (Service(meta=meta(), traffic_distribution="PreferSameNode"), {}, NODE),
        (Service(meta=meta(), traffic_distribution="anything"), {ANNOTATION: "PreferClose"}, ZONE),
        (Service(meta=meta(), traffic_distribution="preferclose"), {}, LoadBalancing()),
        (Service(meta=meta(value="anything")), {ANNOTATION: "PreferClose"}, LoadBalancing()),
        (Service(meta=meta(value="")), {ANNOTATION: "preferclose"}, ZONE),
        (Service(meta=meta(value="PreferSameNode")), {ANNOTATION: "PreferClose"}, NODE),
        (Service(meta=meta()), {ANNOTATION: "PreferClose"}, ZONE),
        (Service(meta=meta(), is_node_local=True, traffic_distribution="PreferClose"), {}, LOCAL),
        (Service(meta=meta(), publishes_not_ready=True), {}, LoadBalancing(takes_unhealthy=True)),
    ],
)
def test_balancing(service: Service, of_namespace: dict[str, str], expected: LoadBalancing) -> None:
    namespace = Namespace(meta=Meta(key=Key("Namespace", "", "shop"), origin=Origin("", 0), annotations=of_namespace))
    assert translate_service(service, DEFAULT_MESH, namespace, NO_WAYPOINTS).service.balancing == expected


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
    found = translate_service(Service(meta=meta(), ip_families=families, ips=ips), DEFAULT_MESH, None, NO_WAYPOINTS)
    assert (found.hints.ip_families, found.service.prefers_ipv6) == (expected, prefers_ipv6)
    assert [vip.ip for vip in found.service.vips] == list(ips)


def test_ports_of_other_protocols_are_told_and_those_of_udp_without_a_hint() -> None:
    """As istiod does: of two ports with one number, the names of the last count."""
    ports = (
        PortSpec("dns-tcp", Port(53), 5353, ""),
        PortSpec("dns", Port(53), 0, "dns", is_udp=True),
        PortSpec("tls-sctp", Port(99), 99),
    )
    found = translate_service(Service(meta=meta(), ports=ports), DEFAULT_MESH, None, NO_WAYPOINTS)
    expected = (ServicePort(Port(53), 5353), ServicePort(Port(53), 0), ServicePort(Port(99), 99))
    assert found.service.ports == expected
    assert found.hints.app_protocols == (AppProtocol.TCP, AppProtocol.UNKNOWN, AppProtocol.TLS)
    assert found.port_names[Port(53)].target == "dns"
