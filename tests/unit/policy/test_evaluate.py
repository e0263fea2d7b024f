# SPDX-License-Identifier: Apache-2.0
"""The verdict: tables for each rule of Istio's semantics, and laws.

The naive twin, over 20,000 random cases and more, is in tests/differential.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Match, Policy
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Workload
from nodeagent.policy.evaluate import FIELDS, Allow, ConnectionFacts, Deny, Pending, Verdict, evaluate, evaluate_for
from tests.differential.wire import naive, spoken

Plain = dict[str, Any]
ToPolicy = Callable[[Plain], Policy]
ToFacts = Callable[[Plain], ConnectionFacts]
MakeCase = Callable[[random.Random], tuple[list[Plain], list[str], Plain]]

WEB = "spiffe://cluster.local/ns/shop/sa/web"
NOT_ALLOWED = Deny(None, Reason.POLICY_NOT_ALLOWED)


def denied(name: str = "p") -> Deny:
    return Deny(f"shop/{name}", Reason.POLICY_DENIED)


def connection(**changes: object) -> Plain:
    facts: Plain = {"identity": WEB, "source_ip": "10.0.0.1", "destination_ip": "10.0.0.9", "destination_port": 80}
    return facts | changes


def plain(action: str, *rules: list[list[Plain]], name: str = "p", dry_run: bool = False) -> Plain:
    return {"action": action, "rules": list(rules), "name": name, "dry_run": dry_run}


def allow(*matches: Plain, name: str = "p") -> Plain:
    """One rule, one clause."""
    return plain("ALLOW", [list(matches)], name=name)


def deny(*matches: Plain, name: str = "p") -> Plain:
    return plain("DENY", [list(matches)], name=name)


ANYTHING: Plain = {"not_destination_ports": [1]}
NOTHING: Plain = {"destination_ports": [1]}


@pytest.mark.parametrize(
    ("policies", "missing", "verdict"),
    [
        pytest.param([], [], Allow(None), id="nothing applies"),
        pytest.param([allow(ANYTHING)], [], Allow("shop/p"), id="an allow matches"),
        pytest.param([allow(NOTHING)], [], NOT_ALLOWED, id="an allow exists but none matches"),
        pytest.param([allow(NOTHING), allow(ANYTHING, name="q")], [], Allow("shop/q"), id="one allow is enough"),
        pytest.param([deny(NOTHING)], [], Allow(None), id="a deny that does not match"),
        pytest.param([deny(ANYTHING)], [], denied(), id="a deny matches"),
        pytest.param([allow(ANYTHING, name="a"), deny(ANYTHING)], [], denied(), id="deny wins over allow"),
        pytest.param([allow(NOTHING, name="a"), deny(ANYTHING)], [], denied(), id="deny names the policy"),
        pytest.param([], ["shop/late"], Pending(("shop/late",)), id="a named policy is missing"),
        pytest.param([allow(ANYTHING)], ["shop/late"], Pending(("shop/late",)), id="it may be a deny"),
        pytest.param([allow(NOTHING)], ["shop/late"], Pending(("shop/late",)), id="it may be an allow"),
        pytest.param([deny(ANYTHING)], ["shop/late"], denied(), id="a deny needs no others"),
        pytest.param([deny(NOTHING)], ["x/1", "x/2"], Pending(("x/1", "x/2")), id="all missing ones are named"),
    ],
)
def test_the_order_of_decisions(
    policies: list[Plain], missing: list[str], verdict: Verdict, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    assert evaluate([to_policy(policy) for policy in policies], missing, to_facts(connection())) == verdict


@pytest.mark.parametrize(
    ("rules", "matches"),
    [
        pytest.param([], False, id="no rules: never"),
        pytest.param([[]], True, id="a rule without clauses: always"),
        pytest.param([[[]]], True, id="a clause without matches: true"),
        pytest.param([[[{}]]], False, id="an empty match is skipped"),
        pytest.param([[[{}, ANYTHING]]], True, id="an empty match beside one that holds"),
        pytest.param([[[{}, {}]]], False, id="a clause of empty matches only"),
        pytest.param([[[ANYTHING], [NOTHING]]], False, id="clauses are anded"),
        pytest.param([[[ANYTHING], [{}]]], False, id="what layer 7 left behind in a clause"),
        pytest.param([[[NOTHING, ANYTHING]]], True, id="matches are ored"),
        pytest.param([[[NOTHING]], [[ANYTHING]]], True, id="rules are ored"),
        pytest.param([[[NOTHING]], [[NOTHING]]], False, id="no rule holds"),
        pytest.param([[[{"destination_ports": [80], "namespaces": ["ops"]}]]], False, id="fields are anded"),
    ],
)
def test_what_a_policy_matches(
    rules: list[list[list[Plain]]], *, matches: bool, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    verdict = evaluate([to_policy(plain("DENY", *rules))], (), to_facts(connection()))
    assert verdict == (denied() if matches else Allow(None))


NONE: Plain = {"identity": ""}


@pytest.mark.parametrize(
    ("match", "facts", "holds"),
    [
        ({"namespaces": ["shop"]}, {}, True),
        ({"namespaces": ["sho"]}, {}, False),
        ({"namespaces": ["sho*"]}, {}, True),
        ({"namespaces": ["*op"]}, {}, True),
        ({"namespaces": ["*sho"]}, {}, False),
        ({"namespaces": ["*"]}, {}, True),
        ({"namespaces": ["*"]}, NONE, False),
        ({"namespaces": ["shop"]}, NONE, False),
        ({"not_namespaces": ["shop"]}, {}, False),
        ({"not_namespaces": ["ops"]}, {}, True),
        ({"not_namespaces": ["ops", "shop"]}, {}, False),
        ({"not_namespaces": ["shop"]}, NONE, True),
        ({"not_namespaces": ["*"]}, NONE, True),
        ({"principals": ["cluster.local/ns/shop/sa/web"]}, {}, True),
        ({"principals": ["spiffe://cluster.local/ns/shop/sa/web"]}, {}, False),
        ({"principals": ["td1/ns/shop/sa/web"]}, {}, False),
        ({"principals": ["cluster.local/*"]}, {}, True),
        ({"principals": ["spiffe://*"]}, {}, False),
        ({"principals": ["*/sa/web"]}, {}, True),
        ({"principals": ["*"]}, {}, True),
        ({"principals": ["*"]}, NONE, False),
        ({"not_principals": ["*"]}, NONE, True),
        ({"not_principals": ["*"]}, {}, False),
        ({"not_principals": ["*/sa/db"]}, {}, True),
        ({"service_accounts": ["shop/web"]}, {}, True),
        ({"service_accounts": ["shop/web"]}, {"identity": "spiffe://td1/ns/shop/sa/web"}, True),
        ({"service_accounts": ["shop/web.api"]}, {"identity": "spiffe://td1/ns/shop/sa/webxapi"}, False),
        ({"service_accounts": ["shop/we"]}, {}, False),
        ({"service_accounts": ["shop/web"]}, NONE, False),
        ({"not_service_accounts": ["shop/web"]}, {}, False),
        ({"not_service_accounts": ["shop/web"]}, NONE, True),
        ({"source_ips": ["10.0.0.0/8"]}, {}, True),
        ({"source_ips": ["10.0.0.2/32", "10.0.0.1/32"]}, {}, True),
        ({"source_ips": ["10.0.0.77/24"]}, {}, True),
        ({"source_ips": ["::/0"]}, {}, False),
        ({"source_ips": ["0.0.0.0/0"]}, {"source_ip": "fd00::1"}, False),
        ({"source_ips": ["0.0.0.0/0"]}, {"source_ip": "::ffff:10.0.0.1"}, True),
        ({"source_ips": ["::ffff:10.0.0.0/104"]}, {}, True),
        ({"not_source_ips": ["10.0.0.0/8"]}, {}, False),
        ({"not_source_ips": ["::/0"]}, {}, True),
        ({"destination_ips": ["10.0.0.9/32"]}, {}, True),
        ({"destination_ips": ["10.0.0.1/32"]}, {}, False),
        ({"not_destination_ips": ["10.0.0.9/32"]}, {}, False),
        ({"destination_ports": [443, 80]}, {}, True),
        ({"destination_ports": [443]}, {}, False),
        ({"not_destination_ports": [80]}, {}, False),
        ({"not_destination_ports": [443]}, {}, True),
        ({"namespaces": ["shop"], "not_namespaces": ["s*"]}, {}, False),
        ({"destination_ports": [80], "not_principals": ["*"]}, NONE, True),
    ],
)
def test_what_a_field_is_compared_with(
    match: Plain, facts: Plain, *, holds: bool, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    verdict = evaluate([to_policy(deny(match))], (), to_facts(connection(**facts)))
    assert verdict == (denied() if holds else Allow(None))


def test_every_field_of_a_match_has_a_test_of_its_own() -> None:
    assert tuple(FIELDS) == Match.__struct_fields__


@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
@pytest.mark.parametrize("match", [ANYTHING, NOTHING])
def test_a_dry_run_policy_never_decides(action: str, match: Plain, to_policy: ToPolicy, to_facts: ToFacts) -> None:
    dry = to_policy(plain(action, [[match]], name="dry", dry_run=True))
    for others, verdict in (
        ([], Allow(None)),
        ([allow(ANYTHING)], Allow("shop/p")),
        ([allow(NOTHING)], NOT_ALLOWED),
        ([deny(ANYTHING)], denied()),
    ):
        assert evaluate([dry, *map(to_policy, others)], (), to_facts(connection())) == verdict


@pytest.mark.parametrize(
    ("identity", "port", "verdict"),
    [
        pytest.param(WEB, 80, Allow(None), id="mutual TLS is what STRICT wants"),
        pytest.param("", 80, denied(), id="plaintext is refused"),
        pytest.param("", 9090, Allow(None), id="plaintext to the excepted port"),
    ],
)
def test_strict_mutual_tls_with_an_excepted_port(
    identity: str, port: int, verdict: Verdict, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    strict = plain("DENY", [[{"not_principals": ["*"]}], [{"not_destination_ports": [9090]}]])
    facts = to_facts(connection(identity=identity, destination_port=port))
    assert evaluate([to_policy(strict)], (), facts) == verdict


def test_the_policies_of_a_workload_are_found_in_the_mesh(to_policy: ToPolicy, to_facts: ToFacts) -> None:
    mesh = Mesh()
    selected = to_policy(deny(ANYTHING, name="no") | {"scope": "WORKLOAD_SELECTOR"})
    named = Workload(uid="1", name="db", namespace="shop", policies=("shop/no",))
    other = Workload(uid="2", name="web", namespace="shop")
    facts = to_facts(connection())

    assert evaluate_for(mesh, named, facts) == Pending(("shop/no",))
    mesh.apply(Changes(policies=(selected,)))
    assert evaluate_for(mesh, named, facts) == denied("no")
    assert evaluate_for(mesh, other, facts) == Allow(None)


def test_what_a_policy_may_ask_is_the_applications_address_and_port() -> None:
    facts = ConnectionFacts(Identity("cluster.local", "shop", "web"), Ip("10.0.0.1"), Ip("10.0.0.9"), 80)
    assert evaluate((), (), facts) == Allow(None)


# ---- laws --------------------------------------------------------------------------------------------------------


@given(rng=st.randoms(use_true_random=False))
def test_a_deny_is_never_undone_by_another_policy(
    rng: random.Random, make_case: MakeCase, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    policies, missing, facts = make_case(rng)
    more, more_missing, _ = make_case(rng)
    before = evaluate([to_policy(policy) for policy in policies], missing, to_facts(facts))
    after = evaluate([to_policy(policy) for policy in policies + more], missing + more_missing, to_facts(facts))
    if isinstance(before, Deny) and before.reason is Reason.POLICY_DENIED:
        assert after == before


@given(rng=st.randoms(use_true_random=False))
def test_the_order_of_policies_does_not_matter(
    rng: random.Random, make_case: MakeCase, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    policies, missing, facts = make_case(rng)
    models = [to_policy(policy) for policy in policies]
    shuffled = rng.sample(models, len(models))
    one, other = (evaluate(order, missing, to_facts(facts)) for order in (models, shuffled))
    assert type(one) is type(other)
    assert getattr(one, "reason", None) is getattr(other, "reason", None)


@given(rng=st.randoms(use_true_random=False))
def test_only_pending_is_settled_by_what_arrives(
    rng: random.Random, make_case: MakeCase, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    policies, _, facts = make_case(rng)
    models = [to_policy(policy) for policy in policies]
    held = evaluate(models, ["shop/late"], to_facts(facts))
    settled = evaluate(models, (), to_facts(facts))
    assert held == Pending(("shop/late",)) or held == settled
    assert not isinstance(settled, Pending)


# ---- the twin ----------------------------------------------------------------------------------------------------


@given(rng=st.randoms(use_true_random=False))
def test_any_connection_equals_the_naive_twin(
    rng: random.Random, make_case: MakeCase, to_policy: ToPolicy, to_facts: ToFacts
) -> None:
    policies, missing, facts = make_case(rng)
    found = spoken(evaluate([to_policy(policy) for policy in policies], missing, to_facts(facts)))
    assert found == naive(policies, missing, facts)
