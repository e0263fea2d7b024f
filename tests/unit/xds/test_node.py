# SPDX-License-Identifier: Apache-2.0
"""The node is described as a ztunnel's is."""

from google.protobuf.json_format import MessageToDict

from nodeagent.config import Config
from nodeagent.xds.node import make_node


def test_the_node_is_the_one_a_ztunnel_would_be() -> None:
    node = make_node(
        Config(node="node-a", pod_name="ztunnel-a", pod_namespace="istio-system", instance_ip="10.20.0.2", cluster="c")
    )

    assert node.id == "ztunnel~10.20.0.2~ztunnel-a.istio-system~istio-system.svc.cluster.local"
    assert MessageToDict(node.metadata) == {
        "NAME": "ztunnel-a",
        "NAMESPACE": "istio-system",
        "INSTANCE_IPS": "10.20.0.2",
        "NODE_NAME": "node-a",
        "CLUSTER_ID": "c",
    }


def test_outside_a_pod_the_nodes_name_stands_in() -> None:
    parts = make_node(Config(node="node-a")).id.split("~")

    assert parts == ["ztunnel", "1.1.1.1", "node-a.istio-system", "istio-system.svc.cluster.local"]
