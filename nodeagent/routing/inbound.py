# SPDX-License-Identifier: Apache-2.0
"""What an inbound CONNECT means for the workload it reached: the port of its application, or a refusal.

Only the port is taken from the request; the address is always that of the connection, so a peer cannot use this node
to reach anything else (ztunnel, src/proxy/inbound.rs: validate_destination, find_inbound_upstream).
"""

from nodeagent.model.address import Ip, join_host_port, parse_ip
from nodeagent.model.mesh import Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Service, Workload
from nodeagent.routing.candidates import target_port
from nodeagent.routing.lookup import find_gateway, find_hostname, find_service
from nodeagent.routing.route import PROXY_PORTS, Inbound, InboundRoute, Refuse


def resolve_inbound(
    host: str, port: int, connected_ip: Ip, local: Workload, mesh: Mesh, forwarded_host: str = ""
) -> InboundRoute:
    """The answer to `CONNECT host:port` on a tunnel that reached `local` at `connected_ip`.

    Args:
        host: of the authority, without brackets: an address or the hostname of a Service.
        port: of the authority: the application's, or the Service's when `host` is a name.
        connected_ip: the address that the peer dialled.
        local: the enrolled workload with this address.
        mesh: what is known at this moment.
        forwarded_host: `host=` of the `forwarded` header; only chooses the Service that the record names.
    Returns:
        A Refuse with HBONE_BAD_REQUEST is answered 400; UNKNOWN_DESTINATION, NO_SERVICE_PORT, SELF_CALL and
        CONNECT_FAILED 503.
    """
    if local.expects_proxy_protocol:
        return Refuse(
            reason=Reason.CONNECT_FAILED,
            detail=f"{local.namespace}/{local.name} expects the PROXY protocol, which is not spoken",
        )
    ip = _parse_ip(host)
    if ip is None:
        return _by_hostname(host, port, local, mesh)
    if ip != connected_ip and not _is_waypoint_of(local, ip, mesh):
        return Refuse(
            reason=Reason.HBONE_BAD_REQUEST, detail=f"CONNECT to {join_host_port(ip, port)}, dialled was {connected_ip}"
        )
    return _checked(port, _service_behind(port, forwarded_host, local, mesh))


def _by_hostname(hostname: str, port: int, local: Workload, mesh: Mesh) -> InboundRoute:
    service = find_hostname(mesh, hostname, local.namespace)
    if service is None:
        return Refuse(reason=Reason.UNKNOWN_DESTINATION, detail=f"no service has the hostname {hostname!r}")
    real = target_port(service, port, local)
    if real == 0:
        return Refuse(
            reason=Reason.NO_SERVICE_PORT, detail=f"service {service.key} has no port {port}", service=service
        )
    return _checked(real, service)


def _checked(port: int, service: Service | None) -> InboundRoute:
    if port in PROXY_PORTS:
        return Refuse(reason=Reason.SELF_CALL, detail=f"port {port} is the proxy's own", service=service)
    return Inbound(port=port, service=service)


def _service_behind(port: int, hostname: str, local: Workload, mesh: Mesh) -> Service | None:
    """The Service that the client named; else one that leads to this port. For the record only."""
    services = [service for key in local.services if (service := mesh.services.get(key))]
    named = next((service for service in services if service.hostname == hostname), None)
    if named is not None:
        return named
    return next((service for service in services if _leads_to(service, port, local)), None)


def _leads_to(service: Service, port: int, local: Workload) -> bool:
    return any(target_port(service, listed.service_port, local) == port for listed in service.ports)


def _is_waypoint_of(local: Workload, ip: Ip, mesh: Mesh) -> bool:
    """True when `local` is an instance of the waypoint in front of the workload or Service at `ip`."""
    behind = mesh.workload_at(local.network, ip) or find_service(mesh, local.network, ip, local.namespace)
    if behind is None or behind.waypoint is None:
        return False
    gateway = find_gateway(mesh, behind.waypoint, local.namespace)
    if isinstance(gateway, Service):
        return gateway.key in local.services
    return gateway is not None and gateway.uid == local.uid


def _parse_ip(host: str) -> Ip | None:
    try:
        return parse_ip(host)
    except ValueError:
        return None
