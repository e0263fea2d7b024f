# SPDX-License-Identifier: Apache-2.0
"""Names and addresses of a lab, and what is refused before anything is made."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.errors import ConfigError
from nodeagent.lab.topology import (
    CONTROL,
    DEVICE_NAME_LENGTH,
    FIRST_POD_NUMBER,
    LAST_POD_NUMBER,
    OUTSIDE,
    NodeSpec,
    PodNetwork,
    PodSpec,
    Topology,
    device_name,
    netns_name,
)
from nodeagent.model.address import parse_ip


def two_nodes(*pods: PodSpec, outside: bool = False) -> Topology:
    return Topology.of(["node-a", "node-b"], pods, outside=outside)


def test_addresses_follow_from_the_numbers_of_node_and_pod() -> None:
    topology = two_nodes(
        PodSpec(name="web", node="node-a"),
        PodSpec(name="db", node="node-b", namespace="shop"),
        PodSpec(name="api", node="node-b"),
    )
    assert [place.ips for place in topology.pods] == [
        ("10.244.1.2", "fd00:244:1::2"),
        ("10.244.2.2", "fd00:244:2::2"),
        ("10.244.2.3", "fd00:244:2::3"),
    ]
    assert topology.node_place("node-b").ips == ("192.168.77.2", "fd00:77::2")
    assert topology.node_place("node-b").pod_blocks == ("10.244.2.0/24", "fd00:244:2::/64")


@pytest.mark.parametrize("pod_network", PodNetwork)
def test_pods_have_the_same_addresses_however_they_are_attached(pod_network: PodNetwork) -> None:
    topology = Topology.of(["node-a"], [PodSpec(name="web", node="node-a")], pod_network=pod_network)
    assert topology.pod_network is pod_network
    assert topology.pod_place("web").ips == ("10.244.1.2", "fd00:244:1::2")


@pytest.mark.parametrize(("outside", "names"), [(False, [CONTROL]), (True, [CONTROL, OUTSIDE])])
def test_hosts_of_the_link(*, outside: bool, names: list[str]) -> None:
    hosts = two_nodes(outside=outside).hosts
    assert [host.name for host in hosts] == ["node-a", "node-b", *names]
    assert len({ip for host in hosts for ip in host.ips}) == 2 * len(hosts)


def test_a_removed_pods_number_goes_to_its_successor() -> None:
    topology = two_nodes(PodSpec(name="one", node="node-a"), PodSpec(name="two", node="node-a"))
    successor = topology.without_pod("one").with_pod(PodSpec(name="three", node="node-a"))
    assert successor.pod_place("three").ips == topology.pod_place("one").ips
    assert successor.pod_place("two") == topology.pod_place("two")


@pytest.mark.parametrize(
    ("pods", "words"),
    [
        pytest.param([PodSpec(name="web", node="node-c")], "no node 'node-c'", id="unknown node"),
        pytest.param([PodSpec(name="Web", node="node-a")], "cannot name", id="capital letter"),
        pytest.param([PodSpec(name="", node="node-a")], "cannot name", id="empty"),
        pytest.param([PodSpec(name="../x", node="node-a")], "cannot name", id="path"),
        pytest.param([PodSpec(name="x" * 64, node="node-a")], "cannot name", id="too long"),
        pytest.param([PodSpec(name="wire", node="node-a")], "lab's own", id="reserved"),
        pytest.param([PodSpec(name="cni0", node="node-a")], "lab's own", id="the bridge of bridged pods"),
        pytest.param([PodSpec(name="node-b", node="node-a")], "already has", id="name of a node"),
        pytest.param(
            [PodSpec(name="web", node="node-a"), PodSpec(name="web", node="node-b", namespace="other")],
            "already has",
            id="same name in another namespace",
        ),
    ],
)
def test_a_pod_that_cannot_be_is_refused(pods: list[PodSpec], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        two_nodes(*pods)


@pytest.mark.parametrize("mtu", [0, 1279, 65536])
def test_an_impossible_mtu_is_refused(mtu: int) -> None:
    with pytest.raises(ConfigError, match="MTU"):
        Topology.of(["a"], mtu=mtu)


@pytest.mark.parametrize("nodes", [[], [f"n{i}" for i in range(201)], ["a", "a"], [NodeSpec(name="control")]])
def test_impossible_nodes_are_refused(nodes: list[str | NodeSpec]) -> None:
    with pytest.raises(ConfigError):
        Topology.of(nodes)


def test_a_full_node_is_refused() -> None:
    room = LAST_POD_NUMBER - FIRST_POD_NUMBER + 1
    topology = Topology.of(["a"], [PodSpec(name=f"p{i}", node="a") for i in range(room)])
    assert all(parse_ip(ip) == ip for place in topology.pods for ip in place.ips)
    with pytest.raises(ConfigError, match="full"):
        topology.with_pod(PodSpec(name="more", node="a"))


def test_asking_for_a_pod_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(ConfigError, match="no pod 'x'") as caught:
        two_nodes(PodSpec(name="web", node="node-a")).pod_place("x")
    assert "web" in caught.value.check


@given(st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=63))
def test_device_names_fit_and_carry_the_prefix(name: str) -> None:
    assert device_name(name).startswith("na-")
    assert len(device_name(name)) <= DEVICE_NAME_LENGTH


def test_long_names_with_a_common_beginning_stay_apart() -> None:
    assert device_name("frontend-5d8f7-abcde") != device_name("frontend-5d8f7-abcdf")


@pytest.mark.parametrize(("run", "expected"), [(1, "na-web"), (2, "na-web.2"), (13, "na-web.13")])
def test_names_of_namespaces_are_distinct_by_run(run: int, expected: str) -> None:
    assert netns_name(run, "web") == expected
