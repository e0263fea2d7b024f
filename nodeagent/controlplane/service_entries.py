# SPDX-License-Identifier: Apache-2.0
"""ServiceEntry -> Services of the mesh, one for each host. Pure.

A host without an address of its own gets the one that stands in the object's status. Where no cluster's control plane
writes there, one is allocated as Istio does, from 240.240.0.0/16 and 2001:2::/48, and kept (`allocations.py`): not with
resolution NONE, where connections keep their address; not for a wildcard that nobody resolves; not with the label
networking.istio.io/enable-autoallocate-ip: "false".
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from nodeagent.controlplane.entry_spec import Resolution
from nodeagent.controlplane.hints import ServiceHints, of_protocol
from nodeagent.controlplane.mesh_services import MeshService, PortNames
from nodeagent.controlplane.objects import MeshConfig, Namespace, ServiceEntry, Visibility
from nodeagent.controlplane.services import distribution, preference
from nodeagent.controlplane.waypoints import Waypoints, wants_ingress
from nodeagent.model import workload as model
from nodeagent.model.address import Cidr, Ip
from nodeagent.model.workload import BalancingMode, LoadBalancing, ServicePort, Vip

_RANGES = (ipaddress.ip_network("240.240.0.0/16"), ipaddress.ip_network("2001:2::/48"))
_OPT_OUT = "networking.istio.io/enable-autoallocate-ip"
_WHOLE_BITS = 128
_KEPT_ADDRESS = LoadBalancing(BalancingMode.PASSTHROUGH, takes_unhealthy=True)

Allocated = Mapping[tuple[str, str, str], tuple[Ip, ...]]
"""By namespace, name and host."""


def translate_service_entry(
    entry: ServiceEntry,
    mesh: MeshConfig,
    namespace: Namespace | None,
    waypoints: Waypoints,
    allocated: Allocated,
) -> Iterator[MeshService]:
    meta = entry.meta
    visibility = mesh.visibility(namespace.meta.labels if namespace is not None else {})
    if visibility is Visibility.NONE:
        return
    is_private = visibility is Visibility.NAMESPACE
    waypoint = waypoints.of_service(meta, is_private=is_private)
    hints = ServiceHints(
        tuple(of_protocol(port.protocol) for port in entry.ports),
        wants_ingress=waypoint is not None and wants_ingress(meta, namespace),
        weighted=waypoints.weighted(meta, waypoint) if waypoint is not None else (),
    )
    for host in entry.hosts:
        service = model.Service(
            name=meta.name,
            namespace=meta.namespace,
            hostname=host,
            vips=tuple(_vips(entry, host, mesh, allocated)),
            ports=tuple(ServicePort(port.port, port.target_port) for port in entry.ports),
            subject_alt_names=entry.subject_alt_names,
            waypoint=waypoint.address if waypoint is not None else None,
            balancing=_balancing(entry, namespace),
            is_namespace_private=is_private,
        )
        names = {port.port: PortNames(port.name) for port in entry.ports}
        yield MeshService(service, hints, meta, entry.selector or {}, names)


def allocate(entries: Iterable[ServiceEntry], kept: Allocated) -> Allocated:
    """Addresses for hosts that have none, the oldest entries first, and all of `kept`.

    What somebody has, or had as long as this process lives, is given to nobody else: a client may remember it. What is
    written wins over what was given, and of two that were given the same (two state directories that became one) the
    older entry. A host goes without when a range is used up.
    """
    known = sorted(entries, key=lambda entry: (entry.meta.age, entry.meta.key))
    written = {_ip(block) for entry in known for block in entry.addresses if block.bits == _WHOLE_BITS}
    written.update(ip for entry in known for addresses in entry.allocated.values() for ip in addresses)
    used = written.union(*kept.values())
    free = [_free(block, used) for block in _RANGES]
    found, taken = dict(kept), set(written)
    for entry in known:
        for host in _hosts_to_number(entry):
            key = entry.meta.namespace, entry.meta.name, host
            if host in entry.allocated:
                found[key] = entry.allocated[host]
            elif not kept.get(key) or not taken.isdisjoint(kept[key]):
                found[key] = tuple(ip for numbers in free if (ip := next(numbers, None)) is not None)
            taken.update(found[key])
    return found


def _free(block: ipaddress.IPv4Network | ipaddress.IPv6Network, used: set[Ip]) -> Iterator[Ip]:
    return (ip for number in block.hosts() if (ip := Ip(str(number))) not in used)


def _hosts_to_number(entry: ServiceEntry) -> tuple[str, ...]:
    opted_out = entry.meta.labels.get(_OPT_OUT, "").lower() == "false"
    if entry.resolution is Resolution.NONE or entry.addresses or opted_out:
        return ()
    is_dynamic = entry.resolution is Resolution.DYNAMIC_DNS
    return tuple(host for host in entry.hosts if is_dynamic or not host.startswith("*"))


def _vips(entry: ServiceEntry, host: str, mesh: MeshConfig, allocated: Allocated) -> Iterator[Vip]:
    for block in entry.addresses:
        yield Vip(mesh.network, _ip(block)) if block.bits == _WHOLE_BITS else Vip(mesh.network, block=block)
    if host in _hosts_to_number(entry):  # what is remembered may not be wanted any more
        for ip in allocated.get((entry.meta.namespace, entry.meta.name, host), ()):
            yield Vip(mesh.network, ip)


def _ip(block: Cidr) -> Ip:
    return Ip(str(block).partition("/")[0])


def _balancing(entry: ServiceEntry, namespace: Namespace | None) -> LoadBalancing:
    if entry.resolution is Resolution.NONE:
        return _KEPT_ADDRESS
    return preference(distribution(None, entry.meta, namespace))
