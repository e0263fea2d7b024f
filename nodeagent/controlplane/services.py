# SPDX-License-Identifier: Apache-2.0
"""Service -> Service of the mesh, and what only the wire carries about it. Pure.

internalTrafficPolicy: Local beats trafficDistribution, which is looked for in the spec, then in the annotation of the
Service, then in that of its namespace.
"""

import enum
from collections.abc import Mapping

import msgspec

from nodeagent.controlplane.objects import MeshConfig, PortSpec, Service
from nodeagent.model import workload as model
from nodeagent.model.address import is_ipv6
from nodeagent.model.workload import BalancingMode, LoadBalancing, Scope, ServicePort, Vip

_ANNOTATION = "networking.istio.io/traffic-distribution"
_SAME_ZONE = (Scope.NETWORK, Scope.REGION, Scope.ZONE)
_SAME_NODE = (*_SAME_ZONE, Scope.SUBZONE, Scope.NODE)
_PREFERENCES = {"preferclose": _SAME_ZONE, "prefersamezone": _SAME_ZONE, "prefersamenode": _SAME_NODE}


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
    """What istiod says of a Service and node agents have no use for."""

    app_protocols: tuple[AppProtocol, ...] = ()
    """In the order of the Service's ports."""
    ip_families: IpFamilies = IpFamilies.AUTOMATIC


_BY_NAME = {
    "http": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "grpc": AppProtocol.GRPC,
    "tcp": AppProtocol.TCP,
    "tls": AppProtocol.TLS,
    "https": AppProtocol.TLS,
}
_KUBERNETES_PROTOCOLS = {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http", "kubernetes.io/wss": "https"}
_WELL_KNOWN_TCP = frozenset({25, 53, 3306, 27017})


def hostname(name: str, namespace: str, mesh: MeshConfig) -> str:
    return f"{name}.{namespace}.svc.{mesh.cluster_domain}"


def translate_service(
    service: Service, mesh: MeshConfig, namespace_annotations: Mapping[str, str]
) -> tuple[model.Service, ServiceHints]:
    families = _families(service)
    prefers_ipv6 = {IpFamilies.IPV4_ONLY: False, IpFamilies.IPV6_ONLY: True}.get(families)
    meta = service.meta
    translated = model.Service(
        name=meta.name,
        namespace=meta.namespace,
        hostname=hostname(meta.name, meta.namespace, mesh),
        vips=tuple(Vip(mesh.network, ip) for ip in service.ips),
        ports=tuple(ServicePort(port.port, port.target_port) for port in service.ports),
        balancing=_balancing(service, namespace_annotations),
        prefers_ipv6=prefers_ipv6,
        is_canonical=True,
    )
    return translated, ServiceHints(tuple(_app_protocol(port) for port in service.ports), families)


def _balancing(service: Service, namespace_annotations: Mapping[str, str]) -> LoadBalancing:
    takes_unhealthy = service.publishes_not_ready
    if service.is_node_local:
        return LoadBalancing(BalancingMode.STRICT, (Scope.NODE,), takes_unhealthy)
    wish = service.traffic_distribution
    if wish is None:
        wish = service.meta.annotations.get(_ANNOTATION, namespace_annotations.get(_ANNOTATION, "")).lower()
    scopes = _PREFERENCES.get(wish, ())
    return LoadBalancing(BalancingMode.FAILOVER if scopes else BalancingMode.STANDARD, scopes, takes_unhealthy)


def _families(service: Service) -> IpFamilies:
    """As written; else, since nothing fills the field in here, by the addresses."""
    written = service.ip_families or tuple(dict.fromkeys("IPv6" if is_ipv6(ip) else "IPv4" for ip in service.ips))
    match written:
        case ("IPv4",):
            return IpFamilies.IPV4_ONLY
        case ("IPv6",):
            return IpFamilies.IPV6_ONLY
        case (_, _):
            return IpFamilies.DUAL
        case _:
            return IpFamilies.AUTOMATIC


def _app_protocol(port: PortSpec) -> AppProtocol:
    name = _KUBERNETES_PROTOCOLS.get(port.app_protocol, port.app_protocol) or port.name
    if name.startswith("grpc-web"):
        return AppProtocol.HTTP11
    found = _BY_NAME.get(name.partition("-")[0].lower())
    if found is None:
        found = AppProtocol.TCP if port.port in _WELL_KNOWN_TCP else AppProtocol.UNKNOWN
    return found
