# SPDX-License-Identifier: Apache-2.0
"""The translation against a real istiod: same objects in, same resources out, after every step of a recording."""

import base64
import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from nodeagent.controlplane.documents import parse_documents
from nodeagent.controlplane.objects import Enrolment, Key, MeshConfig, MeshObject, Meta, Origin
from nodeagent.controlplane.parse import parse_document
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, Snapshot, advance
from nodeagent.controlplane.translate import translate
from nodeagent.model.address import Port
from nodeagent.model.identity import Identity
from nodeagent.model.workload import ServicePort, TunnelProtocol
from nodeagent.proto import authorization_pb2, workload_pb2

RECORDINGS = Path(__file__).parents[2] / "data" / "istiod"
BY_ANNOTATION = MeshConfig(
    meta=Meta(key=Key("MeshConfig", "", "default"), origin=Origin("", 0)), enrolment=Enrolment.ANNOTATION
)
# The recorder's cluster had these besides the scenario's own objects.
SURROUNDING = {
    "default/kubernetes.default.svc.cluster.local",
    "istio-system/istiod.istio-system.svc.cluster.local",
    "Kubernetes//Pod/istio-system/ztunnel-a",
}
# Refused here as Istio's webhook would; the recorder's cluster had no webhook.
REFUSED = {"shop/deny-none"}


def read(text: str) -> dict[Key, MeshObject]:
    found = {}
    for document in parse_documents(text):
        for parsed in parse_document(document, "test.yaml"):
            if parsed.key is not None and parsed.value is not None:
                found[parsed.key] = parsed.value
    return found


def keys(text: str) -> Iterator[Key]:
    for document in parse_documents(text):
        for parsed in parse_document(document, "test.yaml"):
            assert parsed.key is not None
            yield parsed.key


def is_covered(name: str) -> bool:
    """ServiceEntry and WorkloadEntry are not read yet."""
    if name in SURROUNDING or name in REFUSED or "/networking.istio.io/" in name:
        return False
    return name.startswith("Kubernetes/") or name.endswith(".svc.cluster.local") or ".example.test" not in name


def masked(policy: authorization_pb2.Authorization) -> authorization_pb2.Authorization:
    """istiod sends 10.20.1.5/16 as written, we send 10.20.0.0/16: the same block."""
    for rule in policy.rules:
        for clause in rule.clauses:
            for match in clause.matches:
                for block in match.source_ips:
                    network = ipaddress.ip_network((block.address, block.length), strict=False)
                    block.address = network.network_address.packed
    return policy


def decoded(type_url: str, value: bytes) -> Message:
    if type_url == ADDRESS:
        return workload_pb2.Address.FromString(value)
    return masked(authorization_pb2.Authorization.FromString(value))


class Recording:
    """What istiod's client holds after each step."""

    def __init__(self, scenario: str) -> None:
        self.folder = RECORDINGS / scenario
        self._responses: dict[str, list[dict[str, object]]] = {}
        for name in ("address", "authorization"):
            for line in (self.folder / f"{name}.jsonl").read_text().splitlines():
                message = json.loads(line)
                if message["dir"] == "res":
                    self._responses.setdefault(message["step"], []).append(message)
        self.held: dict[tuple[str, str], Message] = {}

    def played(self, step: str) -> dict[tuple[str, str], Message]:
        for message in self._responses.get(step, []):
            type_url = str(message["type_url"])
            for removed in message.get("removed_resources", []):  # type: ignore[attr-defined]
                self.held.pop((type_url, removed), None)
            for resource in message.get("resources", []):  # type: ignore[attr-defined]
                value = base64.b64decode(resource["value_b64"])
                self.held[type_url, resource["name"]] = decoded(type_url, value)
        return {key: value for key, value in self.held.items() if is_covered(key[1])}


def published(objects: dict[Key, MeshObject]) -> dict[tuple[str, str], Message]:
    snapshot, _ = advance(Snapshot(), translate([BY_ANNOTATION, *objects.values()]))
    return {
        (type_url, name): decoded(type_url, resource.value)
        for type_url in (ADDRESS, AUTHORIZATION)
        for name, resource in snapshot.of_type(type_url).items()
        if name not in SURROUNDING
    }


@pytest.mark.parametrize("scenario", ["basic", "authz", "peerauth"])
def test_every_step_gives_what_istiod_gave(scenario: str) -> None:
    recording = Recording(scenario)
    objects = read((recording.folder / "input.yaml").read_text())
    assert published(objects) == recording.played("connect")

    steps = sorted(recording.folder.glob("step-*.yaml"))
    assert steps
    for step in steps:
        verb = "delete" if "delete" in step.name else "apply"
        if verb == "delete":
            for key in keys(step.read_text()):
                objects.pop(key, None)
        else:
            objects.update(read(step.read_text()))
        assert published(objects) == recording.played(f"{verb} {step.name}"), step.name


POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}{label}}}, annotations: {{{annotation}}}}}
spec: {{nodeName: node-a, serviceAccountName: {name}{spec}}}
status: {{podIP: 10.244.1.7{status}}}
---
"""
NAMESPACE = (
    "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{istio.io/dataplane-mode: {mode}}}}}\n---\n"
)


def pod(  # one keyword for each thing a row of the tables below varies
    name: str = "web", *, label: str = "", annotation: str = "", spec: str = "", status: str = ""
) -> str:
    return POD.format(
        name=name,
        label=f", {label}" if label else "",
        annotation=annotation,
        spec=f", {spec}" if spec else "",
        status=f", {status}" if status else "",
    )


ENABLED = "ambient.istio.io/redirection: enabled"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(NAMESPACE.format(mode="ambient") + pod(), True, id="by its namespace"),
        pytest.param(pod(label="istio.io/dataplane-mode: ambient"), True, id="by its own label"),
        pytest.param(
            NAMESPACE.format(mode="ambient") + pod(label="istio.io/dataplane-mode: none"), False, id="opted out"
        ),
        pytest.param(NAMESPACE.format(mode="none") + pod(), False, id="another mode"),
        pytest.param(pod(annotation=ENABLED), False, id="the annotation alone"),
        pytest.param(NAMESPACE.format(mode="ambient") + pod(spec="hostNetwork: true"), False, id="host network"),
        pytest.param(
            NAMESPACE.format(mode="ambient") + pod(annotation="sidecar.istio.io/status: x"), False, id="has a sidecar"
        ),
        pytest.param("kind: MeshConfig\nenrolment: annotation\n---\n" + pod(annotation=ENABLED), True, id="annotation"),
        pytest.param(
            "kind: MeshConfig\nspec: {enrolment: annotation}\n---\n" + NAMESPACE.format(mode="ambient") + pod(),
            False,
            id="annotation asked for, label given",
        ),
        pytest.param(pod(label="networking.istio.io/tunnel: http"), True, id="speaks HBONE itself"),
    ],
)
def test_enrolment(*, text: str, expected: bool) -> None:
    (workload,) = translate(read(text).values()).workloads.values()
    assert (workload.protocol is TunnelProtocol.HBONE) is expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        pytest.param(pod(), 1, id="nothing but an address"),
        pytest.param(pod(status="phase: Pending"), 1, id="pending with an address"),
        pytest.param(pod(status="phase: Succeeded"), 0, id="succeeded"),
        pytest.param(pod(status="phase: Failed"), 0, id="failed"),
        pytest.param(pod().replace("podIP: 10.244.1.7", ""), 0, id="no address yet"),
    ],
)
def test_which_pods_are_workloads(text: str, count: int) -> None:
    assert len(translate(read(text).values()).workloads) == count


@pytest.mark.parametrize(
    ("status", "metadata", "expected"),
    [
        pytest.param("", "", True, id="no conditions: written by a person"),
        pytest.param("conditions: [{type: Ready, status: 'True'}]", "", True, id="ready"),
        pytest.param("conditions: [{type: Ready, status: 'False'}]", "", False, id="not ready"),
        pytest.param("conditions: [{type: PodScheduled, status: 'True'}]", "", False, id="nothing about readiness"),
        pytest.param("", "deletionTimestamp: '2026-01-01T00:00:00Z'", False, id="being deleted"),
    ],
)
def test_health(*, status: str, metadata: str, expected: bool) -> None:
    text = pod(status=status).replace("metadata: {", "metadata: {" + (metadata + ", " if metadata else ""))
    (workload,) = translate(read(text).values()).workloads.values()
    assert workload.is_healthy is expected


def test_identities_are_of_pods_on_the_node_that_have_not_failed() -> None:
    text = pod("web") + pod("done", status="phase: Succeeded") + pod("broken", status="phase: Failed")
    text += pod("unplaced").replace("nodeName: node-a, ", "")
    assert translate(read(text).values()).identities == {
        "node-a": {Identity("cluster.local", "shop", "web"), Identity("cluster.local", "shop", "done")}
    }


def test_the_mesh_configuration_names_trust_domain_network_and_cluster() -> None:
    text = "kind: MeshConfig\ntrustDomain: corp.example\nnetwork: net-1\ncluster: c1\nclusterDomain: k8s.local\n---\n"
    text += "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n"
    text += "spec: {clusterIP: 10.0.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n---\n"
    translation = translate(read(text + pod()).values())
    workload = translation.workloads["c1//Pod/shop/web"]
    assert (workload.trust_domain, workload.network, workload.cluster) == ("corp.example", "net-1", "c1")
    assert list(workload.services) == ["shop/web.shop.svc.k8s.local"]
    assert translation.services["shop/web.shop.svc.k8s.local"].vips[0].network == "net-1"
    assert translation.identities["node-a"] == {Identity("corp.example", "shop", "web")}


def test_a_service_without_selector_takes_the_pods_of_its_slices() -> None:
    text = """
apiVersion: v1
kind: Service
metadata: {name: picked, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: tcp, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: picked-1, namespace: shop, labels: {kubernetes.io/service-name: picked}}
addressType: IPv4
ports: [{name: tcp, port: 9999}]
endpoints:
- {addresses: [10.244.1.7], targetRef: {kind: Pod, name: web}}
- {addresses: [192.0.2.1], conditions: {ready: false}}
---
"""
    translation = translate(read(text + pod()).values())
    web = translation.workloads["Kubernetes//Pod/shop/web"]
    assert web.services == {"shop/picked.shop.svc.cluster.local": (ServicePort(Port(80), 8080),)}
    other = translation.workloads["Kubernetes/discovery.k8s.io/EndpointSlice/shop/picked-1/192.0.2.1"]
    assert not other.is_healthy
    assert other.is_host_network
    assert [port.target_port for port in other.services["shop/picked.shop.svc.cluster.local"]] == [9999]
    assert len(translation.workloads) == 2


def test_translation_does_not_depend_on_the_order_of_objects() -> None:
    objects = list(read((RECORDINGS / "basic" / "input.yaml").read_text()).values())
    assert translate(objects) == translate(reversed(objects))
