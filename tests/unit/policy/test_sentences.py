# SPDX-License-Identifier: Apache-2.0
"""Policies read back: the sentence says what the evaluator does."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Cidr, Port
from nodeagent.model.policy import MatchKind, Policy, ServiceAccountMatch, StringMatch
from nodeagent.policy.evaluate import ConnectionFacts, evaluate
from nodeagent.policy.sentences import cautions, headline, origin, rule_sentences, show

Plain = dict[str, Any]
ToPolicy = Callable[[Plain], Policy]
ToFacts = Callable[[Plain], ConnectionFacts]
MakeCase = Callable[[random.Random], tuple[list[Plain], list[str], Plain]]


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ({"action": "ALLOW", "rules": [[]]}, "Allows connections to every workload of namespace shop"),
        (
            {"action": "DENY", "rules": [[]], "scope": "GLOBAL"},
            "Denies connections to every workload of the mesh",
        ),
        (
            {"action": "DENY", "rules": [[]], "scope": "WORKLOAD_SELECTOR"},
            "Denies connections to the workloads that it selects",
        ),
        (
            {"action": "ALLOW", "rules": []},
            "Allows nothing by itself to every workload of namespace shop: only what another one allows gets in",
        ),
        ({"action": "DENY", "rules": []}, "Denies nothing: it has no rules"),
        (
            {"action": "DENY", "rules": [[]], "dry_run": True},
            "Denies connections to every workload of namespace shop (dry run: told, never enforced)",
        ),
    ],
)
def test_the_headline_says_what_and_to_whom(policy: Plain, line: str, to_policy: ToPolicy) -> None:
    assert headline(to_policy(policy)) == line


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ([], "always"),
        ([[]], "always"),
        ([[{}]], "never: a condition of layer 7 was left out, and what remains of it matches nothing"),
        ([[{"destination_ports": [80]}], []], "when the workload's port is 80"),
        ([[{"destination_ports": [80, 443]}]], "when the workload's port is 80 or 443"),
        ([[{"not_destination_ports": [80]}]], "when the workload's port is not 80"),
        ([[{"source_ips": ["10.0.0.0/8"]}]], "when the client's address is in 10.0.0.0/8"),
        ([[{"not_source_ips": ["10.0.0.0/8", "::1"]}]], "when the client's address is not in 10.0.0.0/8 or ::1/128"),
        ([[{"destination_ips": ["10.0.0.1"]}]], "when the workload's address is in 10.0.0.1/32"),
        ([[{"principals": ["td/ns/a/sa/b"]}]], "when the client is td/ns/a/sa/b"),
        ([[{"not_principals": ["*"]}]], "when the client has no identity"),
        ([[{"namespaces": ["*"]}]], "when the client has an identity"),
        ([[{"namespaces": ["a*", "*b"]}]], "when the client's namespace is a* or *b"),
        ([[{"not_namespaces": ["a"]}]], "when the client's namespace is not a"),
        ([[{"service_accounts": ["a/b"]}]], "when the client's service account is a/b"),
        (
            [[{"namespaces": ["a"], "source_ips": ["::/0"]}, {}, {"namespaces": ["b"]}], [{"destination_ports": [1]}]],
            (
                "when either (the client's namespace is a and the client's address is in ::/0) "
                "or (the client's namespace is b), and the workload's port is 1"
            ),
        ),
    ],
)
def test_a_rule_is_one_sentence(rule: list[list[Plain]], sentence: str, to_policy: ToPolicy) -> None:
    assert rule_sentences(to_policy({"action": "ALLOW", "rules": [rule]})) == (sentence,)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (StringMatch(MatchKind.EXACT, "a"), "a"),
        (StringMatch(MatchKind.PREFIX, "a"), "a*"),
        (StringMatch(MatchKind.SUFFIX, "a"), "*a"),
        (StringMatch(MatchKind.PRESENCE), "*"),
        (ServiceAccountMatch("a", "b"), "a/b"),
        (Cidr.parse("10.1.2.3/8"), "10.0.0.0/8"),
        (Port(80), "80"),
    ],
)
def test_a_value_as_an_operator_writes_it(value: object, text: str) -> None:
    assert show(value) == text


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"action": "DENY", "rules": [[[{}]]]}, "rule 1 never applies"),
        ({"action": "DENY", "rules": [[], [[{"principals": ["spiffe://td/ns/a/sa/b"]}]]]}, "rule 2 names a principal"),
        ({"action": "ALLOW", "rules": [[[{"not_namespaces": ["x"]}]]]}, "rule 1 also admits clients without identity"),
        (
            {"action": "ALLOW", "rules": [[[{"not_principals": ["x"]}, {"principals": ["y"]}]]]},
            "rule 1 also admits clients without identity",
        ),
    ],
)
def test_what_a_reader_may_not_expect_is_said(policy: Plain, words: str, to_policy: ToPolicy) -> None:
    found = cautions(to_policy(policy))
    assert len(found) == 1
    assert found[0].startswith(words)


@pytest.mark.parametrize(
    "policy",
    [
        {"action": "ALLOW", "rules": []},
        {"action": "ALLOW", "rules": [[[{"destination_ports": [80]}]]]},
        {"action": "DENY", "rules": [[[{"not_principals": ["*"]}]]]},
        {"action": "ALLOW", "rules": [[[{"not_namespaces": ["x"], "principals": ["*"]}]]]},
        {"action": "ALLOW", "rules": [[[{"not_namespaces": ["x"]}], [{"principals": ["*"]}, {}]]]},
    ],
)
def test_an_ordinary_policy_needs_no_caution(policy: Plain, to_policy: ToPolicy) -> None:
    assert cautions(to_policy(policy)) == ()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("istio_converted_static_strict", "PeerAuthentication"),
        ("converted_peer_authentication_db", "PeerAuthentication"),
        ("db", "AuthorizationPolicy"),
    ],
)
def test_the_origin_is_told_by_the_name(name: str, kind: str, to_policy: ToPolicy) -> None:
    assert origin(to_policy({"action": "DENY", "rules": [], "name": name})) == kind


@given(rng=st.randoms(use_true_random=False))
def test_always_and_never_are_true_of_every_connection(
    rng: random.Random, make_case: MakeCase, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    policies, _, facts = make_case(rng)
    for plain in policies:
        policy = to_policy(plain | {"dry_run": False, "action": "DENY"})
        is_denied = evaluate([policy], (), to_facts(facts)) == evaluate(
            [to_policy(plain | {"dry_run": False, "action": "DENY", "rules": [[]]})], (), to_facts(facts)
        )
        said = rule_sentences(policy)
        if "always" in said:
            assert is_denied
        if all(sentence.startswith("never") for sentence in said):
            assert not is_denied
