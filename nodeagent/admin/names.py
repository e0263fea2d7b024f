# SPDX-License-Identifier: Apache-2.0
"""What an operator may call the two ends of a connection, and what of the mesh that means. Pure.

`ns/name`, `name` where it is the only one, an address; for a destination also a Service by name or hostname. A Service
comes before a pod of the same name, because that is what clients connect to, unless it does not have the port;
`pod/ns/name` and `service/ns/name` say which. What is not found or not unique is a ConfigError that names what is.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip, parse_ip
from nodeagent.model.mesh import Mesh
from nodeagent.model.workload import Service, Workload


def find_source(mesh: Mesh, network: str, name: str) -> Workload | Ip:
    """The client: a workload, or an address that no workload has."""
    ip = _ip(name)
    if ip is not None:
        return mesh.workload_at(network, ip) or ip
    found = _workloads(mesh, name.removeprefix("pod/") if name.count("/") == 2 else name)
    return _only(found, name, (_spell(workload) for workload in mesh.workloads.values()))


def find_destination(mesh: Mesh, name: str, port: int) -> Workload | Service | Ip:
    """What is connected to. An address stays one: routing itself says who has it."""
    ip = _ip(name)
    if ip is not None:
        return ip
    kind, _, rest = name.partition("/") if name.count("/") == 2 else ("", "", name)
    if kind not in {"", "pod", "service"}:
        raise ConfigError(f"{name!r} names no pod and no service", check=_HOW)
    known = [_spell(service) for service in mesh.services.values()]
    known += [_spell(workload) for workload in mesh.workloads.values()]
    services = _services(mesh, rest) if kind != "pod" else []
    workloads = _workloads(mesh, rest) if kind != "service" else []
    if services and (not workloads or any(port == listed.service_port for each in services for listed in each.ports)):
        return _only(services, name, known)
    return _only(workloads, name, known)


_HOW = "Write ns/name, pod/ns/name, service/ns/name, a hostname or an address."
_Found = TypeVar("_Found", Workload, Service)


def _ip(name: str) -> Ip | None:
    try:
        return parse_ip(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _workloads(mesh: Mesh, name: str) -> list[Workload]:
    namespace, _, short = name.rpartition("/")
    return [
        workload
        for workload in mesh.workloads.values()
        if workload.name == short and namespace in {"", workload.namespace}
    ]


def _services(mesh: Mesh, name: str) -> list[Service]:
    return [service for service in mesh.services.values() if name in _spellings(service)]


def _spellings(service: Service) -> frozenset[str]:
    """By name, by hostname, and by `name.ns` as a client's resolver completes it."""
    short, full = service.name, f"{service.namespace}/{service.name}"
    return frozenset({short, full, f"{short}.{service.namespace}", service.hostname, service.key})


def _only(found: Sequence[_Found], name: str, known: Iterable[str]) -> _Found:
    if len(found) == 1:
        return found[0]
    if found:
        told = ", ".join(sorted({_spell(one) for one in found}))
        raise ConfigError(f"{name!r} may mean {told}", check="Write it with its namespace, or give its address.")
    alike = {(spelt if "/" in name else spelt.rpartition("/")[2]): spelt for spelt in sorted(set(known))}
    near = [alike[close] for close in difflib.get_close_matches(name, alike, n=3, cutoff=0.6)]
    check = (
        f"Did you mean {' or '.join(near)}?" if near else "`nodeagent workloads` and `nodeagent services` list them."
    )
    raise ConfigError(f"this node knows nothing called {name!r}", check=check)


def _spell(found: Workload | Service) -> str:
    return f"{found.namespace}/{found.name}"
