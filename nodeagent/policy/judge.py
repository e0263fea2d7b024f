# SPDX-License-Identifier: Apache-2.0
"""The verdict with its working shown: which policy, rule, clause and field held, and by how little one missed.

It decides nothing of its own: the verdict is evaluate()'s, and each line asks the function by which evaluate() asks.
"""

from collections.abc import Callable, Sequence

import msgspec

from nodeagent.model.mesh import Mesh
from nodeagent.model.policy import Action, Clause, Match, Policy, Rule
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Workload
from nodeagent.policy.evaluate import (
    FIELDS,
    Allow,
    ConnectionFacts,
    Deny,
    Pending,
    Verdict,
    clause_matches,
    evaluate,
    match_holds,
    policy_matches,
    rule_matches,
)
from nodeagent.policy.rehearse import rehearse
from nodeagent.policy.sentences import show


class FieldWorking(msgspec.Struct, frozen=True):
    field: str
    is_matched: bool
    words: str
    """`principals: cluster.local/ns/shop/sa/web is not shop/*`."""


class MatchWorking(msgspec.Struct, frozen=True):
    is_matched: bool
    fields: tuple[FieldWorking, ...]
    """The populated fields; none at all never matches."""


class ClauseWorking(msgspec.Struct, frozen=True):
    is_matched: bool
    matches: tuple[MatchWorking, ...]


class RuleWorking(msgspec.Struct, frozen=True):
    number: int
    """Its place in the policy, from 1."""
    is_matched: bool
    clauses: tuple[ClauseWorking, ...]


class PolicyWorking(msgspec.Struct, frozen=True):
    policy: str
    """`ns/name`."""
    action: Action
    is_dry_run: bool
    is_matched: bool
    """What it says of this connection; whether that decided, the verdict says."""
    rules: tuple[RuleWorking, ...]


class NearestMiss(msgspec.Struct, frozen=True):
    """The ALLOW rule that would have allowed with the fewest changes."""

    policy: str
    rule: int
    failing_clauses: int
    words: tuple[str, ...]
    """The fields that failed, of the best match of each failing clause."""


class Judgement(msgspec.Struct, frozen=True):
    verdict: Verdict
    facts: ConnectionFacts
    policies: tuple[PolicyWorking, ...]
    """All that apply, in the order of their force: DENY, then ALLOW."""
    missing: tuple[str, ...] = ()
    nearest_miss: NearestMiss | None = None
    """Set when ALLOW policies exist and none matched, unless none of them has a rule."""
    rehearsed: Allow | Deny | None = None
    """The verdict if dry runs were enforced; None when none is about the destination."""


def judge_for(mesh: Mesh, destination: Workload, facts: ConnectionFacts) -> Judgement:
    policies, missing = mesh.policies_for(destination)
    return judge((*policies, *mesh.dry_runs_for(destination)), missing, facts)


def judge(policies: Sequence[Policy], missing: Sequence[str], facts: ConnectionFacts) -> Judgement:
    """evaluate() with its working; some ten times slower."""
    verdict = evaluate(policies, missing, facts)
    by_force = sorted(policies, key=lambda policy: policy.action is Action.ALLOW)
    workings = tuple(_policy(policy, facts) for policy in by_force)
    is_missed = isinstance(verdict, Deny) and verdict.reason is Reason.POLICY_NOT_ALLOWED
    miss = _nearest_miss(workings) if is_missed else None
    return Judgement(verdict, facts, workings, tuple(missing), miss, rehearse(policies, missing, facts))


def explain_lines(judgement: Judgement) -> tuple[str, ...]:
    """The working as text, a line per policy, in the manner of `explain`."""
    told = []
    miss = judgement.nearest_miss
    for number, policy in enumerate(judgement.policies, 1):
        force = f"{policy.action}{' (dry run)' if policy.is_dry_run else ''}"
        nearest = " <- nearest miss" if miss and miss.policy == policy.policy else ""
        told.append(f"{number} {force} {policy.policy}: {'match' if policy.is_matched else 'no match'}{nearest}")
        told += [f"    rule {rule.number}: {_tell(rule)}" for rule in policy.rules]
    told += [f"? {name}: has not arrived" for name in judgement.missing]
    return tuple(told)


def verdict_words(verdict: Verdict) -> str:
    match verdict:
        case Allow(None):
            return "allowed: no ALLOW policy applies, and no DENY policy matches"
        case Allow(policy):
            return f"allowed by {policy}"
        case Deny(None):
            return "denied: ALLOW policies apply, and none matches"
        case Deny(policy):
            return f"denied by {policy}"
        case Pending(missing):
            return f"pending, then denied: {', '.join(missing)} has not arrived"


def _policy(policy: Policy, facts: ConnectionFacts) -> PolicyWorking:
    rules = tuple(_rule(number, rule, facts) for number, rule in enumerate(policy.rules, 1))
    return PolicyWorking(policy.key, policy.action, policy.is_dry_run, policy_matches(policy, facts), rules)


def _rule(number: int, rule: Rule, facts: ConnectionFacts) -> RuleWorking:
    return RuleWorking(number, rule_matches(rule, facts), tuple(_clause(clause, facts) for clause in rule.clauses))


def _clause(clause: Clause, facts: ConnectionFacts) -> ClauseWorking:
    return ClauseWorking(clause_matches(clause, facts), tuple(_match(match, facts) for match in clause.matches))


def _match(match: Match, facts: ConnectionFacts) -> MatchWorking:
    fields = tuple(
        FieldWorking(field, holds, f"{field}: {_compare(field, values, facts, holds=holds)}")
        for field in match.__struct_fields__
        if (values := getattr(match, field))
        for holds in (FIELDS[field](values, facts),)
    )
    return MatchWorking(match_holds(match, facts), fields)


def _compare(field: str, values: Sequence[object], facts: ConnectionFacts, *, holds: bool) -> str:
    """`found is wanted`, `found is not wanted`; for a `not_` field the same about the values it excludes."""
    found = _FOUND[field.removeprefix("not_")](facts)
    is_among = holds is not field.startswith("not_")
    link = ("is in" if is_among else "is not in") if field.endswith("_ips") else ("is" if is_among else "is not")
    return f"{found} {link} {' or '.join(map(show, values))}"


def _principal(facts: ConnectionFacts) -> str:
    return facts.source_identity.principal if facts.source_identity else "no identity"


def _namespace(facts: ConnectionFacts) -> str:
    return facts.source_identity.namespace if facts.source_identity else "no identity"


def _service_account(facts: ConnectionFacts) -> str:
    identity = facts.source_identity
    return f"{identity.namespace}/{identity.service_account}" if identity else "no identity"


_FOUND: dict[str, Callable[[ConnectionFacts], str]] = {
    "namespaces": _namespace,
    "principals": _principal,
    "service_accounts": _service_account,
    "source_ips": lambda facts: facts.source_ip,
    "destination_ips": lambda facts: facts.destination_ip,
    "destination_ports": lambda facts: str(facts.destination_port),
}


def _tell(rule: RuleWorking) -> str:
    """Of a rule that matches every field; of one that does not, what failed."""
    if rule.is_matched:
        held = [_best(clause) for clause in rule.clauses if clause.matches]
        return "; ".join(field.words for match in held for field in match.fields) or "matches every connection"
    return "; ".join(_failing_words(rule))


def _failing_words(rule: RuleWorking) -> tuple[str, ...]:
    words: list[str] = []
    for clause in rule.clauses:
        if not clause.is_matched:
            best = _best(clause)
            words += [field.words for field in best.fields if not field.is_matched] or ["an empty match never holds"]
    return tuple(words)


def _best(clause: ClauseWorking) -> MatchWorking:
    """The match that holds, or fails by the fewest fields; an empty one only if there is no other."""
    return min(
        clause.matches,
        key=lambda match: (
            not match.fields,
            sum(not field.is_matched for field in match.fields),
        ),
    )


def _nearest_miss(policies: Sequence[PolicyWorking]) -> NearestMiss | None:
    """By the fewest failing clauses, then the fewest failing fields, then the order of policies and rules."""
    misses = [
        NearestMiss(policy.policy, rule.number, sum(not clause.is_matched for clause in rule.clauses), words)
        for policy in policies
        if policy.action is Action.ALLOW and not policy.is_dry_run
        for rule in policy.rules
        for words in (_failing_words(rule),)
    ]
    return min(misses, key=lambda miss: (miss.failing_clauses, len(miss.words)), default=None)
