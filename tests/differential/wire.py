# SPDX-License-Identifier: Apache-2.0
"""Policies as they come by xDS: random ones as plain dicts, their way into the model, and a naive twin on the dicts.

The vocabulary is small, so that policies and connections meet often; every kind of pattern and every corner of the
semantics (empty rules, clauses and matches, dry run, missing policies, no identity) has its share. The twin is written
from the description alone: it shares nothing with the evaluator but the words.
"""

import ipaddress
import random
from collections.abc import Callable, Iterator
from typing import Any

from nodeagent.model.address import Cidr, Port, parse_ip
from nodeagent.model.identity import Identity
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
from nodeagent.model.reason import Reason
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Pending, Verdict, evaluate
from tests.differential.comparison import Comparison, Plain

NAMESPACES = ["shop", "shop-db", "ops", "a"]
ACCOUNTS = ["web", "db", "web.api"]
DOMAINS = ["cluster.local", "td1"]
ADDRESSES = ["10.0.0.1", "10.0.1.7", "192.168.3.4", "fd00::1", "fd00:1::2", "::1", "9.9.9.9"]
BLOCKS = ["10.0.0.0/8", "10.0.0.0/24", "10.0.1.7/32", "0.0.0.0/0", "::/0", "fd00::/16", "fd00::1/128", "10.0.1.9/24"]
PORTS = [80, 443, 5432, 8080]


class WirePart:
    name = "wire"

    def compare(self, rng: random.Random) -> Iterator[Comparison]:
        """One case: policies, names of missing ones, facts."""
        policies, missing, facts = make_case(rng)
        yield self.replay({"policies": policies, "missing": missing, "facts": facts})

    def replay(self, case: Plain) -> Comparison:
        policies, missing, facts = case["policies"], case["missing"], case["facts"]
        found = spoken(evaluate([to_policy(policy) for policy in policies], missing, to_facts(facts)))
        expected = naive(policies, missing, facts)
        return Comparison(case, expected, found, agrees=expected == found)

    def without(self, case: Plain, number: int) -> Plain | None:
        """The case without its policy of this number; None when there is none."""
        policies = case["policies"]
        return case | {"policies": policies[:number] + policies[number + 1 :]} if number < len(policies) else None


# ---- random cases ------------------------------------------------------------------------------------------------


def make_case(rng: random.Random) -> tuple[list[Plain], list[str], Plain]:
    """Policies, names of missing ones, facts: as plain dicts."""
    policies = [_policy(rng, number) for number in range(rng.choice([0, 1, 2, 2, 3, 5]))]
    return policies, ["shop/late"] if rng.random() < 0.1 else [], _facts(rng)


def _pattern(rng: random.Random, texts: list[str]) -> str:
    text = rng.choice(texts)
    cut = rng.randrange(1, len(text) + 1)
    return rng.choice(["*", text, text, text[:cut] + "*", "*" + text[-cut:]])


def _principal(rng: random.Random) -> str:
    return f"{rng.choice(DOMAINS)}/ns/{rng.choice(NAMESPACES)}/sa/{rng.choice(ACCOUNTS)}"


def _values(rng: random.Random, field: str) -> list[Any]:
    count = rng.choice([1, 1, 2, 3])
    match field.removeprefix("not_"):
        case "namespaces":
            return [_pattern(rng, NAMESPACES) for _ in range(count)]
        case "principals":
            return [_pattern(rng, [_principal(rng), "spiffe://" + _principal(rng)]) for _ in range(count)]
        case "service_accounts":
            return [f"{rng.choice(NAMESPACES)}/{rng.choice(ACCOUNTS)}" for _ in range(count)]
        case "destination_ports":
            return [rng.choice(PORTS) for _ in range(count)]
        case _:
            return [rng.choice(BLOCKS) for _ in range(count)]


def _match(rng: random.Random) -> Plain:
    fields = rng.sample(list(Match.__struct_fields__), rng.choice([0, 1, 1, 1, 2, 3]))
    return {field: _values(rng, field) for field in fields}


def _policy(rng: random.Random, number: int) -> Plain:
    return {
        "name": f"p{number}",
        "action": rng.choice(["ALLOW", "DENY"]),
        "dry_run": rng.random() < 0.15,
        "rules": [
            [[_match(rng) for _ in range(rng.choice([0, 1, 1, 2]))] for _ in range(rng.choice([0, 1, 1, 2]))]
            for _ in range(rng.choice([0, 1, 1, 2]))
        ],
    }


def _facts(rng: random.Random) -> Plain:
    return {
        "identity": "" if rng.random() < 0.25 else "spiffe://" + _principal(rng),
        "source_ip": rng.choice(ADDRESSES),
        "destination_ip": rng.choice(ADDRESSES),
        "destination_port": rng.choice([*PORTS, 9]),
    }


# ---- into the model ----------------------------------------------------------------------------------------------


def _string_match(text: str) -> StringMatch:
    if text == "*":
        return StringMatch(MatchKind.PRESENCE)
    if text.startswith("*"):
        return StringMatch(MatchKind.SUFFIX, text[1:])
    if text.endswith("*"):
        return StringMatch(MatchKind.PREFIX, text[:-1])
    return StringMatch(MatchKind.EXACT, text)


def _service_account(text: str) -> ServiceAccountMatch:
    return ServiceAccountMatch(*text.split("/"))


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "namespaces": _string_match,
    "principals": _string_match,
    "service_accounts": _service_account,
    "source_ips": Cidr.parse,
    "destination_ips": Cidr.parse,
    "destination_ports": Port,
}


def _to_match(plain: Plain) -> Match:
    return Match(**{field: tuple(map(_CONVERT[field.removeprefix("not_")], values)) for field, values in plain.items()})


def to_policy(plain: Plain) -> Policy:
    """From {"action", "rules": rules of clauses of matches, "name"?, "scope"?, "dry_run"?}; fields as in Match."""
    return Policy(
        name=plain.get("name", "p"),
        namespace="shop",
        scope=PolicyScope(plain.get("scope", "NAMESPACE")),
        action=Action(plain["action"]),
        rules=tuple(
            Rule(tuple(Clause(tuple(_to_match(match) for match in clause)) for clause in rule))
            for rule in plain["rules"]
        ),
        is_dry_run=plain.get("dry_run", False),
    )


def to_facts(plain: Plain) -> ConnectionFacts:
    return ConnectionFacts(
        Identity.parse(plain["identity"]) if plain["identity"] else None,
        parse_ip(plain["source_ip"]),
        parse_ip(plain["destination_ip"]),
        plain["destination_port"],
    )


# ---- the twin ----------------------------------------------------------------------------------------------------


def _text_matches(pattern: str, text: str) -> bool:
    if pattern == "*":
        return text != ""
    if pattern.startswith("*"):
        return text.endswith(pattern[1:])
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return pattern == text


def _value_matches(field: str, value: Any, facts: Plain) -> bool:
    identity = facts["identity"]
    parts = identity.split("/")
    if field == "namespaces":
        return _text_matches(value, parts[4] if identity else "")
    if field == "principals":
        return identity.startswith("spiffe://") and _text_matches(value, identity[len("spiffe://") :])
    if field == "service_accounts":
        return bool(identity) and value == f"{parts[4]}/{parts[6]}"
    if field == "destination_ports":
        return bool(value == facts["destination_port"])
    ip = facts["source_ip"] if field == "source_ips" else facts["destination_ip"]
    return ipaddress.ip_address(ip) in ipaddress.ip_network(value, strict=False)


def _match_holds(match: Plain, facts: Plain) -> bool:
    results = []
    for field, values in match.items():
        is_among = any(_value_matches(field.removeprefix("not_"), value, facts) for value in values)
        results.append(not is_among if field.startswith("not_") else is_among)
    return results != [] and all(results)


def _policy_matches(policy: Plain, facts: Plain) -> bool:
    return any(
        all(clause == [] or any(_match_holds(match, facts) for match in clause) for clause in rule)
        for rule in policy["rules"]
    )


def naive(policies: list[Plain], missing: list[str], facts: Plain) -> str:
    """The verdict in words; compare with `spoken`."""
    matching = {
        policy["name"]: policy for policy in policies if not policy["dry_run"] and _policy_matches(policy, facts)
    }
    for name, policy in matching.items():
        if policy["action"] == "DENY":
            return f"denied by shop/{name}"
    if missing:
        return f"pending {missing}"
    if not any(policy["action"] == "ALLOW" for policy in policies if not policy["dry_run"]):
        return "allowed by None"
    for name in matching:
        return f"allowed by shop/{name}"
    return "not allowed"


def spoken(verdict: Verdict) -> str:
    match verdict:
        case Allow(policy):
            return f"allowed by {policy}"
        case Deny(None, Reason.POLICY_NOT_ALLOWED):
            return "not allowed"
        case Deny(policy, Reason.POLICY_DENIED):
            return f"denied by {policy}"
        case Pending(missing):
            return f"pending {list(missing)}"
        case _:
            return f"impossible: {verdict}"
