# SPDX-License-Identifier: Apache-2.0
"""Findings that only show when objects are seen together: selectors without pods, unknown namespaces, shared addresses.

None of them rejects anything. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.objects import (
    AuthorizationPolicy,
    MeshConfig,
    MeshObject,
    Meta,
    Namespace,
    PeerAuthentication,
    Pod,
    PodPhase,
    Service,
    Source,
)
from nodeagent.controlplane.services import hostname
from nodeagent.controlplane.traffic import analyze_traffic
from nodeagent.controlplane.translate import mesh_config, select
from nodeagent.model.policy import MatchKind, StringMatch


def analyze(objects: Iterable[MeshObject]) -> list[Finding]:
    """In no order."""
    known = tuple(objects)
    mesh = mesh_config(known)
    policies, peers = select(known, AuthorizationPolicy), select(known, PeerAuthentication)
    pods = select(known, Pod)
    return [
        *_shared_addresses(pods),
        *_selectors([(policy.meta, policy.selector or {}) for policy in policies], pods, mesh),
        *_selectors([(peer.meta, peer.selector) for peer in peers], pods, mesh),
        *_sources(policies, mesh, {value.meta.name for value in select(known, Namespace)}),
        *_levels(peers, mesh),
        *_second_mesh_configs(select(known, MeshConfig)),
        *analyze_traffic(known, _service_keys(known, mesh), mesh),
    ]


def _service_keys(objects: tuple[MeshObject, ...], mesh: MeshConfig) -> set[str]:
    metas = [service.meta for service in select(objects, Service) if not service.is_external_name]
    return {f"{meta.namespace}/{hostname(meta.name, meta.namespace, mesh)}" for meta in metas}


def _finding(meta: Meta, code: str, message: str, check: str) -> Finding:
    return Finding(meta.origin.file, meta.origin.line, Severity.WARNING, code, str(meta.key), message, check)


def _shared_addresses(pods: list[Pod]) -> Iterator[Finding]:
    owners: dict[str, Pod] = {}
    for pod in pods:
        if pod.is_host_network or pod.phase in {PodPhase.SUCCEEDED, PodPhase.FAILED}:
            continue
        for ip in pod.ips:
            other = owners.setdefault(ip, pod)
            if other is not pod:
                yield _finding(
                    pod.meta,
                    "MN0214",
                    f"{ip} is also the address of {other.meta.key}",
                    "An address names one pod; connections would be taken for the other's.",
                )


def _selectors(policies: list[tuple[Meta, dict[str, str]]], pods: list[Pod], mesh: MeshConfig) -> Iterator[Finding]:
    for meta, selector in policies:
        everywhere = meta.namespace == mesh.root_namespace and meta.key.kind == "AuthorizationPolicy"
        if selector and not any(
            selector.items() <= pod.meta.labels.items() and (everywhere or pod.meta.namespace == meta.namespace)
            for pod in pods
        ):
            labels = ", ".join(f"{name}={value}" for name, value in selector.items())
            yield _finding(meta, "IST0127", f"no pod has the labels {labels}", "Compare with the pods' labels.")


def _sources(policies: list[AuthorizationPolicy], mesh: MeshConfig, namespaces: set[str]) -> Iterator[Finding]:
    for policy in policies:
        for source in _all_sources(policy):
            for match in (*source.principals, *source.not_principals):
                domain = match.value.partition("/")[0]
                if _names_other_domain(match, domain, mesh):
                    yield _finding(
                        policy.meta,
                        "MN0206",
                        f"principal {match.value!r} is of the trust domain {domain}, the mesh is {mesh.trust_domain}",
                        "Nobody here has such an identity, unless the domains are federated.",
                    )
            for match in (*source.namespaces, *source.not_namespaces):
                if namespaces and match.kind is MatchKind.EXACT and match.value not in namespaces:
                    yield _finding(
                        policy.meta, "IST0101", f"namespace {match.value!r} does not exist", "Is the name right?"
                    )


def _all_sources(policy: AuthorizationPolicy) -> Iterator[Source]:
    for rule in policy.rules:
        yield from rule.sources
        for condition in rule.conditions:
            yield condition.source


def _names_other_domain(match: StringMatch, domain: str, mesh: MeshConfig) -> bool:
    if match.kind not in {MatchKind.EXACT, MatchKind.PREFIX} or match.value.startswith("spiffe:"):
        return False
    return "/" in match.value and domain != mesh.trust_domain


def _levels(peers: list[PeerAuthentication], mesh: MeshConfig) -> Iterator[Finding]:
    levels: Mapping[str, list[PeerAuthentication]] = defaultdict(list)
    for peer in peers:
        if not peer.selector:
            levels[peer.meta.namespace].append(peer)
        elif peer.meta.namespace == mesh.root_namespace:
            yield _finding(
                peer.meta, "MN0216", "a selector in the root namespace selects nothing", "Move it to the workload's."
            )
    for same in levels.values():
        oldest, *younger = sorted(same, key=lambda peer: peer.meta.age)
        for peer in younger:
            yield _finding(
                peer.meta, "MN0217", f"not in force: {oldest.meta.key} is older", "Only one per namespace counts."
            )


def _second_mesh_configs(meshes: list[MeshConfig]) -> Iterator[Finding]:
    by_age = sorted(meshes, key=lambda mesh: mesh.meta.age)
    for mesh in by_age[1:]:
        yield _finding(mesh.meta, "MN0217", f"not in force: {by_age[0].meta.key} counts", "Keep one.")
