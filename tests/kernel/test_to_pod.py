# SPDX-License-Identifier: Apache-2.0
"""to_pod, row by row of the truth table on top of bpf/to_pod.c. Row 8 needs a real handshake: test_end_to_end.py."""

from dataclasses import replace

import pytest

from tests.kernel.conftest import (
    ACK,
    FIN,
    MARK_LOCAL,
    MARK_OUT,
    PSH,
    REDIRECT,
    RST,
    SHOT,
    SYN,
    SYN_ACK,
    UDP,
    UNSPEC,
    Family,
    Kernel,
    Packet,
    icmp_error,
)

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("origin", ["node", "elsewhere"])
def test_row_2_an_icmp_error_about_a_connection_of_the_proxy(kernel: Kernel, family: Family, origin: str) -> None:
    """The proxy sent it with the pod's address, so the error comes back to the pod."""
    sent = Packet(family.pod, family.remote, PSH | ACK, source_port=51000, destination_port=15008)
    error = icmp_error(sent, family.node)
    assert kernel.to_pod(error, is_made_here=origin == "node")[:2] == ("NOT_TCP", UNSPEC)
    with kernel.proxy_socket(sent.reply(ACK)):
        assert kernel.to_pod(error, is_made_here=origin == "node")[:2] == ("ICMP_ERROR", REDIRECT)


@pytest.mark.parametrize(
    ("change", "reason", "verdict"),
    [
        pytest.param({"ethertype": 0x0806}, "NOT_IP", UNSPEC, id="ARP"),
        pytest.param({"ethertype": 0x8100}, "TAGGED_TWICE", SHOT, id="a VLAN tag behind the one that is off"),
        pytest.param({"protocol": UDP}, "NOT_TCP", UNSPEC, id="UDP"),
        pytest.param({"cut": 1}, "CUT_SHORT", SHOT, id="cut"),
    ],
)
def test_row_3(kernel: Kernel, family: Family, change: dict[str, int], reason: str, verdict: int) -> None:
    packet = Packet(family.remote, family.pod, **change)  # type: ignore[arg-type]
    assert kernel.to_pod(packet)[:2] == (reason, verdict)
    assert kernel.to_pod(packet, is_made_here=True)[:2] == (reason, verdict)


@pytest.mark.parametrize("flags", [SYN, ACK, RST])
def test_row_1_what_from_pod_marked_is_let_in(kernel: Kernel, family: Family, flags: int) -> None:
    packet = Packet(family.neighbour, family.pod, flags)
    assert kernel.to_pod(packet, mark=MARK_LOCAL)[:2] == ("LOCAL_DELIVERED", UNSPEC)


def test_row_1_other_marks_open_nothing(kernel: Kernel, family: Family) -> None:
    for mark in (MARK_OUT, 0x0002, 0x1000, 0x100F):
        assert kernel.to_pod(Packet(family.neighbour, family.pod), mark=mark).reason == "INBOUND"


def test_row_4_the_nodes_own_connections_pass(kernel: Kernel, family: Family) -> None:
    for source in (family.node, family.outside):
        assert kernel.to_pod(Packet(source, family.pod), is_made_here=True)[:2] == ("NODE_PROBE", UNSPEC)


def test_row_5_every_other_connection_goes_to_the_proxy(kernel: Kernel, family: Family) -> None:
    for source in (family.remote, family.outside, family.node):
        for port in (80, 15008):
            packet = Packet(source, family.pod, destination_port=port)
            assert kernel.to_pod(packet)[:2] == ("INBOUND", REDIRECT)
    assert kernel.maps.hairpins.keys() == set()


def test_row_5_a_local_pod_that_came_through_nat_is_a_hairpin(kernel: Kernel, family: Family) -> None:
    assert kernel.to_pod(Packet(family.neighbour, family.pod)).reason == "INBOUND"
    (hairpin,) = kernel.maps.hairpins.keys()
    assert (hairpin.first, hairpin.second) == (family.pod, family.neighbour), "as its answers go"


def test_row_5_a_spoofed_connection_from_outside_deletes_no_flow(kernel: Kernel, family: Family) -> None:
    kernel.from_pod(Packet(family.pod, family.excluded))
    kernel.to_pod(Packet(family.excluded, family.pod, source_port=80, destination_port=40000))
    assert len(kernel.flows()) == 1


@pytest.mark.parametrize("origin", ["node", "elsewhere"])
def test_row_6_a_connection_of_the_proxy(kernel: Kernel, family: Family, origin: str) -> None:
    """Before row 7: the node itself answers what the proxy sends to it in a pod's name."""
    for flags in (SYN_ACK, ACK, FIN | ACK, RST):
        packet = Packet(family.remote, family.pod, flags)
        with kernel.proxy_socket(packet):
            assert kernel.to_pod(packet, is_made_here=origin == "node")[:2] == ("INBOUND_FLOW", REDIRECT)


@pytest.mark.parametrize("flags", [ACK, FIN | ACK, 0])
def test_row_6_is_held_once_a_socket_was_seen(kernel: Kernel, family: Family, flags: int) -> None:
    packet = Packet(family.remote, family.pod, ACK)
    with kernel.proxy_socket(packet):
        assert kernel.to_pod(packet).reason == "INBOUND_FLOW"
    assert kernel.to_pod(replace(packet, flags=flags)).reason == "INBOUND_FLOW"
    assert kernel.to_pod(replace(packet, flags=ACK, source_port=40001)).reason == "INBOUND_OTHER"
    assert kernel.to_pod(replace(packet, source=family.outside)).reason == "INBOUND_OTHER"


def test_row_6_a_reset_is_never_taken_for_a_held_flows(kernel: Kernel, family: Family) -> None:
    """It may refuse what the pod has dialled itself, from a port that was the proxy's once."""
    packet = Packet(family.remote, family.pod, ACK)
    with kernel.proxy_socket(packet):
        assert kernel.to_pod(packet).reason == "INBOUND_FLOW"
        assert kernel.to_pod(replace(packet, flags=RST)).reason == "INBOUND_FLOW"
    assert kernel.to_pod(replace(packet, flags=RST | ACK)).reason == "INBOUND_OTHER"
    assert kernel.to_pod(replace(packet, flags=RST), is_made_here=True).reason == "NODE_ANSWER"


@pytest.mark.parametrize("flags", [SYN, SYN_ACK])
@pytest.mark.parametrize("origin", ["node", "elsewhere"])
def test_row_6_who_begins_again_is_asked_again(kernel: Kernel, family: Family, origin: str, flags: int) -> None:
    """The same four numbers, and not the proxy's any more: the node dials the pod, or the pod has dialled."""
    packet, is_made_here = Packet(family.remote, family.pod, ACK), origin == "node"
    with kernel.proxy_socket(packet):
        assert kernel.to_pod(packet, is_made_here=is_made_here).reason == "INBOUND_FLOW"
    kernel.to_pod(replace(packet, flags=flags), is_made_here=is_made_here)
    goes_on = "NODE_ANSWER" if is_made_here else "INBOUND_OTHER"
    assert kernel.to_pod(packet, is_made_here=is_made_here).reason == goes_on


def test_row_7_running_connections_of_the_node_pass(kernel: Kernel, family: Family) -> None:
    for flags in (ACK, SYN_ACK, RST):
        packet = Packet(family.node, family.pod, flags)
        assert kernel.to_pod(packet, is_made_here=True)[:2] == ("NODE_ANSWER", UNSPEC)


def test_row_9_nobody_else_speaks_in_a_connection_that_was_allowed(kernel: Kernel, family: Family) -> None:
    opening = Packet(family.pod, family.neighbour)
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}):
        assert kernel.from_pod(opening).reason == "LOCAL_ALLOWED"
    for flags in (ACK, FIN | ACK, RST):
        for packet in (replace(opening, flags=flags), opening.reply(flags)):
            assert kernel.to_pod(packet)[:2] == ("FORGED_FLOW", SHOT)
            assert kernel.to_pod(packet, mark=MARK_LOCAL).reason == "LOCAL_DELIVERED"


def test_row_11_what_was_not_allowed_by_a_table_is_open_to_answers(kernel: Kernel, family: Family) -> None:
    opening = Packet(family.pod, family.excluded)
    assert kernel.from_pod(opening).reason == "EXCLUDED"
    assert kernel.to_pod(opening.reply(SYN_ACK))[:2] == ("INBOUND_OTHER", UNSPEC)


def test_row_10_the_other_end_of_a_tunnel_that_nobody_holds_is_told(kernel: Kernel, family: Family) -> None:
    sent = Packet(family.remote, family.pod, ACK, destination_port=15008)
    for flags in (ACK, PSH | ACK, FIN | ACK):
        assert kernel.to_pod(replace(sent, flags=flags))[:2] == ("UNKNOWN_TUNNEL", REDIRECT)
    assert kernel.to_pod(replace(sent, flags=RST)).reason == "INBOUND_OTHER", "or both ends would never come to rest"
    assert kernel.to_pod(replace(sent, source=family.outside)).reason == "INBOUND_OTHER"


def test_row_11_what_the_proxy_does_not_hold_passes(kernel: Kernel, family: Family) -> None:
    """Answers to the pod's direct connections, and ACKs that no SYN cookie explains."""
    for flags in (ACK, SYN_ACK, RST, PSH | ACK):
        assert kernel.to_pod(Packet(family.outside, family.pod, flags))[:2] == ("INBOUND_OTHER", UNSPEC)


def test_row_11_a_listener_is_no_connection(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.outside, family.pod, ACK)
    with kernel.proxy_listener(packet):
        assert kernel.to_pod(packet).reason == "INBOUND_OTHER"
