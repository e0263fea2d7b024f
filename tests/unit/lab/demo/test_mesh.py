# SPDX-License-Identifier: Apache-2.0
"""The demo's objects are what our own control plane takes without a word, and mean what their names say."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.controlplane.analyze import analyze
from nodeagent.controlplane.documents import parse_documents
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import (
    AuthorizationPolicy,
    DestinationRule,
    MeshConfig,
    MeshObject,
    OutboundMode,
    PeerAuthentication,
    Pod,
    Service,
    VirtualService,
)
from nodeagent.controlplane.parse import parse_document
from nodeagent.controlplane.translate import translate
from nodeagent.controlplane.view import View
from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.stage import NODES, topology
from nodeagent.model.traffic import TcpMatch


def read(path: Path) -> tuple[list[MeshObject], list[Finding]]:
    text = path.read_text(encoding="utf-8")
    parsed = [found for document in parse_documents(text) for found in parse_document(document, path.name)]
    return (
        [found.value for found in parsed if found.value is not None],
        [finding for found in parsed for finding in found.findings],
    )


def policy(name: str, action: str, **rule: Any) -> mesh.Object:
    return mesh.authorization(name, "shop", "db", action, [mesh.rule(**rule)])


@pytest.fixture
def whole() -> list[mesh.Object]:
    """Every kind of object that the tour writes, for the lab's pods."""
    places = topology().pods
    namespaces = sorted({place.spec.namespace for place in places})
    return [
        *(mesh.namespace(name, ambient=name != "legacy") for name in namespaces),
        *(mesh.node(name, f"zone-{name[-1]}") for name in NODES),
        *map(mesh.pod, places),
        mesh.service("db", "shop", {"app": "db"}, ("10.96.0.10", "fd00:96::10"), {80: 8080}),
        mesh.authorization(
            "by-principal", "shop", "db", "ALLOW", [mesh.rule(principals=["cluster.local/ns/shop/sa/web"])]
        ),
        mesh.authorization(
            "by-block", "shop", "db", "DENY", [mesh.rule(ip_blocks=["10.244.1.0/24", "fd00:244:1::/64"])]
        ),
        mesh.authorization("by-port", "shop", "db", "DENY", [mesh.rule(namespaces=["backoffice"], ports=[8080])]),
        mesh.peer_authentication("strict", "shop", "STRICT"),
        mesh.service("api", "shop", {"app": "api"}, ("10.96.0.11", "fd00:96::11"), {80: 8080}),
        mesh.virtual_service("db", "shop", [mesh.route({"db": 75, "api": 25}, client_app="web")]),
        mesh.destination_rule("db", "shop", {"outlierDetection": {"consecutive5xxErrors": 3}}),
        mesh.outbound("REGISTRY_ONLY"),
        mesh.connection_limit("all", "shop", {"connectionsPerSecond": 0.01, "burst": 5}),
    ]


def test_our_control_plane_has_nothing_to_say_about_them(whole: list[mesh.Object], tmp_path: Path) -> None:
    mesh.write(tmp_path / "mesh.yaml", whole)
    objects, findings = read(tmp_path / "mesh.yaml")
    assert findings == []
    assert analyze(View(objects, translate(objects))) == []
    assert len(objects) == len(whole)


def test_they_mean_what_they_say(whole: list[mesh.Object], tmp_path: Path) -> None:
    mesh.write(tmp_path / "mesh.yaml", whole)
    objects, _ = read(tmp_path / "mesh.yaml")
    pods = {one.meta.name: one for one in objects if isinstance(one, Pod)}
    for place in topology().pods:
        pod = pods[place.spec.name]
        assert (pod.meta.namespace, pod.node, tuple(pod.ips)) == (place.spec.namespace, place.spec.node, place.ips)
    assert [one.meta.name for one in objects if isinstance(one, Service)] == ["db", "api"]
    (routed,) = (one for one in objects if isinstance(one, VirtualService))
    assert routed.routes[0].matches == (TcpMatch(source_labels={"app": "web"}),)
    assert [(to.host, to.weight) for to in routed.routes[0].destinations] == [("db", 75), ("api", 25)]
    assert [bool(one.policies[0].policy.outlier) for one in objects if isinstance(one, DestinationRule)] == [True]
    assert [one.outbound for one in objects if isinstance(one, MeshConfig)] == [OutboundMode.REGISTRY_ONLY]
    assert len([one for one in objects if isinstance(one, AuthorizationPolicy)]) == 3
    assert len([one for one in objects if isinstance(one, PeerAuthentication)]) == 1


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (mesh.rule(), {}),
        (mesh.rule(ports=[80]), {"to": [{"operation": {"ports": ["80"]}}]}),
        (
            mesh.rule(principals=["a"], ip_blocks=["10.0.0.0/8"]),
            {"from": [{"source": {"principals": ["a"], "ipBlocks": ["10.0.0.0/8"]}}]},
        ),
    ],
)
def test_a_rule_has_only_what_was_asked_for(rule: mesh.Object, expected: mesh.Object) -> None:
    assert rule == expected


def test_a_file_is_written_in_one_step_and_begins_with_a_word_to_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    for count in (2, 1):
        mesh.write(path, [mesh.namespace(f"n{number}", ambient=True) for number in range(count)])
        assert len(list(yaml.safe_load_all(path.read_text()))) == count
    assert path.read_text().startswith("# ")
    assert [one.name for one in tmp_path.iterdir()] == ["mesh.yaml"]
    assert not re.search("[&*]id0", path.read_text()), "aliases are no Kubernetes YAML"
