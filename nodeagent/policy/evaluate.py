# SPDX-License-Identifier: Apache-2.0
"""The verdict on one connection. It must equal ztunnel's (src/rbac.rs, state.rs: assert_rbac) but for `missing`.

1. An enforced DENY policy that matches denies, whatever else there is.
2. A policy that the workload names and that has not arrived: pending, which the caller treats as a refusal in the end.
   (ztunnel skips it, so that a DENY that is late is not enforced.)
3. No enforced ALLOW policy: allow.
4. An enforced ALLOW policy that matches allows; if none does, the connection is denied.

Dry-run policies never decide. A policy matches when one of its rules does; a rule when all of its clauses do (also when
it has none); a clause when one of its matches does (also when it has none); a match when all of its fields hold, but
never when it has no field: such are what layer 7 conditions leave behind. A client without identity has no principal
and no service account, and its namespace is empty: no positive identity field holds for it, every `not_` one does.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from nodeagent.model.address import Cidr, Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.model.policy import Action, Clause, Match, MatchKind, Policy, Rule, ServiceAccountMatch, StringMatch
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Workload


class ConnectionFacts(msgspec.Struct, frozen=True):
    """What a policy may ask about a connection."""

    source_identity: Identity | None
    """Only what TLS proved; None for plaintext."""
    source_ip: Ip
    destination_ip: Ip
    destination_port: int
    """The address and port of the application, never those of a Service."""


class Allow(msgspec.Struct, frozen=True, tag=True):
    policy: str | None
    """`ns/name` of the ALLOW policy that matched; None when no ALLOW policy applies."""


class Deny(msgspec.Struct, frozen=True, tag=True):
    policy: str | None
    """`ns/name` of the DENY policy that matched; None when ALLOW policies exist and none matched."""
    reason: Reason
    """POLICY_DENIED or POLICY_NOT_ALLOWED."""


class Pending(msgspec.Struct, frozen=True, tag=True):
    """Not decided: hold the connection briefly, ask again, then refuse it with POLICY_PENDING."""

    missing: tuple[str, ...]
    """`ns/name` of the policies that have not arrived; at least one."""


Verdict: TypeAlias = Allow | Deny | Pending


def evaluate_for(mesh: Mesh, destination: Workload, facts: ConnectionFacts) -> Verdict:
    """The verdict by the policies that apply to `destination` at this moment."""
    policies, missing = mesh.policies_for(destination)
    return evaluate(policies, missing, facts)


def evaluate(policies: Sequence[Policy], missing: Sequence[str], facts: ConnectionFacts) -> Verdict:
    """The verdict by `policies`, all of which apply to the destination; `missing` are those it names in vain."""
    for policy in policies:
        if policy.action is Action.DENY and not policy.is_dry_run and policy_matches(policy, facts):
            return Deny(policy.key, Reason.POLICY_DENIED)
    if missing:
        return Pending(tuple(missing))
    is_open = True
    for policy in policies:
        if policy.action is Action.ALLOW and not policy.is_dry_run:
            if policy_matches(policy, facts):
                return Allow(policy.key)
            is_open = False
    return Allow(None) if is_open else Deny(None, Reason.POLICY_NOT_ALLOWED)


def policy_matches(policy: Policy, facts: ConnectionFacts) -> bool:
    # Loops instead of any() and all(): generators would double the time, and this runs for every connection.
    for rule in policy.rules:  # noqa: SIM110
        if rule_matches(rule, facts):
            return True
    return False


def rule_matches(rule: Rule, facts: ConnectionFacts) -> bool:
    for clause in rule.clauses:  # noqa: SIM110 - as above
        if not clause_matches(clause, facts):
            return False
    return True


def clause_matches(clause: Clause, facts: ConnectionFacts) -> bool:
    for match in clause.matches:
        if match_holds(match, facts):
            return True
    return not clause.matches


def match_holds(match: Match, facts: ConnectionFacts) -> bool:
    is_empty = True
    for holds, values in zip(_TESTS, msgspec.structs.astuple(match), strict=True):
        if values:
            if not holds(values, facts):
                return False
            is_empty = False
    return not is_empty


def _is_namespace(values: Sequence[StringMatch], facts: ConnectionFacts) -> bool:
    return any_equals(values, facts.source_identity.namespace if facts.source_identity else "")


def _is_principal(values: Sequence[StringMatch], facts: ConnectionFacts) -> bool:
    return facts.source_identity is not None and any_equals(values, facts.source_identity.principal)


def any_equals(patterns: Sequence[StringMatch], text: str) -> bool:
    """Whether one of them holds for a name: a namespace, or a principal."""
    for pattern in patterns:
        kind = pattern.kind
        if (
            (kind is MatchKind.EXACT and text == pattern.value)
            or (kind is MatchKind.PREFIX and text.startswith(pattern.value))
            or (kind is MatchKind.SUFFIX and text.endswith(pattern.value))
            or (kind is MatchKind.PRESENCE and text)
        ):
            return True
    return False


def _is_service_account(values: Sequence[ServiceAccountMatch], facts: ConnectionFacts) -> bool:
    """In any trust domain, as Istio has it."""
    identity = facts.source_identity
    return identity is not None and any(
        value.namespace == identity.namespace and value.service_account == identity.service_account for value in values
    )


def _is_source(blocks: Sequence[Cidr], facts: ConnectionFacts) -> bool:
    return any(block.contains(facts.source_ip) for block in blocks)


def _is_destination(blocks: Sequence[Cidr], facts: ConnectionFacts) -> bool:
    return any(block.contains(facts.destination_ip) for block in blocks)


def _is_port(ports: Sequence[int], facts: ConnectionFacts) -> bool:
    return facts.destination_port in ports


FieldTest: TypeAlias = Callable[[Any, ConnectionFacts], bool]


def _none(of: FieldTest) -> FieldTest:
    return lambda values, facts: not of(values, facts)


FIELDS: dict[str, FieldTest] = {
    "namespaces": _is_namespace,
    "not_namespaces": _none(_is_namespace),
    "principals": _is_principal,
    "not_principals": _none(_is_principal),
    "service_accounts": _is_service_account,
    "not_service_accounts": _none(_is_service_account),
    "source_ips": _is_source,
    "not_source_ips": _none(_is_source),
    "destination_ips": _is_destination,
    "not_destination_ips": _none(_is_destination),
    "destination_ports": _is_port,
    "not_destination_ports": _none(_is_port),
}
"""Whether a populated field of a Match holds, by its name."""

# In the order of the struct; a field that has no test stops the import, so none can be ignored.
_TESTS = tuple(FIELDS[name] for name in Match.__struct_fields__)
