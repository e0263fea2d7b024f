# SPDX-License-Identifier: Apache-2.0
"""A policy read back as sentences, for `nodeagent policies`, `explain` and whoever has to say what is enforced.

The words follow the meaning that evaluate.py gives to a policy, not the YAML it was made from. What looks as if it did
something and does not, or does more than it looks, is said in `cautions`.
"""

from collections.abc import Sequence

from nodeagent.model.policy import (
    Action,
    Clause,
    Match,
    MatchKind,
    Policy,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
)

_STATIC_STRICT = "istio_converted_static_strict"
_PORT_STRICT = "converted_peer_authentication_"


def headline(policy: Policy) -> str:
    """One line: what it does, and to whom."""
    verb = "Allows" if policy.action is Action.ALLOW else "Denies"
    dry = " (dry run: told, never enforced)" if policy.is_dry_run else ""
    if not policy.rules:
        if policy.action is Action.ALLOW:
            return f"Allows nothing by itself {_reach(policy)}: only what another one allows gets in{dry}"
        return f"Denies nothing: it has no rules{dry}"
    return f"{verb} connections {_reach(policy)}{dry}"


def rule_sentences(policy: Policy) -> tuple[str, ...]:
    """One sentence for each rule; a connection to which any of them applies is meant by the headline."""
    return tuple(_describe_rule(rule) for rule in policy.rules)


def _describe_rule(rule: Rule) -> str:
    if not rule.clauses:
        return "always"
    if any(_is_never(clause) for clause in rule.clauses):
        return "never: a condition of layer 7 was left out, and what remains of it matches nothing"
    said = [_describe_clause(clause) for clause in rule.clauses if clause.matches]
    return "when " + ", and ".join(said) if said else "always"


def _describe_clause(clause: Clause) -> str:
    alternatives = [_describe_match(match) for match in clause.matches if _describe_match(match)]
    if len(alternatives) == 1:
        return alternatives[0]
    return "either " + " or ".join(f"({alternative})" for alternative in alternatives)


def _describe_match(match: Match) -> str:
    """Empty for a match without fields."""
    said = []
    for field in match.__struct_fields__:
        values = getattr(match, field)
        if values:
            said.append(_describe_field(field, tuple(map(show, values))))
    return " and ".join(said)


def show(value: object) -> str:
    """One value of a Match's field as an operator writes it: `shop*`, `ns/account`, `10.0.0.0/8`, `443`."""
    match value:
        case StringMatch(MatchKind.EXACT, text):
            return text
        case StringMatch(MatchKind.PREFIX, text):
            return f"{text}*"
        case StringMatch(MatchKind.SUFFIX, text):
            return f"*{text}"
        case StringMatch(MatchKind.PRESENCE):
            return "*"
        case ServiceAccountMatch(namespace, account):
            return f"{namespace}/{account}"
        case _:
            return str(value)


def origin(policy: Policy) -> str:
    """The kind of object it was made from, by the names that istiod gives."""
    is_converted = policy.name == _STATIC_STRICT or policy.name.startswith(_PORT_STRICT)
    return "PeerAuthentication" if is_converted else "AuthorizationPolicy"


def cautions(policy: Policy) -> tuple[str, ...]:
    """What a reader of the policy might not expect of it; each a sentence that names the rule."""
    found = []
    for number, rule in enumerate(policy.rules, 1):
        if any(_is_never(clause) for clause in rule.clauses):
            found.append(f"rule {number} never applies: it consists of conditions that only layer 7 can see")
        matches = [match for clause in rule.clauses for match in clause.matches]
        if any(value.value.startswith("spiffe://") for match in matches for value in match.principals):
            found.append(f"rule {number} names a principal with spiffe://, which no client can have: leave it out")
        if policy.action is Action.ALLOW and _admits_strangers(rule):
            found.append(f"rule {number} also admits clients without identity, such as plaintext ones")
    return tuple(found)


def _is_never(clause: Clause) -> bool:
    """True for what layer 7 conditions leave behind: matches, and none of them with a field."""
    return bool(clause.matches) and all(match == _EMPTY for match in clause.matches)


_EMPTY = Match()
_POSITIVE = ("namespaces", "principals", "service_accounts")
_IDENTITY = tuple(f"not_{field}" for field in _POSITIVE)


def _admits_strangers(rule: Rule) -> bool:
    """It says whom it does not want, and that is all it says about identities somewhere: strangers are not that one."""
    matches = [match for clause in rule.clauses for match in clause.matches]
    excludes = any(getattr(match, field) for match in matches for field in _IDENTITY)
    requires = any(
        clause.matches and all(_requires_identity(match) for match in clause.matches) for clause in rule.clauses
    )
    return excludes and not requires


def _requires_identity(match: Match) -> bool:
    return match == _EMPTY or any(getattr(match, field) for field in _POSITIVE)


def _reach(policy: Policy) -> str:
    match policy.scope:
        case PolicyScope.GLOBAL:
            return "to every workload of the mesh"
        case PolicyScope.NAMESPACE:
            return f"to every workload of namespace {policy.namespace}"
        case PolicyScope.WORKLOAD_SELECTOR:
            return "to the workloads that it selects"


_SUBJECTS = {
    "namespaces": "the client's namespace is",
    "principals": "the client is",
    "service_accounts": "the client's service account is",
    "source_ips": "the client's address is in",
    "destination_ips": "the workload's address is in",
    "destination_ports": "the workload's port is",
}
_PRESENCE = {
    "namespaces": "the client has an identity",
    "not_namespaces": "the client has no identity",
    "principals": "the client has an identity",
    "not_principals": "the client has no identity",
}


def _describe_field(field: str, values: Sequence[str]) -> str:
    if "*" in values and field in _PRESENCE:
        return _PRESENCE[field]
    subject = _SUBJECTS[field.removeprefix("not_")]
    if not field.startswith("not_"):
        return f"{subject} {' or '.join(values)}"
    subject = subject.removesuffix(" in")
    place = " in" if field.endswith("_ips") else ""
    return f"{subject} not{place} {' or '.join(values)}"
