# SPDX-License-Identifier: Apache-2.0
"""What istiod says on the wire and node agents of ours have no use for. Pure."""

import enum

import msgspec

from nodeagent.controlplane.waypoints import Binding, Weighted


class AppProtocol(enum.IntEnum):
    """istio.workload.AppProtocol: a hint for layer 7 proxies."""

    UNKNOWN = 0
    HTTP11 = 1
    HTTP2 = 2
    GRPC = 3
    TCP = 4
    TLS = 5


class IpFamilies(enum.IntEnum):
    """istio.workload.IPFamilies."""

    AUTOMATIC = 0
    IPV4_ONLY = 1
    IPV6_ONLY = 2
    DUAL = 3


class ServiceHints(msgspec.Struct, frozen=True):
    app_protocols: tuple[AppProtocol, ...] = ()
    """In the order of the Service's ports."""
    ip_families: IpFamilies = IpFamilies.AUTOMATIC
    wants_ingress: bool = False
    """Ingress gateways, too, go through the waypoint."""
    weighted: tuple[Weighted, ...] = ()
    """A waypoint and its canary."""


class WorkloadHints(msgspec.Struct, frozen=True):
    has_capacity: bool = False
    """A weight is written, be it 1."""
    binding: Binding | None = None
    """Of an instance of a waypoint."""


_BY_PROTOCOL = {
    "http": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "grpc": AppProtocol.GRPC,
    "tcp": AppProtocol.TCP,
    "tls": AppProtocol.TLS,
    "https": AppProtocol.TLS,
}
_WITHOUT_HINT = frozenset({"udp", "grpc-web", "http_proxy", "mongo", "redis", "mysql"})
"""Protocols that Istio knows and the wire has no number for."""
_KUBERNETES_PROTOCOLS = {
    "kubernetes.io/h2c": AppProtocol.HTTP2,
    "kubernetes.io/ws": AppProtocol.HTTP11,
    "kubernetes.io/wss": AppProtocol.TLS,
}
_WELL_KNOWN_TCP = frozenset({25, 53, 3306, 27017})


def of_protocol(protocol: str) -> AppProtocol:
    """Of a ServiceEntry's port."""
    return _BY_PROTOCOL.get(protocol.lower(), AppProtocol.UNKNOWN)


def of_service_port(name: str, app_protocol: str, port: int) -> AppProtocol:
    """Of a Kubernetes Service's port, unless it is UDP: by appProtocol, the first word of its name, or its number."""
    if app_protocol in _KUBERNETES_PROTOCOLS:
        return _KUBERNETES_PROTOCOLS[app_protocol]
    text = (app_protocol or name).lower()
    word = text.partition("-")[0]
    if text.startswith("grpc-web") or word in _WITHOUT_HINT:
        return AppProtocol.UNKNOWN
    return _BY_PROTOCOL.get(word, AppProtocol.TCP if port in _WELL_KNOWN_TCP else AppProtocol.UNKNOWN)
