# SPDX-License-Identifier: Apache-2.0
"""The cases of tests/unit/agent/test_kubernetes_pods.py, from a real API to the capture and back."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent.agent.enrolment import Claim, LocalPods
from nodeagent.kernel.pod_namespaces import Namespace
from nodeagent.kubernetes.api import ApiRefused
from nodeagent.kubernetes.node_pods import Patch
from nodeagent.model.address import Ip
from nodeagent.model.opt_in import MODE_LABEL
from nodeagent.model.pod import LocalPod
from tests.apiserver.server import RealKube
from tests.kube_api import ASKED, namespace, pod
from tests.kube_copy import PATIENCE_SECONDS, eventually, in_a_loop
from tests.kube_node import Node as AnyNode
from tests.kube_node import run

pytestmark = pytest.mark.apiserver

Node = AnyNode[RealKube]
OUT = {MODE_LABEL: "none"}


def is_annotated(node: Node, name: str) -> Callable[[], bool]:
    return lambda: node.kube.annotation(name) == "enabled"


def test_a_pod_is_named_with_its_namespace_and_annotated_when_it_is_captured(node: Node) -> None:
    async def scenario() -> None:
        node.is_capturing = False
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.names() == {"web": "/run/netns/a"})
        web = LocalPod("shop", "web", "/run/netns/a", node.kube.pods()["web"]["uid"])
        assert node.told[-1] == LocalPods((web,), {web: Claim(frozenset({Ip("10.0.0.1")}), is_wanted=True)})
        assert node.kube.annotation("web") is None
        node.is_capturing = True
        node.settled()
        await eventually(is_annotated(node, "web"))
        assert not node.pods.error

    run(node, scenario)


def test_a_pod_of_another_node_is_none_of_ours(node: Node) -> None:
    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("elsewhere", node="node-b"), pod("web"))
        await eventually(is_annotated(node, "web"))
        assert set(node.names()) == {"web"}
        assert node.kube.annotation("elsewhere") is None

    run(node, scenario)


def test_a_namespace_enters_the_mesh_and_leaves_it(node: Node) -> None:
    async def scenario() -> None:
        node.kube.put(namespace("shop"))
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.reason("web") == "NOT_LABELLED")
        node.kube.put(namespace("shop", "ambient"))
        await eventually(is_annotated(node, "web"))
        node.kube.put(namespace("shop"))
        await eventually(lambda: node.kube.annotation("web") is None)
        node.let_go.add("web")
        node.settled()
        await eventually(lambda: node.reason("web") == "NOT_LABELLED")

    run(node, scenario)


def test_who_opts_out_loses_its_annotation_first_and_comes_back(node: Node) -> None:
    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web", annotations={"other": "stays"}))
        await eventually(is_annotated(node, "web"))
        node.kube.put(pod("web", annotations={"other": "stays"}, labels=OUT))
        await eventually(lambda: node.kube.annotation("web") is None)
        assert node.names() == {"web": "/run/netns/a"}
        node.let_go.add("web")  # xDS does not say HBONE any more
        node.settled()
        await eventually(lambda: node.reason("web") == "OPTED_OUT")
        assert node.kube.pods()["web"]["annotations"] == {"other": "stays"}
        node.let_go.clear()
        node.kube.put(pod("web", annotations={"other": "stays"}))
        await eventually(is_annotated(node, "web"))

    run(node, scenario)


def test_a_namesake_is_another_pod(node: Node) -> None:
    """Deleted and made again with the name, the address and even the path of the former one."""

    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(is_annotated(node, "web"))
        first = node.kube.pods()["web"]["uid"]
        node.kube.delete("web")
        node.namespaces.clear()
        node.kube.put(pod("web"))
        await eventually(lambda: node.reason("web") == "NO_NETNS")
        assert node.kube.annotation("web") is None, "nothing is written on the second for what the first was"
        node.sandbox("a", 2)
        await eventually(is_annotated(node, "web"))
        assert [one.uid for one in node.told[-1].pods] == [node.kube.pods()["web"]["uid"]] != [first]

    run(node, scenario)


@in_a_loop
async def test_a_patch_for_the_former_is_refused_for_its_namesake(kube: RealKube) -> None:
    kube.put(pod("web"))
    former = Patch("shop", "web", kube.pods()["web"]["uid"], "enabled")
    await kube.api.patch(former.target, former.body)
    assert kube.annotation("web") == "enabled"
    kube.delete("web")
    kube.put(pod("web"))
    with pytest.raises(ApiRefused) as caught:
        await kube.api.patch(former.target, former.body)
    assert caught.value.status == 422
    assert kube.annotation("web") is None
    kube.delete("web")
    with pytest.raises(ApiRefused) as caught:
        await kube.api.patch(former.target, former.body)
    assert caught.value.status == 404


def test_an_address_passes_to_the_next_pod_with_the_former_s_deletion(node: Node) -> None:
    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(is_annotated(node, "web"))
        node.kube.delete("web", seconds=30)  # it ends, and its runtime takes the sandbox away
        node.namespaces.clear()
        node.pods.look_again()
        await eventually(lambda: node.reason("web") == "TERMINATING")
        node.sandbox("b", 2)
        node.kube.put(pod("stranger", labels=OUT))
        await eventually(lambda: node.reason("stranger") == "OPTED_OUT")
        assert node.reason("web") == "TERMINATING"
        assert node.names() == {}, "its address took nothing along"
        node.kube.delete("web")
        node.kube.delete("stranger")
        node.kube.put(pod("next"))
        await eventually(lambda: node.names() == {"next": "/run/netns/b"})
        await eventually(is_annotated(node, "next"))

    run(node, scenario)


def test_an_api_server_that_is_killed_changes_nothing_and_is_followed_again(node: Node) -> None:
    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(is_annotated(node, "web"))
        node.kube.kill()
        await eventually(lambda: "Connect call failed" in node.pods.error)
        assert node.names() == {"web": "/run/netns/a"}
        node.kube.start()
        await eventually(node.kube.is_ready)
        node.sandbox("b", 2, "10.0.0.2")
        node.kube.put(pod("api", ips=("10.0.0.2",)))
        await eventually(is_annotated(node, "api"))
        await eventually(lambda: not node.pods.error)
        assert set(node.names()) == {"web", "api"}

    run(node, scenario)


def test_a_successor_goes_on_with_what_was_found_while_the_api_is_away(node: Node) -> None:
    async def first() -> None:
        node.sandbox("a", 1)
        node.sandbox("b", 2, "10.0.0.2")
        node.kube.put(pod("web"), pod("api", ips=("10.0.0.2",)))
        await eventually(lambda: is_annotated(node, "web")() and is_annotated(node, "api")())

    async def second() -> None:
        await eventually(lambda: bool(node.told))
        assert node.names() == {"web": "/run/netns/a"}, "api's namespace has gone meanwhile"
        node.kube.start()
        await eventually(lambda: node.reason("api") == "NO_NETNS" and not node.pods.error)
        assert node.names() == {"web": "/run/netns/a"}

    run(node, first)
    node.kube.kill()
    node.told = []
    del node.namespaces[Namespace("/run/netns/b", 2)]
    run(node, second)


def test_a_role_that_lacks_the_patch_is_told_and_nobody_s_capture_waits_for_it(node: Node) -> None:
    [role] = [one for one in node.kube.base("rbac.yaml") if one["kind"] == "ClusterRole"]

    async def scenario() -> None:
        node.kube.put({**role, "rules": role["rules"][:1]})
        node.kube.wait_answered(403, "PATCH", "/api/v1/namespaces/shop/pods/web/status")
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: "with 403" in node.pods.error)
        assert node.names() == {"web": "/run/netns/a"}
        assert node.kube.annotation("web") is None
        node.kube.put(role)
        await eventually(is_annotated(node, "web"))
        await eventually(lambda: not node.pods.error)

    run(node, scenario)


@in_a_loop
async def test_a_wrong_token_and_an_account_without_a_role_are_told(kube: RealKube, tmp_path: Path) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "shop", "name": "nobody"}}
    kube.put(account)
    for token, status, check in (("wrong", 401, "token file"), (kube.token("shop", "nobody"), 403, "ClusterRole")):
        (tmp_path / "token").write_text(token)
        with pytest.raises(ApiRefused, match=f"with {status}") as caught:
            await dataclasses.replace(kube.api, token_file=str(tmp_path / "token")).fetch("/api/v1/pods")
        assert check in caught.value.check
        assert token not in str(caught.value)


@in_a_loop
async def test_an_api_server_that_has_too_much_to_do_says_when_to_come_again(kube: RealKube) -> None:
    """And only then does the follower, whose obedience tests/unit/kubernetes/test_follow.py shows."""
    refusals: list[ApiRefused] = []

    async def ask() -> None:
        try:
            await kube.api.fetch("/api/v1/pods")
        except ApiRefused as error:
            refusals.append(error)

    kube.narrow()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not refusals:
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(ask())
    assert {error.status for error in refusals} == {429}
    assert all(error.retry_seconds >= 1 for error in refusals)
    kube.widen()
    kube.wait_answered(200)


def test_it_asks_for_no_more_than_its_role_allows(node: Node) -> None:
    """By the audit log of the API server, which has also what it refused."""

    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(is_annotated(node, "web"))

    run(node, scenario)
    assert node.kube.asked() == ASKED


def test_what_is_shipped_is_taken_without_a_warning(kube: RealKube) -> None:
    for name in kube.base("kustomization.yaml")[0]["resources"]:
        kube.apply(name)
    assert kube.warnings == []
