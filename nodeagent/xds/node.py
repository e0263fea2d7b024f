# SPDX-License-Identifier: Apache-2.0
"""Who we say we are, in the form that istiod takes from a ztunnel."""

from google.protobuf.struct_pb2 import Struct

from nodeagent.config import Config
from nodeagent.proto import xds_pb2

UNKNOWN_IP = "1.1.1.1"
"""istiod demands an address and does nothing with ours; ztunnel sends this one."""


def make_node(config: Config) -> xds_pb2.Node:
    """The id has exactly four parts; its namespace must be the token's."""
    name, namespace = config.pod_name or config.node, config.pod_namespace
    ip = config.instance_ip or UNKNOWN_IP
    metadata = Struct()
    metadata.update(
        {
            "NAME": name,
            "NAMESPACE": namespace,
            "INSTANCE_IPS": ip,
            "NODE_NAME": config.node,
            "CLUSTER_ID": config.cluster,
        }
    )
    return xds_pb2.Node(id=f"ztunnel~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local", metadata=metadata)
