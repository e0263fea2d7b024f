# SPDX-License-Identifier: Apache-2.0
"""From the API to the capture and back: against a server over TLS, with namespaces that the test makes up."""

import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.agent import pod_starts
from nodeagent.agent.enrolment import Claim, LocalPods
from nodeagent.agent.kubernetes_pods import FILE_NAME
from nodeagent.kernel.pod_namespaces import Namespace
from nodeagent.kubernetes.node_pods import NodePods
from nodeagent.model.address import Ip
from nodeagent.model.opt_in import MODE_LABEL, REDIRECTION
from nodeagent.model.pod import LocalPod
from tests.kube_api import ASKED, FakeKube, namespace, pod, serving
from tests.kube_node import Node as AnyNode
from tests.kube_node import run

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
Node = AnyNode[FakeKube]
OUT = {MODE_LABEL: "none"}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with serving(tmp_path / "api") as (kube, api):
        kube.put(namespace("shop", "ambient"))
        made = Node(kube, api, run_dir)
        made.take_place(monkeypatch)
        yield made


def test_a_pod_is_named_with_its_namespace_and_annotated_when_it_is_captured(
    node: Node, eventually: Eventually
) -> None:
    async def scenario() -> None:
        node.is_capturing = False
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.names() == {"web": "/run/netns/a"})
        web = LocalPod("shop", "web", "/run/netns/a", "uid-web")
        assert node.told[-1] == LocalPods((web,), {web: Claim(frozenset({Ip("10.0.0.1")}), is_wanted=True)})
        assert node.kube.annotation("web") is None
        node.is_capturing = True
        node.settled()
        await eventually(lambda: node.kube.annotation("web") == "enabled")
        assert not node.pods.error
        assert len(node.kube.patched) == 1

    run(node, scenario)


def test_nothing_is_said_before_pods_and_namespaces_are_known(node: Node, eventually: Eventually) -> None:
    """A predecessor's captures must not be undone for want of news."""

    async def scenario() -> None:
        with node.kube.condition:
            node.kube.refusals += [(500, {})] * 6
        await eventually(lambda: not node.kube.refusals)
        assert all(local.pods == () for local in node.told[:-1])
        await eventually(lambda: bool(node.told))

    run(node, scenario)


def test_a_namespace_that_comes_late_is_looked_for_again(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        node.kube.put(pod("web"))
        await eventually(lambda: node.reason("web") == "NO_NETNS" and node.looks > 2)
        node.sandbox("a", 1)
        await eventually(lambda: node.names() == {"web": "/run/netns/a"})
        looks = node.looks
        node.kube.put(pod("web", labels={"app": "web"}))
        node.pods.look_again()
        await eventually(lambda: node.kube.annotation("web") == "enabled")
        assert node.looks == looks, "who was found is not looked for"

    run(node, scenario)


def test_who_opts_out_loses_its_annotation_first_and_is_let_go_by_the_mesh(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.kube.annotation("web") == "enabled")
        node.kube.put(pod("web", labels=OUT, annotations={REDIRECTION: "enabled", "other": "stays"}))
        await eventually(lambda: node.kube.annotation("web") is None)
        assert node.names() == {"web": "/run/netns/a"}
        await eventually(lambda: [claim.is_wanted for claim in node.told[-1].claims.values()] == [False])
        node.let_go.add("web")  # xDS does not say HBONE any more
        node.settled()
        await eventually(lambda: node.reason("web") == "OPTED_OUT")
        assert node.names() == {}
        assert node.kube.objects["pods"]["shop", "web"]["metadata"]["annotations"] == {"other": "stays"}

    run(node, scenario)


def test_a_namesake_is_another_pod(node: Node, eventually: Eventually) -> None:
    """Deleted and made again with the name, the address and even the path of the former one."""

    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web", uid="first"))
        await eventually(lambda: node.kube.annotation("web") == "enabled")
        with node.kube.condition:
            node.kube.delete("web")
            node.kube.put(pod("web", uid="second"))
            node.namespaces.clear()
        await eventually(lambda: node.reason("web") == "NO_NETNS")
        assert node.kube.annotation("web") is None, "nothing is written on the second for what the first was"
        node.sandbox("a", 2)
        await eventually(lambda: node.kube.annotation("web") == "enabled")
        assert [one.uid for one in node.told[-1].pods] == ["second"]
        assert [body["metadata"]["uid"] for _, _, body in node.kube.patched] == ["first", "second"]

    run(node, scenario)


def test_an_address_that_passes_to_another_pod_takes_no_identity_along(node: Node, eventually: Eventually) -> None:
    """The sandbox of `web` dies, and its address is given to one that is not in the mesh, before the API says so."""

    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.names() == {"web": "/run/netns/a"})
        node.namespaces.clear()
        node.sandbox("b", 2)
        node.pods.look_again()
        await eventually(lambda: node.reason("web") == "NO_NETNS")
        node.kube.put(pod("stranger", labels=OUT))
        await eventually(lambda: node.reason("stranger") == "OPTED_OUT")
        assert node.reason("web") == "NO_NETNS"
        node.kube.put(pod("web", labels={"app": "web"}))
        node.kube.put(pod("last", labels=OUT, ips=("10.0.0.9",)))
        await eventually(lambda: node.reason("last") == "OPTED_OUT")
        assert node.reason("web") == "NO_NETNS", "a label is no news of its sandbox"
        node.kube.put(pod("web", phase="Pending"))
        await eventually(lambda: node.reason("web") == "ADDRESS_CONTESTED")
        assert node.names() == {}
        node.sandbox("c", 3, "10.0.0.3")
        node.kube.put(pod("web", ips=("10.0.0.3",)))
        await eventually(lambda: node.names() == {"web": "/run/netns/c"})

    run(node, scenario)


def test_a_pod_that_is_being_deleted_gets_no_namespace_any_more(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web", is_terminating=True))
        await eventually(lambda: node.reason("web") == "TERMINATING")
        node.kube.put(pod("next"))
        await eventually(lambda: node.names() == {"next": "/run/netns/a"})

    run(node, scenario)


@pytest.mark.parametrize("status", [403, 429, 500])
def test_an_annotation_that_is_refused_is_told_and_tried_again(node: Node, eventually: Eventually, status: int) -> None:
    async def scenario() -> None:
        node.kube.refuse_patches = status
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: f"with {status}" in node.pods.error)
        node.sandbox("b", 2, "10.0.0.2")
        node.kube.put(pod("api", ips=("10.0.0.2",)))
        await eventually(lambda: set(node.names()) == {"web", "api"})  # nobody's capture waits for it
        node.kube.refuse_patches = 0
        await eventually(lambda: node.kube.annotation("web") == node.kube.annotation("api") == "enabled")
        await eventually(lambda: not node.pods.error)

    run(node, scenario)


def test_an_api_server_that_is_away_changes_nothing(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.kube.annotation("web") == "enabled" and node.kube.watches == 2)
        token = node.api.token_file
        shutil.move(token, f"{token}.away")
        node.kube.drop()
        await eventually(lambda: "token" in node.pods.error)
        assert node.names() == {"web": "/run/netns/a"}
        shutil.move(f"{token}.away", token)
        node.sandbox("b", 2, "10.0.0.2")
        node.kube.put(pod("api", ips=("10.0.0.2",)))
        await eventually(lambda: set(node.names()) == {"web", "api"} and not node.pods.error)

    run(node, scenario)


def test_a_successor_goes_on_with_what_was_found_while_the_api_is_away(node: Node, eventually: Eventually) -> None:
    async def first() -> None:
        node.sandbox("a", 1)
        node.sandbox("b", 2, "10.0.0.2")
        node.kube.put(pod("web"), pod("api", ips=("10.0.0.2",)))
        await eventually(lambda: set(node.names()) == {"web", "api"})

    async def second() -> None:
        await eventually(lambda: bool(node.told))
        assert node.names() == {"web": "/run/netns/a"}, "api's namespace has gone meanwhile"
        assert not node.kube.asked

    run(node, first)
    assert (Path(node.config.run_dir) / FILE_NAME).stat().st_mode & 0o777 == 0o600
    node.told, node.kube.asked = [], []
    del node.namespaces[Namespace("/run/netns/b", 2)]
    Path(node.api.token_file).unlink()
    run(node, second)


def test_a_successor_does_not_believe_an_api_server_that_lags_behind_its_file(
    node: Node, eventually: Eventually
) -> None:
    """Else a pod that has just come would be let go, and one that has just been enrolled leave the mesh."""
    node.kube.put(namespace("late"))
    node.kube.lag()
    node.kube.put(namespace("late", "ambient"), pod("db", "late", ips=("10.0.0.2",)), pod("web"))

    async def first() -> None:
        node.sandbox("a", 1)
        node.sandbox("b", 2, "10.0.0.2")
        await eventually(lambda: {node.kube.annotation("web"), node.kube.annotation("db", "late")} == {"enabled"})

    async def second() -> None:
        await eventually(lambda: node.kube.watches == 2)
        node.kube.put(pod("other", labels=OUT, ips=("10.0.0.3",)))
        await eventually(lambda: node.reason("other") == "OPTED_OUT")
        assert [{one.name for one in local.pods} for local in node.told] == [{"db", "web"}] * len(node.told)
        assert node.kube.patched == []

    run(node, first)
    node.told, node.kube.patched = [], []
    run(node, second)


def test_an_api_server_whose_data_is_older_than_the_file_is_believed_in_the_end(
    node: Node, eventually: Eventually
) -> None:
    """Of a backup, say: there is nothing newer."""

    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.kube.annotation("web") == "enabled")

    run(node, scenario)
    node.kube.delete("web")
    node.kube.version, node.kube.history = 50, []
    node.told = []
    run(node, scenario)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'[{"pod": 7}]'])
def test_a_broken_file_is_no_list(node: Node, content: bytes, eventually: Eventually) -> None:
    (Path(node.config.run_dir) / FILE_NAME).write_bytes(content)

    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.names() == {"web": "/run/netns/a"})
        assert json.loads((Path(node.config.run_dir) / FILE_NAME).read_bytes())

    run(node, scenario)


def test_a_file_that_cannot_be_written_is_told(node: Node, eventually: Eventually) -> None:
    (Path(node.config.run_dir) / "kubernetes-pods.partial").mkdir()

    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: FILE_NAME in node.pods.error)
        assert node.names() == {"web": "/run/netns/a"}

    run(node, scenario)


def test_namespaces_that_cannot_be_looked_at_are_told(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        node.error = "/run/netns: Permission denied"
        node.kube.put(pod("web"))
        await eventually(lambda: node.error in node.pods.error)
        node.error = ""
        node.sandbox("a", 1)
        await eventually(lambda: node.names() == {"web": "/run/netns/a"} and not node.pods.error)

    run(node, scenario)


def test_it_says_what_it_does(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        assert "has not answered yet" in node.pods.described()
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: "1 pods with a network namespace" in node.pods.described())
        assert node.api.name in node.pods.described()
        assert node.pods.since

    run(node, scenario)


def test_it_asks_for_no_more_than_its_role_allows(node: Node, eventually: Eventually) -> None:
    """The manifest's verbs are compared with these in tests/unit/daemonset."""

    async def scenario() -> None:
        node.sandbox("a", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.kube.annotation("web") == "enabled")

    run(node, scenario)
    assert set(node.kube.asked) == ASKED


def test_a_pod_that_starts_is_named_before_the_kubelet_has_an_address_for_it(
    node: Node, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = frozenset({Ip("10.0.0.7")})

    async def first() -> None:
        node.sandbox("old", 1)
        node.kube.put(pod("web"))
        await eventually(lambda: node.names() == {"web": "/run/netns/old"})
        del node.namespaces[Namespace("/run/netns/old", 1)]
        place = node.sandbox("new", 2, "10.0.0.7")
        monkeypatch.setattr(pod_starts, "namespace_at", node.namespace_at)
        monkeypatch.setattr(pod_starts, "read_addresses", {place: held}.__getitem__)
        assert await node.pods.starts.start("shop", "web", "uid-web", "/var/run/netns/new") == ""
        assert node.names() == {"web": "/run/netns/new"}
        assert list(node.told[-1].claims.values()) == [Claim(held, is_wanted=True, is_held=True)]

    async def second() -> None:
        await eventually(lambda: bool(node.told))
        assert list(node.told[-1].claims.values()) == [Claim(held, is_wanted=True, is_held=True)]
        node.namespaces.clear()
        node.pods.look_again()
        await eventually(lambda: node.reason("web") == "NO_NETNS")
        node.sandbox("a", 3)
        node.kube.put(pod("web", phase="Pending"))
        await eventually(lambda: node.names() == {"web": "/run/netns/a"})
        assert [claim.is_held for claim in node.told[-1].claims.values()] == [False]

    run(node, first)
    node.told = []
    run(node, second)


def test_a_namespace_is_asked_for_anew_before_a_pod_starts_uncaptured(
    node: Node, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its watch is held up: the list is there, and no event since."""
    node.kube.put(namespace("plain"), pod("web", "plain", ips=()))

    async def scenario() -> None:
        await eventually(lambda: bool(node.told) and ("plain", "web") in node.told[-1].left_out)
        assert await node.pods.starts.start("plain", "web", "uid-web", "/var/run/netns/a") == "NOT_LABELLED"
        monkeypatch.setattr(NodePods, "namespaces_changed", lambda *_: None)
        node.kube.put(namespace("plain", "ambient"))
        with pytest.raises(pod_starts.PodHeld):
            await node.pods.starts.start("plain", "web", "uid-web", "/var/run/netns/a")
        node.kube.delete("plain", kind="namespaces")
        with pytest.raises(pod_starts.PodHeld):
            await node.pods.starts.start("plain", "web", "uid-web", "/var/run/netns/a")

    run(node, scenario)
