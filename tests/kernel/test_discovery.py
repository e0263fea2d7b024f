# SPDX-License-Identifier: Apache-2.0
"""A pod's device against real ones: routed, bridged, several that lead to one pod, indexes that are used again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.kernel.maps import Maps
from nodeagent.kernel.pins import Pins
from tests.kernel.conftest import Node, Pod
from tests.kernel.namespaces import ip, own_namespaces, run

pytestmark = pytest.mark.kernel


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Node]:
    """A node for one test, which may change its devices."""
    with own_namespaces():
        made = Node(tmp_path)
        try:
            yield made
        finally:
            made.close()


def _second_device(pod: Pod, name: str, inside: str) -> None:
    ip(f"link add {name} type veth peer name {inside} netns {pod.netns}", f"link set {name} up")
    ip(f"link set {inside} up", netns=pod.netns)


def _bridge(node: Node, port: str) -> None:
    """Of pod a's device and this one, by which the node reaches pod a."""
    ip(
        "link add br0 type bridge",
        "link set br0 up",
        "link set va master br0",
        f"link set {port} master br0",
        *(f"route replace {block} dev br0" for block in node.a.addresses),
    )


def _captured(node: Node) -> list[str]:
    node.enrol(node.a)
    return [pod.device for pod in node.steering.pods() if pod.is_captured]


def test_of_two_devices_the_one_that_the_nodes_route_takes(own: Node) -> None:
    """The pod renames its devices as it likes; where the node sends is the node's to say."""
    _second_device(own.a, "vsecond", "net1")
    renamed = ("eth0 down", "eth0 name main", "net1 down", "net1 name eth0")
    ip(*(f"link set {change}" for change in renamed), netns=own.a.netns)
    assert _captured(own) == ["va"]
    ip(*(f"route replace {block} dev vsecond" for block in own.a.addresses))
    assert _captured(own) == ["vsecond"]


def test_of_two_ports_of_a_bridge_the_one_behind_which_it_sees_the_pod(own: Node) -> None:
    _second_device(own.a, "vsecond", "net1")
    first, _ = own.a.addresses
    _bridge(own, "vsecond")
    ip(f"neigh replace {first} lladdr 02:00:00:00:00:77 dev br0 nud permanent")
    for port in ("vsecond", "va"):
        run(f"bridge fdb replace 02:00:00:00:00:77 dev {port} master static")
        assert _captured(own) == [port]


def test_a_bridge_that_has_not_seen_the_pod_yet(own: Node) -> None:
    _second_device(own.a, "vsecond", "net1")
    _bridge(own, "vsecond")
    assert _captured(own) == ["va"], "CNI's name inside"


def test_a_forged_mac_lends_no_identity(own: Node) -> None:
    """Pod x makes the bridge believe that a's address is behind its own port."""
    first, _ = own.a.addresses
    _bridge(own, "vx")
    ip(f"neigh replace {first} lladdr 02:00:00:00:00:77 dev br0 nud permanent")
    run("bridge fdb replace 02:00:00:00:00:77 dev vx master static")
    assert _captured(own) == ["va"]


def test_an_index_that_is_used_again_has_nothing_of_the_former_pod(own: Node) -> None:
    index = own.ifindex(own.a)
    own.enrol(own.a, own.b)
    ip("link del va")
    ip(f"link add vx2 index {index} type veth peer name eth1 netns {own.x.netns}", "link set vx2 up")
    assert "nodeagent" not in run("tc filter show dev vx2 ingress 2>/dev/null || true")
    own.enrol(own.a, own.b)
    assert [(pod.name, pod.reason) for pod in own.steering.pods()] == [("a", "NO_DEVICE"), ("b", "")]
    maps = Maps(Pins(own.bpffs).maps)
    try:
        assert {source.device for source in maps.sources.rows()} == {own.ifindex(own.b)}
        assert maps.pods.rows().keys() == set(own.b.addresses)
        assert maps.pod_counts.find(index) is None
    finally:
        maps.close()
