# SPDX-License-Identifier: Apache-2.0
"""nodeagent.extension.v1.Extension -> values of model/traffic.py.

As strict as the decoder of policies, since a match that is not understood matches more than was meant. What a newer
control plane says and this agent does not know refuses the resource.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.internal.containers import MessageMap
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from nodeagent.model.address import Cidr
from nodeagent.model.security import DryRun, PolicyOrigin, Revocations, TrustDomains
from nodeagent.model.traffic import (
    Algorithm,
    ClientScope,
    ClientScopes,
    Destination,
    Distribution,
    EgressHosts,
    Extension,
    Keepalive,
    LocalityBalancing,
    MeshTraffic,
    OutlierDetection,
    PortPolicy,
    ServiceTraffic,
    Subset,
    TcpMatch,
    TcpRoute,
    TrafficPolicy,
    WorkloadLabels,
    WorkloadLimits,
)
from nodeagent.proto import extension_pb2 as pb
from nodeagent.tls.certificate_name import MOST_REVOKED, NAME_BYTES
from nodeagent.xds.decode_policy import read_policy

_ALGORITHMS: dict[int, Algorithm | None] = {
    pb.TrafficPolicy.UNSPECIFIED: None,
    pb.TrafficPolicy.RANDOM: Algorithm.RANDOM,
    pb.TrafficPolicy.ROUND_ROBIN: Algorithm.ROUND_ROBIN,
    pb.TrafficPolicy.LEAST_REQUEST: Algorithm.LEAST_REQUEST,
    pb.TrafficPolicy.SOURCE_IP: Algorithm.SOURCE_IP,
}


def decode_extension(value: bytes) -> Extension:
    """Raises DecodeError for bytes that are no Extension, ValueError for one that cannot be used."""
    message = pb.Extension.FromString(value)
    _demand_known(message)
    kind = message.WhichOneof("type")
    if kind is None:
        raise ValueError("neither about a service, a workload nor the mesh")
    return _DECODERS[kind](getattr(message, kind))


def _labels(message: pb.WorkloadLabels) -> WorkloadLabels:
    if not message.uid:
        raise ValueError("labels of a workload without uid")
    return WorkloadLabels(uid=message.uid, labels=dict(message.labels))


def _mesh(message: pb.MeshTraffic) -> MeshTraffic:
    return MeshTraffic(is_registry_only=message.registry_only)


def _clients(message: pb.ClientScopes) -> ClientScopes:
    return ClientScopes(namespace=message.namespace, scopes=tuple(_scope(scope) for scope in message.scopes))


def _dry_run(message: pb.DryRun) -> DryRun:
    policy = read_policy(message.policy)
    if not policy.is_dry_run:
        raise ValueError("a dry run of a policy that is to be enforced")
    return DryRun(policy=policy, namespace=message.namespace, selector=dict(message.selector))


def _trust_domains(message: pb.TrustDomains) -> TrustDomains:
    if not all(message.domains):
        raise ValueError("a trust domain without a name")
    return TrustDomains(domains=frozenset(message.domains))


def _revocations(message: pb.Revocations) -> Revocations:
    if not message.source:
        raise ValueError("revocations of nobody")
    if any(len(name) != NAME_BYTES for name in message.certificates):
        raise ValueError(f"a certificate's name is not of {NAME_BYTES} bytes")
    if len(message.certificates) > MOST_REVOKED:
        raise ValueError(f"more than {MOST_REVOKED} certificates are revoked")
    return Revocations(source=message.source, certificates=frozenset(message.certificates))


def _origin(message: pb.PolicyOrigin) -> PolicyOrigin:
    if not message.policy or not message.file:
        raise ValueError("an origin without policy or file")
    return PolicyOrigin(policy=message.policy, file=message.file, line=message.line)


def _scope(message: pb.ClientScope) -> ClientScope:
    egress = None
    if message.HasField("egress"):
        egress = tuple(EgressHosts(tuple(one.hosts), _port(one.port)) for one in message.egress.listeners)
        if len({listener.port for listener in egress}) < len(egress):
            raise ValueError("two listeners for one port")
    return ClientScope(
        name=message.name, labels=dict(message.labels), egress=egress, is_registry_only=message.registry_only
    )


def _limits(message: pb.WorkloadLimits) -> WorkloadLimits:
    if not message.uid:
        raise ValueError("limits of a workload without uid")
    if message.per_thousand_seconds and not message.burst:
        raise ValueError("a rate with a burst of 0 lets nobody in")
    return WorkloadLimits(
        uid=message.uid,
        per_second=message.per_thousand_seconds / 1000,
        burst=message.burst,
        concurrent=message.concurrent,
    )


def _demand_known(message: Message) -> None:
    if len(UnknownFieldSet(message)):
        raise ValueError(f"a field of {message.DESCRIPTOR.name} that this agent does not know")
    for field, found in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue  # the maps are of texts
        for part in found if isinstance(found, Iterable) and not isinstance(found, MessageMap) else (found,):
            _demand_known(part)


def _traffic(message: pb.ServiceTraffic) -> ServiceTraffic:
    if not message.service:
        raise ValueError("routes of a service without name")
    subsets = tuple(Subset(subset.name, dict(subset.labels), _policies(subset.policies)) for subset in message.subsets)
    if len({subset.name for subset in subsets}) < len(subsets) or any(not subset.name for subset in subsets):
        raise ValueError("subsets without a name of their own")
    return ServiceTraffic(
        service=message.service,
        routes=tuple(_route(route) for route in message.tcp_routes),
        tls_routes=tuple(_route(route, is_tls=True) for route in message.tls_routes),
        subsets=subsets,
        policies=_policies(message.policies),
    )


def _policies(messages: Iterable[pb.PortPolicy]) -> tuple[PortPolicy, ...]:
    found = tuple(PortPolicy(_port(message.port), _policy(message.policy)) for message in messages)
    if len({entry.port for entry in found}) < len(found):
        raise ValueError("two policies for one port")
    return found


def _policy(message: pb.TrafficPolicy) -> TrafficPolicy:
    if message.algorithm not in _ALGORITHMS:
        raise ValueError(f"unknown algorithm {message.algorithm}")
    keepalive = message.keepalive
    return TrafficPolicy(
        algorithm=_ALGORITHMS[message.algorithm],
        max_connections=message.max_connections,
        connect_seconds=message.connect_milliseconds / 1000,
        idle_seconds=message.idle_milliseconds / 1000,
        keepalive=Keepalive(
            probes=keepalive.probes, idle_seconds=keepalive.idle_seconds, interval_seconds=keepalive.interval_seconds
        )
        if message.HasField("keepalive")
        else None,
        outlier=_outlier(message.outlier_detection) if message.HasField("outlier_detection") else None,
        locality=_locality(message.locality) if message.HasField("locality") else None,
    )


def _locality(message: pb.LocalityBalancing) -> LocalityBalancing:
    if any(not one.shares or not all(share.weight for share in one.shares) for one in message.distributions):
        raise ValueError("a distribution without shares, or with one of 0")
    return LocalityBalancing(
        distributions=tuple(
            Distribution(one.source, tuple((share.locality, share.weight) for share in one.shares))
            for one in message.distributions
        ),
        failover=tuple((one.source, one.destination) for one in message.failover),
        priority_labels=tuple(message.priority_labels),
    )


def _outlier(message: pb.OutlierDetection) -> OutlierDetection:
    if not message.failures:
        raise ValueError("outlier detection without a number of failures")
    return OutlierDetection(
        failures=message.failures,
        base_ejection_seconds=message.base_ejection_milliseconds / 1000,
        max_ejection_percent=message.max_ejection_percent,
        interval_seconds=message.interval_milliseconds / 1000,
    )


def _route(message: pb.TcpRoute, *, is_tls: bool = False) -> TcpRoute:
    if not message.destinations:
        raise ValueError("a route without a destination")
    if is_tls and not message.matches:
        raise ValueError("a TLS route without a match")
    if any(bool(match.server_names) is not is_tls for match in message.matches):
        raise ValueError("a TLS route without server names, or another one with them")
    return TcpRoute(
        destinations=tuple(_destination(destination) for destination in message.destinations),
        matches=tuple(_match(match) for match in message.matches),
    )


def _destination(message: pb.Destination) -> Destination:
    if not message.service or not message.weight:
        raise ValueError("a destination without service or weight")
    return Destination(service=message.service, weight=message.weight, port=_port(message.port), subset=message.subset)


def _match(message: pb.TcpMatch) -> TcpMatch:
    return TcpMatch(
        destination_blocks=tuple(Cidr.unpack(block.address, block.length) for block in message.destination_blocks),
        port=_port(message.port),
        source_namespace=message.source_namespace,
        source_labels=dict(message.source_labels),
        server_names=tuple(message.server_names),
    )


def _port(number: int) -> int:
    if number > 65535:
        raise ValueError(f"port {number}")
    return number


_DECODERS: Mapping[str, Callable[[Any], Extension]] = {
    "service": _traffic,
    "workload": _labels,
    "mesh": _mesh,
    "limits": _limits,
    "clients": _clients,
    "dry_run": _dry_run,
    "trust_domains": _trust_domains,
    "revocations": _revocations,
    "policy_origin": _origin,
}
"""By the name of the member that is set."""
