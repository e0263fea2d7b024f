# SPDX-License-Identifier: Apache-2.0
"""Which pods are enrolled, why the others are not, and what a broken list says."""

from pathlib import Path

import pytest

from nodeagent.agent.enrolment import EnrolledPod, NotEnrolled, decide_enrolment, read_pods
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.pod import LocalPod
from nodeagent.model.workload import TunnelProtocol, Workload

WEB = LocalPod("shop", "web", "/run/netns/web")
ADDRESSES = (Ip("10.1.0.1"), Ip("fd00::1"))


def _workload(
    name: str,
    *,
    node: str = "node-a",
    protocol: TunnelProtocol = TunnelProtocol.HBONE,
    addresses: tuple[Ip, ...] = ADDRESSES,
    is_host_network: bool = False,
) -> Workload:
    return Workload(
        uid=name,
        name=name,
        namespace="shop",
        service_account=name,
        node=node,
        protocol=protocol,
        addresses=addresses,
        is_host_network=is_host_network,
    )


def _mesh(*workloads: Workload) -> Mesh:
    mesh = Mesh()
    mesh.apply(Changes(workloads=workloads))
    return mesh


def test_a_pod_that_both_lists_have_is_enrolled() -> None:
    web = _workload("web")
    found = decide_enrolment(_mesh(web), "node-a", [WEB, WEB])
    assert found.enrolled == (EnrolledPod(WEB, web),)
    assert found.others == ()
    assert found.addresses == frozenset(ADDRESSES)
    assert found.identities == {Identity("cluster.local", "shop", "web")}


@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        (None, "UNKNOWN_WORKLOAD"),
        (_workload("web", node="node-b"), "UNKNOWN_WORKLOAD"),
        (_workload("web", protocol=TunnelProtocol.TCP), "NOT_IN_MESH"),
        (_workload("web", is_host_network=True), "HOST_NETWORK"),
        (_workload("web", addresses=()), "NO_ADDRESS"),
    ],
)
def test_why_a_local_pod_is_not_enrolled(workload: Workload | None, reason: str) -> None:
    found = decide_enrolment(_mesh(*([workload] if workload else [])), "node-a", [WEB])
    assert found.enrolled == ()
    assert found.others == (NotEnrolled("shop", "web", reason),)


def test_a_workload_whose_namespace_nobody_knows_is_told_and_one_outside_the_mesh_is_not() -> None:
    mesh = _mesh(_workload("web"), _workload("plain", protocol=TunnelProtocol.TCP, addresses=(Ip("10.1.0.2"),)))
    found = decide_enrolment(mesh, "node-a", [])
    assert found.others == (NotEnrolled("shop", "web", "NO_NETNS"),)


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pods.yaml"
    path.write_text("- {namespace: shop, name: web, netns: /run/netns/web}\n")
    assert read_pods(str(path)) == (WEB,)
    path.write_text("")
    assert read_pods(str(path)) == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- [", "pods.yaml"),
        ("namespace: shop", "Expected `array`"),
        ("- {namespace: shop, name: web}", "`netns` - at `$[0]`"),
        ("- {namespace: shop, name: 3, netns: /x}", "$[0].name"),
        (b"\xff", "pods.yaml"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = tmp_path / "pods.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        read_pods(str(path))
    assert "--pods-file" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.check


def test_a_missing_file_is_the_operators_to_correct(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_pods(str(tmp_path / "nothing"))
