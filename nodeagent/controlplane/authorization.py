# SPDX-License-Identifier: Apache-2.0
"""AuthorizationPolicy -> Policy, bit for bit as istiod does for node proxies. Pure.

- targetRefs, AUDIT and CUSTOM are not for node agents: no policy. Nor are dry runs, which istiod leaves out since a
  ztunnel before 1.29 would enforce them; our agents are told of them by an extension.
- No selector: the policy's namespace, or everything when that is the root namespace.
- A rule's `to` entries are one clause, its `from` entries one, each `when` one more; clauses are ANDed.
- ALLOW: a rule with a layer 7 attribute anywhere is left out, so the policy may end up allowing nothing.
- DENY: layer 7 attributes are left out of their entry. An entry of which nothing remains matches nothing (not
  everything!), so that its rule may never fire; `parse_rule.py` reports that as an error.
"""

from nodeagent.controlplane.objects import AuthorizationPolicy, Condition, Operation, PolicyRule, Source
from nodeagent.model.policy import Action, Clause, Match, Policy, PolicyScope, Rule
from nodeagent.model.security import DryRun


def translate_authorization(policy: AuthorizationPolicy, root_namespace: str) -> Policy | None:
    return None if policy.is_dry_run else _translate(policy, root_namespace)


def translate_dry_run(policy: AuthorizationPolicy, root_namespace: str) -> DryRun | None:
    made = _translate(policy, root_namespace) if policy.is_dry_run else None
    if made is None:
        return None
    namespace = "" if policy.meta.namespace == root_namespace else policy.meta.namespace
    return DryRun(policy=made, namespace=namespace, selector=policy.selector or {})


def _translate(policy: AuthorizationPolicy, root_namespace: str) -> Policy | None:
    if policy.is_for_waypoint or policy.action is None:
        return None
    rules = [rule for rule in policy.rules if policy.action is Action.DENY or not rule.layer7]
    return Policy(
        name=policy.meta.name,
        namespace=policy.meta.namespace,
        scope=_scope(policy, root_namespace),
        action=policy.action,
        rules=tuple(_rule(rule) for rule in rules),
        is_dry_run=policy.is_dry_run,
    )


def _scope(policy: AuthorizationPolicy, root_namespace: str) -> PolicyScope:
    if policy.selector is not None:
        return PolicyScope.WORKLOAD_SELECTOR
    return PolicyScope.GLOBAL if policy.meta.namespace == root_namespace else PolicyScope.NAMESPACE


def _rule(rule: PolicyRule) -> Rule:
    clauses: list[Clause] = []
    if rule.operations:
        clauses.append(Clause(tuple(_operation(operation) for operation in rule.operations)))
    if rule.sources:
        clauses.append(Clause(tuple(_source(source) for source in rule.sources)))
    clauses.extend(Clause((_condition(condition),)) for condition in rule.conditions)
    return Rule(tuple(clauses))


def _operation(operation: Operation) -> Match:
    return Match(destination_ports=operation.ports, not_destination_ports=operation.not_ports)


def _source(source: Source) -> Match:
    return Match(
        namespaces=source.namespaces,
        not_namespaces=source.not_namespaces,
        principals=source.principals,
        not_principals=source.not_principals,
        service_accounts=source.service_accounts,
        not_service_accounts=source.not_service_accounts,
        source_ips=source.ip_blocks,
        not_source_ips=source.not_ip_blocks,
    )


def _condition(condition: Condition) -> Match:
    """Without fields for a layer 7 key: it matches nothing."""
    return Match(
        namespaces=condition.source.namespaces,
        not_namespaces=condition.source.not_namespaces,
        principals=condition.source.principals,
        not_principals=condition.source.not_principals,
        source_ips=condition.source.ip_blocks,
        not_source_ips=condition.source.not_ip_blocks,
        destination_ips=condition.destination_ips,
        not_destination_ips=condition.not_destination_ips,
        destination_ports=condition.operation.ports,
        not_destination_ports=condition.operation.not_ports,
    )
