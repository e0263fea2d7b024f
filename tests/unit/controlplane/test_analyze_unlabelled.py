# SPDX-License-Identifier: Apache-2.0
"""Which ALLOW policies open workloads without labels: a row for each condition."""

import pytest

from nodeagent.controlplane.analyze_unlabelled import analyze_unlabelled
from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.review import review
from nodeagent.controlplane.translate import translate
from nodeagent.controlplane.view import View
from tests.unit.controlplane.served import Read

BARE = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: bare, namespace: shop}\n"
BARE += "spec: {nodeName: node-a}\nstatus: {podIP: 10.244.1.11}\n"
ZONE = "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-a, labels: {topology.kubernetes.io/zone: b}}\n"
ENTRY = "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
ENTRY += "metadata: {name: vm, namespace: shop, annotations: {ambient.istio.io/redirection: enabled}}\n"
ENTRY += "spec: {address: 10.9.9.9}\n"
OUTSIDE = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"
OUTSIDE += "metadata: {name: out, namespace: shop, annotations: {ambient.istio.io/redirection: enabled}}\n"
OUTSIDE += "spec:\n  hosts: [a.example]\n  ports: [{number: 80, name: tcp, protocol: TCP}]\n"
ENDPOINTS = (
    OUTSIDE + "  resolution: STATIC\n  endpoints: [{address: 10.9.9.8, labels: {app: a}}, {address: 10.9.9.7}]\n"
)
HOSTS = OUTSIDE + "  resolution: DNS\n"
WITHOUT_AGENT = "annotations: {}"
REDIRECTED = "annotations: {ambient.istio.io/redirection: enabled}"


def policy(spec: str, name: str = "nothing", namespace: str = "shop", metadata: str = "") -> str:
    where = f"{{name: {name}, namespace: {namespace}{metadata}}}"
    return f"---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {where}\nspec: {spec}\n"


NOTHING = policy("{}")
SAME = policy("{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}", "same")
DRY = ", annotations: {istio.io/dry-run: 'true'}"


def found(read: Read, text: str) -> list[Finding]:
    objects, findings = read(text)
    assert not [finding for finding in findings if finding.is_rejected]
    return list(analyze_unlabelled(View(objects, translate(objects))))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        pytest.param(
            BARE + NOTHING, "1 workload without any label in namespace shop, too, such as Pod shop/bare", id="pod"
        ),
        pytest.param(
            BARE + policy("{}", namespace="istio-system"), "AuthorizationPolicy istio-system/nothing", id="closed mesh"
        ),
        pytest.param(BARE + BARE.replace("bare", "b").replace(".11", ".12") + NOTHING, "2 workloads", id="two"),
        pytest.param(ENTRY + NOTHING, "such as WorkloadEntry shop/vm", id="entry"),
        pytest.param(ENDPOINTS + NOTHING, "2 workloads without any label in namespace shop", id="endpoints"),
        pytest.param(HOSTS + NOTHING, "such as ServiceEntry shop/out", id="a host that is its own endpoint"),
        pytest.param(BARE + NOTHING + policy("{}", "more"), "shop/nothing has not", id="one of two is named"),
        pytest.param(
            BARE + policy("{rules: [{from: [{source: {namespaces: [shop]}}]}]}"),
            "shop/nothing has not",
            id="other words",
        ),
        pytest.param(
            BARE + NOTHING + policy("{action: DENY, rules: [{}]}", "d", metadata=DRY), "has not", id="denied on trial"
        ),
    ],
)
def test_what_was_written_for_others_opens_a_workload_without_labels(
    read: Read, mesh: str, more: str, words: str
) -> None:
    (finding,) = found(read, mesh + more)
    assert (finding.code, finding.subject, finding.field) == ("MN0219", "AuthorizationPolicy shop/db", "spec.selector")
    assert words in finding.message
    assert "label" in finding.check


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(NOTHING, id="all have labels"),
        pytest.param(BARE, id="no ALLOW for all: it closes"),
        pytest.param(BARE + policy("{}", namespace="other"), id="an ALLOW for another namespace"),
        pytest.param(BARE + policy("{selector: {matchLabels: {app: web}}}"), id="two with a selector"),
        pytest.param(BARE + policy("{}", metadata=DRY), id="an ALLOW for all on trial"),
        pytest.param(
            BARE + policy("{action: DENY, rules: [{from: [{source: {namespaces: [x]}}]}]}"), id="a DENY for all"
        ),
        pytest.param(BARE + policy("{rules: [{}]}"), id="open to everybody anyway"),
        pytest.param(BARE + NOTHING + SAME, id="allowed anyway"),
        pytest.param(BARE + NOTHING + policy("{action: DENY, rules: [{}]}", "d"), id="closed anyway"),
        pytest.param(
            BARE + NOTHING + policy("{action: DENY, rules: [{}], selector: {matchLabels: {app: web}}}", "d"),
            id="closed by a DENY for others",
        ),
        pytest.param(BARE + ZONE + NOTHING, id="labels of its node's place"),
        pytest.param(BARE.replace("spec: {", "spec: {hostNetwork: true, ") + NOTHING, id="on the host's network"),
        pytest.param(BARE.replace("{podIP", "{phase: Failed, podIP") + NOTHING, id="failed"),
        pytest.param(BARE.replace("status: {podIP: 10.244.1.11}", "") + NOTHING, id="no address yet"),
        pytest.param(ENTRY.replace("10.9.9.9", "10.9.9.9, labels: {a: b}") + NOTHING, id="labels in an entry's spec"),
        pytest.param(ENTRY.replace("vm,", "vm, labels: {a: b},") + NOTHING, id="labels in its metadata"),
        pytest.param(ENTRY.replace(REDIRECTED, WITHOUT_AGENT) + NOTHING, id="an entry where nobody enforces"),
        pytest.param(ENDPOINTS.replace("out,", "out, labels: {a: b},") + NOTHING, id="labels of a ServiceEntry"),
        pytest.param(ENDPOINTS.replace(REDIRECTED, WITHOUT_AGENT) + NOTHING, id="endpoints where nobody enforces"),
    ],
)
def test_nothing_to_say(read: Read, mesh: str, more: str) -> None:
    assert found(read, mesh + more) == []


@pytest.mark.parametrize(
    "changed", ["db, namespace: shop, annotations: {istio.io/dry-run: 'true'}", "db, namespace: x"]
)
def test_a_policy_that_it_does_not_list_opens_nothing(read: Read, mesh: str, changed: str) -> None:
    before, kind, after = mesh.partition("kind: AuthorizationPolicy\nmetadata: {name: db")
    assert kind
    text = f"{before}kind: AuthorizationPolicy\nmetadata: {{name: {changed}{after.removeprefix(', namespace: shop')}"
    assert found(read, text + BARE + NOTHING) == []


def test_a_policy_of_the_root_namespace_is_told_for_each_namespace(read: Read, mesh: str) -> None:
    other = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b, labels: {istio.io/dataplane-mode: ambient}}\n"
    other += BARE.replace("namespace: shop", "namespace: b").replace(".11", ".12")
    text = mesh.replace(
        "{name: db, namespace: shop}\nspec:\n  selector", "{name: db, namespace: istio-system}\nspec:\n  selector"
    )
    told = found(read, text + BARE + other + policy("{}", namespace="istio-system"))
    assert {finding.subject for finding in told} == {"AuthorizationPolicy istio-system/db"}
    assert sorted(finding.message.split(",")[0] for finding in told) == [
        "it counts for 1 workload without any label in namespace b",
        "it counts for 1 workload without any label in namespace shop",
    ]


@pytest.mark.parametrize(("codes", "is_told"), [("MN0218", True), ("MN0219", False)])
def test_the_policy_s_annotation_silences_it(mesh: str, codes: str, *, is_told: bool) -> None:
    allow = "{selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}"
    quiet = policy(allow, "web", metadata=f", annotations: {{galley.istio.io/analyze-suppress: '{codes}'}}")
    catalog = admit(Catalog(), {"a.yaml": Content("mesh.d/a.yaml", mesh + BARE + NOTHING + quiet)})
    subjects = {
        finding.subject
        for finding in review(catalog, catalog.values, translate(catalog.values))
        if finding.code == "MN0219"
    }
    assert subjects == {"AuthorizationPolicy shop/db"} | ({"AuthorizationPolicy shop/web"} if is_told else set())
