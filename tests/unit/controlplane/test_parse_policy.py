# SPDX-License-Identifier: Apache-2.0
"""Policies: what Istio's webhook refuses is refused here, with the line; what is doubtful is said."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import AuthorizationPolicy, MeshObject, MtlsMode, PeerAuthentication
from nodeagent.controlplane.parse_rule import parse_match
from nodeagent.model.policy import MatchKind, ServiceAccountMatch, StringMatch

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]
POLICY = (
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n{}"
)
GATEWAY = "{group: gateway.networking.k8s.io, kind: Gateway, name: a}"
PEER = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: shop}}\nspec:\n{}"


@pytest.mark.parametrize(
    ("spec", "line", "words"),
    [
        pytest.param("  action: DENY", 5, "denies nothing", id="DENY without rules"),
        pytest.param("  action: deny\n  rules: [{}]", 5, "'deny' is not one of", id="unknown action"),
        pytest.param("  rules:\n  - from: []", 6, "is empty", id="from is empty"),
        pytest.param("  rules:\n  - to: []", 6, "is empty", id="to is empty"),
        pytest.param("  rules:\n  - from:\n    - source: {}", 7, "missing or empty", id="a source without fields"),
        pytest.param("  rules:\n  - from:\n    - principals: [a]", 7, "no such field", id="source left out"),
        pytest.param("  rules:\n  - to:\n    - operation: {}", 7, "missing or empty", id="an operation without fields"),
        pytest.param("  rules:\n  - from:\n    - source:\n        principal: [a]", 8, "no such field", id="misspelt"),
        pytest.param("  rule: []", 5, "no such field", id="rules misspelt"),
        pytest.param("  rules:\n  - from:\n    - source:\n        ipBlocks: [10.0.0.0/33]", 8, "CIDR", id="bad CIDR"),
        pytest.param("  rules:\n  - from:\n    - source: {ipBlocks: [10.0.0.0/255.0.0.0]}", 7, "CIDR", id="a netmask"),
        pytest.param("  rules:\n  - from:\n    - source: {ipBlocks: ['fe80::1%eth0']}", 7, "CIDR", id="a zone"),
        pytest.param("  rules:\n  - to:\n    - operation: {ports: ['70000']}", 7, "not a port", id="port too high"),
        pytest.param("  rules:\n  - to:\n    - operation: {ports: ['0']}", 7, "not a port", id="port 0"),
        pytest.param("  rules:\n  - to:\n    - operation: {ports: ['http']}", 7, "not a port", id="port by name"),
        pytest.param("  rules:\n  - to:\n    - operation: {ports: [80]}", 7, 'in quotes: "80"', id="port as number"),
        pytest.param("  rules:\n  - from:\n    - source: {principals: ['*x*']}", 7, "a star stands", id="two stars"),
        pytest.param("  rules:\n  - from:\n    - source: {namespaces: [a*b]}", 7, "a star stands", id="star inside"),
        pytest.param("  rules:\n  - from:\n    - source: {namespaces: ['']}", 7, "empty value", id="an empty value"),
        pytest.param(
            "  rules:\n  - from:\n    - source: {trustDomains: ['*td']}", 7, "cannot be told", id="trust domains"
        ),
        pytest.param(
            "  rules:\n  - from:\n    - source: {serviceAccounts: [a], namespaces: [b]}",
            7,
            "cannot stand",
            id="clashing",
        ),
        pytest.param(
            "  rules:\n  - from:\n    - source: {serviceAccounts: [a/b/c]}", 7, "not a service", id="bad account"
        ),
        pytest.param(
            "  rules:\n  - from:\n    - source: {serviceAccounts: ['a*']}", 7, "not a service", id="wild account"
        ),
        pytest.param(
            f"  rules:\n  - from:\n    - source: {{serviceAccounts: {[f'a{n}' for n in range(17)]}}}",
            7,
            "more than 16",
            id="too many accounts",
        ),
        pytest.param("  rules:\n  - when:\n    - {key: source.ip}", 7, "missing", id="when without values"),
        pytest.param(
            "  rules:\n  - when:\n    - {key: source.ip, values: []}", 7, "missing", id="when of empty values"
        ),
        pytest.param(
            "  rules:\n  - from:\n    - source: {principals: []}", 7, "no value", id="a source of empty lists"
        ),
        pytest.param(
            "  rules:\n  - to:\n    - operation: {ports: []}", 7, "no value", id="an operation of empty lists"
        ),
        pytest.param(
            f"  rules:\n  - from:\n    - source: {{serviceAccounts: [{'a' * 321}]}}", 7, "320", id="a long account"
        ),
        pytest.param(
            "  rules:\n  - when:\n    - {key: sauce.ip, values: [a]}", 7, "not an attribute", id="unknown key"
        ),
        pytest.param("  rules:\n  - when:\n    - {key: source.ip, values: [a]}", 7, "CIDR", id="when with a bad block"),
        pytest.param(
            "  rules:\n  - when:\n    - {key: 'destination.labels[a]', values: [a]}",
            7,
            "the selector",
            id="replaced key",
        ),
        pytest.param("  selector: {matchLabels: {app: 'w*'}}", 5, "no wildcard", id="wildcard in selector"),
        pytest.param("  selector: {matchExpressions: []}", 5, "no such field", id="selector of another API"),
        pytest.param("  selector: {matchLabels: {a: b}}\n  targetRefs: [{name: a}]", 6, "only one", id="two targets"),
        pytest.param("  provider: {name: x}", 5, "only the action CUSTOM", id="provider without CUSTOM"),
    ],
)
def test_refused_policies(read: Read, spec: str, line: int, words: str) -> None:
    objects, findings = read(POLICY.format(spec))
    assert objects == []
    rejecting = [finding for finding in findings if finding.is_rejected]
    assert any(words in finding.message and finding.line == line for finding in rejecting), rejecting
    assert all(finding.subject == "AuthorizationPolicy shop/p" and finding.check for finding in rejecting)


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("  rules:\n  - from: [{source: {principals: ['spiffe://cluster.local/ns/a/sa/b']}}]", "MN0203"),
        ("  rules:\n  - from: [{source: {notNamespaces: [a]}}]", "MN0204"),
        ("  rules:\n  - to: [{operation: {methods: [GET]}}]", "MN0202"),
        ("  rules:\n  - when: [{key: source.serviceAccount, values: [a]}]", "MN0202"),
        ("  action: DENY\n  rules:\n  - to: [{operation: {methods: [GET]}}]", "MN0201"),
        ("  action: DENY\n  rules:\n  - to: [{operation: {methods: [GET], ports: ['80']}}]", "MN0218"),
        ("  action: DENY\n  rules:\n  - when: [{key: 'request.headers[a]', values: [a]}]", "MN0201"),
        ("  selector: {}", "MN0213"),
        ("  action: AUDIT\n  rules: [{}]", "MN0216"),
        (f"  targetRefs: [{GATEWAY}]\n  rules:\n  - to: [{{operation: {{methods: [GET]}}}}]", "MN0216"),
    ],
)
def test_doubtful_policies_are_taken_and_named(read: Read, spec: str, code: str) -> None:
    (policy,), (finding,) = read(POLICY.format(spec))
    assert isinstance(policy, AuthorizationPolicy)
    assert (finding.code, finding.is_rejected) == (code, False)


@pytest.mark.parametrize(
    "spec",
    [
        "  {}",
        "  rules: [{}]",
        "  rules:\n  - from: [{source: {notNamespaces: [a], principals: ['*']}}]",
        "  rules:\n  - from: [{source: {notNamespaces: [a]}}]\n    when: [{key: source.principal, values: ['*']}]",
        "  action: DENY\n  rules:\n  - from: [{source: {notPrincipals: ['*']}}]",
    ],
)
def test_policies_with_nothing_to_say_about(read: Read, spec: str) -> None:
    (_,), findings = read(POLICY.format(spec))
    assert findings == []


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("*", StringMatch(MatchKind.PRESENCE)),
        ("*/sa/a", StringMatch(MatchKind.SUFFIX, "/sa/a")),
        ("td/ns/*", StringMatch(MatchKind.PREFIX, "td/ns/")),
        ("a.b", StringMatch(MatchKind.EXACT, "a.b")),
    ],
)
def test_string_matches(text: str, match: StringMatch) -> None:
    assert parse_match(text) == match


def test_service_accounts_are_taken_literally_and_default_to_the_policys_namespace(read: Read) -> None:
    (policy,), _ = read(POLICY.format("  rules:\n  - from: [{source: {serviceAccounts: [a.b, ns/c]}}]"))
    assert isinstance(policy, AuthorizationPolicy)
    (source,) = policy.rules[0].sources
    assert source.service_accounts == (ServiceAccountMatch("shop", "a.b"), ServiceAccountMatch("ns", "c"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("  mtls: {mode: SOMETIMES}", "is not one of"),
        ("  mtls: {modus: STRICT}", "no such field"),
        ("  portLevelMtls: {80: {mode: STRICT}}", "needs a selector"),
        ("  selector: {matchLabels: {a: b}}\n  portLevelMtls: {}", "is empty"),
        ("  selector: {matchLabels: {a: b}}\n  portLevelMtls: {0: {mode: STRICT}}", "not a port"),
        ("  selector: {matchLabels: {a: b}}\n  portLevelMtls: {80: {mode: X}}", "is not one of"),
    ],
)
def test_refused_peer_authentications(read: Read, spec: str, words: str) -> None:
    objects, findings = read(PEER.format(spec))
    assert objects == []
    assert words in " ".join(finding.message for finding in findings)


def test_peer_authentication(read: Read) -> None:
    spec = "  selector: {matchLabels: {a: b}}\n  mtls: {mode: STRICT}\n  portLevelMtls: {90: {mode: DISABLE}, 80: {}}"
    (peer,), findings = read(PEER.format(spec))
    assert isinstance(peer, PeerAuthentication)
    assert (peer.selector, peer.mode) == ({"a": "b"}, MtlsMode.STRICT)
    assert list(peer.port_modes.items()) == [(80, MtlsMode.UNSET), (90, MtlsMode.DISABLE)]
    assert findings == []


def test_a_strict_deny_never_never_fires(read: Read) -> None:
    policy = POLICY.replace("name: p,", "name: p, annotations: {{nodeagent/strict-deny: 'true'}},")
    assert policy != POLICY
    (strict,), (finding,) = read(policy.format("  action: DENY\n  rules:\n  - to: [{operation: {methods: [GET]}}]"))
    assert isinstance(strict, AuthorizationPolicy)
    assert (strict.is_strict, finding.code) == (True, "MN0218")
    assert "it counts as met" in finding.message
