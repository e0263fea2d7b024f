# SPDX-License-Identifier: Apache-2.0
"""What agents are told of security beside Istio's resources: which objects, about whom, and what ztunnels are not."""

import pytest

from nodeagent.controlplane.translate import Translation, translate
from nodeagent.model.security import DryRun, PolicyOrigin, TrustDomains
from nodeagent.model.traffic import WorkloadLabels
from tests.unit.controlplane.served import Read


def policy(spec: str, *, namespace: str = "shop", annotations: str = "istio.io/dry-run: 'true'") -> str:
    return f"""
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: try, namespace: {namespace}, annotations: {{{annotations}}}}}
spec: {spec}
"""


def translated(read: Read, text: str) -> Translation:
    return translate(read(text)[0])


def dry_run(read: Read, text: str) -> DryRun | None:
    found = translated(read, text).extensions.get(
        "dry-run/" + ("istio-system" if "istio-system" in text else "shop") + "/try"
    )
    assert found is None or isinstance(found, DryRun)
    return found


@pytest.mark.parametrize(
    ("namespace", "selector", "about"),
    [
        ("shop", {}, "shop"),
        ("shop", {"app": "db"}, "shop"),
        ("istio-system", {}, ""),
        ("istio-system", {"app": "db"}, ""),
    ],
)
def test_whom_a_dry_run_is_about(read: Read, mesh: str, namespace: str, selector: dict[str, str], about: str) -> None:
    written = "selector: {matchLabels: {app: db}}, " if selector else ""
    found = dry_run(read, mesh + policy(f"{{{written}action: DENY, rules: [{{}}]}}", namespace=namespace))
    assert found is not None
    assert (found.namespace, found.selector, found.policy.is_dry_run) == (about, selector, True)


def test_ztunnels_are_told_nothing_of_it(read: Read, mesh: str) -> None:
    """istiod leaves dry runs out, too: an older ztunnel would enforce them."""
    before, after = translated(read, mesh), translated(read, mesh + policy("{selector: {matchLabels: {app: db}}}"))
    assert (before.policies, before.workloads) == (after.policies, after.workloads)


def test_labels_are_told_of_whom_it_may_be_about_only(read: Read, mesh: str) -> None:
    office = mesh.replace("shop", "office").replace("db-0", "db-9").replace("10.24", "10.25")
    text = f"{mesh}\n---{office}" + policy("{selector: {matchLabels: {app: db}}, rules: [{}]}")
    labelled = [one for one in translated(read, text).extensions.values() if isinstance(one, WorkloadLabels)]
    assert labelled == [WorkloadLabels(uid="Kubernetes//Pod/shop/db-0", labels={"app": "db"})]


@pytest.mark.parametrize(
    ("spec", "annotations"),
    [
        ("{rules: [{}]}", ""),
        ("{rules: [{}]}", "istio.io/dry-run: 'false'"),
        ("{action: AUDIT, rules: [{}]}", "istio.io/dry-run: 'true'"),
        ("{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: w}]}", "istio.io/dry-run: 'true'"),
    ],
)
def test_what_is_no_dry_run(read: Read, mesh: str, spec: str, annotations: str) -> None:
    assert dry_run(read, mesh + policy(spec, annotations=annotations)) is None


def test_aliases_of_the_trust_domain_are_told_with_it(read: Read, mesh: str) -> None:
    assert TrustDomains.NAME not in translated(read, mesh + "---\nkind: MeshConfig\ntrustDomain: td1\n").extensions
    text = mesh + "---\nkind: MeshConfig\ntrustDomain: td1\ntrustDomainAliases: [cluster.local, old]\n"
    told = translated(read, text)
    assert told.extensions[TrustDomains.NAME] == TrustDomains(domains=frozenset({"td1", "cluster.local", "old"}))
    (rule,) = told.policies["shop/db"].rules
    principals = [match.value for match in rule.clauses[0].matches[0].principals]
    assert principals == [f"{domain}/ns/shop/sa/web" for domain in ("td1", "cluster.local", "old")]


@pytest.mark.parametrize("aliases", ["[a/b]", "['']", "[1]", "text"])
def test_an_alias_that_is_no_trust_domain_refuses_the_mesh_config(read: Read, aliases: str) -> None:
    _, findings = read(f"kind: MeshConfig\ntrustDomainAliases: {aliases}\n")
    assert any(finding.is_rejected and "trustDomainAliases" in finding.field for finding in findings)


_PORTS_STRICT = """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ports, namespace: shop}
spec: {selector: {matchLabels: {app: db}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {5432: {mode: STRICT}}}
"""


def test_where_a_policy_is_written_is_told_if_one_object_alone_has_made_it(read: Read, mesh: str) -> None:
    told = translated(read, mesh + policy("{}", annotations="") + _PORTS_STRICT)
    origins = {one.policy: one for one in told.extensions.values() if isinstance(one, PolicyOrigin)}
    assert set(origins) == {"shop/db", "shop/try", "shop/converted_peer_authentication_ports"}
    assert set(origins) <= set(told.policies)
    lines = (mesh + policy("{}", annotations="") + _PORTS_STRICT).splitlines()
    for name, origin in origins.items():
        assert lines[origin.line - 1].startswith("apiVersion:"), name
    everybody = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
    everybody += "metadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}\n"
    strict = translated(read, mesh + everybody)
    assert "istio-system/istio_converted_static_strict" in strict.policies
    assert {name for name in strict.extensions if name.startswith("origin/")} == {"origin/shop/db"}
