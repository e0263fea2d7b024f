# SPDX-License-Identifier: Apache-2.0
"""Service -> Service of the mesh, and what only the wire carries about it. Pure.

internalTrafficPolicy: Local beats trafficDistribution, which is looked for in the spec, then in the annotation of the
Service, then in that of its namespace. A value that nobody knows is skipped in the spec, and ends the search in an
annotation.
"""

from nodeagent.controlplane.hints import AppProtocol, IpFamilies, ServiceHints, of_service_port
from nodeagent.controlplane.mesh_services import MeshService, PortNames
from nodeagent.controlplane.objects import MeshConfig, Meta, Namespace, Service
from nodeagent.controlplane.waypoints import Waypoints, wants_ingress
from nodeagent.model import workload as model
from nodeagent.model.address import is_ipv6
from nodeagent.model.workload import BalancingMode, LoadBalancing, Scope, ServicePort, Vip

_ANNOTATION = "networking.istio.io/traffic-distribution"
_SAME_ZONE = (Scope.NETWORK, Scope.REGION, Scope.ZONE)
_SAME_NODE = (*_SAME_ZONE, Scope.SUBZONE, Scope.NODE)
_DISTRIBUTIONS = {"PreferClose": _SAME_ZONE, "PreferSameZone": _SAME_ZONE, "PreferSameNode": _SAME_NODE}
_ANNOTATED = {name.lower(): scopes for name, scopes in _DISTRIBUTIONS.items()}


def hostname(name: str, namespace: str, mesh: MeshConfig) -> str:
    return f"{name}.{namespace}.svc.{mesh.cluster_domain}"


def translate_service(
    service: Service, mesh: MeshConfig, namespace: Namespace | None, waypoints: Waypoints
) -> MeshService:
    """Not for an ExternalName Service, which is a name of something else."""
    families = _families(service)
    meta = service.meta
    waypoint = waypoints.of_service(meta)
    translated = model.Service(
        name=meta.name,
        namespace=meta.namespace,
        hostname=hostname(meta.name, meta.namespace, mesh),
        vips=tuple(Vip(mesh.network, ip) for ip in service.ips),
        ports=tuple(ServicePort(port.port, port.target_port) for port in service.ports),
        waypoint=waypoint.address if waypoint is not None else None,
        balancing=_balancing(service, namespace),
        prefers_ipv6={IpFamilies.IPV4_ONLY: False, IpFamilies.IPV6_ONLY: True}.get(families),
        is_canonical=True,
    )
    hints = ServiceHints(
        tuple(
            AppProtocol.UNKNOWN if port.is_udp else of_service_port(port.name, port.app_protocol, port.port)
            for port in service.ports
        ),
        families,
        waypoint is not None and wants_ingress(meta, namespace),
        waypoints.weighted(meta, waypoint) if waypoint is not None else (),
    )
    names = {port.port: PortNames(port.name, port.target_name) for port in service.ports}
    return MeshService(translated, hints, meta, service.selector, names)


def distribution(written: str | None, meta: Meta, namespace: Namespace | None) -> tuple[Scope, ...]:
    """Scopes in the order in which they are preferred; none when every endpoint is as good."""
    if written in _DISTRIBUTIONS:
        return _DISTRIBUTIONS[written]
    wish = meta.annotations.get(_ANNOTATION)
    if not wish and namespace is not None:
        wish = namespace.meta.annotations.get(_ANNOTATION)
    return _ANNOTATED.get((wish or "").lower(), ())


def preference(scopes: tuple[Scope, ...], *, takes_unhealthy: bool = False) -> LoadBalancing:
    return LoadBalancing(BalancingMode.FAILOVER if scopes else BalancingMode.STANDARD, scopes, takes_unhealthy)


def _balancing(service: Service, namespace: Namespace | None) -> LoadBalancing:
    if service.is_node_local:
        return LoadBalancing(BalancingMode.STRICT, (Scope.NODE,), service.publishes_not_ready)
    scopes = distribution(service.traffic_distribution, service.meta, namespace)
    return preference(scopes, takes_unhealthy=service.publishes_not_ready)


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
