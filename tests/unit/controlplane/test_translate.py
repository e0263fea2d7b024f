# SPDX-License-Identifier: Apache-2.0
"""Which pods are workloads and captured, and what the mesh's configuration and EndpointSlices add to them."""

from pathlib import Path

import pytest

from nodeagent.controlplane.documents import parse_documents
from nodeagent.controlplane.objects import Key, MeshObject
from nodeagent.controlplane.parse import parse_document
from nodeagent.controlplane.translate import translate
from nodeagent.model.address import Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.workload import ServicePort, TunnelProtocol

RECORDINGS = Path(__file__).parents[2] / "data" / "istiod"


def read(text: str) -> dict[Key, MeshObject]:
    found = {}
    for document in parse_documents(text):
        for parsed in parse_document(document, "test.yaml"):
            if parsed.key is not None and parsed.value is not None:
                found[parsed.key] = parsed.value
    return found


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
        pytest.param("phase: Running", "", True, id="running, no conditions"),
        pytest.param("phase: Pending", "", False, id="pending, no conditions"),
        pytest.param("phase: Unknown", "", False, id="of an unknown phase, no conditions"),
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


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param("{}", ("istio-system/everywhere", "shop/db", "shop/web"), id="none: all, as from istiod"),
        pytest.param("{app: web}", ("istio-system/everywhere", "shop/web"), id="a label"),
        pytest.param("{x: z}", (), id="one that nothing asks for"),
    ],
)
def test_a_workload_lists_the_policies_that_select_it(labels: str, expected: tuple[str, ...]) -> None:
    policies = "---\n".join(
        f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{selector: {{matchLabels: {{app: {app}}}}}, rules: [{{}}]}}\n"
        for name, namespace, app in (
            ("everywhere", "istio-system", "web"),
            ("web", "shop", "web"),
            ("db", "shop", "db"),
            ("other", "backend", "web"),
        )
    )
    made = pod().replace("{app: web}", labels)
    (workload,) = translate(read(policies + "---\n" + made).values()).workloads.values()
    assert workload.policies == expected


def test_an_endpoint_is_called_by_its_address_as_it_is_written() -> None:
    """So it is from istiod, which takes two writings for two endpoints."""
    text = """
apiVersion: v1
kind: Service
metadata: {name: picked, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: tcp, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: picked-1, namespace: shop, labels: {kubernetes.io/service-name: picked}}
addressType: IPv6
ports: [{name: tcp, port: 9999}]
endpoints:
- {addresses: ['FD00:0::1']}
- {addresses: ['fd00::1']}
- {addresses: ['fd00::1']}
---
"""
    workloads = translate(read(text).values()).workloads
    slices = "Kubernetes/discovery.k8s.io/EndpointSlice/shop/picked-1"
    assert {uid: workload.addresses for uid, workload in workloads.items()} == {
        f"{slices}/FD00:0::1": (Ip("fd00::1"),),
        f"{slices}/fd00::1": (Ip("fd00::1"),),
    }


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        pytest.param("{}", ("shop/by-app", "shop/by-zone"), id="without a place: as without labels"),
        pytest.param("{topology.kubernetes.io/zone: z1}", ("shop/by-zone",), id="the zone that is asked for"),
        pytest.param("{topology.kubernetes.io/region: r1}", (), id="a region"),
        pytest.param("{topology.istio.io/subzone: s1}", ("shop/by-app", "shop/by-zone"), id="a subzone is not copied"),
    ],
)
def test_a_pod_has_the_place_of_its_node_among_its_labels(node: str, expected: tuple[str, ...]) -> None:
    policies = "".join(
        f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n"
        f"spec: {{selector: {{matchLabels: {{{label}}}}}, rules: [{{}}]}}\n---\n"
        for name, label in (("by-app", "app: web"), ("by-zone", "topology.kubernetes.io/zone: z1"))
    )
    nodes = f"apiVersion: v1\nkind: Node\nmetadata: {{name: node-a, labels: {node}}}\n---\n"
    made = pod().replace("{app: web}", "{}")
    (workload,) = translate(read(policies + nodes + made).values()).workloads.values()
    assert workload.policies == expected


def test_translation_does_not_depend_on_the_order_of_objects() -> None:
    objects = list(read((RECORDINGS / "basic" / "input.yaml").read_text()).values())
    assert translate(objects) == translate(reversed(objects))


@pytest.mark.parametrize(
    ("pod_uid", "target_uid", "expected"),
    [
        pytest.param("", "", True, id="neither is written"),
        pytest.param("11", "11", True, id="the same pod"),
        pytest.param("11", "22", False, id="another pod of that name, from before"),
    ],
)
def test_a_slice_means_the_pod_with_its_uid(*, pod_uid: str, target_uid: str, expected: bool) -> None:
    text = f"""
apiVersion: v1
kind: Service
metadata: {{name: picked, namespace: shop}}
spec: {{clusterIP: 10.0.0.1, ports: [{{name: tcp, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: picked-1, namespace: shop, labels: {{kubernetes.io/service-name: picked}}}}
addressType: IPv4
endpoints:
- {{addresses: [10.244.1.7], targetRef: {{kind: Pod, name: web, uid: '{target_uid}'}}}}
---
"""
    made = pod().replace("metadata: {", f"metadata: {{uid: '{pod_uid}', ")
    (workload,) = translate(read(text + made).values()).workloads.values()
    assert bool(workload.services) is expected


@pytest.mark.parametrize(
    ("labels", "owner", "expected"),
    [
        pytest.param("pod-template-hash: abc", "{kind: ReplicaSet, name: web-abc", "web", id="a Deployment"),
        pytest.param("rollouts-pod-template-hash: abc", "{kind: ReplicaSet, name: web-abc", "web", id="a Rollout"),
        pytest.param("pod-template-hash: abc", "{kind: ReplicaSet, name: web-xyz", "web-xyz", id="another hash"),
        pytest.param("pod-template-hash: ''", "{kind: ReplicaSet, name: web-", "web-", id="no hash"),
        pytest.param("deploymentconfig: web", "{kind: ReplicationController, name: web-1", "web", id="OpenShift"),
        pytest.param("x: z", "{kind: Job, name: web-28999999", "web", id="a CronJob"),
        pytest.param("x: z", "{kind: Job, name: web-28", "web-28", id="a Job"),
        pytest.param("x: z", "{kind: StatefulSet, name: web", "web", id="a StatefulSet"),
        pytest.param("service.istio.io/workload-name: shop", "{kind: StatefulSet, name: web", "shop", id="its label"),
    ],
)
def test_the_workload_name_is_guessed_as_istio_does(labels: str, owner: str, expected: str) -> None:
    text = f"""
apiVersion: v1
kind: Pod
metadata:
  name: web-abc-x
  generateName: web-abc-
  namespace: shop
  labels: {{{labels}}}
  ownerReferences: [{owner}, controller: true}}]
status: {{podIP: 10.244.1.7}}
"""
    (workload,) = translate(read(text).values()).workloads.values()
    assert workload.workload_name == expected


def test_a_canonical_label_counts_even_if_it_is_empty() -> None:
    (workload,) = translate(read(pod(label="app.kubernetes.io/name: '', version: v2")).values()).workloads.values()
    assert (workload.canonical_name, workload.canonical_revision) == ("", "v2")


def test_a_named_target_port_is_of_a_container_or_of_a_sidecar_that_runs_on() -> None:
    text = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.0.0.1
  selector: {app: web}
  ports:
  - {port: 80, targetPort: http}
  - {port: 81, targetPort: side}
  - {port: 82, targetPort: init}
  - {port: 83, targetPort: udp}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  containers:
  - ports: [{name: http, containerPort: 8080}, {name: udp, containerPort: 8083, protocol: UDP}]
  - ports: [{name: http, containerPort: 9999}]
  initContainers:
  - {restartPolicy: Always, ports: [{name: side, containerPort: 8081}]}
  - ports: [{name: init, containerPort: 8082}]
status: {podIP: 10.244.1.7}
"""
    (workload,) = translate(read(text).values()).workloads.values()
    (ports,) = workload.services.values()
    assert ports == (ServicePort(Port(80), 8080), ServicePort(Port(81), 8081))


def test_a_workload_lists_policies_by_name_and_then_those_of_peer_authentication() -> None:
    text = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: all, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: z, namespace: istio-system}
spec: {selector: {matchLabels: {app: web}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec: {selector: {matchLabels: {app: web}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tried, namespace: shop, annotations: {istio.io/dry-run: '1'}}
spec: {selector: {matchLabels: {app: web}}}
---
"""
    (workload,) = translate(read(text + pod()).values()).workloads.values()
    assert workload.policies == ("istio-system/z", "shop/a", "istio-system/istio_converted_static_strict")


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        pytest.param("[]", ["default", "shop"], id="none"),
        pytest.param("[{matchLabels: {istio.io/dataplane-mode: ambient}}]", ["shop"], id="one"),
        pytest.param(
            "[{matchLabels: {a: b}}, {matchExpressions: [{key: istio.io/dataplane-mode, operator: Exists}]}]",
            ["shop"],
            id="one of several is enough",
        ),
        pytest.param("[{}]", ["shop"], id="everything that is a namespace"),
    ],
)
def test_only_discovered_namespaces_count(selectors: str, expected: list[str]) -> None:
    text = f"kind: MeshConfig\ndiscoverySelectors: {selectors}\n---\n" + NAMESPACE.format(mode="ambient")
    text += pod() + pod().replace("namespace: shop", "namespace: default")
    workloads = translate(read(text).values()).workloads.values()
    assert sorted(workload.namespace for workload in workloads) == expected
