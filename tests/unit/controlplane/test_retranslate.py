# SPDX-License-Identifier: Apache-2.0
"""A change that is translated alone gives what everything together gives, whatever came before."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.objects import Enrolment
from nodeagent.controlplane.retranslate import Meshed, concerned_nodes, retranslate
from nodeagent.controlplane.snapshot import Snapshot, advance
from nodeagent.controlplane.translate import enrolled_by, translate
from nodeagent.model.security import DryRun, PolicyOrigin
from nodeagent.model.traffic import ClientScopes, MeshTraffic, ServiceTraffic, WorkloadLabels, WorkloadLimits

RECORDINGS = Path(__file__).parents[2] / "data" / "istiod"
STEPS = 40


def read_documents() -> list[str]:
    """Of every scenario and of its steps; of some objects there are several versions."""
    found = list[dict[str, Any]]()
    for path in sorted(RECORDINGS.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if isinstance(document, dict):
                found += document["items"] if document.get("kind") == "List" else [document]
    return [yaml.safe_dump(document) for document in found if document.get("metadata", {}).get("name")]


def make_traffic(documents: list[str]) -> list[str]:
    """Routes, subsets, limits and Sidecars about the hosts and labels that are there; of each two versions."""
    parsed = [yaml.safe_load(text) for text in documents]
    labels, hosts = defaultdict[str, set[tuple[str, str]]](set), set[tuple[str, str]]()
    for one in parsed:
        meta, namespace = one["metadata"], one["metadata"].get("namespace", "default")
        match one["kind"]:
            case "Pod" | "WorkloadEntry":
                labels[namespace].update(meta.get("labels", {}).items())
            case "Service":
                hosts.add((namespace, f"{meta['name']}.{namespace}.svc.cluster.local"))
            case "ServiceEntry":
                hosts.update((namespace, host) for host in one["spec"]["hosts"])
            case _:
                pass
    everywhere = sorted(set[tuple[str, str]]().union(*labels.values()))
    made = []
    for number, (namespace, host) in enumerate(sorted(hosts)):
        near = sorted(labels[namespace]) or everywhere
        for version, namespace_of_rule in enumerate((namespace, "istio-system" if number % 4 == 0 else namespace)):
            own, any_other = near[(number + version) % len(near)], everywhere[(7 * number + version) % len(everywhere)]
            destinations = [{"destination": {"host": host}, "weight": version + 1}]
            destinations.append({"destination": {"host": host, "subset": "v1"}, "weight": 1})
            route = {"match": [{"sourceLabels": dict([any_other])}, {"port": 80}], "route": destinations}
            selector = {"selector": {"matchLabels": dict([own])}} if version else {}
            made += [
                traffic("VirtualService", namespace, number, {"hosts": [host], "tcp": [route]}),
                traffic(
                    "DestinationRule",
                    namespace_of_rule,
                    number,
                    {"host": host, "subsets": [{"name": f"v{version}", "labels": dict([own])}]},
                ),
                traffic("ConnectionLimit", namespace, number, {**selector, "perSource": {"concurrent": 1 + version}}),
                dry_run(namespace_of_rule, number, dict([own])),
            ]
    for version, mode in enumerate(("ALLOW_ANY", "REGISTRY_ONLY", "REGISTRY_ONLY")):
        place = ("istio-system", "istio-system", "default")[version]
        made.append(traffic("Sidecar", place, 0, {"outboundTrafficPolicy": {"mode": mode}}))
    for number, (namespace, label) in enumerate(sorted((place, min(own)) for place, own in labels.items() if own)):
        spec = {"workloadSelector": {"labels": dict([label])}, "egress": [{"hosts": ["./*"]}]}
        made.append(traffic("Sidecar", namespace, 1 + number % 2, spec))
    return made


def dry_run(namespace: str, number: int, labels: dict[str, str]) -> str:
    meta = {"name": f"about-{number}", "namespace": namespace, "annotations": {"istio.io/dry-run": "true"}}
    spec = {"selector": {"matchLabels": labels}, "action": "DENY", "rules": [{}]}
    group = "security.istio.io/v1"
    return yaml.safe_dump({"apiVersion": group, "kind": "AuthorizationPolicy", "metadata": meta, "spec": spec})


def traffic(kind: str, namespace: str, number: int, spec: dict[str, Any]) -> str:
    group = "nodeagent" if kind == "ConnectionLimit" else "networking.istio.io"
    meta = {"name": f"about-{number}", "namespace": namespace}
    return yaml.safe_dump({"apiVersion": f"{group}/v1", "kind": kind, "metadata": meta, "spec": spec})


RECORDED = read_documents()
TRAFFIC = make_traffic(RECORDED)
DOCUMENTS = RECORDED + TRAFFIC
ALONE = [text for text in DOCUMENTS if "kind: ServiceEntry" not in text or ".svc.cluster.local" not in text]
"""Without entries that have the name of a Service: where there is one, nothing is translated alone."""


def name_of(document: str) -> str:
    """The same for the versions of one object, which then replace each other."""
    parsed = yaml.safe_load(document)
    meta = parsed["metadata"]
    return f"{parsed['kind']}.{meta.get('namespace', '')}.{meta['name']}.yaml"


@pytest.mark.parametrize(("documents", "enrolment"), [(ALONE, None), (ALONE, Enrolment.LABEL), (DOCUMENTS, None)])
def test_a_change_alone_gives_what_everything_gives(documents: list[str], enrolment: Enrolment | None) -> None:
    rng = random.Random()
    seed = rng.randrange(1 << 32)
    rng.seed(seed)
    texts = {name_of(text): text for text in rng.sample(documents, len(documents) // 2)}
    contents: dict[str, Content] = {}
    catalog, snapshot, alone = Catalog(), Snapshot(), 0
    meshed: Meshed | None = None
    for _ in range(STEPS):
        contents = {
            name: contents[name] if name in contents and contents[name].text == text else Content(name, text)
            for name, text in texts.items()
        }
        catalog = admit(catalog, contents)
        former, meshed = meshed, retranslate(meshed, catalog, enrolment)
        alone += meshed.touched is not None
        snapshot, _ = advance(snapshot, meshed.translation, meshed.touched)
        kept = former.translation.allocated if former is not None else {}
        everything = translate(enrolled_by(enrolment, catalog.values), kept)
        expected, _ = advance(Snapshot(), everything)
        assert snapshot.resources == expected.resources, f"seed {seed}"
        assert meshed.translation.identities == everything.identities, f"seed {seed}"
        for text in rng.sample(documents, rng.randrange(1, 4)):
            if rng.random() < 0.4:
                texts.pop(name_of(text), None)
            else:
                texts[name_of(text)] = text
    assert alone or documents is DOCUMENTS, "no step was of one namespace"


def test_routes_and_limits_are_read_from_the_documents() -> None:
    contents = {name_of(text): Content(name_of(text), text) for text in DOCUMENTS}
    catalog = admit(Catalog(), contents)
    assert {key.kind for key in catalog.objects} >= {"VirtualService", "DestinationRule", "ConnectionLimit", "Sidecar"}
    assert not [finding for finding in catalog.findings if finding.is_rejected and "about-" in finding.subject]
    told = {type(extension) for extension in translate(catalog.values).extensions.values()}
    assert told == {ServiceTraffic, WorkloadLabels, WorkloadLimits, MeshTraffic, ClientScopes, DryRun, PolicyOrigin}


def test_only_the_namespace_that_changed_is_looked_at() -> None:
    texts = {name_of(text): text for text in ALONE}
    contents = {name: Content(name, text) for name, text in texts.items()}
    catalog = admit(Catalog(), contents)
    meshed = retranslate(None, catalog, None)
    uid, workload = next(
        (uid, one)
        for uid, one in meshed.translation.workloads.items()
        if f"Pod.{one.namespace}.{one.name}.yaml" in texts
    )
    later = retranslate(
        meshed,
        admit(catalog, {n: c for n, c in contents.items() if n != f"Pod.{workload.namespace}.{workload.name}.yaml"}),
        None,
    )
    assert uid not in later.translation.workloads
    assert later.touched is not None
    assert {name.split("/")[3] for name in later.touched.workloads if "/Pod/" in name} == {workload.namespace}


POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: rule, namespace: shop}
spec: {%s action: DENY, rules: [{from: [{source: {namespaces: [other]}}]}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s, istio.io/dataplane-mode: ambient}}
spec: {nodeName: on-%s}
status: {phase: Running, podIP: 10.0.0.%d}
"""
PODS = "---".join(
    POD % (name, namespace, name, name, number)
    for number, (name, namespace) in enumerate([("web", "shop"), ("db", "shop"), ("far", "other")], 1)
)


@pytest.mark.parametrize(
    ("written", "nodes"),
    [
        pytest.param(POLICY % "selector: {matchLabels: {app: db}},", {"on-db"}, id="a policy of one workload"),
        pytest.param(POLICY % "", {"on-web", "on-db"}, id="of a namespace"),
        pytest.param(POD % ("new", "other", "new", "new", 9), {"on-new"}, id="a pod"),
        pytest.param("apiVersion: v1\nkind: Node\nmetadata: {name: on-db}\n", set(), id="nothing that is told"),
    ],
)
def test_a_change_concerns_the_nodes_where_it_is_enforced(written: str, nodes: set[str]) -> None:
    contents = {"pods.yaml": Content("pods.yaml", PODS)}
    catalog = admit(Catalog(), contents)
    meshed = retranslate(None, catalog, None)
    snapshot, _ = advance(Snapshot(), meshed.translation)
    catalog = admit(catalog, contents | {"new.yaml": Content("new.yaml", written)})
    meshed = retranslate(meshed, catalog, None)
    following, difference = advance(snapshot, meshed.translation, meshed.touched)
    assert concerned_nodes(meshed, following.history[-1] if difference else {}) == nodes
