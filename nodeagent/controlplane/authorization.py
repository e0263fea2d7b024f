# SPDX-License-Identifier: Apache-2.0
"""AuthorizationPolicy -> Policy, bit for bit as istiod does for node proxies. Pure.

- targetRefs, AUDIT and CUSTOM are not for node agents: no policy. Nor are dry runs, which istiod leaves out since a
  ztunnel before 1.29 would enforce them; our agents are told of them by an extension.
- No selector: the policy's namespace, or everything when that is the root namespace.
- A rule's `to` entries are one clause, its `from` entries one, each `when` one more; clauses are ANDed.
- ALLOW: a rule with a layer 7 attribute anywhere is left out, so the policy may end up allowing nothing.
- DENY: layer 7 attributes are left out of their entry. An entry of which nothing remains matches nothing (not
  everything!), so that its rule may never fire; `parse_rule.py` reports that as an error. With the annotation
  nodeagent/strict-deny such an entry matches everything instead, as Istio's API says of policies for TCP.
- What istiod leaves out altogether: trust domains of sources, as principals that begin with them; and aliases of the
  mesh's trust domain, by the rules of `trust_domains.py`. Neither occurs unless it is written.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from nodeagent.controlplane.objects import AuthorizationPolicy, Condition, MeshConfig, Operation, PolicyRule, Source
from nodeagent.controlplane.trust_domains import aliases_of, as_principals, expand_principals, expand_trust_domains
from nodeagent.model.policy import Action, Clause, Match, Policy, PolicyScope, Rule, StringMatch
from nodeagent.model.security import DryRun

_Entry = TypeVar("_Entry", Source, Operation)


def translate_authorization(policy: AuthorizationPolicy, mesh: MeshConfig) -> Policy | None:
    return None if policy.is_dry_run else _translate(policy, mesh)


def translate_dry_run(policy: AuthorizationPolicy, mesh: MeshConfig) -> DryRun | None:
    made = _translate(policy, mesh) if policy.is_dry_run else None
    if made is None:
        return None
    namespace = "" if policy.meta.namespace == mesh.root_namespace else policy.meta.namespace
    return DryRun(policy=made, namespace=namespace, selector=policy.selector or {})


def _translate(policy: AuthorizationPolicy, mesh: MeshConfig) -> Policy | None:
    if policy.is_for_waypoint or policy.action is None:
        return None
    return Policy(
        name=policy.meta.name,
        namespace=policy.meta.namespace,
        scope=_scope(policy, mesh.root_namespace),
        action=policy.action,
        rules=tuple(made for _, made in _numbered_rules(policy, mesh)),
        is_dry_run=policy.is_dry_run,
    )


def written_rules(policy: AuthorizationPolicy, mesh: MeshConfig) -> tuple[int, ...]:
    """For each rule that agents are told, the index of the one that was written."""
    return tuple(number for number, _ in _numbered_rules(policy, mesh))


def _numbered_rules(policy: AuthorizationPolicy, mesh: MeshConfig) -> Iterator[tuple[int, Rule]]:
    is_strict = policy.is_strict and policy.action is Action.DENY
    for number, rule in enumerate(policy.rules):
        if policy.action is Action.DENY or not rule.layer7:
            yield from ((number, made) for made in _rules(rule, aliases_of(mesh), is_strict=is_strict))


def _scope(policy: AuthorizationPolicy, root_namespace: str) -> PolicyScope:
    if policy.selector is not None:
        return PolicyScope.WORKLOAD_SELECTOR
    return PolicyScope.GLOBAL if policy.meta.namespace == root_namespace else PolicyScope.NAMESPACE


def _rules(rule: PolicyRule, domains: Sequence[str], *, is_strict: bool) -> Iterator[Rule]:
    """One, unless two conditions on the principal of one source have to hold: then one for each source."""
    before: list[Clause] = []
    if rule.operations and not (is_strict and any(_is_met(operation, Operation) for operation in rule.operations)):
        before.append(Clause(tuple(_operation(operation) for operation in rule.operations)))
    conditions = [one for one in rule.conditions if not (is_strict and one.is_layer7)]
    after = [Clause((_condition(condition, domains),)) for condition in conditions]
    if not rule.sources or (is_strict and any(_is_met(source, Source) for source in rule.sources)):
        yield Rule((*before, *after))
    elif any(source.principals and source.trust_domains for source in rule.sources):
        for source in rule.sources:
            yield Rule((*before, *_source_clauses(source, domains), *after))
    else:
        yield Rule((*before, Clause(tuple(_source(source, domains) for source in rule.sources)), *after))


def _is_met(entry: _Entry, kind: type[_Entry]) -> bool:
    """Whether nothing remains of an entry without what needs layer 7."""
    return bool(entry.layer7) and entry == kind(layer7=entry.layer7)


def _operation(operation: Operation) -> Match:
    return Match(destination_ports=operation.ports, not_destination_ports=operation.not_ports)


def _source_clauses(source: Source, domains: Sequence[str]) -> Iterator[Clause]:
    """A match has one list of principals, of which one has to hold; so the second one is a clause of its own."""
    if not (source.principals and source.trust_domains):
        yield Clause((_source(source, domains),))
        return
    yield Clause((_source(msgspec.structs.replace(source, trust_domains=()), domains),))
    yield Clause((Match(principals=_of_domains(source.trust_domains, domains)),))


def _source(source: Source, domains: Sequence[str]) -> Match:
    """Of a source that has principals or trust domains, not both."""
    excluded = _of_domains(source.not_trust_domains, domains)
    return Match(
        namespaces=source.namespaces,
        not_namespaces=source.not_namespaces,
        principals=expand_principals(source.principals, domains) or _of_domains(source.trust_domains, domains),
        not_principals=expand_principals(source.not_principals, domains) + excluded,
        service_accounts=source.service_accounts,
        not_service_accounts=source.not_service_accounts,
        source_ips=source.ip_blocks,
        not_source_ips=source.not_ip_blocks,
    )


def _of_domains(written: Sequence[StringMatch], domains: Sequence[str]) -> tuple[StringMatch, ...]:
    return as_principals(expand_trust_domains(written, domains))


def _condition(condition: Condition, domains: Sequence[str]) -> Match:
    """Without fields for a layer 7 key: it matches nothing."""
    return Match(
        namespaces=condition.source.namespaces,
        not_namespaces=condition.source.not_namespaces,
        principals=expand_principals(condition.source.principals, domains),
        not_principals=expand_principals(condition.source.not_principals, domains),
        source_ips=condition.source.ip_blocks,
        not_source_ips=condition.source.not_ip_blocks,
        destination_ips=condition.destination_ips,
        not_destination_ips=condition.not_destination_ips,
        destination_ports=condition.operation.ports,
        not_destination_ports=condition.operation.not_ports,
    )
