# SPDX-License-Identifier: Apache-2.0
"""What Istio's webhook refuses although only a waypoint would judge it."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import MeshObject
from nodeagent.controlplane.webhook import layer7_parser

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]
POLICY = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {}\n"
RULES = "rules: [{}]"


def policy(spec: str) -> str:
    return POLICY.format(spec)


def custom(rule: str) -> str:
    return policy(f"{{action: CUSTOM, provider: {{name: x}}, rules: [{rule}]}}")


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        (policy("{targetRef: {kind: Gateway, name: w}}"), "spec.targetRef.kind", "'Gateway' of group ''"),
        (policy("{targetRefs: [{kind: Service}]}"), "spec.targetRefs[0].name", "is missing"),
        (policy("{targetRefs: [{kind: Service, name: a, namespace: b}]}"), "spec.targetRefs[0].namespace", "left out"),
        (policy("{targetRefs: [{kind: Pod, name: a}]}"), "spec.targetRefs[0].kind", "is no target"),
        (policy("{targetRefs: [{kind: Service, name: a, port: 1}]}"), "spec.targetRefs[0].port", "no such field"),
        (policy(f"{{action: CUSTOM, {RULES}}}"), "spec.provider", "provider.name"),
        (policy(f"{{action: CUSTOM, provider: {{}}, {RULES}}}"), "spec.provider", "provider.name"),
        (policy("{action: CUSTOM, provider: {name: x}}"), "spec.rules", "asks nobody"),
        (custom("{from: [{source: {namespaces: [a]}}]}"), "spec.rules[0].from[0].source.namespaces", "cannot be asked"),
        (custom("{when: [{key: source.principal, values: [a]}]}"), "spec.rules[0].when[0].key", "cannot be asked"),
        (custom("{when: [{key: request.auth.audiences, values: [a]}]}"), "spec.rules[0].when[0].key", "cannot be"),
        (
            policy("{rules: [{from: [{source: {remoteIpBlocks: [x]}}]}]}"),
            "spec.rules[0].from[0].source.remoteIpBlocks[0]",
            "CIDR",
        ),
        (policy("{rules: [{when: [{key: remote.ip, values: [x]}]}]}"), "spec.rules[0].when[0].values[0]", "CIDR"),
        (
            policy("{rules: [{when: [{key: source.serviceAccount, values: [a/b/c]}]}]}"),
            "spec.rules[0].when[0].values[0]",
            "not a service account",
        ),
        (
            policy("{rules: [{to: [{operation: {paths: ['/a/{**}/{*}']}}]}]}"),
            "spec.rules[0].to[0].operation.paths[0]",
            "may follow",
        ),
    ],
)
def test_refused(read: Read, text: str, field: str, words: str) -> None:
    objects, findings = read(text)
    assert objects == []
    (found,) = [finding for finding in findings if finding.field == field and finding.is_rejected]
    assert words in found.message


@pytest.mark.parametrize(
    "text",
    [
        policy("{targetRefs: [{kind: Service, name: a}, {group: core, kind: Service, name: b}]}"),
        policy("{targetRef: {group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}}"),
        custom("{to: [{operation: {paths: ['/a/{*}/b', '/c/{**}', '/plain']}}]}"),
        custom("{when: [{key: remote.ip, values: [10.0.0.0/8]}]}"),
    ],
)
def test_taken(read: Read, text: str) -> None:
    objects, findings = read(text)
    assert len(objects) == 1
    assert not any(finding.is_rejected for finding in findings)


@pytest.mark.parametrize("path", ["/{a}", "/a{*}", "/{*}/ü", "/{**}/{**}"])
def test_impossible_path_templates(path: str) -> None:
    with pytest.raises(ValueError, match=r"template|braces|beside"):
        layer7_parser("paths")(path)
