# SPDX-License-Identifier: Apache-2.0
"""Extensions -> protobuf resources, as nodeagent/xds/decode_extension.py reads them. Pure."""

import ipaddress
from collections.abc import Iterable
from typing import assert_never

from nodeagent.controlplane.encode import Resource, encode_authorization, make_resource
from nodeagent.model.security import DryRun, PolicyOrigin, Revocations, TrustDomains
from nodeagent.model.traffic import (
    ClientScope,
    ClientScopes,
    Destination,
    Extension,
    LocalityBalancing,
    MeshTraffic,
    PortPolicy,
    ServiceTraffic,
    TcpMatch,
    TcpRoute,
    TrafficPolicy,
    WorkloadLabels,
    WorkloadLimits,
)
from nodeagent.proto import extension_pb2 as pb


def encode_extension(extension: Extension) -> Resource:
    match extension:
        case ServiceTraffic():
            message = pb.Extension(service=_traffic(extension))
        case WorkloadLabels():
            message = pb.Extension(workload=pb.WorkloadLabels(uid=extension.uid, labels=extension.labels))
        case MeshTraffic():
            message = pb.Extension(mesh=pb.MeshTraffic(registry_only=extension.is_registry_only))
        case WorkloadLimits():
            message = pb.Extension(
                limits=pb.WorkloadLimits(
                    uid=extension.uid,
                    per_thousand_seconds=round(extension.per_second * 1000),
                    burst=extension.burst,
                    concurrent=extension.concurrent,
                )
            )
        case DryRun():
            policy = encode_authorization(extension.policy)
            message = pb.Extension(
                dry_run=pb.DryRun(policy=policy, namespace=extension.namespace, selector=extension.selector)
            )
        case TrustDomains():
            message = pb.Extension(trust_domains=pb.TrustDomains(domains=sorted(extension.domains)))
        case Revocations():
            listed = pb.Revocations(source=extension.source, certificates=sorted(extension.certificates))
            message = pb.Extension(revocations=listed)
        case PolicyOrigin():
            origin = pb.PolicyOrigin(policy=extension.policy, file=extension.file, line=extension.line)
            message = pb.Extension(policy_origin=origin)
        case ClientScopes():
            scopes = [_scope(scope) for scope in extension.scopes]
            message = pb.Extension(clients=pb.ClientScopes(namespace=extension.namespace, scopes=scopes))
        case unreachable:
            assert_never(unreachable)
    return make_resource(extension.name, message)


def _scope(scope: ClientScope) -> pb.ClientScope:
    message = pb.ClientScope(name=scope.name, labels=scope.labels, registry_only=scope.is_registry_only)
    if scope.egress is not None:
        listeners = [pb.EgressHosts(hosts=one.hosts, port=one.port) for one in scope.egress]
        message.egress.CopyFrom(pb.Egress(listeners=listeners))
    return message


def _traffic(traffic: ServiceTraffic) -> pb.ServiceTraffic:
    return pb.ServiceTraffic(
        service=traffic.service,
        tcp_routes=[_route(route) for route in traffic.routes],
        tls_routes=[_route(route) for route in traffic.tls_routes],
        subsets=[
            pb.Subset(name=subset.name, labels=subset.labels, policies=_policies(subset.policies))
            for subset in traffic.subsets
        ],
        policies=_policies(traffic.policies),
    )


def _route(route: TcpRoute) -> pb.TcpRoute:
    return pb.TcpRoute(
        matches=[_match(match) for match in route.matches],
        destinations=[_destination(destination) for destination in route.destinations],
    )


def _policies(policies: Iterable[PortPolicy]) -> list[pb.PortPolicy]:
    return [pb.PortPolicy(port=entry.port, policy=_policy(entry.policy)) for entry in policies]


def _policy(policy: TrafficPolicy) -> pb.TrafficPolicy:
    message = pb.TrafficPolicy(
        algorithm=pb.TrafficPolicy.Algorithm.Value(policy.algorithm) if policy.algorithm else 0,  # type: ignore[arg-type]
        max_connections=policy.max_connections,
        connect_milliseconds=_milliseconds(policy.connect_seconds),
        idle_milliseconds=_milliseconds(policy.idle_seconds),
    )
    if policy.keepalive is not None:
        message.keepalive.CopyFrom(
            pb.Keepalive(
                probes=policy.keepalive.probes,
                idle_seconds=policy.keepalive.idle_seconds,
                interval_seconds=policy.keepalive.interval_seconds,
            )
        )
    if policy.outlier is not None:
        message.outlier_detection.CopyFrom(
            pb.OutlierDetection(
                failures=policy.outlier.failures,
                base_ejection_milliseconds=_milliseconds(policy.outlier.base_ejection_seconds),
                max_ejection_percent=policy.outlier.max_ejection_percent,
                interval_milliseconds=_milliseconds(policy.outlier.interval_seconds),
            )
        )
    if policy.locality is not None:
        message.locality.CopyFrom(_locality(policy.locality))
    return message


def _locality(locality: LocalityBalancing) -> pb.LocalityBalancing:
    return pb.LocalityBalancing(
        distributions=[
            pb.Distribution(
                source=one.source,
                shares=[pb.Share(locality=place, weight=weight) for place, weight in one.shares],
            )
            for one in locality.distributions
        ],
        failover=[pb.RegionFailover(source=region, destination=to) for region, to in locality.failover],
        priority_labels=locality.priority_labels,
    )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _match(match: TcpMatch) -> pb.TcpMatch:
    blocks = [ipaddress.ip_network(str(block)) for block in match.destination_blocks]
    return pb.TcpMatch(
        destination_blocks=[pb.Block(address=block.network_address.packed, length=block.prefixlen) for block in blocks],
        port=match.port,
        source_namespace=match.source_namespace,
        source_labels=match.source_labels,
        server_names=match.server_names,
    )


def _destination(destination: Destination) -> pb.Destination:
    return pb.Destination(
        service=destination.service, weight=destination.weight, port=destination.port, subset=destination.subset
    )
