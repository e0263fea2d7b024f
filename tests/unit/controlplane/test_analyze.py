# SPDX-License-Identifier: Apache-2.0
"""Findings that take more than one object."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.analyze import analyze
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import MeshObject
from nodeagent.controlplane.translate import translate
from nodeagent.controlplane.view import View

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
    assert analyze(View(objects, translate(objects))) == []


def rules(rule: str, action: str = "ALLOW") -> str:
    return policy(f"{{action: {action}, rules: [{rule}]}}")


OUTSIDE = """---
apiVersion: v1
kind: Namespace
metadata: {name: legacy}
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: legacy, labels: {app: old}}
spec: {serviceAccountName: old}
status: {podIP: 10.244.3.1}
"""
LISTENING = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: api, namespace: api, labels: {app: api}}\n"
LISTENING += "spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}\nstatus: {podIP: 10.244.3.2}\n"
LISTENING += "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: api, labels: {istio.io/dataplane-mode: ambient}}\n"
FRONT = "---\napiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: api}\n"
FRONT += "spec: {selector: {app: api}, clusterIP: 10.96.0.11, ports: [{name: http, port: 80, targetPort: http}]}\n"


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (TWIN.format("", ""), "MN0214", "10.244.1.10 is also the address of Pod shop/web-0"),
        (
            policy("{selector: {matchLabels: {app: nobody}}}"),
            "IST0127",
            "no pod has the labels app=nobody, and no WorkloadEntry",
        ),
        (policy("{selector: {matchLabels: {app: db}}}", "elsewhere"), "IST0127", "app=db"),
        (peer("{selector: {matchLabels: {app: nobody}}}"), "IST0127", "app=nobody"),
        (rules("{from: [{source: {namespaces: [shpo]}}]}"), "IST0101", "'shpo' does not exist"),
        (rules("{when: [{key: source.namespace, notValues: [shpo]}]}"), "IST0101", "'shpo'"),
        (rules("{from: [{source: {namespaces: ['ops-*']}}]}"), "IST0101", "no namespace is called 'ops-*'"),
        (rules("{from: [{source: {serviceAccounts: [shpo/web]}}]}"), "IST0101", "'shpo'"),
        (rules("{from: [{source: {principals: [cluster.local/ns/shpo/sa/web]}}]}"), "IST0101", "'shpo'"),
        (rules("{from: [{source: {principals: [td/ns/a/sa/b]}}]}"), "MN0206", "trust domain td"),
        (rules("{from: [{source: {principals: ['td/*']}}]}"), "MN0206", "trust domain td"),
        (peer("{}") + peer("{}").replace("name: p", "name: q"), "MN0217", "PeerAuthentication shop/p is older"),
        (peer("{selector: {matchLabels: {app: db}}}", "istio-system"), "MN0216", "selects nothing"),
        ("---\nkind: MeshConfig\n---\nkind: MeshConfig\nmetadata: {name: other}", "MN0217", "counts"),
        (LISTENING + policy("{rules: [{to: [{operation: {ports: ['80']}}]}]}", "api"), "MN0207", "port 80"),
        (
            LISTENING + FRONT + policy("{rules: [{when: [{key: destination.port, notValues: ['80']}]}]}", "api"),
            "MN0207",
            "port 80",
        ),
        (
            LISTENING + peer("{selector: {matchLabels: {app: api}}, portLevelMtls: {80: {mode: STRICT}}}", "api"),
            "MN0207",
            "port 80",
        ),
        (OUTSIDE + policy("{action: DENY, rules: [{}]}", "legacy"), "MN0208", "nobody enforces it"),
        (OUTSIDE + peer("{mtls: {mode: STRICT}}", "legacy"), "MN0208", "nobody enforces it"),
        (OUTSIDE + rules("{from: [{source: {serviceAccounts: [legacy/old]}}]}"), "MN0209", "legacy/old are not"),
        (
            OUTSIDE + rules("{when: [{key: source.principal, values: [cluster.local/ns/legacy/sa/old]}]}"),
            "MN0209",
            "legacy/old are not",
        ),
        (rules("{}", "DENY") + rules("{}", "DENY").replace("name: p", "name: q"), "MN0210", "the same as"),
        (
            rules("{}", "DENY") + rules("{from: [{source: {namespaces: [shop]}}]}").replace("name: p", "name: q"),
            "MN0210",
            "AuthorizationPolicy shop/p denies everything",
        ),
        (
            policy("{rules: [{}]}", "istio-system")
            + rules("{from: [{source: {namespaces: ['*']}}]}").replace("name: p", "name: q"),
            "MN0210",
            "istio-system/p allows everything",
        ),
        (
            rules("{from: [{source: {namespaces: ['*']}}]}, {from: [{source: {namespaces: ['*']}}]}"),
            "MN0210",
            "the same as rule 0",
        ),
        (rules("{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}", "DENY"), "MN0211", "no block of IPv6"),
        (rules("{when: [{key: destination.ip, values: ['fd00::/8']}]}", "DENY"), "MN0211", "no block of IPv4"),
    ],
)
def test_findings(read: Read, mesh: str, more: str, code: str, words: str) -> None:
    objects, _ = read(mesh + more)
    found = [finding for finding in analyze(View(objects, translate(objects))) if finding.code == code]
    assert [finding.message for finding in found if words in finding.message], found
    assert all(finding.line > mesh.count("\n") or code == "MN0210" for finding in found)
    assert all(finding.check and not finding.is_rejected for finding in found)


def test_the_port_of_a_service_is_told_with_the_port_of_its_pods(read: Read) -> None:
    objects, _ = read(LISTENING + FRONT + policy("{rules: [{to: [{operation: {ports: ['80']}}]}]}", "api"))
    (finding,) = [one for one in analyze(View(objects, translate(objects))) if one.code == "MN0207"]
    assert finding.check == "It is the port of Service api/api, whose pods listen on 8080."
    assert finding.field == "spec.rules[0].to[0].operation.ports[0]"


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(TWIN.format("hostNetwork: true", ""), id="host network shares its node's address"),
        pytest.param(TWIN.format("", "phase: Failed, "), id="a failed pod has given its address back"),
        pytest.param(policy("{selector: {matchLabels: {app: db}}}", "istio-system"), id="root namespace"),
        pytest.param(policy("{rules: [{from: [{source: {namespaces: ['sh*', '*op', '*']}}]}]}"), id="patterns"),
        pytest.param(policy("{rules: [{from: [{source: {principals: ['*', '*/sa/b']}}]}]}"), id="any trust domain"),
        pytest.param("---\nkind: MeshConfig", id="one mesh configuration"),
        pytest.param(LISTENING + policy("{rules: [{to: [{operation: {ports: ['8080']}}]}]}", "api"), id="a port"),
        pytest.param(rules("{to: [{operation: {ports: ['1']}}]}"), id="a port, and not every pod says its own"),
        pytest.param(
            LISTENING + FRONT + policy("{rules: [{to: [{operation: {ports: ['8080']}}]}]}", "api"), id="a target port"
        ),
        pytest.param(
            OUTSIDE + policy("{action: DENY, rules: [{to: [{operation: {ports: ['1']}}]}]}", "istio-system"),
            id="mesh-wide, and some are not captured",
        ),
        pytest.param(OUTSIDE + peer("{mtls: {mode: PERMISSIVE}}", "legacy"), id="PERMISSIVE where none is captured"),
        pytest.param(
            OUTSIDE + rules("{from: [{source: {notServiceAccounts: [legacy/old], ipBlocks: ['::/0', 0.0.0.0/0]}}]}"),
            id="excluding who has no identity anyway",
        ),
        pytest.param(rules("{from: [{source: {serviceAccounts: [nobody]}}]}"), id="an account without pods"),
        pytest.param(
            OUTSIDE.replace("status: {podIP: 10.244.3.1}", "")
            + rules("{from: [{source: {serviceAccounts: [legacy/old]}}]}"),
            id="a pod that has no address yet",
        ),
        pytest.param(
            policy("{action: AUDIT, rules: [{}]}")
            + policy("{action: AUDIT, rules: [{}]}").replace("name: p", "name: q"),
            id="twice what is not enforced",
        ),
        pytest.param(
            policy("{rules: [{}], selector: {matchLabels: {app: web}}}")
            + policy("{rules: [{from: [{source: {namespaces: ['*']}}]}], selector: {matchLabels: {app: db}}}").replace(
                "name: p", "name: q"
            ),
            id="everything for other pods",
        ),
        pytest.param(
            policy("{rules: [{}], selector: {matchLabels: {app: web}}}")
            + policy(
                "{action: DENY, rules: [{from: [{source: {namespaces: ['*']}}]}], selector: {matchLabels: {app: web}}}"
            ).replace("name: p", "name: q"),
            id="an ALLOW for all shadows no DENY",
        ),
    ],
)
def test_nothing_to_say(read: Read, mesh: str, more: str) -> None:
    objects, _ = read(mesh + more)
    assert analyze(View(objects, translate(objects))) == []


@pytest.mark.parametrize(("namespace", "is_told"), [("shop", False), ("elsewhere", True)])
def test_a_workload_entry_is_a_workload(read: Read, mesh: str, namespace: str, *, is_told: bool) -> None:
    entry = (
        f"---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: v, namespace: {namespace}}}\n"
    )
    entry += "spec: {address: 10.9.9.9, labels: {app: vm}}\n"
    objects, _ = read(mesh + entry + policy("{selector: {matchLabels: {app: vm}}}"))
    codes = {finding.code for finding in analyze(View(objects, translate(objects)))}
    assert ("IST0127" in codes) is is_told
