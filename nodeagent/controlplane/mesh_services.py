# SPDX-License-Identifier: Apache-2.0
"""Services of the mesh, from whatever object, and which of several with one name counts. Pure.

In a namespace a Kubernetes Service beats a ServiceEntry, then the oldest counts; what loses is told to nobody, and
neither are its endpoints. Of one name in several namespaces one is canonical, for clients of the other namespaces: the
Kubernetes Service, else the oldest that everybody may know.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from nodeagent.controlplane.hints import ServiceHints
from nodeagent.controlplane.objects import Meta
from nodeagent.model.address import Port
from nodeagent.model.workload import Service


@dataclasses.dataclass(frozen=True, slots=True)
class PortNames:
    name: str
    target: str = ""
    """Of a Kubernetes Service's named target port."""


@dataclasses.dataclass(frozen=True, slots=True)
class MeshService:
    service: Service
    hints: ServiceHints
    source: Meta
    """Of the object that it comes from."""
    selector: Mapping[str, str]
    """Empty: it selects nothing."""
    port_names: Mapping[Port, PortNames]

    @property
    def is_kubernetes(self) -> bool:
        return self.source.key.kind == "Service"


def choose_services(services: Iterable[MeshService]) -> list[MeshService]:
    by_host: dict[str, list[MeshService]] = defaultdict(list)
    for service in services:
        by_host[service.service.hostname].append(service)
    return [chosen for same in by_host.values() for chosen in _of_one_host(same)]


def _of_one_host(services: list[MeshService]) -> Iterable[MeshService]:
    by_rank = sorted(services, key=lambda service: (not service.is_kubernetes, service.source.age))
    best: dict[str, MeshService] = {}
    for service in by_rank:
        best.setdefault(service.service.namespace, service)
    canonical = next((one for one in best.values() if one.is_kubernetes or not one.service.is_namespace_private), None)
    for service in best.values():
        if service is canonical and not service.service.is_canonical:
            yield dataclasses.replace(service, service=msgspec.structs.replace(service.service, is_canonical=True))
        else:
            yield service
