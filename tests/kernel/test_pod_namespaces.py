# SPDX-License-Identifier: Apache-2.0
"""What is seen of real namespaces and routes: claims, a route that ends at one, a bridge that says nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel.netns import MNT_DETACH, unmount
from nodeagent.kernel.pod_namespaces import ELSEWHERE, Namespace, look, namespace_at, read_addresses
from nodeagent.model.address import Ip
from tests.kernel.namespaces import ip, make_namespace, own_namespaces

pytestmark = [pytest.mark.kernel, pytest.mark.any_kernel]

FOUR, SIX, OTHER = Ip("10.9.0.1"), Ip("fd00:9::1"), Ip("10.9.0.2")
WANTED = frozenset({FOUR, SIX, OTHER})


class Node:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def pod(self, name: str, *addresses: str, routed: bool = False) -> Namespace:
        path = make_namespace(self.directory / name)
        ip(f"link add v{name} type veth peer name eth0 netns {path}", f"link set v{name} up")
        ip("link set eth0 up", *(f"addr add {address} dev eth0" for address in addresses), netns=path)
        if routed:
            ip(*(f"route add {address} dev v{name}" for address in addresses))
        found = namespace_at(str(path))
        assert found is not None
        return found

    def look(self, *taken: Namespace) -> tuple[dict[Namespace, frozenset[Ip]], dict[Ip, Namespace]]:
        seen = look(str(self.directory), WANTED, frozenset(taken))
        return {claim.namespace: claim.addresses for claim in seen.claims}, dict(seen.routed)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with own_namespaces():
        made = Node(tmp_path)
        yield made
        for path in tmp_path.iterdir():
            if path.is_file():
                unmount(path, MNT_DETACH)


def test_what_each_namespace_claims(node: Node) -> None:
    web, liar = node.pod("web", f"{FOUR}/32", f"{SIX}/128"), node.pod("liar", f"{FOUR}/32", "10.9.0.77/32")
    (node.directory / "nothing").mkdir()
    assert node.look() == ({web: frozenset({FOUR, SIX}), liar: frozenset({FOUR})}, {})
    assert node.look(liar) == ({web: frozenset({FOUR, SIX})}, {}), "a namespace of another pod is not asked"


def test_the_addresses_of_one_that_starts(node: Node) -> None:
    web = node.pod("web", f"{FOUR}/32", f"{SIX}/128", "fe80::7/64", "127.0.0.9/8")
    assert read_addresses(web) == {FOUR, SIX}
    assert read_addresses(node.pod("empty")) == frozenset()
    assert read_addresses(Namespace(web.path, web.inode + 1)) == frozenset(), "another one is at its path by now"


def test_a_route_to_a_pods_device_tells_whose_it_is(node: Node) -> None:
    web, liar = node.pod("web", f"{FOUR}/32", routed=True), node.pod("liar", f"{FOUR}/32", f"{OTHER}/32")
    assert node.look() == ({web: frozenset({FOUR}), liar: frozenset({FOUR, OTHER})}, {FOUR: web})


def test_a_route_out_of_the_directory(node: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
    liar = node.pod("liar", f"{FOUR}/32")
    elsewhere = Node(tmp_path_factory.mktemp("elsewhere"))
    there = elsewhere.pod("real", f"{FOUR}/32", routed=True)
    try:
        assert node.look() == ({liar: frozenset({FOUR})}, {FOUR: ELSEWHERE})
    finally:
        unmount(there.path, MNT_DETACH)


def test_a_bridge_says_nothing_of_namespaces(node: Node) -> None:
    web = node.pod("web", f"{FOUR}/24")
    ip("link add br0 type bridge", "link set br0 up", "link set vweb master br0", "route add 10.9.0.0/24 dev br0")
    assert node.look() == ({web: frozenset({FOUR})}, {})


def test_a_namespace_that_has_gone_has_nothing(node: Node) -> None:
    web = node.pod("web", f"{FOUR}/32")
    unmount(web.path, MNT_DETACH)
    Path(web.path).unlink()
    assert node.look() == ({}, {})
    assert namespace_at(web.path) is None


def test_a_directory_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KernelError, match="/nowhere") as caught:
        look("/nowhere", WANTED, frozenset())
    assert "--netns-dir" in caught.value.check
