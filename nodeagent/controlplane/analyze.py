# SPDX-License-Identifier: Apache-2.0
"""Findings that only show when objects are seen together: selectors without pods, unknown namespaces, shared addresses.

None of them rejects anything. Pure. Policies are judged in `analyze_policies.py`, what Kubernetes' objects say of the
mesh in `analyze_kubernetes.py`, which routes count in `traffic.py`. What is judged as it is written has files of its
own, see `analyze_written`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from nodeagent.controlplane.analyze_kubernetes import analyze_kubernetes
from nodeagent.controlplane.analyze_policies import analyze_policies
from nodeagent.controlplane.analyze_registry import analyze_registry
from nodeagent.controlplane.analyze_routing import analyze_routing
from nodeagent.controlplane.analyze_sidecars import analyze_sidecars
from nodeagent.controlplane.analyze_unlabelled import analyze_unlabelled
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import Key, PeerAuthentication, Pod
from nodeagent.controlplane.parse import Parsed
from nodeagent.controlplane.traffic import analyze_traffic
from nodeagent.controlplane.view import View, warn
from nodeagent.controlplane.written import read_written


def analyze(view: View, between: Callable[[], object] = lambda: None) -> list[Finding]:
    """In no order; each with the line of its object. `between` is called before each part of it."""
    found: list[Finding] = []
    for part in _PARTS:
        between()
        found += part(view)
    return found


def analyze_written(view: View, written: Mapping[Key, tuple[Parsed, str]]) -> list[Finding]:
    """As `analyze`, of objects that were kept as trees (`JUDGED_AS_WRITTEN`), with their files; lines are of fields."""
    by_kind = read_written(written)
    analyze_registry(by_kind, view)
    analyze_routing(by_kind, view)
    analyze_sidecars(by_kind.get("Sidecar", ()), view)
    return [finding for objects in by_kind.values() for one in objects for finding in one.report.findings]


def _shared_addresses(view: View) -> Iterator[Finding]:
    owners: dict[str, Pod] = {}
    for pod in view.pods:
        if pod.is_host_network:
            continue
        for at, ip in enumerate(pod.ips):
            other = owners.setdefault(ip, pod)
            if other is not pod:
                yield warn(
                    pod.meta,
                    "MN0214",
                    f"{ip} is also the address of {other.meta.key}",
                    "An address names one pod; connections would be taken for the other's.",
                    f"status.podIPs[{at}].ip",
                )


def _levels(view: View) -> Iterator[Finding]:
    levels: dict[str, list[PeerAuthentication]] = defaultdict(list)
    for peer in view.peers:
        if not peer.selector:
            levels[peer.meta.namespace].append(peer)
        elif peer.meta.namespace == view.mesh.root_namespace:
            yield warn(
                peer.meta,
                "MN0216",
                "a selector in the root namespace selects nothing",
                "Move it to the workload's.",
                "spec.selector",
            )
    for same in levels.values():
        oldest, *younger = sorted(same, key=lambda peer: peer.meta.age)
        for peer in younger:
            yield warn(
                peer.meta, "MN0217", f"not in force: {oldest.meta.key} is older", "Only one per namespace counts."
            )


def _traffic(view: View) -> list[Finding]:
    return analyze_traffic(view.routing, view.service_keys, view.mesh)


def _second_mesh_configs(view: View) -> Iterator[Finding]:
    by_age = sorted(view.mesh_configs, key=lambda mesh: mesh.meta.age)
    for mesh in by_age[1:]:
        yield warn(mesh.meta, "MN0217", f"not in force: {by_age[0].meta.key} counts", "Keep one.")


_PARTS: tuple[Callable[[View], Iterable[Finding]], ...] = (
    _shared_addresses,
    _levels,
    _second_mesh_configs,
    analyze_policies,
    analyze_unlabelled,
    analyze_kubernetes,
    _traffic,
)
