# SPDX-License-Identifier: Apache-2.0
"""The working: always the evaluator's verdict, and words that tell which field failed and with what."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Action, Policy
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Workload
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Pending, evaluate, policy_matches
from nodeagent.policy.judge import Judgement, NearestMiss, explain_lines, judge, judge_for, verdict_words

Plain = dict[str, Any]
ToPolicy = Callable[[Plain], Policy]
ToFacts = Callable[[Plain], ConnectionFacts]
MakeCase = Callable[[random.Random], tuple[list[Plain], list[str], Plain]]

FACTS: Plain = {
    "identity": "spiffe://cluster.local/ns/shop/sa/web",
    "source_ip": "10.0.0.1",
    "destination_ip": "10.0.0.9",
    "destination_port": 5432,
}
STRANGER = FACTS | {"identity": ""}


def failing(judgement: Judgement) -> list[str]:
    return [
        field.words
        for policy in judgement.policies
        for rule in policy.rules
        for clause in rule.clauses
        for match in clause.matches
        for field in match.fields
        if not field.is_matched
    ]


@given(rng=st.randoms(use_true_random=False))
def test_the_working_agrees_with_the_verdict(
    rng: random.Random, make_case: MakeCase, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    plain_policies, missing, plain_facts = make_case(rng)
    policies, facts = [to_policy(policy) for policy in plain_policies], to_facts(plain_facts)

    judgement = judge(policies, missing, facts)

    assert judgement.verdict == evaluate(policies, missing, facts)
    by_key = {policy.key: policy for policy in policies}
    assert len(judgement.policies) == len(policies)
    for policy in judgement.policies:
        assert policy.is_matched == policy_matches(by_key[policy.policy], facts)
        assert policy.is_matched == any(rule.is_matched for rule in policy.rules)
        for rule in policy.rules:
            assert rule.is_matched == all(clause.is_matched for clause in rule.clauses)
            for clause in rule.clauses:
                matches = [match.is_matched for match in clause.matches]
                assert clause.is_matched == (any(matches) or not matches)
                for match in clause.matches:
                    fields = [field.is_matched for field in match.fields]
                    assert match.is_matched == (all(fields) and fields != [])
    explain_lines(judgement)
    verdict_words(judgement.verdict)


@given(rng=st.randoms(use_true_random=False))
def test_a_nearest_miss_is_told_exactly_when_an_allow_rule_was_missed(
    rng: random.Random, make_case: MakeCase, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    plain_policies, missing, facts = make_case(rng)
    judgement = judge([to_policy(policy) for policy in plain_policies], missing, to_facts(facts))
    has_rules = any(p["action"] == "ALLOW" and p["rules"] and not p["dry_run"] for p in plain_policies)
    is_refused = judgement.verdict == Deny(None, Reason.POLICY_NOT_ALLOWED)
    assert (judgement.nearest_miss is not None) == (is_refused and has_rules)
    if judgement.nearest_miss is not None:
        assert judgement.nearest_miss.failing_clauses > 0
        assert judgement.nearest_miss.words


@pytest.mark.parametrize(
    ("match", "facts", "words"),
    [
        ({"principals": ["*/sa/db"]}, FACTS, "principals: cluster.local/ns/shop/sa/web is not */sa/db"),
        ({"principals": ["*"]}, STRANGER, "principals: no identity is not *"),
        ({"not_principals": ["*"]}, FACTS, "not_principals: cluster.local/ns/shop/sa/web is *"),
        ({"namespaces": ["ops", "d*"]}, FACTS, "namespaces: shop is not ops or d*"),
        ({"namespaces": ["ops"]}, STRANGER, "namespaces: no identity is not ops"),
        ({"service_accounts": ["shop/db"]}, FACTS, "service_accounts: shop/web is not shop/db"),
        ({"not_service_accounts": ["shop/web"]}, FACTS, "not_service_accounts: shop/web is shop/web"),
        ({"source_ips": ["10.1.0.0/16"]}, FACTS, "source_ips: 10.0.0.1 is not in 10.1.0.0/16"),
        ({"not_source_ips": ["10.0.0.0/8"]}, FACTS, "not_source_ips: 10.0.0.1 is in 10.0.0.0/8"),
        ({"destination_ips": ["fd00::/8"]}, FACTS, "destination_ips: 10.0.0.9 is not in fd00::/8"),
        ({"destination_ports": [5433]}, FACTS, "destination_ports: 5432 is not 5433"),
    ],
)
def test_a_failing_field_says_what_was_compared(
    match: Plain, facts: Plain, words: str, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    policy = to_policy({"action": "ALLOW", "rules": [[[match]]]})
    assert failing(judge([policy], (), to_facts(facts))) == [words]


def test_the_nearest_miss_is_the_rule_with_the_fewest_failing_clauses(to_policy: ToPolicy, to_facts: ToFacts) -> None:
    web: Plain = {"principals": ["*/sa/web"]}
    far = {"action": "ALLOW", "name": "far", "rules": [[[{"namespaces": ["ops"]}], [{"destination_ports": [1]}]]]}
    near = {
        "action": "ALLOW",
        "name": "near",
        "rules": [[[{"namespaces": ["x"]}], [{"source_ips": ["1.1.1.1"]}]], [[web], [{"destination_ports": [5433]}]]],
    }
    judgement = judge([to_policy(far), to_policy(near)], (), to_facts(FACTS))
    assert judgement.nearest_miss == NearestMiss("shop/near", 2, 1, ("destination_ports: 5432 is not 5433",))


def test_a_dry_run_policy_is_no_miss_however_near(to_policy: ToPolicy, to_facts: ToFacts) -> None:
    near = {"action": "ALLOW", "name": "near", "dry_run": True, "rules": [[[{"destination_ports": [1]}]]]}
    far = {"action": "ALLOW", "name": "far", "rules": [[[{"destination_ports": [1], "namespaces": ["ops"]}]]]}
    judgement = judge([to_policy(near), to_policy(far)], (), to_facts(FACTS))
    assert judgement.nearest_miss is not None
    assert judgement.nearest_miss.policy == "shop/far"


def test_within_a_clause_the_best_match_is_told_and_an_empty_one_last(to_policy: ToPolicy, to_facts: ToFacts) -> None:
    two: Plain = {"namespaces": ["ops"], "destination_ports": [1]}
    one: Plain = {"namespaces": ["shop"], "destination_ports": [2]}
    judgement = judge([to_policy({"action": "ALLOW", "rules": [[[{}, two, one]]]})], (), to_facts(FACTS))
    assert judgement.nearest_miss == NearestMiss("shop/p", 1, 1, ("destination_ports: 5432 is not 2",))

    empty = judge([to_policy({"action": "ALLOW", "rules": [[[{}]]]})], (), to_facts(FACTS))
    assert empty.nearest_miss == NearestMiss("shop/p", 1, 1, ("an empty match never holds",))


def test_the_lines_tell_each_policy_in_the_order_of_its_force(to_policy: ToPolicy, to_facts: ToFacts) -> None:
    allow = {
        "action": "ALLOW",
        "name": "pg",
        "rules": [[[{"principals": ["*/sa/web"]}], [{"destination_ports": [5433]}]]],
    }
    dry = {"action": "DENY", "name": "try", "dry_run": True, "rules": [[]]}
    strict = {"action": "DENY", "name": "strict", "rules": [[[{"not_principals": ["*"]}]]]}

    judgement = judge([to_policy(allow), to_policy(dry), to_policy(strict)], (), to_facts(FACTS))

    assert explain_lines(judgement) == (
        "1 DENY (dry run) shop/try: match",
        "    rule 1: matches every connection",
        "2 DENY shop/strict: no match",
        "    rule 1: not_principals: cluster.local/ns/shop/sa/web is *",
        "3 ALLOW shop/pg: no match <- nearest miss",
        "    rule 1: destination_ports: 5432 is not 5433",
    )


def test_a_matching_rule_tells_why(to_policy: ToPolicy, to_facts: ToFacts) -> None:
    policy = to_policy({"action": "DENY", "rules": [[[{"namespaces": ["sh*"]}], [{"not_destination_ports": [80]}]]]})
    assert explain_lines(judge([policy], ["shop/late"], to_facts(FACTS))) == (
        "1 DENY shop/p: match",
        "    rule 1: namespaces: shop is sh*; not_destination_ports: 5432 is not 80",
        "? shop/late: has not arrived",
    )


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Allow(None), "allowed: no ALLOW policy applies, and no DENY policy matches"),
        (Allow("a/b"), "allowed by a/b"),
        (Deny(None, Reason.POLICY_NOT_ALLOWED), "denied: ALLOW policies apply, and none matches"),
        (Deny("a/b", Reason.POLICY_DENIED), "denied by a/b"),
        (Pending(("a/b", "a/c")), "pending, then denied: a/b, a/c has not arrived"),
    ],
)
def test_a_verdict_in_words(verdict: Allow | Deny | Pending, words: str) -> None:
    assert verdict_words(verdict) == words


def test_a_judgement_by_the_mesh_survives_its_way_to_the_command_line(to_policy: ToPolicy, to_facts: ToFacts) -> None:
    mesh = Mesh()
    policy = to_policy({"action": "ALLOW", "rules": [[[{"namespaces": ["ops"]}]]]})
    mesh.apply(Changes(policies=(policy,)))
    workload = Workload(uid="1", name="db", namespace="shop", policies=("shop/late",))

    judgement = judge_for(mesh, workload, to_facts(FACTS))

    assert judgement.verdict == Pending(("shop/late",))
    assert [working.action for working in judgement.policies] == [Action.ALLOW]
    assert msgspec.json.decode(msgspec.json.encode(judgement), type=Judgement) == judgement
