# SPDX-License-Identifier: Apache-2.0
"""Sources that are grouped get the same answer to every question; those that are told apart are told for a reason."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.policy import Match, MatchKind, Policy, ServiceAccountMatch, StringMatch
from nodeagent.policy.evaluate import ConnectionFacts, evaluate
from nodeagent.policy.source_groups import SourceGroups

Plain = dict[str, Any]
WEB, API, DB = (Identity("cluster.local", "shop", name) for name in ("web", "api", "db"))
OPS = Identity("cluster.local", "ops", "web")
EVERYONE = {WEB: 0b1, API: 0b10, DB: 0b100, OPS: 0b11000}


def _exactly(text: str) -> tuple[StringMatch, ...]:
    return (StringMatch(MatchKind.EXACT, text),)


def _groups(*matches: Match) -> set[int]:
    """Bits of each group."""
    return {bits for _, bits in SourceGroups(EVERYONE).told_apart(matches)}


def test_without_a_policy_all_are_one() -> None:
    assert SourceGroups(EVERYONE).told_apart([]) == [(WEB, 0b11111)]
    assert SourceGroups({}).told_apart([]) == []


@pytest.mark.parametrize(
    ("match", "groups"),
    [
        (Match(principals=_exactly("cluster.local/ns/shop/sa/api")), {0b10, 0b11101}),
        (Match(not_principals=_exactly("cluster.local/ns/shop/sa/api")), {0b10, 0b11101}),
        (Match(namespaces=_exactly("ops")), {0b11000, 0b111}),
        (Match(namespaces=_exactly("elsewhere")), {0b11111}),
        (Match(not_namespaces=(StringMatch(MatchKind.PREFIX, "sh"),)), {0b11000, 0b111}),
        (Match(principals=(StringMatch(MatchKind.SUFFIX, "/sa/web"),)), {0b11001, 0b110}),
        (Match(principals=(StringMatch(MatchKind.PRESENCE),)), {0b11111}),
        (Match(service_accounts=(ServiceAccountMatch("shop", "db"),)), {0b100, 0b11011}),
        (Match(namespaces=_exactly("shop"), service_accounts=(ServiceAccountMatch("shop", "db"),)), {4, 3, 0b11000}),
        (Match(destination_ports=()), {0b11111}),
    ],
)
def test_what_is_named_tells_apart(match: Match, groups: set[int]) -> None:
    assert _groups(match) == groups


def test_a_namespace_is_no_principal() -> None:
    assert _groups(Match(principals=_exactly("ops"))) == {0b11111}
    assert _groups(Match(namespaces=_exactly("cluster.local/ns/shop/sa/api"))) == {0b11111}


@pytest.mark.parametrize("seed", range(60))
def test_a_group_has_one_answer(
    seed: int,
    make_case: Callable[[random.Random], tuple[list[Plain], list[str], Plain]],
    to_policy: Callable[[Plain], Policy],
) -> None:
    rng = random.Random(seed)
    policies = [to_policy(plain) for plain in make_case(rng)[0]]
    identities = [
        Identity(domain, namespace, account)
        for domain in ("cluster.local", "td1")
        for namespace in ("shop", "ops", "a")
        for account in ("web", "db", "x")
    ]
    bits_of = {identity: 1 << number for number, identity in enumerate(identities)}
    matches = [
        match for policy in policies for rule in policy.rules for clause in rule.clauses for match in clause.matches
    ]
    groups = SourceGroups(bits_of).told_apart(matches)
    assert sum(bits for _, bits in groups) == (1 << len(identities)) - 1, "each is in one group"
    for first, together in groups:
        for identity, bits in bits_of.items():
            if together & bits:
                for port in (80, 443, 5432, 9):
                    answers = {
                        evaluate(policies, (), ConnectionFacts(who, Ip("10.0.0.1"), Ip("10.0.0.2"), port))
                        for who in (first, identity)
                    }
                    assert len(answers) == 1
