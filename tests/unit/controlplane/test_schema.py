# SPDX-License-Identifier: Apache-2.0
"""Unknown fields of the kinds that are read in part: refused, or taken with a warning where that was asked for."""

import pytest

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.finding import Finding

HEAD = "apiVersion: {}\nkind: {}\nmetadata: {{name: a}}\n"


def written(kind: str, rest: str, version: str = "v1") -> str:
    return HEAD.format(version, kind) + rest


def found(text: str, *, refuses_unknown: bool = True) -> tuple[int, tuple[Finding, ...]]:
    """How many objects are in force, and what was said."""
    catalog = admit(Catalog(), {"a.yaml": Content("mesh.d/a.yaml", text)}, refuses_unknown=refuses_unknown)
    return len(catalog.objects), catalog.findings


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        (written("Pod", "spce: {}"), 4, "spce"),
        (written("Pod", "spec:\n  nodename: a"), 5, "spec.nodename"),
        (written("Pod", "spec:\n  containers:\n  - prots: []"), 6, "spec.containers[0].prots"),
        (
            written("Pod", "spec:\n  containers:\n  - ports:\n    - containerport: 80"),
            7,
            "spec.containers[0].ports[0].containerport",
        ),
        (written("Pod", "status:\n  podIPs:\n  - ip: 10.0.0.1\n    mask: 24"), 7, "status.podIPs[0].mask"),
        (written("Service", "spec:\n  clusterIP: None\n  selecting: {}"), 6, "spec.selecting"),
        (
            written("EndpointSlice", "endpoints:\n- addresses: [10.0.0.1]\n  isReady: true", "discovery.k8s.io/v1"),
            6,
            "endpoints[0].isReady",
        ),
        (written("Namespace", "labels: {}"), 4, "labels"),
        (written("Node", "spec:\n  podCidr: x"), 5, "spec.podCidr"),
        (written("Node", "").replace("{name: a}", "{name: a, label: {}}"), 3, "metadata.label"),
        ("kind: MeshConfig\ntrustDomian: x", 2, "trustDomian"),
        ("kind: MeshConfig\nspec:\n  trustDomian: x", 3, "spec.trustDomian"),
        (written("AuthorizationPolicy", "spce: {}", "security.istio.io/v1"), 4, "spce"),
    ],
)
def test_an_unknown_field_refuses_the_object_at_its_line(text: str, line: int, field: str) -> None:
    objects, findings = found(text)
    refusing = [one for one in findings if one.is_rejected]
    assert objects == 0
    assert [(one.code, one.line, one.field) for one in refusing] == [("MN0212", line, field)]


@pytest.mark.parametrize(
    ("text", "in_force"),
    [
        pytest.param(written("Pod", "spec: {brandNew: {}}"), 1, id="a pod"),
        pytest.param("kind: MeshConfig\nbrandNew: x", 1, id="the mesh"),
        pytest.param(written("AuthorizationPolicy", "spce: {}", "security.istio.io/v1"), 0, id="a policy"),
        pytest.param(written("PeerAuthentication", "spec: {x: y}", "security.istio.io/v1"), 0, id="or another"),
    ],
)
def test_where_unknown_fields_are_taken_they_are_told_and_policies_stay_strict(text: str, in_force: int) -> None:
    objects, findings = found(text, refuses_unknown=False)
    assert objects == in_force
    assert {one.code for one in findings} == {"MN0212"}
    assert all(one.is_rejected is not bool(in_force) for one in findings)


@pytest.mark.parametrize(
    "text",
    [
        written(
            "Pod", "spec: {affinity: {anything: {}}, containers: [{name: a, readinessProbe: {httpGet: {port: 1}}}]}"
        ),
        written(
            "Service", "spec: {clusterIP: None, ports: [{port: 80, nodePort: 30000}], ipFamilyPolicy: SingleStack}"
        ),
        written("Node", "status: {nodeInfo: {}, whatever: {}}"),
        written("Pod", "").replace("{name: a}", "{name: a, managedFields: [{manager: x}], annotations: {b: c}}"),
    ],
)
def test_what_the_apis_have_is_no_finding(text: str) -> None:
    assert found(text) == (1, ())


def test_a_setting_of_istio_that_is_not_used_is_a_warning() -> None:
    objects, (finding,) = found("kind: MeshConfig\nspec:\n  accessLogFile: /dev/stdout\n")
    assert (objects, finding.code, finding.field, finding.is_rejected) == (1, "MN0212", "spec.accessLogFile", False)
