# SPDX-License-Identifier: Apache-2.0
"""What Kiali asks Prometheus for its graph, and what it draws of the answers, for TCP as the graph is set at first.

After Kiali's graph/telemetry/istio: istio.go (buildNamespaceTrafficMap, populateTrafficMap), util/util.go and
appender/security_policy.go, of August 2026. Rates of TCP are of bytes sent, which are Istio's received_bytes; reporters
include waypoints and the node's own proxies.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

_SECONDS = 60
"""Of a rate."""
_METRIC = "istio_tcp_received_bytes_total"
_GROUP = (
    "app,source_cluster,source_workload_namespace,source_workload,source_canonical_service,source_canonical_revision,"
    "destination_cluster,destination_service_namespace,destination_service,destination_service_name,"
    "destination_workload_namespace,destination_workload,destination_canonical_service,"
    "destination_canonical_revision,response_flags"
)
_SECURITY_GROUP = (
    "source_cluster,source_workload_namespace,source_workload,source_canonical_service,source_canonical_revision,"
    "source_principal,destination_cluster,destination_service_namespace,destination_service_name,"
    "destination_workload_namespace,destination_workload,destination_canonical_service,"
    "destination_canonical_revision,destination_principal,connection_security_policy"
)

Labels = Mapping[str, str]
Query = Callable[[str], Iterable[Labels]]
"""PromQL to the labels of each sample of the vector."""


class Edge(NamedTuple):
    source: str
    """`namespace/workload`."""
    destination: str
    service: str
    """Name; `unknown` where none was asked for."""


def edges(query: Query, namespace: str) -> set[Edge]:
    """The edges of a namespace's graph."""
    return {_edge(labels) for promql in _traffic(namespace) for labels in query(promql) if _is_drawn(labels)}


def padlocks(query: Query, namespace: str) -> dict[Edge, tuple[str, str, str]]:
    """By edge: security policy, source principal, destination principal."""
    return {
        _edge(labels): (
            labels["connection_security_policy"],
            labels["source_principal"],
            labels["destination_principal"],
        )
        for promql in _security(namespace)
        for labels in query(promql)
        if _is_drawn(labels)
    }


def _traffic(namespace: str) -> tuple[str, ...]:
    unserviced = (
        f'reporter=~"waypoint|source",source_workload_namespace!="{namespace}",destination_workload_namespace="unknown",'
        f'destination_workload="unknown",destination_service=~"^.+\\\\.{namespace}\\\\..+$"'
    )
    incoming = f'reporter=~"waypoint|destination",destination_workload_namespace="{namespace}"'
    outgoing = f'reporter=~"waypoint|source",source_workload_namespace="{namespace}"'
    return tuple(
        f"sum(rate({_METRIC}{{{selector}}} [{_SECONDS}s])) by ({_GROUP}) > 0"
        for selector in (unserviced, incoming, outgoing)
    )


def _security(namespace: str) -> tuple[str, ...]:
    destination = 'reporter=~"waypoint|destination"'
    selectors = (
        f'{destination},source_workload_namespace!="{namespace}",destination_service_namespace="{namespace}"',
        f'{destination},source_workload_namespace="{namespace}"',
        f'app="ztunnel",reporter="source",source_workload_namespace="{namespace}"',
    )
    return tuple(
        f"sum(rate({_METRIC}{{{selector}}}[{_SECONDS}s])) by ({_SECURITY_GROUP}) > 0" for selector in selectors
    )


def _edge(labels: Labels) -> Edge:
    return Edge(
        f"{labels['source_workload_namespace']}/{labels['source_workload']}",
        f"{labels['destination_workload_namespace']}/{labels['destination_workload']}",
        labels["destination_service_name"],
    )


def _is_drawn(labels: Labels) -> bool:
    """Not what Kiali takes for known faults of telemetry."""
    known = {name: value not in {"", "unknown"} for name, value in labels.items()}
    source_is_bad = known["source_workload_namespace"] and (
        not (known["source_workload"] or known["source_canonical_service"]) or not known["source_cluster"]
    )
    destination_is_bad = known["destination_service_namespace"] and not (
        known["destination_cluster"] or known["source_cluster"]
    )
    return not source_is_bad and not destination_is_bad
