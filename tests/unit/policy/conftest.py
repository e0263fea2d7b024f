# SPDX-License-Identifier: Apache-2.0
"""Random policies and connections as plain dicts, and their way into the model.

The vocabulary is small, so that policies and connections meet often; every kind of pattern and every corner of the
semantics (empty rules, clauses and matches, dry run, missing policies, no identity) has its share.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

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
from nodeagent.policy.evaluate import ConnectionFacts

Plain = dict[str, Any]

NAMESPACES = ["shop", "shop-db", "ops", "a"]
ACCOUNTS = ["web", "db", "web.api"]
DOMAINS = ["cluster.local", "td1"]
ADDRESSES = ["10.0.0.1", "10.0.1.7", "192.168.3.4", "fd00::1", "fd00:1::2", "::1", "9.9.9.9"]
BLOCKS = ["10.0.0.0/8", "10.0.0.0/24", "10.0.1.7/32", "0.0.0.0/0", "::/0", "fd00::/16", "fd00::1/128", "10.0.1.9/24"]
PORTS = [80, 443, 5432, 8080]


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


def _to_policy(plain: Plain) -> Policy:
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


def _to_facts(plain: Plain) -> ConnectionFacts:
    return ConnectionFacts(
        Identity.parse(plain["identity"]) if plain["identity"] else None,
        parse_ip(plain["source_ip"]),
        parse_ip(plain["destination_ip"]),
        plain["destination_port"],
    )


@pytest.fixture(scope="session")
def make_case() -> Callable[[random.Random], tuple[list[Plain], list[str], Plain]]:
    """Policies, names of missing ones, facts: as plain dicts."""

    def make(rng: random.Random) -> tuple[list[Plain], list[str], Plain]:
        policies = [_policy(rng, number) for number in range(rng.choice([0, 1, 2, 2, 3, 5]))]
        return policies, ["shop/late"] if rng.random() < 0.1 else [], _facts(rng)

    return make


@pytest.fixture(scope="session")
def to_policy() -> Callable[[Plain], Policy]:
    """From {"action", "rules": rules of clauses of matches, "name"?, "scope"?, "dry_run"?}; fields as in Match."""
    return _to_policy


@pytest.fixture(scope="session")
def to_facts() -> Callable[[Plain], ConnectionFacts]:
    return _to_facts
