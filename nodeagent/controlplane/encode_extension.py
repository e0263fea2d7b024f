# SPDX-License-Identifier: Apache-2.0
"""Extensions -> protobuf resources, as nodeagent/xds/decode_extension.py reads them. Pure."""

import ipaddress
from typing import assert_never

from nodeagent.controlplane.encode import Resource, make_resource
from nodeagent.model.traffic import Destination, Extension, MeshTraffic, ServiceTraffic, TcpMatch, WorkloadLabels
from nodeagent.proto import extension_pb2 as pb


def encode_extension(extension: Extension) -> Resource:
    match extension:
        case ServiceTraffic():
            message = pb.Extension(service=_traffic(extension))
        case WorkloadLabels():
            message = pb.Extension(workload=pb.WorkloadLabels(uid=extension.uid, labels=extension.labels))
        case MeshTraffic():
            message = pb.Extension(mesh=pb.MeshTraffic(registry_only=extension.is_registry_only))
        case unreachable:
            assert_never(unreachable)
    return make_resource(extension.name, message)


def _traffic(traffic: ServiceTraffic) -> pb.ServiceTraffic:
    return pb.ServiceTraffic(
        service=traffic.service,
        tcp_routes=[
            pb.TcpRoute(
                matches=[_match(match) for match in route.matches],
                destinations=[_destination(destination) for destination in route.destinations],
            )
            for route in traffic.routes
        ],
        subsets=[pb.Subset(name=subset.name, labels=subset.labels) for subset in traffic.subsets],
    )


def _match(match: TcpMatch) -> pb.TcpMatch:
    blocks = [ipaddress.ip_network(str(block)) for block in match.destination_blocks]
    return pb.TcpMatch(
        destination_blocks=[pb.Block(address=block.network_address.packed, length=block.prefixlen) for block in blocks],
        port=match.port,
        source_namespace=match.source_namespace,
        source_labels=match.source_labels,
    )


def _destination(destination: Destination) -> pb.Destination:
    return pb.Destination(
        service=destination.service, weight=destination.weight, port=destination.port, subset=destination.subset
    )
