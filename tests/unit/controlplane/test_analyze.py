# SPDX-License-Identifier: Apache-2.0
"""Findings that take more than one object."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.analyze import analyze
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import MeshObject

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]
SECURITY = "---\napiVersion: security.istio.io/v1\nkind: {}\nmetadata: {{name: p, namespace: {}}}\nspec: {}\n"
TWIN = "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: twin, namespace: shop}}\n"
TWIN += "spec: {{{}}}\nstatus: {{{}podIP: 10.244.1.10}}\n"


def policy(spec: str, namespace: str = "shop") -> str:
    return SECURITY.format("AuthorizationPolicy", namespace, spec)


def peer(spec: str, namespace: str = "shop") -> str:
    return SECURITY.format("PeerAuthentication", namespace, spec)


def test_the_mesh_of_these_tests_is_in_order(read: Read, mesh: str) -> None:
    objects, _ = read(mesh)
    assert analyze(objects) == []


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (TWIN.format("", ""), "MN0214", "10.244.1.10 is also the address of Pod shop/web-0"),
        (policy("{selector: {matchLabels: {app: nobody}}}"), "IST0127", "no pod has the labels app=nobody"),
        (policy("{selector: {matchLabels: {app: db}}}", "elsewhere"), "IST0127", "app=db"),
        (peer("{selector: {matchLabels: {app: nobody}}}"), "IST0127", "app=nobody"),
        (policy("{rules: [{from: [{source: {namespaces: [shpo]}}]}]}"), "IST0101", "'shpo' does not exist"),
        (policy("{rules: [{when: [{key: source.namespace, notValues: [shpo]}]}]}"), "IST0101", "'shpo'"),
        (policy("{rules: [{from: [{source: {principals: [td/ns/a/sa/b]}}]}]}"), "MN0206", "trust domain td"),
        (policy("{rules: [{from: [{source: {principals: ['td/*']}}]}]}"), "MN0206", "trust domain td"),
        (peer("{}") + peer("{}").replace("name: p", "name: q"), "MN0217", "PeerAuthentication shop/p is older"),
        (peer("{selector: {matchLabels: {app: db}}}", "istio-system"), "MN0216", "selects nothing"),
        ("---\nkind: MeshConfig\n---\nkind: MeshConfig\nmetadata: {name: other}", "MN0217", "counts"),
    ],
)
def test_findings(read: Read, mesh: str, more: str, code: str, words: str) -> None:
    objects, _ = read(mesh + more)
    found = [finding for finding in analyze(objects) if finding.code == code]
    assert len(found) == 1
    assert words in found[0].message
    assert found[0].line > mesh.count("\n")
    assert found[0].check
    assert not found[0].is_rejected


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(TWIN.format("hostNetwork: true", ""), id="host network shares its node's address"),
        pytest.param(TWIN.format("", "phase: Failed, "), id="a failed pod has given its address back"),
        pytest.param(policy("{selector: {matchLabels: {app: db}}}", "istio-system"), id="root namespace"),
        pytest.param(policy("{rules: [{from: [{source: {namespaces: ['ops-*', '*']}}]}]}"), id="patterns"),
        pytest.param(policy("{rules: [{from: [{source: {principals: ['*', '*/sa/b']}}]}]}"), id="any trust domain"),
        pytest.param("---\nkind: MeshConfig", id="one mesh configuration"),
    ],
)
def test_nothing_to_say(read: Read, mesh: str, more: str) -> None:
    objects, _ = read(mesh + more)
    assert analyze(objects) == []
