# SPDX-License-Identifier: Apache-2.0
"""What agents are told of security beyond Istio's resources: dry runs, aliases of the trust domain, origins. Pure."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from nodeagent.controlplane.authorization import translate_dry_run
from nodeagent.controlplane.objects import AuthorizationPolicy, MeshConfig, MeshObject, PeerAuthentication
from nodeagent.controlplane.peer_authentication import GENERATED
from nodeagent.controlplane.trust_domains import aliases_of
from nodeagent.model.security import DryRun, PolicyOrigin, TrustDomains
from nodeagent.model.traffic import Extension


def translate_security(objects: Iterable[MeshObject], mesh: MeshConfig) -> dict[str, Extension]:
    """By name."""
    found: dict[str, Extension] = {}
    if mesh.trust_domain_aliases:
        found[TrustDomains.NAME] = TrustDomains(domains=frozenset(aliases_of(mesh)))
    for policy in objects:
        if isinstance(policy, AuthorizationPolicy):
            dry_run = translate_dry_run(policy, mesh)
            if dry_run is not None:
                found[dry_run.name] = dry_run
    return found


def translate_origins(objects: Iterable[MeshObject], policies: Collection[str]) -> dict[str, Extension]:
    """By name: where those of `policies` (`ns/name`) are written that one object alone has made."""
    found: dict[str, Extension] = {}
    for value in objects:
        if isinstance(value, AuthorizationPolicy | PeerAuthentication):
            prefix = GENERATED if isinstance(value, PeerAuthentication) else ""
            policy = f"{value.meta.namespace}/{prefix}{value.meta.name}"
            if policy in policies:
                place = value.meta.origin
                origin = PolicyOrigin(policy=policy, file=place.file, line=place.line)
                found[origin.name] = origin
    return found


def asked_labels(extensions: Iterable[Extension]) -> Callable[..., set[tuple[str, str]]]:
    """By namespaces: the labels that dry runs about their workloads select by."""
    asked: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for extension in extensions:
        if isinstance(extension, DryRun):
            asked[extension.namespace].update(extension.selector.items())
    return lambda *namespaces: set().union(*(asked.get(namespace, ()) for namespace in namespaces))
