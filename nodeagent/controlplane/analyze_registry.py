# SPDX-License-Identifier: Apache-2.0
"""Services and ServiceEntries as they are written: protocols, addresses, and what the cluster says of them. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from nodeagent.controlplane.fields import Fields
from nodeagent.controlplane.view import View
from nodeagent.controlplane.written import WrittenObject, number_of

_NEGATIVE = {
    "Service": frozenset({"istio.io/WaypointBound"}),
    "ServiceEntry": frozenset({"istio.io/WaypointBound"}),
    "WorkloadEntry": frozenset({"istio.io/WaypointBound"}),
    "AuthorizationPolicy": frozenset({"ZtunnelAccepted", "WaypointAccepted"}),
    "Gateway": frozenset({"Accepted", "Programmed", "ResolvedRefs"}),
    "HTTPRoute": frozenset({"Accepted", "Programmed", "ResolvedRefs"}),
    "GRPCRoute": frozenset({"Accepted", "Programmed", "ResolvedRefs"}),
}
"""Conditions whose status False says that something is wrong."""


def analyze_registry(by_kind: Mapping[str, list[WrittenObject]], view: View) -> None:
    """Findings go to the objects' reports."""
    for kind, conditions in _NEGATIVE.items():
        for one in by_kind.get(kind, ()):
            _conditions(one, conditions)
    _protocols(by_kind.get("Service", ()), view)
    _service_entries(by_kind.get("ServiceEntry", ()))


def _conditions(one: WrittenObject, negative: frozenset[str]) -> None:
    status = one.root.within("status")
    for condition in _all_conditions(status) if status is not None else ():
        kind = condition.text("type")
        is_partial = kind == "WaypointAccepted" and condition.text("reason") == "PartiallyInvalid"
        if kind in negative and (condition.text("status") == "False" or is_partial):
            told = condition.text("message") or condition.text("reason") or "no reason is given"
            said = "PartiallyInvalid" if is_partial else "False"
            words = f"the condition {kind} is {said}: {told}"
            one.report.warn(condition.mapping.line, words, "The cluster says so.", "IST0171", field=condition.path)


def _all_conditions(status: Fields) -> Iterator[Fields]:
    """Of the object, and of each parent of a route."""
    yield from status.each("conditions")
    for parent in status.each("parents"):
        yield from parent.each("conditions")


def _protocols(services: Iterable[WrittenObject], view: View) -> None:
    """Services of the same pods that have one port number with different protocols: said of the second one."""
    seen: dict[tuple[str, int], list[tuple[WrittenObject, str]]] = defaultdict(list)
    for one in services:
        for port in one.spec.each("ports"):
            protocol = port.text("protocol", "TCP")
            ports = seen[one.key.namespace, number_of(port, "port")]
            others = (other for other, before in ports if before != protocol and other is not one)
            other = next((other for other in others if _share_pods(one, other, view)), None)
            if other is not None:
                words = f"port {number_of(port, 'port')} is {protocol} here and not in {other.key}, of the same pods"
                one.report.warn(port.mapping.line, words, "Use two numbers.", "IST0116", field=port.path)
            ports.append((one, protocol))


def _share_pods(one: WrittenObject, other: WrittenObject, view: View) -> bool:
    selectors = one.spec.texts("selector"), other.spec.texts("selector")
    first, second = ({pod.meta.key for pod in view.select(one.key.namespace, labels)} for labels in selectors)
    return bool(all(selectors) and first & second)


def _service_entries(entries: Iterable[WrittenObject]) -> None:
    seen: dict[tuple[str, int], tuple[WrittenObject, str]] = {}
    for one in entries:
        hosts = one.spec.parsed("hosts", str)
        for port in one.spec.each("ports"):
            protocol = port.text("protocol").upper() or "TCP"
            if protocol == "TCP" and not one.spec.has("addresses") and not _is_allocated(one, hosts):
                words = "without addresses this TCP port can only be told by its number"
                one.report.warn(port.mapping.line, words, "Write spec.addresses.", "IST0134", field=port.path)
            _conflict(one, port, protocol, hosts, seen)


def _is_allocated(one: WrittenObject, hosts: Iterable[str]) -> bool:
    """Whether Istio allocates addresses by itself."""
    is_on = one.labels.get("networking.istio.io/enable-autoallocate-ip") != "false"
    is_possible = one.spec.text("resolution", "NONE") != "NONE" and not any(host.startswith("*") for host in hosts)
    return is_on and is_possible


def _conflict(
    one: WrittenObject,
    port: Fields,
    protocol: str,
    hosts: Iterable[str],
    seen: dict[tuple[str, int], tuple[WrittenObject, str]],
) -> None:
    for host in hosts:
        other, before = seen.setdefault((host, number_of(port, "number")), (one, protocol))
        if before != protocol:
            words = f"{other.key} says {before} of {host}:{number_of(port, 'number')}, this says {protocol}"
            one.report.warn(port.mapping.line, words, "Which counts is not defined.", "IST0177", field=port.path)
            return
