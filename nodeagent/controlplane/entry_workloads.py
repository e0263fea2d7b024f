# SPDX-License-Identifier: Apache-2.0
"""WorkloadEntries and the endpoints of ServiceEntries -> Workloads. Pure.

An endpoint of a ServiceEntry is judged by the labels of the ServiceEntry, not by its own: these say only which waypoint
stands before it.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from nodeagent.controlplane.entry_spec import EntrySpec, Resolution
from nodeagent.controlplane.hints import WorkloadHints
from nodeagent.controlplane.mesh_services import MeshService
from nodeagent.controlplane.objects import Key, Meta, ServiceEntry, WorkloadEntry
from nodeagent.controlplane.surroundings import Surroundings
from nodeagent.controlplane.waypoints import Waypoint
from nodeagent.controlplane.workloads import canonical, speaks_hbone
from nodeagent.model.opt_in import is_redirected
from nodeagent.model.workload import GatewayAddress, ServicePort, TunnelProtocol, Workload

_GROUP = "istio.io/autoRegistrationGroup"
_WORKLOAD_NAME = "service.istio.io/workload-name"
_IMPLICIT = frozenset({Resolution.DNS, Resolution.DNS_ROUND_ROBIN, Resolution.DYNAMIC_DNS})
"""Resolutions in which the host itself is the endpoint when there are no others."""

Translated = tuple[Workload, WorkloadHints]


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """What the two kinds have in common, each by its own rules."""

    spec: EntrySpec
    meta: Meta
    uid: str
    labels: Mapping[str, str]
    """By which it is named and judged."""
    workload_name: str
    network: str
    services: Iterable[MeshService]
    instance: Waypoint | None
    """The waypoint that it is part of;"""
    waypoint: GatewayAddress | None
    """else the one that stands before it."""


def entry_uid(key: Key, cluster: str, address: str = "") -> str:
    """Of a WorkloadEntry, or of the endpoint of a ServiceEntry with this address (or host) as written."""
    uid = f"{cluster}/networking.istio.io/{key.kind}/{key.namespace}/{key.name}"
    return f"{uid}/{address}" if address else uid


def is_tunnelled(meta: Meta, labels: Mapping[str, str]) -> bool:
    """Whether an agent stands before it, or it is one itself."""
    return speaks_hbone(labels) or is_redirected(meta.annotations)


def translate_workload_entry(entry: WorkloadEntry, around: Surroundings) -> Translated:
    meta, labels = entry.meta, entry.labels
    instance = around.waypoints.having(meta, labels)
    common = _Entry(
        spec=entry.spec,
        meta=meta,
        uid=entry_uid(meta.key, around.mesh.cluster),
        labels=labels,
        workload_name=meta.annotations.get(_GROUP, labels.get(_WORKLOAD_NAME, meta.name)),
        network=entry.spec.network or around.mesh.network,
        services=around.selected(meta.namespace, labels),
        instance=instance,
        waypoint=around.waypoints.of_workload(meta.namespace, labels) if instance is None else None,
    )
    return _translate(common, around)


def translate_endpoints(
    entry: ServiceEntry, around: Surroundings
) -> Iterator[tuple[Workload, WorkloadHints, Mapping[str, str]]]:
    """With their labels. None when each of its hosts is beaten by another object of the same namespace and name."""
    meta, waypoints = entry.meta, around.waypoints
    network = around.mesh.network
    for spec, services in _endpoints(entry, around.by_source.get(meta.key, [])):
        # As istiod does it: an endpoint without a network is on that of the one before.
        network = spec.network or network
        instance = waypoints.having(meta, spec.labels)
        # Before a host that is its own endpoint stands the waypoint of its service alone.
        stands_alone = instance is None and bool(entry.endpoints)
        common = _Entry(
            spec=spec,
            meta=meta,
            uid=entry_uid(meta.key, around.mesh.cluster, spec.address),
            labels=meta.labels,
            workload_name=meta.name,
            network=network,
            services=services,
            instance=instance,
            waypoint=waypoints.of_workload(meta.namespace, spec.labels) if stands_alone else None,
        )
        yield *_translate(common, around), spec.labels


def _endpoints(entry: ServiceEntry, services: list[MeshService]) -> Iterator[tuple[EntrySpec, list[MeshService]]]:
    if not services:
        return
    if entry.endpoints:
        yield from ((spec, services) for spec in entry.endpoints)
    elif entry.resolution in _IMPLICIT and entry.selector is None:
        yield from ((EntrySpec(address=one.service.hostname), [one]) for one in services)


def _translate(entry: _Entry, around: Surroundings) -> Translated:
    spec, meta, instance = entry.spec, entry.meta, entry.instance
    ip = spec.ip
    name, revision = canonical(entry.labels, entry.workload_name)
    region, zone, subzone = spec.locality
    workload = Workload(
        uid=entry.uid,
        name=meta.name,
        namespace=meta.namespace,
        addresses=(ip,) if ip is not None else (),
        hostname=spec.address if ip is None else "",
        network=entry.network,
        protocol=TunnelProtocol.HBONE if is_tunnelled(meta, entry.labels) else TunnelProtocol.TCP,
        trust_domain=around.mesh.trust_domain,
        service_account=spec.service_account,
        cluster=around.mesh.cluster,
        canonical_name=name,
        canonical_revision=revision,
        workload_name=entry.workload_name,
        waypoint=entry.waypoint,
        network_gateway=around.gateway_to(entry.network),
        native_tunnel=speaks_hbone(entry.labels),
        application_tunnel_port=instance.tunnel_port if instance is not None else 0,
        services={service.service.key: tuple(_ports(service, spec)) for service in entry.services},
        policies=around.policies_of(meta.namespace, entry.labels),
        region=region,
        zone=zone,
        subzone=subzone,
        capacity=spec.weight or 1,
    )
    return workload, WorkloadHints(bool(spec.weight), instance.binding if instance is not None else None)


def _ports(service: MeshService, spec: EntrySpec) -> Iterator[ServicePort]:
    """The entry's own ports by name: a Service's named target port has to be among them, others may be."""
    for port in service.service.ports:
        names = service.port_names[port.service_port]
        if names.target:
            if names.target in spec.ports:
                yield ServicePort(port.service_port, spec.ports[names.target])
        else:
            yield ServicePort(port.service_port, spec.ports.get(names.name, port.target_port))
