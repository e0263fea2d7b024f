# SPDX-License-Identifier: Apache-2.0
"""Pods and endpoints of EndpointSlices -> Workloads. Pure.

Which pods a Service has is decided by its selector here, since no controller writes EndpointSlices for it; slices count
for Services without selector. Terminal pods and pods without address are no workloads.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from nodeagent.controlplane.objects import (
    Endpoint,
    EndpointSlice,
    Enrolment,
    MeshConfig,
    Node,
    Pod,
    PodPhase,
    Service,
)
from nodeagent.controlplane.services import hostname
from nodeagent.model.workload import ServicePort, TunnelProtocol, Workload

MODE_LABEL = "istio.io/dataplane-mode"
REDIRECTION = "ambient.istio.io/redirection"
_CANONICAL_NAMES = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_CANONICAL_REVISIONS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
_TERMINAL = frozenset({PodPhase.SUCCEEDED, PodPhase.FAILED})


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pod's workload depends on besides the pod."""

    mesh: MeshConfig
    namespace_labels: Mapping[str, Mapping[str, str]]
    nodes: Mapping[str, Node]
    services: Mapping[str, list[Service]]
    """By namespace; without ExternalName."""
    sliced: Mapping[str, list[Service]]
    """By `namespace/pod`: Services without selector whose slices name this pod."""


def is_enrolled(pod: Pod, around: Surroundings) -> bool:
    """Whether the pod's traffic is captured: the decision that istio-cni takes in a cluster."""
    if around.mesh.enrolment is Enrolment.ANNOTATION:
        return pod.meta.annotations.get(REDIRECTION) == "enabled"
    if pod.is_host_network or "sidecar.istio.io/status" in pod.meta.annotations:
        return False
    of_namespace = around.namespace_labels.get(pod.meta.namespace, {})
    return (pod.meta.labels.get(MODE_LABEL) or of_namespace.get(MODE_LABEL)) == "ambient"


def translate_pod(pod: Pod, around: Surroundings, policies: tuple[str, ...]) -> Workload | None:
    if pod.phase in _TERMINAL or not pod.ips:
        return None
    meta, mesh = pod.meta, around.mesh
    is_native = meta.labels.get("networking.istio.io/tunnel") == "http"
    node = around.nodes.get(pod.node)
    locality = node.meta.labels if node is not None else {}
    return Workload(
        uid=f"{mesh.cluster}//Pod/{meta.namespace}/{meta.name}",
        name=meta.name,
        namespace=meta.namespace,
        addresses=pod.ips,
        network=meta.labels.get("topology.istio.io/network", mesh.network),
        protocol=TunnelProtocol.HBONE if is_native or is_enrolled(pod, around) else TunnelProtocol.TCP,
        trust_domain=mesh.trust_domain,
        service_account=pod.service_account,
        node=pod.node,
        cluster=mesh.cluster,
        canonical_name=_first(meta.labels, _CANONICAL_NAMES, pod.workload_name),
        canonical_revision=_first(meta.labels, _CANONICAL_REVISIONS, "latest"),
        workload_name=pod.workload_name,
        native_tunnel=is_native,
        services=dict(sorted(_endpoints_of(pod, around))),
        policies=policies,
        is_healthy=pod.is_ready,
        is_host_network=pod.is_host_network,
        region=locality.get("topology.kubernetes.io/region", ""),
        zone=locality.get("topology.kubernetes.io/zone", ""),
        subzone=locality.get("topology.istio.io/subzone", ""),
    )


def _first(labels: Mapping[str, str], names: tuple[str, ...], default: str) -> str:
    return next((labels[name] for name in names if labels.get(name)), default)


def _endpoints_of(pod: Pod, around: Surroundings) -> Iterator[tuple[str, tuple[ServicePort, ...]]]:
    labels = pod.meta.labels.items()
    selecting = [
        service
        for service in around.services.get(pod.meta.namespace, ())
        if service.selector and service.selector.items() <= labels
    ]
    for service in (*selecting, *around.sliced.get(f"{pod.meta.namespace}/{pod.meta.name}", ())):
        ports = [
            ServicePort(port.port, target)
            for port in service.ports
            # A named port that this pod does not have is left out: other pods of the Service may have it.
            if (target := pod.named_ports.get(port.target_name, 0) if port.target_name else port.target_port)
        ]
        yield service_key(service, around.mesh), tuple(ports)


def service_key(service: Service, mesh: MeshConfig) -> str:
    meta = service.meta
    return f"{meta.namespace}/{hostname(meta.name, meta.namespace, mesh)}"


def translate_slice(piece: EndpointSlice, service: Service, mesh: MeshConfig) -> Iterator[Workload]:
    """Endpoints that are no pods. Nothing is known of them but the address, which others may share."""
    ports_by_name = {port.name: port.port for port in service.ports}
    ports = tuple(ServicePort(ports_by_name[name], target) for name, target in piece.ports if name in ports_by_name)
    seen: set[str] = set()
    for endpoint in piece.endpoints:
        if endpoint.pod or not endpoint.addresses or endpoint.addresses[0] in seen:
            continue
        seen.add(endpoint.addresses[0])
        yield _opaque(piece, endpoint, {service_key(service, mesh): ports}, mesh)


def _opaque(
    piece: EndpointSlice, endpoint: Endpoint, services: dict[str, tuple[ServicePort, ...]], mesh: MeshConfig
) -> Workload:
    meta = piece.meta
    return Workload(
        uid=f"{mesh.cluster}/discovery.k8s.io/EndpointSlice/{meta.namespace}/{meta.name}/{endpoint.addresses[0]}",
        name=meta.name,
        namespace=meta.namespace,
        addresses=endpoint.addresses,
        network=mesh.network,
        trust_domain=mesh.trust_domain,
        service_account="",
        cluster=mesh.cluster,
        workload_type="deployment",
        services=services,
        is_healthy=endpoint.is_ready,
        is_host_network=True,
    )
