# SPDX-License-Identifier: Apache-2.0
"""istio.workload.Address -> Workload or Service.

istiod leaves out what has its usual value: the defaults of the model are those values. Enumerations are
open in proto3, so every number is checked (`Name` raises ValueError): one that we do not know is a meaning that we
would miss.
"""

from collections.abc import Iterable

from nodeagent.model.address import Cidr, Port, unpack_ip
from nodeagent.model.identity import Identity
from nodeagent.model.sharing import share, share_text
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
from nodeagent.proto import workload_pb2 as pb

DEFAULT_TRUST_DOMAIN = "cluster.local"
DEFAULT_SERVICE_ACCOUNT = "default"
DEFAULT_CLUSTER = "Kubernetes"

_PROTOCOLS = {pb.TunnelProtocol.NONE: TunnelProtocol.TCP, pb.TunnelProtocol.HBONE: TunnelProtocol.HBONE}
_FAMILIES = {
    pb.IPFamilies.AUTOMATIC: None,
    pb.IPFamilies.DUAL: None,
    pb.IPFamilies.IPV4_ONLY: False,
    pb.IPFamilies.IPV6_ONLY: True,
}


def decode_address(value: bytes) -> Workload | Service:
    """Raises DecodeError for bytes that are no Address, ValueError for one that cannot be used."""
    address = pb.Address.FromString(value)
    match address.WhichOneof("type"):
        case "workload":
            return _workload(address.workload)
        case "service":
            return _service(address.service)
        case _:
            raise ValueError("is neither a workload nor a service")


def _workload(message: pb.Workload) -> Workload:
    if not message.uid:
        raise ValueError("workload without a uid")
    if message.tunnel_protocol not in _PROTOCOLS:
        raise ValueError(f"unsupported tunnel protocol {pb.TunnelProtocol.Name(message.tunnel_protocol)}")
    workload = Workload(
        uid=message.uid,
        name=message.name,
        namespace=message.namespace,
        addresses=tuple(unpack_ip(packed) for packed in message.addresses),
        hostname=message.hostname,
        network=message.network,
        protocol=_PROTOCOLS[message.tunnel_protocol],
        trust_domain=message.trust_domain or DEFAULT_TRUST_DOMAIN,
        service_account=message.service_account or DEFAULT_SERVICE_ACCOUNT,
        node=message.node,
        cluster=message.cluster_id or DEFAULT_CLUSTER,
        canonical_name=message.canonical_name,
        canonical_revision=message.canonical_revision,
        workload_type=pb.WorkloadType.Name(message.workload_type).lower(),
        workload_name=message.workload_name,
        waypoint=_gateway(message.waypoint) if message.HasField("waypoint") else None,
        network_gateway=_gateway(message.network_gateway) if message.HasField("network_gateway") else None,
        native_tunnel=message.native_tunnel,
        application_tunnel_port=_application_tunnel(message.application_tunnel),
        has_open_tunnel=_has_tunnel(message.application_tunnel) and not message.application_tunnel.port,
        services={key: _service_ports(ports.ports) for key, ports in message.services.items()},
        policies=tuple(message.authorization_policies),
        is_healthy=pb.WorkloadStatus.Name(message.status) == "HEALTHY",
        is_host_network=pb.NetworkMode.Name(message.network_mode) == "HOST_NETWORK",
        region=message.locality.region,
        zone=message.locality.zone,
        subzone=message.locality.subzone,
        capacity=message.capacity.value if message.HasField("capacity") else 1,
    )
    Identity.parse(str(workload.identity))  # a namespace such as `a/sa/b` would spell somebody else's identity
    _require_printable(workload.uid, workload.name, workload.hostname, workload.node, workload.cluster)
    _require_printable(workload.canonical_name, workload.canonical_revision, workload.workload_name)
    return share(workload)


def _service(message: pb.Service) -> Service:
    if not message.namespace or not message.hostname:
        raise ValueError("service without a namespace or a hostname")
    _require_printable(message.name, message.namespace, message.hostname)
    if message.ip_families not in _FAMILIES:
        raise ValueError(f"unknown IPFamilies {message.ip_families}")
    return Service(
        name=share_text(message.name),
        namespace=share_text(message.namespace),
        hostname=message.hostname,
        vips=tuple(_vip(address) for address in message.addresses),
        ports=_service_ports(message.ports),
        subject_alt_names=tuple(message.subject_alt_names),
        waypoint=_gateway(message.waypoint) if message.HasField("waypoint") else None,
        balancing=_balancing(message.load_balancing),
        prefers_ipv6=_FAMILIES[message.ip_families],
        is_canonical=message.canonical,
        is_namespace_private=pb.Service.Visibility.Name(message.visibility) == "NAMESPACE",
    )


def _vip(message: pb.NetworkAddress) -> Vip:
    """An address with the length of a whole address is that address, not a block."""
    if message.HasField("length") and message.length != len(message.address) * 8:
        return Vip(message.network, block=Cidr.unpack(message.address, message.length))
    return Vip(message.network, unpack_ip(message.address))


def _service_ports(ports: Iterable[pb.Port]) -> tuple[ServicePort, ...]:
    return tuple(ServicePort(_port(port.service_port), _port_or_zero(port.target_port)) for port in ports)


def _port(number: int) -> Port:
    if not number:
        raise ValueError("port 0")
    return Port(_port_or_zero(number))


def _port_or_zero(number: int) -> int:
    if number > 65535:
        raise ValueError(f"port {number}")
    return number


def _gateway(message: pb.GatewayAddress) -> GatewayAddress:
    port = _port(message.hbone_mtls_port)
    match message.WhichOneof("destination"):
        case "hostname":
            name = message.hostname
            if not name.namespace or not name.hostname:
                raise ValueError("gateway without a namespace or a hostname")
            return GatewayAddress(port, service=f"{name.namespace}/{name.hostname}")
        case "address":
            return GatewayAddress(port, network=message.address.network, ip=unpack_ip(message.address.address))
        case _:
            raise ValueError("gateway without a destination")


def _application_tunnel(message: pb.ApplicationTunnel) -> int:
    """The port of the PROXY-protocol tunnel, 0 if it is that of the request (waypoint-inbound-binding: PROXY).

    Without that protocol there is no tunnel, whatever port is given.
    """
    return _port_or_zero(message.port) if _has_tunnel(message) else 0


def _has_tunnel(message: pb.ApplicationTunnel) -> bool:
    return pb.ApplicationTunnel.Protocol.Name(message.protocol) != "NONE"


def _balancing(message: pb.LoadBalancing) -> LoadBalancing:
    pb.LoadBalancing.Mode.Name(message.mode)
    return LoadBalancing(
        mode=BalancingMode(message.mode),
        scopes=tuple(Scope(scope) for scope in message.routing_preference),
        takes_unhealthy=pb.LoadBalancing.HealthPolicy.Name(message.health_policy) == "ALLOW_ALL",
    )


def _require_printable(*texts: str) -> None:
    """Names go to logs, metrics and terminals: a line break in one would forge a line of theirs."""
    for text in texts:
        if not text.isprintable():
            raise ValueError(f"unprintable characters in {text!r}")
