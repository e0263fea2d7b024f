# SPDX-License-Identifier: Apache-2.0
"""Policies of a directory over the mesh as it is: its policies alone, the mesh's pods, and honest doubts."""

from pathlib import Path

import pytest

from nodeagent.controlplane.proposal import Proposal
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Action, Policy, PolicyScope, Rule
from nodeagent.model.security import DryRun
from nodeagent.model.traffic import WorkloadLabels, WorkloadLimits
from nodeagent.model.workload import Service, ServicePort, TunnelProtocol, Workload
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Verdict, evaluate_for

DB = "Kubernetes//Pod/shop/db"
WEB_ID = Identity("cluster.local", "shop", "web")
STATIC = "istio-system/istio_converted_static_strict"

POD = """
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: elsewhere}
status: {podIP: 10.0.0.9}
"""
NO_WEB = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-web, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture
def mesh() -> Mesh:
    """db, to which two policies of the mesh apply: one by its namespace, one by its labels."""
    everybody = Policy(
        name="nobody", namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.DENY, rules=(Rule(),)
    )
    named = Policy(name="no-web", namespace="shop", scope=PolicyScope.WORKLOAD_SELECTOR, action=Action.ALLOW)
    built = Mesh()
    built.apply(
        Changes(
            policies=(everybody, named),
            extensions=(
                DryRun(policy=everybody, namespace="shop"),
                WorkloadLimits(uid=DB),
                WorkloadLabels(uid=DB, labels={"version": "1"}),
            ),
            services=(Service(name="db", namespace="shop", hostname="db"),),
            workloads=(
                Workload(
                    uid=DB,
                    name="db",
                    namespace="shop",
                    addresses=(Ip("10.0.0.1"),),
                    protocol=TunnelProtocol.HBONE,
                    node="node-b",
                    services={"shop/db": (ServicePort(Port(80), 80),)},
                    policies=("shop/no-web",),
                ),
            ),
        )
    )
    return built


def _proposal(directory: Path, *texts: str) -> Proposal:
    for number, text in enumerate(texts):
        (directory / f"{number}.yaml").write_text(text.strip() + "\n")
    return Proposal.read(directory)


def _verdict(mesh: Mesh, identity: Identity | None = WEB_ID) -> Verdict:
    return evaluate_for(mesh, mesh.workloads[DB], ConnectionFacts(identity, Ip("10.0.0.2"), Ip("10.0.0.1"), 80))


def test_its_policies_are_all_that_there_are_and_the_mesh_stays_as_it_is(tmp_path: Path, mesh: Mesh) -> None:
    before = mesh.everything()
    proposed = _proposal(tmp_path).laid_over(mesh)
    assert (proposed.policies, proposed.security.has_dry_runs, proposed.limits(DB)) == ({}, False, None)
    assert _verdict(proposed) == Allow(None)
    assert proposed.services == mesh.services
    assert mesh.everything() == before


def test_labels_of_a_pod_of_the_directory_select(tmp_path: Path, mesh: Mesh) -> None:
    proposal = _proposal(tmp_path, POD, NO_WEB)
    proposed = proposal.laid_over(mesh)
    denied = _verdict(proposed)
    assert isinstance(denied, Deny)
    assert denied.policy == "shop/no-web"
    assert list(proposal.doubts(mesh.workloads[DB])) == []
    # All else of the pod is the mesh's.
    assert proposed.workloads[DB].addresses == (Ip("10.0.0.1"),)
    assert proposed.workloads[DB].node == "node-b"
    assert proposed.labels(DB) == {"version": "1"}


@pytest.mark.parametrize("is_listed", [True, False])
def test_of_a_pod_that_is_not_there_the_mesh_says_what_selects_it(
    tmp_path: Path, mesh: Mesh, *, is_listed: bool
) -> None:
    text = NO_WEB if is_listed else NO_WEB.replace("name: no-web", "name: another")
    proposal = _proposal(tmp_path, text)
    assert isinstance(_verdict(proposal.laid_over(mesh)), Deny if is_listed else Allow)
    (doubt,) = proposal.doubts(mesh.workloads[DB])
    assert doubt.endswith("is taken as about it" if is_listed else "is taken as not about it")
    assert "has no pod shop/db" in doubt


def test_a_peer_authentication_needs_no_label(tmp_path: Path, mesh: Mesh) -> None:
    proposal = _proposal(tmp_path, STRICT)
    proposed = proposal.laid_over(mesh)
    assert proposed.workloads[DB].policies == (STATIC,)
    assert isinstance(_verdict(proposed, None), Deny)
    assert isinstance(_verdict(proposed), Allow)
    assert list(proposal.doubts(mesh.workloads[DB])) == []


def test_a_pod_that_the_mesh_does_not_have_is_added(tmp_path: Path, mesh: Mesh) -> None:
    proposed = _proposal(tmp_path, POD.replace("name: db", "name: new")).laid_over(mesh)
    assert {workload.name for workload in proposed.workloads.values()} == {"db", "new"}


def test_a_list_as_kubectl_prints_it(tmp_path: Path, mesh: Mesh) -> None:
    items = "".join(f"- {text.strip()}\n".replace("\n", "\n  ").rstrip() + "\n" for text in (POD, NO_WEB))
    proposal = _proposal(tmp_path, f"apiVersion: v1\nkind: List\nitems:\n{items}")
    assert isinstance(_verdict(proposal.laid_over(mesh)), Deny)
    assert proposal.place("shop/no-web") == f"{tmp_path}/0.yaml:9"


def test_dry_runs_are_the_directorys(tmp_path: Path, mesh: Mesh) -> None:
    dry = NO_WEB.replace("namespace: shop}", 'namespace: shop, annotations: {istio.io/dry-run: "true"}}')
    proposed = _proposal(tmp_path, POD, dry).laid_over(mesh)
    assert [policy.key for policy in proposed.dry_runs_for(proposed.workloads[DB])] == ["shop/no-web"]
    assert proposed.labels(DB) == {"version": "1", "app": "db"}


@pytest.mark.parametrize(
    ("policy", "place"),
    [
        ("shop/no-web", "1.yaml:1"),
        (STATIC, "0.yaml:1"),
        ("shop/converted_peer_authentication_ports", "2.yaml:1"),
        ("shop/elsewhere", ""),
    ],
)
def test_where_a_policy_stands(tmp_path: Path, policy: str, place: str) -> None:
    ports = STRICT.replace("name: default, namespace: istio-system", "name: ports, namespace: shop").replace(
        "{mtls: {mode: STRICT}}", "{selector: {matchLabels: {app: db}}, portLevelMtls: {80: {mode: PERMISSIVE}}}"
    )
    proposal = _proposal(tmp_path, STRICT, NO_WEB, ports)
    assert proposal.place(policy) == (f"{tmp_path}/{place}" if place else "")


@pytest.mark.parametrize(("rule", "line"), [(0, 5), (1, 11), (2, 13)])
def test_where_a_rule_stands_that_agents_count_otherwise(tmp_path: Path, rule: int, line: int) -> None:
    """The first that is written needs layer 7, so nobody is told of it."""
    policy = """
kind: Namespace
metadata: {name: shop}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: db, namespace: shop}
spec:
  rules:
  - to: [{operation: {methods: [GET]}}]
  - from:
    - source: {namespaces: [shop]}
  - to: [{operation: {ports: ["80"]}}]
"""
    assert _proposal(tmp_path, f"apiVersion: v1{policy}").place("shop/db", rule) == f"{tmp_path}/0.yaml:{line}"


def test_what_would_be_refused_is_told_and_left_out(tmp_path: Path, mesh: Mesh) -> None:
    proposal = _proposal(tmp_path, NO_WEB.replace("DENY", "FORBID"), STRICT)
    (finding,) = proposal.refused
    assert f"{tmp_path}/0.yaml:" in str(finding)
    assert set(proposal.laid_over(mesh).policies) == {STATIC}


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        Proposal.read(tmp_path / "nowhere")
