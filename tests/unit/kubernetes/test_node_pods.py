# SPDX-License-Identifier: Apache-2.0
"""Who is wanted, why not the others, and what is written; and that a pod is its uid."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.kubernetes.node_pods import NodePods, Patch
from nodeagent.kubernetes.objects import KubeObject, read_object
from nodeagent.kubernetes.reflector import Changed, Removed, Replaced
from nodeagent.model.address import Ip
from nodeagent.model.opt_in import MODE_LABEL, REDIRECTION, SIDECAR, Standing
from tests.kube_api import namespace, pod

ENABLED = {REDIRECTION: "enabled"}
OUT = {MODE_LABEL: "none"}


def objects(*ones: dict[str, Any]) -> tuple[KubeObject, ...]:
    return tuple(read_object(json.dumps(one).encode()) for one in ones)


def ledger(*pods: dict[str, Any], namespaces: Iterable[dict[str, Any]] | None = None) -> NodePods:
    made = NodePods("node-a", {"kube-system"})
    made.pods_changed(Replaced(objects(*pods)))
    spaces = (
        namespaces
        if namespaces is not None
        else (namespace("shop", "ambient"), namespace("kube-system", "ambient"), namespace("plain"))
    )
    made.namespaces_changed(Replaced(objects(*spaces)))
    return made


def wanted(made: NodePods, *captured: str) -> dict[str, bool]:
    """Names of candidates, and whether they are opted in."""
    return {one.name: one.is_opted_in for one in made.candidates(captured)}


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        pytest.param(pod("web"), "", id="by its namespace"),
        pytest.param(pod("web", is_terminating=True), "", id="it runs until it is gone"),
        pytest.param(pod("web", phase="Pending"), "", id="init containers talk, too"),
        pytest.param(pod("web", ips=()), "NO_ADDRESS", id="not started yet"),
        pytest.param(pod("web", phase="Succeeded"), "ENDED", id="completed"),
        pytest.param(pod("web", phase="Failed"), "ENDED", id="evicted"),
        pytest.param(pod("web", labels=OUT), "OPTED_OUT", id="opted out"),
        pytest.param(pod("web", "plain"), "NOT_LABELLED", id="of a namespace without the label"),
        pytest.param(pod("web", "other"), "NAMESPACE_UNKNOWN", id="of a namespace that is not known yet"),
        pytest.param(pod("web", "other", labels={MODE_LABEL: "ambient"}), "", id="of one that does not matter"),
        pytest.param(pod("web", "other", labels=OUT), "OPTED_OUT", id="nor here"),
        pytest.param(pod("web", "kube-system"), "EXCLUDED_NS", id="excluded"),
        pytest.param(pod("web", is_host_network=True), "HOST_NETWORK", id="in the node's namespace"),
        pytest.param(pod("web", annotations={SIDECAR: "{}"}), "SIDECAR", id="with a sidecar"),
    ],
)
def test_each_pod_is_wanted_or_has_a_reason(one: dict[str, Any], reason: str) -> None:
    made = ledger(one)
    assert wanted(made) == ({"web": True} if not reason else {})
    assert made.left_out(()) == ({(one["metadata"]["namespace"], "web"): reason} if reason else {})


def test_nothing_is_known_before_both_were_listed() -> None:
    made = NodePods("node-a", ())
    assert not made.is_known
    made.pods_changed(Changed(objects(pod("web"))[0]))
    made.pods_changed(Replaced(()))
    assert not made.is_known
    made.namespaces_changed(Replaced(()))
    assert made.is_known


def test_pods_of_other_nodes_and_without_uid_are_nobody() -> None:
    nameless = pod("nameless")
    nameless["metadata"]["uid"] = ""
    made = ledger(pod("far", node="node-b"), nameless)
    made.pods_changed(Changed(objects(pod("near", node="node-b"))[0]))
    assert (wanted(made), made.left_out(())) == ({}, {})


def test_a_namespaces_label_comes_and_goes() -> None:
    made = ledger(pod("web"), namespaces=())
    assert wanted(made) == {}
    made.namespaces_changed(Changed(objects(namespace("shop", "ambient"))[0]))
    assert wanted(made) == {"web": True}
    made.namespaces_changed(Changed(objects(namespace("shop"))[0]))
    assert wanted(made) == {}


@pytest.mark.parametrize("annotations", [{}, ENABLED])
def test_of_a_namespace_that_is_not_known_yet_each_pod_stays_as_it_is(annotations: dict[str, str]) -> None:
    """A watch of its own tells of namespaces, so after a restart a pod may be there first."""
    made = ledger(pod("web", annotations=annotations), namespaces=())
    assert wanted(made, "uid-web") == {"web": True}
    assert wanted(made) == ({"web": True} if annotations else {}), "it was captured by a predecessor"
    assert made.left_out(()) == ({} if annotations else {("shop", "web"): "NAMESPACE_UNKNOWN"})
    assert made.patches(()) == made.patches({"uid-web"}) == ()
    assert made.find("shop", "web", "uid-web") is None
    made.namespaces_changed(Changed(objects(namespace("shop"))[0]))
    assert wanted(made, "uid-web") == {"web": False}
    assert made.patches({"uid-web"}) == ((Patch("shop", "web", "uid-web", None),) if annotations else ())


def test_it_is_annotated_when_it_is_captured_and_not_before() -> None:
    made = ledger(pod("web"))
    assert made.patches(()) == ()
    assert made.patches({"uid-web"}) == (Patch("shop", "web", "uid-web", "enabled"),)
    made.pods_changed(Changed(objects(pod("web", annotations=ENABLED))[0]))
    assert made.patches({"uid-web"}) == ()
    assert made.patches(()) == (), "an agent that has just begun does not know yet"


def test_another_value_than_enabled_is_no_announcement() -> None:
    made = ledger(pod("web", annotations={REDIRECTION: "pending"}))
    assert made.patches({"uid-web"}) == (Patch("shop", "web", "uid-web", "enabled"),)


def test_who_opts_out_is_announced_first_and_let_go_when_the_mesh_has_heard() -> None:
    made = ledger(pod("web", labels=OUT, annotations=ENABLED))
    assert wanted(made) == {"web": False}, "peers tunnel to it still; and a successor knows by the annotation alone"
    assert made.patches({"uid-web"}) == (Patch("shop", "web", "uid-web", None),)
    made.pods_changed(Changed(objects(pod("web", labels=OUT))[0]))
    assert wanted(made, "uid-web") == {"web": False}
    assert made.patches({"uid-web"}) == ()
    assert wanted(made) == {}
    assert made.left_out(()) == {("shop", "web"): "OPTED_OUT"}


@pytest.mark.parametrize("one", [pod("web", is_host_network=True, annotations=ENABLED)])
def test_what_was_never_ours_is_left_alone(one: dict[str, Any]) -> None:
    assert ledger(one).patches(()) == ()


def test_an_event_about_a_former_pod_is_not_heard_by_its_namesake() -> None:
    made = ledger(pod("web", uid="second", ips=("10.0.0.2",)))
    made.pods_changed(Removed(objects(pod("web", uid="first"))[0]))
    assert [one.uid for one in made.candidates(())] == ["second"]
    assert made.patches({"first"}) == (), "captured was the former one"


def test_a_patch_names_its_pod_by_uid_and_touches_one_annotation() -> None:
    patch = Patch("shop", "web", "u", None)
    assert patch.target == "/api/v1/namespaces/shop/pods/web/status"
    assert json.loads(patch.body) == {"metadata": {"uid": "u", "annotations": {REDIRECTION: None}}}


def test_bystanders_are_those_that_live_and_are_not_wanted() -> None:
    made = ledger(
        pod("web"),
        pod("out", labels=OUT, ips=("10.0.0.2",)),
        pod("host", is_host_network=True, ips=("192.0.2.1",)),
        pod("ended", phase="Failed", ips=("10.0.0.3",)),
    )
    assert made.bystanders(()) == {"uid-out": ("10.0.0.2",)}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "delete"]),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["1", "2"]),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_whatever_happens_it_is_as_if_the_last_state_had_been_listed(
    steps: list[tuple[str, str, str, bool]],
) -> None:
    """Over events as the API sends them: a name is deleted before another pod has it."""
    made, now = ledger(), dict[str, dict[str, Any]]()
    for action, name, uid, is_out in steps:
        one = pod(name, uid=uid, labels=OUT if is_out else {})
        if action == "put":
            if name in now and now[name]["metadata"]["uid"] != uid:
                made.pods_changed(Removed(objects(now[name])[0]))
            now[name] = one
            made.pods_changed(Changed(objects(one)[0]))
        elif name in now:
            made.pods_changed(Removed(objects(now.pop(name))[0]))
    listed = ledger(*now.values())
    for captured in ((), ("1",)):
        assert set(made.candidates(captured)) == set(listed.candidates(captured))
        assert made.left_out(captured) == listed.left_out(captured)
        assert set(made.patches(captured)) == set(listed.patches(captured))


def test_a_pod_that_is_held_has_the_addresses_that_were_read_where_it_starts() -> None:
    made = ledger(pod("web", ips=()))
    assert made.find("shop", "web", "uid-web") == made.find("shop", "web", "") == ("uid-web", Standing.OPTED_IN)
    assert made.find("shop", "web", "another") is None
    assert made.find("shop", "db", "") is None
    made.hold("uid-web", (Ip("10.0.0.7"),))
    assert [one.addresses for one in made.candidates(())] == [(Ip("10.0.0.7"),)]
    assert made.left_out(()) == {}
    made.pods_changed(Changed(*objects(pod("web", ips=("10.0.0.1",)))))  # of its former sandbox
    assert [one.addresses for one in made.candidates(())] == [(Ip("10.0.0.7"),)]
    made.release("uid-web")
    assert [one.addresses for one in made.candidates(())] == [(Ip("10.0.0.1"),)]


def test_a_static_pod_is_found_by_the_uid_of_its_manifest() -> None:
    made = ledger(pod("web", annotations={"kubernetes.io/config.mirror": "of-its-manifest"}))
    assert made.find("shop", "web", "of-its-manifest") == ("uid-web", Standing.OPTED_IN)
    assert made.find("shop", "web", "another") is None


@pytest.mark.parametrize("news", [Removed(objects(pod("web"))[0]), Replaced(())])
def test_a_pod_that_has_gone_is_not_held(news: Removed | Replaced) -> None:
    made = ledger(pod("web", ips=()))
    made.hold("uid-web", (Ip("10.0.0.7"),))
    made.pods_changed(news)
    assert not made.is_held("uid-web")


def test_nothing_is_found_before_both_are_known() -> None:
    made = NodePods("node-a", ())
    made.pods_changed(Replaced(objects(pod("web"))))
    assert made.find("shop", "web", "") is None
