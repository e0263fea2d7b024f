# SPDX-License-Identifier: Apache-2.0
"""What policies say of pods, namespaces and identities that are not there, not captured, or not as they are meant.

A policy is judged with everything in the directory; where the directory may be a part of the mesh (no namespaces, no
pods), nothing is said of what is missing. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from nodeagent.controlplane.analyze_ports import analyze_ports
from nodeagent.controlplane.analyze_shadows import analyze_shadows
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.objects import AuthorizationPolicy, MeshConfig, Meta, MtlsMode, Pod, Source
from nodeagent.controlplane.trust_domains import DEFAULT
from nodeagent.controlplane.view import View, about, warn
from nodeagent.model.address import Cidr, is_ipv6
from nodeagent.model.identity import Identity
from nodeagent.model.policy import MatchKind, ServiceAccountMatch, StringMatch
from nodeagent.policy.evaluate import any_equals
from nodeagent.policy.sentences import show

_GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"


def analyze_policies(view: View) -> Iterator[Finding]:
    for policy in view.policies:
        yield from _selection(policy.meta, policy.selector or {}, view.reached(policy), view, view.scope(policy))
        yield from _clients(policy, view)
        if _is_enforced(policy):
            yield from _enforcement(policy, view)
            yield from _families(policy, view.reached(policy))
    for peer in view.peers:
        selected = view.select(peer.meta.namespace, peer.selector)
        yield from _selection(peer.meta, peer.selector, selected, view, peer.meta.namespace)
        is_strict = MtlsMode.STRICT in {peer.mode, *peer.port_modes.values()}
        if is_strict and peer.meta.namespace != view.mesh.root_namespace:
            yield from _uncaptured(peer.meta, selected, view)
    yield from analyze_ports(view)
    yield from analyze_shadows([policy for policy in view.policies if _is_enforced(policy)], view.mesh.root_namespace)


def _is_enforced(policy: AuthorizationPolicy) -> bool:
    return policy.action is not None and not policy.is_for_waypoint and not policy.is_dry_run


def _selection(
    meta: Meta, selector: dict[str, str], selected: Sequence[Pod], view: View, namespace: str | None
) -> Iterator[Finding]:
    if not selector:
        return
    if not selected and not view.selects_entry(namespace, selector):
        labels = ", ".join(f"{name}={value}" for name, value in selector.items())
        yield warn(
            meta,
            "IST0127",
            f"no pod has the labels {labels}, and no WorkloadEntry",
            "Compare with the pods' labels.",
            "spec.selector",
        )
    for pod in selected:
        gateway = pod.meta.labels.get(_GATEWAY_NAME)
        if gateway:
            yield warn(
                meta,
                "IST0166",
                f"the selector selects a pod of the Gateway {gateway}, which asks for targetRefs",
                "Write targetRefs instead of the selector.",
                "spec.selector",
            )
            return


def _enforcement(policy: AuthorizationPolicy, view: View) -> Iterator[Finding]:
    """Of mesh-wide policies nothing is said: there are always pods that are not captured, and others."""
    if policy.selector is not None or policy.meta.namespace != view.mesh.root_namespace:
        yield from _uncaptured(policy.meta, view.reached(policy), view)


def _uncaptured(meta: Meta, selected: Sequence[Pod], view: View) -> Iterator[Finding]:
    if selected and all(view.is_outside(pod) for pod in selected):
        yield warn(
            meta,
            "MN0208",
            "no pod that it is about is captured, so nobody enforces it",
            "Label their namespace with istio.io/dataplane-mode: ambient. Pods of the host network are never captured.",
            "spec.selector",
        )


# ---- whom a policy names -----------------------------------------------------------------------------------------


class _Named(NamedTuple):
    field: str
    what: str
    """principals, namespaces or service_accounts, also of their not_ fields."""
    value: StringMatch | ServiceAccountMatch
    is_positive: bool


def _named(policy: AuthorizationPolicy) -> Iterator[_Named]:
    for number, rule in enumerate(policy.rules):
        for at, source in enumerate(rule.sources):
            yield from _of_source(source, f"spec.rules[{number}].from[{at}].source")
        for at, condition in enumerate(rule.conditions):
            yield from _of_source(condition.source, f"spec.rules[{number}].when[{at}]", is_condition=True)


_WRITTEN = {
    "principals": "principals",
    "not_principals": "notPrincipals",
    "namespaces": "namespaces",
    "not_namespaces": "notNamespaces",
    "service_accounts": "serviceAccounts",
    "not_service_accounts": "notServiceAccounts",
}
"""What the fields of a Source are called in YAML."""


def _of_source(source: Source, path: str, *, is_condition: bool = False) -> Iterator[_Named]:
    """A condition has its values in `values` and `notValues`, whatever they are."""
    for field, name in _WRITTEN.items():
        is_positive = not field.startswith("not_")
        written = ("values" if is_positive else "notValues") if is_condition else name
        for at, value in enumerate(getattr(source, field)):
            yield _Named(f"{path}.{written}[{at}]", field.removeprefix("not_"), value, is_positive)


def _clients(policy: AuthorizationPolicy, view: View) -> Iterator[Finding]:
    for named in _named(policy):
        match named.value:
            case StringMatch() if named.what == "principals":
                yield from _principal(policy.meta, named, named.value, view)
            case StringMatch():
                yield from _namespace(policy.meta, named, named.value, view)
            case ServiceAccountMatch(namespace, account):
                yield from _existing(policy.meta, named.field, namespace, view)
                if named.is_positive:
                    identity = Identity(view.mesh.trust_domain, namespace, account)
                    yield from _without_identity(policy.meta, named.field, identity, view)


def _principal(meta: Meta, named: _Named, match: StringMatch, view: View) -> Iterator[Finding]:
    if match.kind not in {MatchKind.EXACT, MatchKind.PREFIX} or match.value.startswith("spiffe:"):
        return
    domain, slash, _ = match.value.partition("/")
    if slash and domain not in {view.mesh.trust_domain, *_aliases(view.mesh)}:
        yield warn(
            meta,
            "MN0206",
            f"principal {match.value!r} is of the trust domain {domain}, the mesh is {view.mesh.trust_domain}",
            "Nobody here has such an identity, unless the domains are federated.",
            named.field,
        )
    if match.kind is MatchKind.EXACT and slash and domain in {view.mesh.trust_domain, *_aliases(view.mesh)}:
        try:
            identity = Identity.parse(f"spiffe://{match.value}")
        except ValueError:
            return
        identity = msgspec.structs.replace(identity, trust_domain=view.mesh.trust_domain)
        yield from _existing(meta, named.field, identity.namespace, view)
        if named.is_positive:
            yield from _without_identity(meta, named.field, identity, view)


def _aliases(mesh: MeshConfig) -> tuple[str, ...]:
    """What stands for the mesh's own trust domain."""
    return (*mesh.trust_domain_aliases, DEFAULT) if mesh.trust_domain_aliases else ()


def _namespace(meta: Meta, named: _Named, match: StringMatch, view: View) -> Iterator[Finding]:
    if match.kind is MatchKind.EXACT:
        yield from _existing(meta, named.field, match.value, view)
    elif view.namespaces and not any(any_equals((match,), name) for name in view.namespaces):
        words = f"no namespace is called {show(match)!r}"
        yield about(meta, Severity.ERROR, "IST0101", words, "Is the pattern right?", named.field)


def _existing(meta: Meta, field: str, namespace: str, view: View) -> Iterator[Finding]:
    if view.namespaces and namespace not in view.namespaces:
        yield about(
            meta, Severity.ERROR, "IST0101", f"namespace {namespace!r} does not exist", "Is the name right?", field
        )


def _without_identity(meta: Meta, field: str, identity: Identity, view: View) -> Iterator[Finding]:
    """Kubelet's probes are no such clients: what the node itself sends passes every policy."""
    if identity in view.outside:
        yield warn(
            meta,
            "MN0209",
            f"the pods of {identity.namespace}/{identity.service_account} are not captured, so they connect without "
            "this identity, in plain text",
            "Capture them, or name their addresses with ipBlocks.",
            field,
        )


# ---- address families --------------------------------------------------------------------------------------------


def _families(policy: AuthorizationPolicy, reached: Iterable[Pod]) -> Iterator[Finding]:
    is_dual: bool | None = None
    for field, blocks in _blocks(policy):
        if any(":" in str(block) for block in blocks) == any(":" not in str(block) for block in blocks):
            continue
        if is_dual is None:
            is_dual = any(len({is_ipv6(ip) for ip in pod.ips}) > 1 for pod in reached)
        if is_dual:
            missing = "IPv4" if ":" in str(blocks[0]) else "IPv6"
            yield warn(
                policy.meta,
                "MN0211",
                f"no block of {missing}, but these pods can be reached by it: such connections never match",
                "Add the clients' other addresses, or name the clients by identity.",
                field,
            )


def _blocks(policy: AuthorizationPolicy) -> Iterator[tuple[str, Sequence[Cidr]]]:
    for number, rule in enumerate(policy.rules):
        for at, source in enumerate(rule.sources):
            path = f"spec.rules[{number}].from[{at}].source"
            yield f"{path}.ipBlocks", source.ip_blocks
            yield f"{path}.notIpBlocks", source.not_ip_blocks
        for at, condition in enumerate(rule.conditions):
            path = f"spec.rules[{number}].when[{at}]"
            yield f"{path}.values", condition.source.ip_blocks or condition.destination_ips
            yield f"{path}.notValues", condition.source.not_ip_blocks or condition.not_destination_ips
