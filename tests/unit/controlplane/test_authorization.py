# SPDX-License-Identifier: Apache-2.0
"""AuthorizationPolicy: scope, shape, and what becomes of layer 7, row by row."""

from collections.abc import Callable

import msgspec
import pytest

from nodeagent.controlplane.authorization import translate_authorization
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import DEFAULT_MESH, AuthorizationPolicy, MeshConfig, MeshObject
from nodeagent.controlplane.parse_rule import parse_match
from nodeagent.model.address import Cidr, Port
from nodeagent.model.policy import Clause, Match, Policy, PolicyScope, Rule, StringMatch

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]


def translated(
    read: Read, spec: str, *, namespace: str = "shop", annotations: str = "", mesh: MeshConfig = DEFAULT_MESH
) -> Policy | None:
    text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
    text += f"metadata: {{name: p, namespace: {namespace}, annotations: {{{annotations}}}}}\nspec: {spec}\n"
    (policy,), _ = read(text)
    assert isinstance(policy, AuthorizationPolicy)
    return translate_authorization(policy, mesh)


@pytest.mark.parametrize(
    ("spec", "namespace", "scope"),
    [
        ("{}", "shop", PolicyScope.NAMESPACE),
        ("{}", "istio-system", PolicyScope.GLOBAL),
        ("{selector: {matchLabels: {a: b}}}", "shop", PolicyScope.WORKLOAD_SELECTOR),
        ("{selector: {matchLabels: {a: b}}}", "istio-system", PolicyScope.WORKLOAD_SELECTOR),
        # Istio attaches these two to nothing; we take the selector for absent, as sidecars do.
        ("{selector: {}}", "shop", PolicyScope.NAMESPACE),
        ("{selector: {matchLabels: {}}}", "istio-system", PolicyScope.GLOBAL),
    ],
)
def test_scope(read: Read, spec: str, namespace: str, scope: PolicyScope) -> None:
    policy = translated(read, spec, namespace=namespace)
    assert policy is not None
    assert policy.scope is scope


@pytest.mark.parametrize(
    ("spec", "annotations"),
    [
        ("{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: w}]}", ""),
        ("{targetRef: {kind: Gateway, group: gateway.networking.k8s.io, name: w}}", ""),
        ("{action: AUDIT, rules: [{}]}", ""),
        ("{action: CUSTOM, provider: {name: x}, rules: [{}]}", ""),
        ("{rules: [{}]}", "istio.io/dry-run: 'true'"),
    ],
)
def test_what_is_not_for_node_agents(read: Read, spec: str, annotations: str) -> None:
    assert translated(read, spec, annotations=annotations) is None


L4_FROM = "from: [{source: {namespaces: [a]}}]"
L4_TO = "to: [{operation: {ports: ['80']}}]"
L7_TO = "to: [{operation: {methods: [POST]}}]"
MIXED_TO = "to: [{operation: {methods: [POST], ports: ['80']}}]"
L7_WHEN = "when: [{key: 'request.headers[a]', values: [b]}]"
NOTHING = Clause((Match(),))
"""Matches nothing."""


def shapes(policy: Policy) -> list[list[bool]]:
    """Of each rule, of each clause: whether anything can match it."""
    return [[clause != NOTHING for clause in rule.clauses] for rule in policy.rules]


@pytest.mark.parametrize(
    ("rule", "allow", "deny"),
    [
        pytest.param(f"{L4_FROM}, {L4_TO}", [[True, True]], [[True, True]], id="layer 4 only: enforced"),
        pytest.param(MIXED_TO, [], [[True]], id="mixed entry: left out / denies more"),
        pytest.param(f"{L4_FROM}, {MIXED_TO}", [], [[True, True]], id="mixed entry with a source"),
        pytest.param(f"{L4_FROM}, {L7_TO}", [], [[False, True]], id="layer 7 entry with a source: never fires"),
        pytest.param(f"{L4_FROM}, {L7_WHEN}", [], [[True, False]], id="layer 7 condition: never fires"),
        pytest.param(L7_TO, [], [[False]], id="layer 7 only: no effect"),
    ],
)
def test_layer_7(read: Read, rule: str, allow: list[list[bool]], deny: list[list[bool]]) -> None:
    for action, expected in (("ALLOW", allow), ("DENY", deny)):
        policy = translated(read, f"{{action: {action}, rules: [{{{rule}}}]}}")
        assert policy is not None
        assert shapes(policy) == expected, action


def test_an_allow_policy_whose_rules_are_all_left_out_allows_nothing(read: Read) -> None:
    policy = translated(read, f"{{rules: [{{{L7_TO}}}, {{{L7_WHEN}}}]}}")
    assert policy is not None
    assert policy.rules == ()


def test_an_empty_rule_matches_everything(read: Read) -> None:
    policy = translated(read, "{rules: [{}]}")
    assert policy is not None
    assert policy.rules == (Rule(),)


def test_entries_are_alternatives_and_each_condition_is_one_more_demand(read: Read) -> None:
    spec = (
        "{rules: [{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}], to: [{operation: {ports: ['1']}}],"
    )
    spec += " when: [{key: source.ip, values: [10.0.0.0/8]}, {key: destination.port, notValues: ['2']}]}]}"
    policy = translated(read, spec)
    assert policy is not None
    assert [len(clause.matches) for clause in policy.rules[0].clauses] == [1, 2, 1, 1]


STRICT = "nodeagent/strict-deny: 'true'"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(f"{L4_FROM}, {L4_TO}", [[True, True]], id="layer 4 only: as ever"),
        pytest.param(MIXED_TO, [[True]], id="mixed entry: denies more, as ever"),
        pytest.param(f"{L4_FROM}, {L7_TO}", [[True]], id="layer 7 entry with a source: the source alone"),
        pytest.param(f"{L4_FROM}, {L7_WHEN}", [[True]], id="layer 7 condition: the source alone"),
        pytest.param(L7_TO, [[]], id="layer 7 only: everything"),
        pytest.param(
            "to: [{operation: {notMethods: [GET]}}, {operation: {ports: ['80']}}]", [[]], id="one entry is met: all are"
        ),
        pytest.param(f"from: [{{source: {{requestPrincipals: [a]}}}}], {L4_TO}", [[True]], id="a source of layer 7"),
    ],
)
def test_a_strict_deny_takes_layer_7_for_met(read: Read, rule: str, expected: list[list[bool]]) -> None:
    policy = translated(read, f"{{action: DENY, rules: [{{{rule}}}]}}", annotations=STRICT)
    assert policy is not None
    assert shapes(policy) == expected


def test_an_allow_is_not_widened_by_being_strict(read: Read) -> None:
    spec = f"{{rules: [{{{L4_FROM}, {L7_TO}}}]}}"
    assert translated(read, spec, annotations=STRICT) == translated(read, spec)


def principals(*texts: str) -> tuple[StringMatch, ...]:
    return tuple(map(parse_match, texts))


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("trustDomains: [td1, 'td2*']", Match(principals=principals("td1/*", "td2*"))),
        ("trustDomains: ['*']", Match(principals=principals("*"))),
        ("notTrustDomains: [td1]", Match(not_principals=principals("td1/*"))),
        (
            "principals: [a], notPrincipals: [b], notTrustDomains: [td1]",
            Match(principals=principals("a"), not_principals=principals("b", "td1/*")),
        ),
        ("namespaces: [a], trustDomains: [td1]", Match(namespaces=principals("a"), principals=principals("td1/*"))),
    ],
)
def test_trust_domains_are_principals_that_begin_with_them(read: Read, source: str, match: Match) -> None:
    policy = translated(read, f"{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}")
    assert policy is not None
    assert policy.rules == (Rule((Clause((match,)),)),)


def test_a_source_with_principals_and_trust_domains_is_a_rule_of_its_own(read: Read) -> None:
    """(a and td1) or b, each with everything else that the rule demands."""
    sources = "from: [{source: {principals: [a], trustDomains: [td1]}}, {source: {namespaces: [b]}}]"
    policy = translated(read, f"{{rules: [{{{sources}, {L4_TO}, when: [{{key: source.ip, values: [10.0.0.1]}}]}}]}}")
    assert policy is not None
    to, when = Clause((Match(destination_ports=(Port(80),)),)), Clause((Match(source_ips=(Cidr.parse("10.0.0.1"),)),))
    both = (Clause((Match(principals=principals("a")),)), Clause((Match(principals=principals("td1/*")),)))
    assert policy.rules == (
        Rule((to, *both, when)),
        Rule((to, Clause((Match(namespaces=principals("b")),)), when)),
    )


def test_aliases_are_written_into_principals_wherever_they_stand(read: Read) -> None:
    mesh = msgspec.structs.replace(DEFAULT_MESH, trust_domain="td1", trust_domain_aliases=("td2",))
    source = "{source: {principals: [td1/ns/a/sa/b], notTrustDomains: [td2]}}"
    when = "{key: source.principal, notValues: [cluster.local/ns/a/sa/b]}"
    policy = translated(read, f"{{rules: [{{from: [{source}], when: [{when}]}}]}}", mesh=mesh)
    assert policy is not None
    pair = principals("td1/ns/a/sa/b", "td2/ns/a/sa/b")
    assert policy.rules == (
        Rule(
            (
                Clause((Match(principals=pair, not_principals=principals("td1/*", "td2/*")),)),
                Clause((Match(not_principals=pair),)),
            )
        ),
    )
