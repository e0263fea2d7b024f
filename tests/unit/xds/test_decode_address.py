# SPDX-License-Identifier: Apache-2.0
"""Workloads and Services from the wire: fields, defaults, refusals; any bytes are a value or a refusal."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import UInt32Value
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.workload import GatewayAddress, Service, ServicePort, TunnelProtocol, Vip, Workload
from nodeagent.proto import workload_pb2 as pb
from nodeagent.xds.decode_address import decode_address


def workload(**fields: Any) -> Workload:
    message = pb.Workload(**{"uid": "u", "name": "a", "namespace": "shop", **fields})
    decoded = decode_address(pb.Address(workload=message).SerializeToString())
    assert isinstance(decoded, Workload)
    return decoded


def service(**fields: Any) -> Service:
    message = pb.Service(**{"name": "a", "namespace": "shop", "hostname": "a.shop", **fields})
    decoded = decode_address(pb.Address(service=message).SerializeToString())
    assert isinstance(decoded, Service)
    return decoded


def test_what_istiod_leaves_out_has_its_usual_value() -> None:
    decoded = workload()

    assert decoded.identity == Identity("cluster.local", "shop", "default")
    assert (decoded.cluster, decoded.network, decoded.capacity) == ("Kubernetes", "", 1)
    assert decoded.protocol is TunnelProtocol.TCP
    assert decoded.is_healthy
    assert not decoded.is_host_network


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"trust_domain": "td"}, "trust_domain", "td"),
        ({"cluster_id": "c2"}, "cluster", "c2"),
        ({"tunnel_protocol": pb.HBONE}, "protocol", TunnelProtocol.HBONE),
        ({"workload_type": pb.CRONJOB}, "workload_type", "cronjob"),
        ({"workload_type": pb.DEPLOYMENT}, "workload_type", "deployment"),
        ({"status": pb.UNHEALTHY}, "is_healthy", False),
        ({"network_mode": pb.HOST_NETWORK}, "is_host_network", True),
        ({"capacity": UInt32Value(value=0)}, "capacity", 0),
        ({"capacity": UInt32Value(value=7)}, "capacity", 7),
        ({"addresses": [b"\x0a\0\0\1", b"\xfd" + b"\0" * 14 + b"\1"]}, "addresses", (Ip("10.0.0.1"), Ip("fd00::1"))),
        ({"addresses": [b"\0" * 10 + b"\xff\xff\x0a\0\0\1"]}, "addresses", (Ip("10.0.0.1"),)),
        (
            {"application_tunnel": pb.ApplicationTunnel(protocol=pb.ApplicationTunnel.PROXY, port=15088)},
            "application_tunnel_port",
            15088,
        ),
        ({"application_tunnel": pb.ApplicationTunnel(port=15088)}, "application_tunnel_port", 0),
        (
            {"services": {"shop/a.shop": pb.PortList(ports=[pb.Port(service_port=80, target_port=8080)])}},
            "services",
            {"shop/a.shop": (ServicePort(Port(80), 8080),)},
        ),
        (
            {
                "waypoint": pb.GatewayAddress(
                    hostname=pb.NamespacedHostname(namespace="shop", hostname="wp.shop"), hbone_mtls_port=15008
                )
            },
            "waypoint",
            GatewayAddress(Port(15008), service="shop/wp.shop"),
        ),
        (
            {
                "network_gateway": pb.GatewayAddress(
                    address=pb.NetworkAddress(network="n2", address=b"\1\2\3\4"), hbone_mtls_port=15008
                )
            },
            "network_gateway",
            GatewayAddress(Port(15008), network="n2", ip=Ip("1.2.3.4")),
        ),
    ],
)
def test_fields_of_a_workload(fields: dict[str, Any], name: str, value: object) -> None:
    assert getattr(workload(**fields), name) == value


@pytest.mark.parametrize(
    ("fields", "vips"),
    [
        ([pb.NetworkAddress(address=b"\x0a\0\0\1")], (Vip("", Ip("10.0.0.1")),)),
        ([pb.NetworkAddress(network="n", address=b"\x0a\0\0\1", length=32)], (Vip("n", Ip("10.0.0.1")),)),
        ([pb.NetworkAddress(address=b"\x0a\1\2\3", length=16)], (Vip("", block=Cidr.parse("10.1.0.0/16")),)),
        ([pb.NetworkAddress(address=b"\x0a\1\2\3", length=0)], (Vip("", block=Cidr.parse("0.0.0.0/0")),)),
    ],
)
def test_a_service_has_addresses_and_masked_blocks(fields: list[pb.NetworkAddress], vips: tuple[Vip, ...]) -> None:
    assert service(addresses=fields).vips == vips


@pytest.mark.parametrize(
    ("families", "prefers"),
    [(pb.AUTOMATIC, None), (pb.DUAL, None), (pb.IPV4_ONLY, False), (pb.IPV6_ONLY, True)],
)
def test_families(families: pb.IPFamilies.ValueType, *, prefers: bool | None) -> None:
    assert service(ip_families=families).prefers_ipv6 is prefers


UNKNOWN: Any = 9
"""No enumeration has so many values."""
HOST = pb.NamespacedHostname(namespace="shop", hostname="wp.shop")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"uid": ""}, "without a uid", id="no uid"),
        pytest.param({"tunnel_protocol": 2}, "LEGACY_ISTIO_MTLS", id="legacy mTLS"),
        pytest.param({"tunnel_protocol": 9}, "9", id="unknown tunnel protocol"),
        pytest.param({"workload_type": 9}, "WorkloadType", id="unknown workload type"),
        pytest.param({"status": 9}, "WorkloadStatus", id="unknown status"),
        pytest.param({"network_mode": 9}, "NetworkMode", id="unknown network mode"),
        pytest.param({"addresses": [b"\1\2\3"]}, "IPv4 or IPv6", id="address of 3 bytes"),
        pytest.param({"addresses": [b""]}, "IPv4 or IPv6", id="empty address"),
        pytest.param({"namespace": ""}, "spiffe", id="no namespace"),
        pytest.param({"namespace": "a/sa/b"}, "spiffe", id="a namespace that spells another identity"),
        pytest.param({"service_account": "a b"}, "spiffe", id="a service account with a space"),
        pytest.param({"name": "a\nb"}, "unprintable", id="a name with a line break"),
        pytest.param({"waypoint": pb.GatewayAddress(hbone_mtls_port=1)}, "destination", id="waypoint to nowhere"),
        pytest.param({"waypoint": pb.GatewayAddress(hostname=HOST)}, "port 0", id="waypoint without port"),
        pytest.param(
            {"network_gateway": pb.GatewayAddress(hostname=HOST, hbone_mtls_port=65536)}, "65536", id="port too large"
        ),
        pytest.param(
            {"waypoint": pb.GatewayAddress(hostname=pb.NamespacedHostname(hostname="x"), hbone_mtls_port=1)},
            "namespace",
            id="waypoint without namespace",
        ),
        pytest.param({"services": {"a/b": pb.PortList(ports=[pb.Port()])}}, "port 0", id="service port 0"),
        pytest.param(
            {"application_tunnel": pb.ApplicationTunnel(protocol=pb.ApplicationTunnel.PROXY, port=70000)},
            "port 70000",
            id="application tunnel on no port",
        ),
    ],
)
def test_a_workload_that_cannot_be_used(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        workload(**fields)


@pytest.mark.parametrize(
    ("protocol", "port", "expects", "is_open"),
    [
        (pb.ApplicationTunnel.PROXY, 15088, True, False),
        (pb.ApplicationTunnel.PROXY, 0, True, True),
        (pb.ApplicationTunnel.NONE, 15088, False, False),
        (pb.ApplicationTunnel.NONE, 0, False, False),
    ],
)
def test_a_tunnel_without_a_port_is_on_the_one_that_is_asked_for(
    protocol: pb.ApplicationTunnel.Protocol.ValueType, port: int, *, expects: bool, is_open: bool
) -> None:
    """As istiod tells it of `waypoint-inbound-binding: PROXY`."""
    found = workload(application_tunnel=pb.ApplicationTunnel(protocol=protocol, port=port))
    assert (found.expects_proxy_protocol, found.has_open_tunnel) == (expects, is_open)
    assert found.application_tunnel_port == (port if expects else 0)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hostname": ""}, "hostname"),
        ({"namespace": ""}, "namespace"),
        ({"hostname": "a\x00"}, "unprintable"),
        ({"ip_families": 9}, "IPFamilies"),
        ({"visibility": 9}, "Visibility"),
        ({"ports": [pb.Port(service_port=80, target_port=65536)]}, "65536"),
        ({"load_balancing": pb.LoadBalancing(mode=UNKNOWN)}, "Mode"),
        (
            {"load_balancing": pb.LoadBalancing(routing_preference=[pb.LoadBalancing.UNSPECIFIED_SCOPE])},
            "0 is not a valid Scope",
        ),
        ({"load_balancing": pb.LoadBalancing(health_policy=UNKNOWN)}, "HealthPolicy"),
        ({"addresses": [pb.NetworkAddress(address=b"\1\2\3\4", length=33)]}, "33"),
        ({"addresses": [pb.NetworkAddress(address=b"\1\2\3\4\5")]}, "IPv4 or IPv6"),
    ],
)
def test_a_service_that_cannot_be_used(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        service(**fields)


def test_an_address_that_is_neither() -> None:
    with pytest.raises(ValueError, match="neither"):
        decode_address(b"")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_refusal(data: bytes) -> None:
    try:
        decoded = decode_address(data)
    except (ValueError, DecodeError):
        return
    assert isinstance(decoded, Workload | Service)
