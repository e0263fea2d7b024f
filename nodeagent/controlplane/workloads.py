# SPDX-License-Identifier: Apache-2.0
"""Pods and endpoints of EndpointSlices -> Workloads. Pure.

Which pods a Service has is decided by its selector here, since no controller writes EndpointSlices for it; slices count
for pods that no selector of that Service has chosen. Terminal pods and pods without address are no workloads.
"""

from collections.abc import Iterator, Mapping

from nodeagent.controlplane.hints import WorkloadHints
from nodeagent.controlplane.mesh_services import MeshService
from nodeagent.controlplane.objects import Endpoint, EndpointSlice, Enrolment, MeshConfig, Node, Pod, PodPhase
from nodeagent.controlplane.surroundings import Surroundings
from nodeagent.model.opt_in import Standing, is_redirected, standing
from nodeagent.model.workload import ServicePort, TunnelProtocol, Workload

_TUNNEL_LABEL = "networking.istio.io/tunnel"
_CANONICAL_NAMES = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_CANONICAL_REVISIONS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
_REGION, _ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"
_TERMINAL = frozenset({PodPhase.SUCCEEDED, PodPhase.FAILED})


def is_enrolled(pod: Pod, around: Surroundings) -> bool:
    """Whether the pod's traffic is captured: the decision that istio-cni takes in a cluster."""
    if around.mesh.enrolment is Enrolment.ANNOTATION:
        return is_redirected(pod.meta.annotations)
    namespace = around.namespaces.get(pod.meta.namespace)
    found = standing(
        pod.meta.namespace,
        pod.meta.labels,
        pod.meta.annotations,
        namespace.meta.labels if namespace is not None else {},
        is_host_network=pod.is_host_network,
    )
    return found is Standing.OPTED_IN


def speaks_hbone(labels: Mapping[str, str]) -> bool:
    """It needs no proxy for that. The label is a list."""
    return "http" in labels.get(_TUNNEL_LABEL, "").split(",")


def canonical(labels: Mapping[str, str], workload_name: str) -> tuple[str, str]:
    """Name and revision."""
    return _first(labels, _CANONICAL_NAMES, workload_name), _first(labels, _CANONICAL_REVISIONS, "latest")


def _first(labels: Mapping[str, str], names: tuple[str, ...], default: str) -> str:
    return next((labels[name] for name in names if name in labels), default)


def labels_of(pod: Pod, nodes: Mapping[str, Node]) -> dict[str, str]:
    """By which it is selected.

    An API server writes the node's place into the pod's labels (Kubernetes 1.35, PodTopologyLabelsAdmission).
    """
    place = _node_labels(pod, nodes)
    return pod.meta.labels | {key: place[key] for key in (_REGION, _ZONE) if key in place}


def _node_labels(pod: Pod, nodes: Mapping[str, Node]) -> Mapping[str, str]:
    node = nodes.get(pod.node)
    return node.meta.labels if node is not None else {}


def translate_pod(pod: Pod, around: Surroundings) -> tuple[Workload, WorkloadHints] | None:
    if pod.phase in _TERMINAL or not pod.ips:
        return None
    meta, mesh = pod.meta, around.mesh
    is_native = speaks_hbone(meta.labels)
    locality, labels = _node_labels(pod, around.nodes), labels_of(pod, around.nodes)
    waypoint = around.waypoints.having(meta, meta.labels)
    name, revision = canonical(meta.labels, pod.workload_name)
    workload = Workload(
        uid=f"{mesh.cluster}//Pod/{meta.namespace}/{meta.name}",
        name=meta.name,
        namespace=meta.namespace,
        addresses=pod.ips,
        network=mesh.network,
        protocol=TunnelProtocol.HBONE if is_native or is_enrolled(pod, around) else TunnelProtocol.TCP,
        trust_domain=mesh.trust_domain,
        service_account=pod.service_account,
        node=pod.node,
        cluster=mesh.cluster,
        canonical_name=name,
        canonical_revision=revision,
        workload_name=pod.workload_name,
        waypoint=around.waypoints.of_workload(meta.namespace, meta.labels) if waypoint is None else None,
        network_gateway=around.gateway_to(mesh.network),
        native_tunnel=is_native,
        application_tunnel_port=waypoint.tunnel_port if waypoint is not None else 0,
        services=dict(sorted(_endpoint_of(pod, labels, around))),
        policies=around.policies_of(meta.namespace, labels),
        is_healthy=pod.is_ready,
        is_host_network=pod.is_host_network,
        region=locality.get(_REGION, ""),
        zone=locality.get(_ZONE, ""),
        subzone=locality.get("topology.istio.io/subzone", ""),
    )
    return workload, WorkloadHints(binding=waypoint.binding if waypoint is not None else None)


def _endpoint_of(
    pod: Pod, labels: Mapping[str, str], around: Surroundings
) -> Iterator[tuple[str, tuple[ServicePort, ...]]]:
    meta = pod.meta
    selecting = list(around.selected(meta.namespace, labels))
    hosts = {service.service.hostname for service in selecting}
    sliced = around.sliced.get((f"{meta.namespace}/{meta.name}", pod.uid), ())
    for service in (*selecting, *(one for one in sliced if one.service.hostname not in hosts)):
        yield service.service.key, tuple(_pod_ports(service, pod))


def _pod_ports(service: MeshService, pod: Pod) -> Iterator[ServicePort]:
    """A named port that this pod does not have is left out: other pods of the Service may have it.

    A ServiceEntry's target port is a number, for which a container port with the name of the ServiceEntry's counts.
    """
    for port in service.service.ports:
        names = service.port_names[port.service_port]
        if names.target:
            if names.target in pod.named_ports:
                yield ServicePort(port.service_port, pod.named_ports[names.target])
        elif service.is_kubernetes:
            yield port
        else:
            yield ServicePort(port.service_port, pod.named_ports.get(names.name, port.target_port))


def translate_slice(piece: EndpointSlice, service: MeshService, mesh: MeshConfig) -> Iterator[Workload]:
    """Endpoints that are no pods. Nothing is known of them but the address, which others may share."""
    ports = tuple(
        ServicePort(port.service_port, target)
        for name, target in piece.ports
        if (port := _named_port(service, name)) is not None
    )
    seen: set[str] = set()
    for endpoint in piece.endpoints:
        if endpoint.pod or endpoint.written in seen:
            continue
        seen.add(endpoint.written)
        yield _opaque(piece, endpoint, {service.service.key: ports}, mesh)


def _named_port(service: MeshService, name: str) -> ServicePort | None:
    return next((port for port in service.service.ports if service.port_names[port.service_port].name == name), None)


def _opaque(
    piece: EndpointSlice, endpoint: Endpoint, services: dict[str, tuple[ServicePort, ...]], mesh: MeshConfig
) -> Workload:
    meta = piece.meta
    return Workload(
        uid=f"{mesh.cluster}/discovery.k8s.io/EndpointSlice/{meta.namespace}/{meta.name}/{endpoint.written}",
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
