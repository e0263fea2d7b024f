# SPDX-License-Identifier: Apache-2.0
"""What explain says is what the proxy would do, told so that an operator can act on it."""

from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.admin.explain import Question, destinations, explain
from nodeagent.admin.state import AgentState, Captured, CertificateState, CertificateView, OpenConnection, PodView
from nodeagent.errors import ConfigError
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Action, Policy, PolicyScope, Rule
from nodeagent.model.security import DryRun, PolicyOrigin

StateOf = Callable[..., AgentState]


def _ask(state: AgentState, source: str, destination: str, port: int, **more: Any) -> dict[str, Any]:
    return explain(state, Question(source=source, destination=destination, port=port, **more))


@pytest.mark.parametrize(
    ("source", "destination", "port", "more", "verdict", "reason"),
    [
        pytest.param("shop/web", "shop/db", 5432, {}, "ALLOWED", "", id="a service, allowed"),
        pytest.param("web", "db.shop", 5432, {}, "ALLOWED", "", id="short names"),
        pytest.param("10.241.0.12", "10.96.0.5", 5432, {}, "ALLOWED", "", id="addresses"),
        pytest.param("fd00::12", "fd00::1", 5432, {}, "ALLOWED", "", id="IPv6 addresses"),
        pytest.param("web", "pod/shop/db-0", 5433, {}, "DENIED", "policy_not_allowed", id="another port"),
        pytest.param("batch/job", "shop/db", 5432, {}, "DENIED", "policy_not_allowed", id="another identity"),
        pytest.param("web", "db", 5432, {"is_plaintext": True}, "DENIED", "policy_denied", id="plaintext under STRICT"),
        pytest.param("old/legacy", "db-0", 5432, {}, "DENIED", "policy_denied", id="a client outside the mesh"),
        pytest.param("192.0.2.7", "db-1", 5432, {}, "DENIED", "policy_denied", id="an address that nobody knows"),
        pytest.param("web", "old/legacy", 80, {}, "PASSES", "", id="a destination outside the mesh"),
        pytest.param("web", "192.0.2.7", 80, {}, "PASSES", "", id="an unknown destination"),
        pytest.param("web", "job", 80, {}, "ALLOWED", "", id="no policy applies"),
        pytest.param("web", "late", 80, {}, "PENDING", "policy_pending", id="a policy has not come"),
        pytest.param("web", "empty", 80, {}, "REFUSED", "no_healthy_endpoint", id="no endpoint"),
        pytest.param("web", "db", 80, {}, "REFUSED", "no_service_port", id="not a port of the service"),
        pytest.param("web", "job", 15008, {}, "REFUSED", "self_call", id="the proxy's own port"),
        pytest.param(
            "batch/job",
            "db",
            5432,
            {"identity": Identity("cluster.local", "shop", "web")},
            "ALLOWED",
            "",
            id="another identity on request",
        ),
    ],
)
def test_verdicts(
    state_of: StateOf, source: str, destination: str, port: int, more: dict[str, Any], verdict: str, reason: str
) -> None:
    answer = _ask(state_of(), source, destination, port, **more)
    assert answer["verdict"] == verdict
    assert [route["reason"] for route in answer["routes"]] == [reason]


def test_endpoints_with_the_same_answer_are_told_together(state_of: StateOf) -> None:
    answer = _ask(state_of(), "web", "db", 5432)
    (route,) = answer["routes"]
    assert route["endpoints"] == ["shop/db-0 (10.242.0.1:5432, node-b)", "shop/db-1 (10.242.0.2:5432, node-b)"]
    assert route["transport"] == "HBONE"
    assert route["words"] == "allowed by shop/db-allow"


def test_endpoints_with_different_answers_are_told_apart(state_of: StateOf, mesh: Mesh) -> None:
    uid = "Kubernetes//Pod/shop/db-1"
    fields = mesh.workloads[uid]
    open_db = type(fields)(**{name: getattr(fields, name) for name in fields.__struct_fields__} | {"policies": ()})
    mesh.apply(Changes(workloads=(open_db,)))
    answer = _ask(state_of(), "batch/job", "db", 5432)
    assert answer["verdict"] == "MIXED"
    assert [route["verdict"] for route in answer["routes"]] == ["DENIED", "ALLOWED"]


def test_the_source_is_told_with_its_capture(state_of: StateOf) -> None:
    source = _ask(state_of(), "web", "db", 5432)["source"]
    assert source == {
        "name": "shop/web",
        "addresses": ["10.241.0.12", "fd00::12"],
        "node": "node-a",
        "identity": "spiffe://cluster.local/ns/shop/sa/web",
        "captured": "yes (veth3, 812 connections)",
    }


def test_a_miss_names_the_nearest_rule_and_the_remedy(state_of: StateOf) -> None:
    (route,) = _ask(state_of(), "web", "pod/shop/db-0", 5433)["routes"]
    assert route["nearest_miss"]["policy"] == "shop/db-allow"
    assert route["nearest_miss"]["failing_clauses"] == 1
    assert route["to_allow"] == ['add "5433" to ports in rule 1 of shop/db-allow']
    assert [policy["policy"] for policy in route["policies"]] == [
        "istio-system/istio_converted_static_strict",
        "shop/db-allow",
    ]
    assert any("nearest miss" in line for line in route["working"])


def test_a_plaintext_client_is_told_where_its_identity_would_come_from(state_of: StateOf) -> None:
    (route,) = _ask(state_of(), "web", "db", 5432, is_plaintext=True)["routes"]
    assert route["transport"] == "TCP"
    (sentence,) = route["to_allow"]
    assert sentence.startswith("istio-system/istio_converted_static_strict denies clients without identity: ")


def test_a_pending_policy_is_named(state_of: StateOf) -> None:
    (route,) = _ask(state_of(), "web", "late", 80)["routes"]
    assert route["missing"] == ["shop/not-yet"]
    assert route["to_allow"] == ["the control plane has to send shop/not-yet, which the destination names"]


def test_warnings(state_of: StateOf, mesh: Mesh) -> None:
    mesh.apply(
        Changes(
            policies=(
                Policy(
                    name="odd",
                    namespace="shop",
                    scope=PolicyScope.NAMESPACE,
                    action=Action.ALLOW,
                    rules=(Rule(),),
                ),
            )
        )
    )
    state = state_of(
        pods=(PodView(namespace="shop", pod="web", captured=Captured.PENDING, reason="ATTACH_FAILED"),),
        certificates=(
            CertificateView(
                identity=Identity("cluster.local", "shop", "web"),
                state=CertificateState.UNAVAILABLE,
                last_error="the CA refused",
            ),
        ),
    )
    assert _ask(state, "web", "db", 5432)["warnings"] == [
        "the source is in the mesh and not captured (ATTACH_FAILED): it would connect in plain text",
        "there is no certificate for spiffe://cluster.local/ns/shop/sa/web: the CA refused",
    ]


@pytest.mark.parametrize(
    ("question", "words", "check"),
    [
        pytest.param({"source": "shop/wbe"}, "nothing called 'shop/wbe'", "Did you mean shop/web", id="misspelt"),
        pytest.param({"source": "wbe"}, "nothing called 'wbe'", "Did you mean shop/web", id="misspelt and short"),
        pytest.param({"source": "nobody-like-this"}, "nothing called", "`nodeagent workloads`", id="unknown"),
        pytest.param({"destination": "deployment/shop/db"}, "names no pod", "Write ns/name", id="another kind"),
        pytest.param(
            {"is_plaintext": True, "identity": Identity("a", "b", "c")}, "--identity", "--plaintext", id="contradiction"
        ),
        pytest.param(
            {"source": "old/legacy", "identity": Identity("a", "b", "c")}, "no identity", "in the mesh", id="no TLS"
        ),
    ],
)
def test_questions_that_cannot_be_answered(state_of: StateOf, question: dict[str, Any], words: str, check: str) -> None:
    asked: dict[str, Any] = {"source": "web", "destination": "db", "port": 5432} | question
    with pytest.raises(ConfigError, match=words) as caught:
        explain(state_of(), Question(**asked))
    assert check in caught.value.check


def test_the_same_name_in_two_namespaces_is_ambiguous(state_of: StateOf, mesh: Mesh) -> None:
    job = next(workload for workload in mesh.workloads.values() if workload.name == "job")
    fields = {name: getattr(job, name) for name in job.__struct_fields__}
    mesh.apply(Changes(workloads=(type(job)(**fields | {"uid": "other", "namespace": "shop"}),)))
    with pytest.raises(ConfigError, match="may mean batch/job, shop/job"):
        _ask(state_of(), "job", "db", 5432)


def test_a_dry_run_is_shown_beside_the_verdict(state_of: StateOf, mesh: Mesh) -> None:
    assert _ask(state_of(), "web", "db", 5432)["routes"][0]["dry_run"] == ""
    tried = Policy(
        name="try", namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.DENY, rules=(Rule(),), is_dry_run=True
    )
    mesh.apply(Changes(extensions=(DryRun(policy=tried, namespace="shop"),)))
    answer = _ask(state_of(), "web", "db", 5432)
    (route,) = answer["routes"]
    assert (answer["verdict"], route["words"]) == ("ALLOWED", "allowed by shop/db-allow")
    assert route["dry_run"] == "would be denied by shop/try, which it is not"
    assert any("DENY (dry run) shop/try: match" in line for line in route["working"])


def test_the_tunnel_says_who_dials_and_who_has_to_answer(state_of: StateOf) -> None:
    (route,) = _ask(state_of(), "web", "db", 5432)["routes"]
    assert route["tunnel"] == (
        "mutual TLS as cluster.local/ns/shop/sa/web; who answers has to be cluster.local/ns/shop/sa/db"
    )
    assert _ask(state_of(), "web", "old/legacy", 80)["routes"][0]["tunnel"] == ""
    assert _ask(state_of(), "web", "batch/job", 80)["routes"][0]["tunnel"] == "", "between pods of one node"


def test_a_destination_that_no_program_guards_is_warned_of(state_of: StateOf) -> None:
    pods = (PodView(namespace="batch", pod="job", captured=Captured.PENDING, reason="NO_NETNS"),)
    assert _ask(state_of(pods=pods), "web", "job", 80)["warnings"] == [
        "the destination batch/job is in the mesh and not captured (NO_NETNS): its policies are not enforced"
    ]


def test_the_last_one_like_it_is_told(state_of: StateOf, connection: OpenConnection) -> None:
    state = state_of()
    connection.record.reason = "closed"
    seen = explain(state, Question(source="web", destination="db", port=5432), [connection.record])["last_seen"]
    assert isinstance(seen, dict)
    assert (seen["verdict"], seen["reason"], seen["recent"]) == ("allowed", "closed", 1)
    assert (
        explain(state, Question(source="web", destination="job", port=5432), [connection.record])["last_seen"] is None
    )


def test_whom_it_may_reach(state_of: StateOf) -> None:
    question = Question(source="web", destination="db", port=5432)
    assert [found.name for found in destinations(state_of(), question)] == ["db-0", "db-1"]
    assert list(destinations(state_of(), Question(source="web", destination="192.0.2.7", port=80))) == []


def test_where_policies_are_written_is_told_as_far_as_it_is_known(state_of: StateOf, mesh: Mesh) -> None:
    (route,) = _ask(state_of(), "batch/job", "shop/db", 5432)["routes"]
    assert route["files"] == {}, "an istiod does not say it"
    name = "shop/db-allow"
    assert name in {policy["policy"] for policy in route["policies"]}
    mesh.apply(Changes(extensions=(PolicyOrigin(policy=name, file="mesh.d/30-policy.yaml", line=7),)))
    (route,) = _ask(state_of(), "batch/job", "shop/db", 5432)["routes"]
    assert route["files"] == {name: "mesh.d/30-policy.yaml:7"}
    mesh.apply(Changes(removed_extensions=(f"origin/{name}",)))
    (route,) = _ask(state_of(), "batch/job", "shop/db", 5432)["routes"]
    assert route["files"] == {}
