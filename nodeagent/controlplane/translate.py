# SPDX-License-Identifier: Apache-2.0
"""Objects -> what the mesh's agents are told, and which identities each node may ask for. Pure and total.

The same objects always give the same answer, whatever was there before; what changed is found by comparing answers
(`snapshot.py`). It equals a real istiod's answer to the same objects, but for what the files' docstrings say.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

from nodeagent.controlplane.authorization import translate_authorization
from nodeagent.controlplane.objects import (
    DEFAULT_MESH,
    AuthorizationPolicy,
    EndpointSlice,
    MeshConfig,
    MeshObject,
    Namespace,
    Node,
    PeerAuthentication,
    Pod,
    PodPhase,
    Service,
)
from nodeagent.controlplane.peer_authentication import PeerAuthentications
from nodeagent.controlplane.services import ServiceHints, translate_service
from nodeagent.controlplane.traffic import translate_traffic
from nodeagent.controlplane.workloads import Surroundings, translate_pod, translate_slice
from nodeagent.model import workload as model
from nodeagent.model.identity import Identity
from nodeagent.model.policy import Policy, PolicyScope
from nodeagent.model.traffic import Extension

_Kind = TypeVar("_Kind", bound=MeshObject)


@dataclasses.dataclass(frozen=True, slots=True)
class Translation:
    mesh: MeshConfig = DEFAULT_MESH
    workloads: Mapping[str, model.Workload] = dataclasses.field(default_factory=dict)
    """By uid."""
    services: Mapping[str, model.Service] = dataclasses.field(default_factory=dict)
    """By `namespace/hostname`, as are `hints`."""
    hints: Mapping[str, ServiceHints] = dataclasses.field(default_factory=dict)
    policies: Mapping[str, Policy] = dataclasses.field(default_factory=dict)
    """By `namespace/name`."""
    extensions: Mapping[str, Extension] = dataclasses.field(default_factory=dict)
    """By name: what an istiod would not say."""
    identities: Mapping[str, frozenset[Identity]] = dataclasses.field(default_factory=dict)
    """By node: identities of the pods placed there that have not failed."""


def select(objects: Iterable[MeshObject], kind: type[_Kind]) -> list[_Kind]:
    return [value for value in objects if isinstance(value, kind)]


def mesh_config(objects: Iterable[MeshObject]) -> MeshConfig:
    """The oldest, if there are several."""
    return min(select(objects, MeshConfig), key=lambda mesh: mesh.meta.age, default=DEFAULT_MESH)


def translate(objects: Iterable[MeshObject]) -> Translation:
    known = tuple(objects)
    mesh = mesh_config(known)
    around = _surroundings(known, mesh)
    peers = PeerAuthentications.sort(select(known, PeerAuthentication), mesh.root_namespace)
    selecting: dict[str, list[AuthorizationPolicy]] = defaultdict(list)
    policies: dict[str, Policy] = {policy.key: policy for policy in peers.policies()}
    for written in select(known, AuthorizationPolicy):
        policy = translate_authorization(written, mesh.root_namespace)
        if policy is None:
            continue
        policies[policy.key] = policy
        if policy.scope is PolicyScope.WORKLOAD_SELECTOR:
            selecting[policy.namespace].append(written)
    workloads: dict[str, model.Workload] = {}
    labels: dict[str, Mapping[str, str]] = {}
    for pod in select(known, Pod):
        listed = _selected_by(pod, selecting, mesh) + peers.listed_by(pod.meta.namespace, pod.meta.labels)
        workload = translate_pod(pod, around, listed)
        if workload is not None:
            workloads[workload.uid] = workload
            labels[workload.uid] = pod.meta.labels
    workloads.update(_sliced_workloads(known, around))
    annotations = {value.meta.name: value.meta.annotations for value in select(known, Namespace)}
    translated = [
        translate_service(service, mesh, annotations.get(service.meta.namespace, {}))
        for services in around.services.values()
        for service in services
    ]
    return Translation(
        mesh=mesh,
        workloads=workloads,
        services={service.key: service for service, _ in translated},
        hints={service.key: hints for service, hints in translated},
        policies=policies,
        extensions=translate_traffic(
            known,
            labels,
            {uid: workload.namespace for uid, workload in workloads.items()},
            {service.key for service, _ in translated},
            mesh,
        ),
        identities=_identities(select(known, Pod), mesh),
    )


def _surroundings(objects: tuple[MeshObject, ...], mesh: MeshConfig) -> Surroundings:
    services: dict[str, list[Service]] = defaultdict(list)
    without_selector: dict[tuple[str, str], Service] = {}
    for service in select(objects, Service):
        if service.is_external_name:
            continue
        services[service.meta.namespace].append(service)
        if not service.selector:
            without_selector[service.meta.namespace, service.meta.name] = service
    sliced: dict[str, list[Service]] = defaultdict(list)
    for piece in select(objects, EndpointSlice):
        owner = without_selector.get((piece.meta.namespace, piece.service))
        for endpoint in piece.endpoints:
            if owner is not None and endpoint.pod and owner not in sliced[endpoint.pod]:
                sliced[endpoint.pod].append(owner)
    return Surroundings(
        mesh=mesh,
        namespace_labels={value.meta.name: value.meta.labels for value in select(objects, Namespace)},
        nodes={value.meta.name: value for value in select(objects, Node)},
        services=services,
        sliced=sliced,
    )


def _sliced_workloads(objects: tuple[MeshObject, ...], around: Surroundings) -> dict[str, model.Workload]:
    found: dict[str, model.Workload] = {}
    for piece in select(objects, EndpointSlice):
        for service in around.services.get(piece.meta.namespace, ()):
            if service.meta.name == piece.service:
                found.update((workload.uid, workload) for workload in translate_slice(piece, service, around.mesh))
    return found


def _selected_by(pod: Pod, selecting: Mapping[str, list[AuthorizationPolicy]], mesh: MeshConfig) -> tuple[str, ...]:
    """Policies of the pod's own namespace; those of the root namespace select everywhere."""
    labels = pod.meta.labels.items()
    return tuple(
        sorted(
            f"{namespace}/{policy.meta.name}"
            for namespace in {pod.meta.namespace, mesh.root_namespace}
            for policy in selecting.get(namespace, ())
            if policy.selector is not None and policy.selector.items() <= labels
        )
    )


def _identities(pods: list[Pod], mesh: MeshConfig) -> dict[str, frozenset[Identity]]:
    found: dict[str, set[Identity]] = defaultdict(set)
    for pod in pods:
        if pod.node and pod.phase is not PodPhase.FAILED:
            found[pod.node].add(Identity(mesh.trust_domain, pod.meta.namespace, pod.service_account))
    return {node: frozenset(identities) for node, identities in found.items()}
