# SPDX-License-Identifier: Apache-2.0
"""Objects -> what the mesh's agents are told, and which identities each node may ask for. Pure and total.

The same objects always give the same answer, whatever was there before, but for addresses that were allocated to
ServiceEntries: they stay. What changed is found by comparing answers (`snapshot.py`). It equals a real istiod's answer
to the same objects, but for what docs/istiod.md lists.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec

from nodeagent.controlplane.authorization import translate_authorization
from nodeagent.controlplane.entry_workloads import translate_endpoints, translate_workload_entry
from nodeagent.controlplane.extra_security import translate_origins
from nodeagent.controlplane.hints import ServiceHints, WorkloadHints
from nodeagent.controlplane.label_selector import SelectorIndex
from nodeagent.controlplane.mesh_services import MeshService, choose_services
from nodeagent.controlplane.networks import local_network, network_gateways
from nodeagent.controlplane.objects import (
    DEFAULT_MESH,
    AuthorizationPolicy,
    EndpointSlice,
    Enrolment,
    Gateway,
    GatewayClass,
    Key,
    MeshConfig,
    MeshObject,
    Namespace,
    Node,
    PeerAuthentication,
    Pod,
    PodPhase,
    Service,
    ServiceEntry,
    WorkloadEntry,
)
from nodeagent.controlplane.peer_authentication import PeerAuthentications
from nodeagent.controlplane.service_entries import Allocated, allocate, translate_service_entry
from nodeagent.controlplane.services import translate_service
from nodeagent.controlplane.surroundings import Surroundings
from nodeagent.controlplane.traffic import translate_traffic
from nodeagent.controlplane.waypoints import Waypoints, build_waypoints
from nodeagent.controlplane.workloads import translate_pod, translate_slice
from nodeagent.model import workload as model
from nodeagent.model.identity import Identity
from nodeagent.model.policy import Policy
from nodeagent.model.traffic import Extension

_Kind = TypeVar("_Kind", bound=MeshObject)
_NO_HINTS = WorkloadHints()
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, slots=True)
class Translation:
    mesh: MeshConfig = DEFAULT_MESH
    workloads: Mapping[str, model.Workload] = dataclasses.field(default_factory=dict)
    """By uid."""
    workload_hints: Mapping[str, WorkloadHints] = dataclasses.field(default_factory=dict)
    """By uid; only where there is something to say."""
    services: Mapping[str, model.Service] = dataclasses.field(default_factory=dict)
    """By `namespace/hostname`, as are `hints`."""
    hints: Mapping[str, ServiceHints] = dataclasses.field(default_factory=dict)
    policies: Mapping[str, Policy] = dataclasses.field(default_factory=dict)
    """By `namespace/name`."""
    extensions: Mapping[str, Extension] = dataclasses.field(default_factory=dict)
    """By name: what an istiod would not say."""
    identities: Mapping[str, frozenset[Identity]] = dataclasses.field(default_factory=dict)
    """By node: identities of the pods placed there that have not failed."""
    allocated: Allocated = dataclasses.field(default_factory=dict)
    """For the next translation."""


class Touched(NamedTuple):
    """All that may differ from the translation before, by its names."""

    workloads: frozenset[str]
    services: frozenset[str]
    policies: frozenset[str]
    extensions: frozenset[str]
    nodes: frozenset[str]


def select(objects: Iterable[MeshObject], kind: type[_Kind]) -> list[_Kind]:
    return [value for value in objects if isinstance(value, kind)]


def mesh_config(objects: Iterable[MeshObject]) -> MeshConfig:
    """The oldest, if there are several."""
    return min(select(objects, MeshConfig), key=lambda mesh: mesh.meta.age, default=DEFAULT_MESH)


def enrolled_by(enrolment: Enrolment | None, objects: tuple[MeshObject, ...]) -> tuple[MeshObject, ...]:
    """The objects with a MeshConfig that says so; None leaves it to theirs."""
    if enrolment is None:
        return objects
    mesh = msgspec.structs.replace(mesh_config(objects), enrolment=enrolment)
    return (*(value for value in objects if not isinstance(value, MeshConfig)), mesh)


def translate(objects: Iterable[MeshObject], kept: Allocated | None = None) -> Translation:
    """`kept`: what the translation before has allocated."""
    given = tuple(objects)
    namespaces = {value.meta.name: value for value in select(given, Namespace)}
    mesh = mesh_config(given)
    known = tuple(_discovered(given, mesh, namespaces))
    mesh = msgspec.structs.replace(mesh, network=local_network(mesh, namespaces))
    waypoints = build_waypoints(select(known, Gateway), select(known, GatewayClass), namespaces, mesh.network)
    allocated = allocate(select(known, ServiceEntry), kept or {})
    services = choose_services(_services(known, mesh, namespaces, waypoints, allocated))
    own_policies = _policies(known, mesh)
    around = _surroundings(known, mesh, namespaces, waypoints, services)
    workloads = list(_workloads(known, around))
    policies = {**{policy.key: policy for policy in around.peers.policies()}, **own_policies}
    return Translation(
        mesh=mesh,
        workloads={workload.uid: workload for workload, _, _ in workloads},
        workload_hints={workload.uid: hints for workload, hints, _ in workloads if hints != _NO_HINTS},
        services={one.service.key: one.service for one in services},
        hints={one.service.key: one.hints for one in services},
        policies=policies,
        extensions=translate_traffic(
            known,
            {workload.uid: labels for workload, _, labels in workloads},
            {workload.uid: workload.namespace for workload, _, _ in workloads},
            {one.service.key: one.service for one in services},
            mesh,
        )
        | translate_origins(known, policies),
        identities=_identities(select(known, Pod), mesh),
        allocated=allocated,
    )


def _discovered(
    objects: tuple[MeshObject, ...], mesh: MeshConfig, namespaces: Mapping[str, Namespace]
) -> Iterator[MeshObject]:
    for value in objects:
        owner = namespaces.get(value.meta.namespace)
        if not value.meta.namespace or not mesh.discovery or (owner is not None and mesh.knows(owner.meta.labels)):
            yield value


def _services(
    objects: tuple[MeshObject, ...],
    mesh: MeshConfig,
    namespaces: Mapping[str, Namespace],
    waypoints: Waypoints,
    allocated: Allocated,
) -> Iterator[MeshService]:
    for service in select(objects, Service):
        if not service.is_external_name:
            yield translate_service(service, mesh, namespaces.get(service.meta.namespace), waypoints)
    for entry in select(objects, ServiceEntry):
        yield from translate_service_entry(entry, mesh, namespaces.get(entry.meta.namespace), waypoints, allocated)


def _policies(objects: tuple[MeshObject, ...], mesh: MeshConfig) -> dict[str, Policy]:
    translated = (translate_authorization(one, mesh) for one in select(objects, AuthorizationPolicy))
    return {policy.key: policy for policy in translated if policy is not None}


def _surroundings(
    objects: tuple[MeshObject, ...],
    mesh: MeshConfig,
    namespaces: Mapping[str, Namespace],
    waypoints: Waypoints,
    services: list[MeshService],
) -> Surroundings:
    by_namespace: dict[str, list[MeshService]] = defaultdict(list)
    by_source: dict[Key, list[MeshService]] = defaultdict(list)
    for service in services:
        by_namespace[service.service.namespace].append(service)
        by_source[service.source.key].append(service)
    sliced: dict[tuple[str, str], list[MeshService]] = defaultdict(list)
    for piece in select(objects, EndpointSlice):
        for service in by_source.get(Key("Service", piece.meta.namespace, piece.service), ()):
            for endpoint in piece.endpoints:
                if endpoint.pod:
                    sliced[endpoint.pod, endpoint.pod_uid].append(service)
    selecting: dict[str, list[tuple[Mapping[str, str], str]]] = defaultdict(list)
    for policy in select(objects, AuthorizationPolicy):
        if policy.selector is not None and translate_authorization(policy, mesh) is not None:
            selecting[policy.meta.namespace].append((policy.selector, policy.meta.name))
    return Surroundings(
        mesh=mesh,
        namespaces=namespaces,
        nodes={value.meta.name: value for value in select(objects, Node)},
        services={
            namespace: SelectorIndex((service.selector, service) for service in of_namespace)
            for namespace, of_namespace in by_namespace.items()
        },
        by_source=by_source,
        sliced=sliced,
        waypoints=waypoints,
        gateways=network_gateways(select(objects, Gateway)),
        policies={namespace: SelectorIndex(of_namespace) for namespace, of_namespace in selecting.items()},
        peers=PeerAuthentications.sort(select(objects, PeerAuthentication), mesh.root_namespace),
    )


def _workloads(
    objects: tuple[MeshObject, ...], around: Surroundings
) -> Iterator[tuple[model.Workload, WorkloadHints, Mapping[str, str]]]:
    """With their labels."""
    for pod in select(objects, Pod):
        translated = translate_pod(pod, around)
        if translated is not None:
            yield *translated, pod.meta.labels
    for entry in select(objects, WorkloadEntry):
        yield *translate_workload_entry(entry, around), entry.labels
    for service_entry in select(objects, ServiceEntry):
        yield from translate_endpoints(service_entry, around)
    for piece in select(objects, EndpointSlice):
        for service in around.by_source.get(Key("Service", piece.meta.namespace, piece.service), ()):
            yield from ((one, _NO_HINTS, _NO_LABELS) for one in translate_slice(piece, service, around.mesh))
    gateways = (gateway for same in around.gateways.values() for gateway in same)
    yield from ((gateway.as_workload(around.mesh), _NO_HINTS, _NO_LABELS) for gateway in gateways)


def _identities(pods: list[Pod], mesh: MeshConfig) -> dict[str, frozenset[Identity]]:
    found: dict[str, set[Identity]] = defaultdict(set)
    for pod in pods:
        if pod.node and pod.phase is not PodPhase.FAILED:
            found[pod.node].add(Identity(mesh.trust_domain, pod.meta.namespace, pod.service_account))
    return {node: frozenset(identities) for node, identities in found.items()}
