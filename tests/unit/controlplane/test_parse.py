# SPDX-License-Identifier: Apache-2.0
"""What a document is, what it is called, and what is said about those that are nothing."""

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeagent.controlplane.documents import YamlError, parse_documents
from nodeagent.controlplane.finding import CODES, Finding, Severity
from nodeagent.controlplane.objects import Key, MeshConfig, MeshObject
from nodeagent.controlplane.parse import parse_document
from nodeagent.controlplane.translate import translate

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}", Key("Pod", "default", "a")),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: b}", Key("Pod", "b", "a")),
        ("apiVersion: v1\nkind: Node\nmetadata: {name: a, namespace: b}", Key("Node", "", "a")),
        ("kind: MeshConfig", Key("MeshConfig", "", "default")),
        ("apiVersion: anything/v7\nkind: MeshConfig\nmetadata: {}", Key("MeshConfig", "", "default")),
        (
            "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: a}",
            Key("PeerAuthentication", "default", "a"),
        ),
        ('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "json"}}', Key("Namespace", "", "json")),
    ],
)
def test_objects_are_known_by_kind_namespace_and_name(read: Read, text: str, key: Key) -> None:
    (value,), findings = read(text)
    assert value.meta.key == key
    assert findings == []


@pytest.mark.parametrize(
    ("text", "code", "severity", "is_rejected"),
    [
        pytest.param("just text", "MN0005", "error", True, id="no object"),
        pytest.param("- a\n- b", "MN0005", "error", True, id="a list"),
        pytest.param("apiVersion: v1\nmetadata: {name: a}", "MN0005", "error", True, id="no kind"),
        pytest.param("kind: Pod\nmetadata: {name: a}", "MN0005", "error", True, id="no apiVersion"),
        pytest.param("apiVersion: v1\nkind: Pod", "MN0005", "error", True, id="no metadata"),
        pytest.param("apiVersion: v1\nkind: Pod\nmetadata: {name: 7}", "MN0005", "error", True, id="a number as name"),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}", "MN0005", "error", True, id="a slash in the name"
        ),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: B}", "MN0005", "error", True, id="bad namespace"
        ),
        pytest.param(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}", "MN0006", "warning", False, id="a kind without use"
        ),
        pytest.param(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}",
            "MN0006",
            "warning",
            False,
            id="somebody else's Service",
        ),
        pytest.param(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}", "MN0006", "info", False, id="not needed"
        ),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\nspec: {}",
            "MN0003",
            "error",
            True,
            id="a key twice",
        ),
        pytest.param("kind: MeshConfig\ntrustDomian: x", "MN0212", "error", True, id="a misspelt mesh setting"),
        pytest.param("kind: MeshConfig\ntrustDomain: a b", "IST0106", "error", True, id="an impossible trust domain"),
        pytest.param("kind: MeshConfig\nenrolment: magic", "IST0106", "error", True, id="an unknown enrolment"),
    ],
)
def test_what_is_said_about_it(*, read: Read, text: str, code: str, severity: str, is_rejected: bool) -> None:
    objects, (finding,) = read(text)
    assert (finding.code, finding.severity, finding.is_rejected) == (code, Severity(severity), is_rejected)
    assert finding.line >= 1
    assert finding.check
    assert objects == []


def test_a_namespace_has_the_label_that_every_namespace_has(read: Read) -> None:
    """As from an API server, whatever is written."""
    for labels in ("{}", "{env: prod, kubernetes.io/metadata.name: other}"):
        objects, _ = read(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {labels}}}\n")
        (namespace,) = objects
        assert namespace.meta.labels["kubernetes.io/metadata.name"] == "shop"


def test_annotations_may_have_several_lines_and_labels_not(read: Read) -> None:
    text = 'apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n  {}: {{a: "b\\n"}}\n'
    (node,), findings = read(text.format("annotations"))
    assert (node.meta.annotations, findings) == ({"a": "b\n"}, [])
    objects, (finding,) = read(text.format("labels"))
    assert (objects, finding.field) == ([], "metadata.labels.a")


def test_a_list_is_opened(read: Read) -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n"
    text += "- {apiVersion: v1, kind: Node, metadata: {name: a}}\n- 7\n"
    text += "- {apiVersion: v1, kind: Node, metadata: {name: b}}\n"
    objects, (finding,) = read(text)
    assert [value.meta.name for value in objects] == ["a", "b"]
    assert (finding.code, finding.line) == ("MN0005", 5)


POD = "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\n{}"


@pytest.mark.parametrize(
    ("rest", "line", "words"),
    [
        ("status:\n  podIP: 10.0.0.256", 5, "'10.0.0.256' is not an IP address"),
        ("status:\n  podIPs:\n  - ip: fe80::1%eth0", 6, "is not an IP address"),
        ("status:\n  phase: Sleeping", 5, "'Sleeping' is not one of"),
        ("spec:\n  serviceAccountName: a/b", 5, "not the name of a service account"),
        ("spec:\n  nodeName: 7", 5, 'write it in quotes: "7"'),
        ('spec:\n  nodeName: "a\\0"', 5, "cannot be printed"),
        ("spec:\n  hostNetwork: maybe", 5, "true or false"),
        ("spec: []", 4, "fields are expected, not a list"),
        ("spec:\n  containers: {}", 5, "a list is expected, not fields"),
        ("spec:\n  containers:\n  - ports:\n    - containerPort: 70000", 7, "'70000' is not a port"),
    ],
)
def test_a_pod_with_a_bad_field_is_rejected_at_its_line(read: Read, rest: str, line: int, words: str) -> None:
    objects, (finding,) = read(POD.format(rest))
    assert objects == []
    assert finding.is_rejected
    assert finding.line == line
    assert words in finding.message
    assert finding.subject == "Pod default/a"


SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n{}"


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("  clusterIP: nowhere", "not an IP address"),
        ("  clusterIP: None\n  ports: [{port: 0}]", "is not a port"),
        ("  clusterIP: None\n  ports: [{port: 80}, {port: 80, name: b}]", "occurs twice"),
        ("  clusterIP: None\n  ports: [{name: x}]", "a port number is missing"),
        ("  clusterIP: None\n  ipFamilies: [IPv5]", "not IPv4 or IPv6"),
        ("  clusterIP: None\n  internalTrafficPolicy: Sometimes", "is not one of"),
    ],
)
def test_a_service_with_a_bad_field_is_rejected(read: Read, rest: str, words: str) -> None:
    objects, findings = read(SERVICE.format(rest))
    assert objects == []
    assert words in " ".join(finding.message for finding in findings if finding.is_rejected)


CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  meshNetworks: 'networks: {}'
  mesh: |-
    trustDomain: corp.example
    rootNamespace: mesh-root
    accessLogFile: /dev/stdout
"""


def test_istios_config_map_is_the_mesh_configuration(read: Read) -> None:
    (mesh,), (finding,) = read(CONFIG_MAP)
    assert isinstance(mesh, MeshConfig)
    assert (mesh.meta.key, mesh.trust_domain) == (Key("MeshConfig", "", "default"), "corp.example")
    assert mesh.root_namespace == "mesh-root"
    assert (finding.line, finding.severity) == (9, Severity.WARNING)
    assert (finding.field, finding.message) == ("data.mesh.accessLogFile", "this field is not used")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param("trustDomain: '-'", 7, "data.mesh.trustDomain", id="a bad field"),
        pytest.param("trustDomain: [", 7, "data.mesh: not YAML", id="no YAML"),
        pytest.param("- trustDomain", 7, "data.mesh: one object with fields", id="no fields"),
        pytest.param("trustDomain: a\n    trustDomain: b", 8, ": key 'trustDomain' occurs twice", id="twice"),
    ],
)
def test_a_bad_config_map_is_rejected_at_its_line(read: Read, text: str, line: int, message: str) -> None:
    start = CONFIG_MAP.index("    trustDomain")
    objects, findings = read(f"{CONFIG_MAP[:start]}    {text}\n")
    assert objects == []
    (finding,) = [one for one in findings if one.is_rejected]
    assert message in f"{finding.field}: {finding.message}"
    assert finding.line in {line, line + 1}  # where a parser notices an end that is missing


@pytest.mark.parametrize("name", ["namespace: default, name: istio", "namespace: istio-system, name: other"])
def test_other_config_maps_are_not_used(read: Read, name: str) -> None:
    objects, (finding,) = read(CONFIG_MAP.replace("name: istio, namespace: istio-system", name))
    assert (objects, finding.code) == ([], "MN0006")


# fmt: off
_KINDS = [
    "Pod", "Service", "EndpointSlice", "WorkloadEntry", "WorkloadGroup", "ServiceEntry", "Gateway", "GatewayClass",
    "AuthorizationPolicy", "PeerAuthentication", "MeshConfig", "Node", "List",
]
_WORDS = st.sampled_from([
    "spec", "status", "metadata", "name", "namespace", "labels", "annotations", "selector", "matchLabels",
    "rules", "from", "to", "when", "source", "operation", "principals", "ipBlocks", "ports", "key", "values",
    "action", "mtls", "mode", "portLevelMtls", "podIPs", "ip", "phase", "conditions", "endpoints", "addresses",
    "targetRef", "kind", "containers", "containerPort", "clusterIPs", "items", "ownerReferences", "controller",
    "hosts", "resolution", "workloadSelector", "number", "protocol", "address", "network", "locality", "weight",
    "template", "status", "host", "value", "listeners", "port", "allowedRoutes", "namespaces", "matchExpressions",
    "operator", "serviceEntryVisibility", "policies", "matchingRules", "namespaceSelector",
    "HTTP", "DNS", "a.test", "In", "80", "8080", "STRICT", "DENY", "*", "10.0.0.0/8",
])
# fmt: on
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=15,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(_KINDS), st.dictionaries(_WORDS, _VALUES, max_size=4))
def test_whatever_stands_in_an_object_the_answer_is_findings(kind: str, fields: dict[str, object]) -> None:
    written = {"metadata": {"name": "a"}} | fields | {"apiVersion": _version(kind), "kind": kind}
    (document,) = parse_documents(json.dumps(written))
    for parsed in parse_document(document, "mesh.d/a.yaml"):
        rejected = any(finding.is_rejected for finding in parsed.findings)
        assert (parsed.value is None) == (rejected or parsed.is_ignored)
        assert all(finding.code in CODES and finding.check and str(finding) for finding in parsed.findings)
        if parsed.value is not None:
            translate([parsed.value])


@given(st.text(alphabet="apiVersion:kndPmt{}[]-, \n'\"&*!1", max_size=80))
def test_whatever_the_text_the_answer_is_findings(text: str) -> None:
    try:
        documents = parse_documents(text)
    except YamlError:
        return
    for document in documents:
        assert parse_document(document, "mesh.d/a.yaml") or document.root is not None


def _version(kind: str) -> str:
    groups = {
        "EndpointSlice": "discovery.k8s.io/",
        "WorkloadEntry": "networking.istio.io/",
        "WorkloadGroup": "networking.istio.io/",
        "ServiceEntry": "networking.istio.io/",
        "Gateway": "gateway.networking.k8s.io/",
        "GatewayClass": "gateway.networking.k8s.io/",
        "AuthorizationPolicy": "security.istio.io/",
        "PeerAuthentication": "security.istio.io/",
    }
    return f"{groups.get(kind, '')}v1"


def test_a_finding_about_the_version_is_about_its_object(read: Read) -> None:
    objects, findings = read('{"apiVersion": 0, "kind": "MeshConfig", "metadata": {"name": "default"}}')
    assert objects == []
    assert [(finding.subject, finding.field) for finding in findings] == [("MeshConfig default", "apiVersion")]
