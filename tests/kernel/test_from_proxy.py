# SPDX-License-Identifier: Apache-2.0
"""from_proxy, row by row of the truth table on top of bpf/from_proxy.c: what a worker can send, and what it cannot."""

from dataclasses import replace

import pytest

from tests.kernel.conftest import (
    ACK,
    MARK_PROXY,
    REDIRECT,
    RST,
    SHOT,
    SYN,
    SYN_ACK,
    UDP,
    Family,
    Kernel,
    Packet,
    icmp_error,
)
from tests.kernel.namespaces import mac

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"ethertype": 0x0806}, "PROXY_NOT_TCP", id="ARP"),
        pytest.param({"ethertype": 0x88B5}, "PROXY_NOT_TCP", id="another ethertype"),
        pytest.param({"protocol": UDP}, "PROXY_NOT_TCP", id="UDP"),
        pytest.param({"cut": 1}, "CUT_SHORT", id="cut"),
    ],
)
def test_row_1_only_whole_tcp(kernel: Kernel, family: Family, change: dict[str, int], reason: str) -> None:
    packet = Packet(family.pod, family.remote, **change)  # type: ignore[arg-type]
    assert kernel.from_proxy(packet)[:2] == (reason, SHOT)


def test_row_1_no_icmp_error_either(kernel: Kernel, family: Family) -> None:
    error = icmp_error(Packet(family.pod, family.remote, ACK), family.remote)
    assert kernel.from_proxy(error)[:2] == ("PROXY_NOT_TCP", SHOT)


def test_row_1_options_and_fragments(kernel: Kernel) -> None:
    assert kernel.from_proxy(Packet("10.99.1.2", "10.99.2.2", first_byte=0x46)).reason == "IP_OPTIONS"
    assert kernel.from_proxy(Packet("10.99.1.2", "10.99.2.2", fragment=0x2000)).reason == "FRAGMENT"
    assert kernel.from_proxy(Packet("fd99:1::2", "fd99:2::2", extensions=(0,))).reason == "EXTENSION_HEADERS"


def test_row_2_a_tunnel_between_local_pods_comes_back_to_the_proxy(kernel: Kernel, family: Family) -> None:
    opening = Packet(family.pod, family.neighbour, destination_port=15008)
    assert kernel.from_proxy(opening)[:2] == ("INTO_PROXY", REDIRECT)
    for packet in (opening.reply(SYN_ACK), replace(opening, flags=ACK), opening.reply(ACK)):
        with kernel.proxy_socket(packet):
            assert kernel.from_proxy(packet)[:2] == ("INTO_PROXY", REDIRECT)
        assert kernel.from_proxy(packet).reason == "INTO_POD", "a pod dialled this port itself, and is answered"


def test_row_2_is_for_this_port_and_this_nodes_pods(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.neighbour, ACK)
    with kernel.proxy_socket(packet):
        assert kernel.from_proxy(packet).reason == "INTO_POD"
    assert kernel.from_proxy(Packet(family.pod, family.remote, destination_port=15008)).reason == "INTO_NODE"
    assert kernel.from_proxy(Packet(family.remote, family.pod, destination_port=15008)).reason == "INTO_POD"


def test_row_3_a_connection_of_the_proxy_ends_the_hairpin_whose_answer_it_would_be(
    kernel: Kernel, family: Family
) -> None:
    opening = Packet(family.pod, family.neighbour, source_port=80, destination_port=40000)
    kernel.to_pod(opening.reply(SYN))
    assert len(kernel.maps.hairpins.keys()) == 1
    assert kernel.from_proxy(opening).reason == "INTO_POD"
    assert kernel.maps.hairpins.keys() == set()


def test_row_3_a_hairpins_own_connection_to_the_application_leaves_it(kernel: Kernel, family: Family) -> None:
    """It is opened in the client's name, from the client's port: the same ends the other way round."""
    opening = Packet(family.neighbour, family.pod)
    kernel.to_pod(opening)
    assert kernel.from_proxy(opening).reason == "INTO_POD"
    assert kernel.from_proxy(replace(opening, flags=ACK)).reason == "INTO_POD"
    assert kernel.from_proxy(opening.reply(ACK)).reason == "INTO_NODE", "what answers the client is undone by the node"


@pytest.mark.parametrize("flags", [SYN, SYN_ACK, ACK, RST])
def test_row_4_into_a_local_pod_with_any_source(kernel: Kernel, family: Family, flags: int) -> None:
    for source in (family.remote, family.outside, family.neighbour):
        outcome = kernel.from_proxy(Packet(source, family.pod, flags))
        assert outcome[:3] == ("INTO_POD", REDIRECT, 0)
        assert outcome.frame[:12] == mac("eth0", kernel.node.a.netns) + mac("va")


@pytest.mark.parametrize("flags", [SYN, SYN_ACK, ACK, RST])
def test_row_5_with_a_local_pods_address_to_anyone(kernel: Kernel, family: Family, flags: int) -> None:
    for destination in (family.remote, family.outside, family.node):
        outcome = kernel.from_proxy(Packet(family.pod, destination, flags))
        assert outcome[:3] == ("INTO_NODE", REDIRECT, MARK_PROXY)
        assert outcome.frame[:12] == mac("va") + mac("eth0", kernel.node.a.netns)


def test_row_5_a_hairpins_answer_goes_through_the_nodes_nat(kernel: Kernel, family: Family) -> None:
    kernel.to_pod(Packet(family.neighbour, family.pod))
    answer = Packet(family.pod, family.neighbour, SYN_ACK, source_port=80, destination_port=40000)
    assert kernel.from_proxy(answer).reason == "INTO_NODE"
    other = Packet(family.pod, family.neighbour, SYN_ACK, source_port=81, destination_port=40000)
    assert kernel.from_proxy(other).reason == "INTO_POD"


def test_row_6_with_nobodys_address_to_nobody(kernel: Kernel, family: Family) -> None:
    for source in (family.remote, family.outside, family.node):
        for destination in (family.remote, family.outside, family.node):
            for flags in (SYN, ACK):
                assert kernel.from_proxy(Packet(source, destination, flags))[:2] == ("FOREIGN_SOURCE", SHOT)
