# SPDX-License-Identifier: Apache-2.0
"""Model -> protobuf resources as istiod sends them: what is its own default is left out. Pure.

Bytes are deterministic, so the hash of a resource is its version: a client that comes back is sent only what changed,
by whatever process.
"""

import hashlib
import ipaddress
from collections.abc import Iterable

import msgspec
from google.protobuf.message import Message

from nodeagent.controlplane.blocks import written_interface
from nodeagent.controlplane.hints import AppProtocol, ServiceHints, WorkloadHints
from nodeagent.model import policy as policies
from nodeagent.model import workload as workloads
from nodeagent.model.address import Cidr, Ip
from nodeagent.proto import authorization_pb2, workload_pb2

_POD_TYPES = {"deployment": 0, "cronjob": 1, "pod": 2, "job": 3}
_ELIDED_TRUST_DOMAIN = "cluster.local"


class Resource(msgspec.Struct, frozen=True):
    """`value` is the serialized Address, Authorization or Extension."""

    name: str
    version: str
    value: bytes
    aliases: tuple[str, ...] = ()
    """`network/ip`, by which an on-demand client may ask for it."""


_NO_HINTS = WorkloadHints()


def encode_workload(workload: workloads.Workload, hints: WorkloadHints = _NO_HINTS) -> Resource:
    message = workload_pb2.Workload(
        uid=workload.uid,
        name=workload.name,
        namespace=workload.namespace,
        addresses=[_packed(ip) for ip in workload.addresses],
        hostname=workload.hostname,
        network=workload.network,
        tunnel_protocol=int(workload.protocol is workloads.TunnelProtocol.HBONE),  # type: ignore[arg-type]
        trust_domain="" if workload.trust_domain == _ELIDED_TRUST_DOMAIN else workload.trust_domain,
        service_account=workload.service_account,
        node=workload.node,
        canonical_name=workload.canonical_name,
        canonical_revision=workload.canonical_revision,
        workload_type=_POD_TYPES[workload.workload_type],  # type: ignore[arg-type]
        workload_name=workload.workload_name,
        native_tunnel=workload.native_tunnel,
        authorization_policies=workload.policies,
        status=int(not workload.is_healthy),  # type: ignore[arg-type]
        cluster_id=workload.cluster,
        network_mode=int(workload.is_host_network),  # type: ignore[arg-type]
    )
    if workload.region or workload.zone or workload.subzone:
        message.locality.CopyFrom(
            workload_pb2.Locality(region=workload.region, zone=workload.zone, subzone=workload.subzone)
        )
    for key, ports in workload.services.items():
        message.services[key].SetInParent()
        for port in ports:
            message.services[key].ports.add(service_port=port.service_port, target_port=port.target_port)
    if workload.capacity != 1 or hints.has_capacity:
        message.capacity.value = workload.capacity
    if workload.waypoint is not None:
        message.waypoint.CopyFrom(_gateway(workload.waypoint))
    if workload.network_gateway is not None:
        message.network_gateway.CopyFrom(_gateway(workload.network_gateway))
    if hints.binding is not None:
        message.application_tunnel.CopyFrom(
            workload_pb2.ApplicationTunnel(
                protocol=int(hints.binding.speaks_proxy_protocol),  # type: ignore[arg-type]
                port=hints.binding.port,
            )
        )
    elif workload.application_tunnel_port:
        message.application_tunnel.CopyFrom(
            workload_pb2.ApplicationTunnel(
                protocol=workload_pb2.ApplicationTunnel.PROXY, port=workload.application_tunnel_port
            )
        )
    aliases = () if workload.is_host_network else tuple(f"{workload.network}/{ip}" for ip in workload.addresses)
    return make_resource(workload.uid, workload_pb2.Address(workload=message), aliases)


def encode_service(service: workloads.Service, hints: ServiceHints) -> Resource:
    message = workload_pb2.Service(
        name=service.name,
        namespace=service.namespace,
        hostname=service.hostname,
        subject_alt_names=service.subject_alt_names,
        ip_families=int(hints.ip_families),  # type: ignore[arg-type]
        canonical=service.is_canonical,
        visibility=int(service.is_namespace_private),  # type: ignore[arg-type]
        ingress_use_waypoint=hints.wants_ingress,
    )
    message.addresses.extend(_vip(vip) for vip in service.vips)
    if service.waypoint is not None:
        message.waypoint.CopyFrom(_gateway(service.waypoint))
    for weighted in hints.weighted:
        destination = _gateway(weighted.waypoint) if weighted.waypoint is not None else None
        message.weighted_waypoints.add(destination=destination, weight=weighted.weight)
    unknown = [AppProtocol.UNKNOWN] * len(service.ports)
    for port, protocol in zip(service.ports, hints.app_protocols or unknown, strict=True):
        message.ports.add(
            service_port=port.service_port,
            target_port=port.target_port,
            app_protocol=int(protocol),
        )
    if service.balancing != workloads.LoadBalancing():
        message.load_balancing.CopyFrom(_balancing(service.balancing))
    return make_resource(
        service.key,
        workload_pb2.Address(service=message),
        tuple(f"{vip.network}/{vip.ip or vip.block}" for vip in service.vips),
    )


def _vip(vip: workloads.Vip) -> workload_pb2.NetworkAddress:
    if vip.block is None:
        return workload_pb2.NetworkAddress(network=vip.network, address=_packed(vip.ip))
    network = ipaddress.ip_network(str(vip.block))
    return workload_pb2.NetworkAddress(
        network=vip.network, address=network.network_address.packed, length=network.prefixlen
    )


def _gateway(gateway: workloads.GatewayAddress) -> workload_pb2.GatewayAddress:
    message = workload_pb2.GatewayAddress(hbone_mtls_port=gateway.hbone_port)
    if gateway.service:
        namespace, _, hostname = gateway.service.partition("/")
        message.hostname.namespace, message.hostname.hostname = namespace, hostname
    else:
        message.address.network, message.address.address = gateway.network, _packed(gateway.ip)
    return message


def _balancing(balancing: workloads.LoadBalancing) -> workload_pb2.LoadBalancing:
    return workload_pb2.LoadBalancing(
        routing_preference=[int(scope) for scope in balancing.scopes],  # type: ignore[misc]
        mode=int(balancing.mode),  # type: ignore[arg-type]
        health_policy=int(balancing.takes_unhealthy),  # type: ignore[arg-type]
    )


def encode_policy(policy: policies.Policy) -> Resource:
    return make_resource(policy.key, encode_authorization(policy))


def encode_authorization(policy: policies.Policy) -> authorization_pb2.Authorization:
    message = authorization_pb2.Authorization(
        name=policy.name,
        namespace=policy.namespace,
        scope=authorization_pb2.Scope.Value(policy.scope.value),
        action=authorization_pb2.Action.Value(policy.action.value),
        dry_run=policy.is_dry_run,
    )
    for rule in policy.rules:
        group = message.rules.add()
        for clause in rule.clauses:
            matches = group.clauses.add().matches
            for match in clause.matches:
                _encode_match(match, matches.add())
    return message


def _encode_match(match: policies.Match, message: authorization_pb2.Match) -> None:
    for name in ("namespaces", "not_namespaces", "principals", "not_principals"):
        getattr(message, name).extend(_encode_string(value) for value in getattr(match, name))
    for name in ("source_ips", "not_source_ips", "destination_ips", "not_destination_ips"):
        getattr(message, name).extend(_encode_block(block) for block in getattr(match, name))
    for name in ("service_accounts", "not_service_accounts"):
        getattr(message, name).extend(_encode_accounts(getattr(match, name)))
    message.destination_ports.extend(match.destination_ports)
    message.not_destination_ports.extend(match.not_destination_ports)


def _encode_string(match: policies.StringMatch) -> authorization_pb2.StringMatch:
    message = authorization_pb2.StringMatch()
    if match.kind is policies.MatchKind.PRESENCE:
        message.presence.SetInParent()
    else:
        setattr(message, match.kind.value, match.value)
    return message


def _encode_accounts(
    accounts: Iterable[policies.ServiceAccountMatch],
) -> Iterable[authorization_pb2.ServiceAccountMatch]:
    return (
        authorization_pb2.ServiceAccountMatch(namespace=account.namespace, serviceAccount=account.service_account)
        for account in accounts
    )


def _encode_block(block: Cidr) -> authorization_pb2.Address:
    interface = written_interface(block)
    return authorization_pb2.Address(address=interface.packed, length=interface.network.prefixlen)


def _packed(ip: Ip) -> bytes:
    return ipaddress.ip_address(ip).packed


def make_resource(name: str, message: Message, aliases: tuple[str, ...] = ()) -> Resource:
    value = message.SerializeToString(deterministic=True)
    return Resource(name, hashlib.sha256(value).hexdigest()[:16], value, aliases)
