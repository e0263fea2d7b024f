# SPDX-License-Identifier: Apache-2.0
"""at_proxy, row by row of the truth table on top of bpf/at_proxy.c.

BPF_PROG_TEST_RUN is no TC ingress, so the kernel refuses bpf_sk_assign there: ASSIGN_REFUSED shows that row 6 was
reached and a listener found. That the right worker gets the connection is shown in test_end_to_end.py.
"""

import pytest

from nodeagent.kernel.listeners import ListenerKind
from tests.kernel.conftest import (
    ACK,
    MARK_OUT,
    MARK_OUT_NEW,
    OK,
    RST,
    SHOT,
    SYN,
    SYN_ACK,
    TAG,
    UDP,
    Family,
    Kernel,
    Packet,
    icmp_error,
)

pytestmark = pytest.mark.kernel

TAGGED = TAG + b"\x04" * 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"ethertype": 0x0806}, "NOT_FOR_PROXY", id="ARP"),
        pytest.param({"protocol": UDP}, "NOT_FOR_PROXY", id="UDP"),
        pytest.param({"cut": 1}, "CUT_SHORT", id="cut"),
    ],
)
def test_row_1(kernel: Kernel, family: Family, change: dict[str, int], reason: str) -> None:
    packet = Packet(family.remote, family.pod, **change)  # type: ignore[arg-type]
    assert kernel.at_proxy(packet)[:2] == (reason, SHOT)


def test_row_2_an_icmp_error_is_for_the_stack(kernel: Kernel, family: Family) -> None:
    sent = Packet(family.pod, family.remote, ACK)
    assert kernel.at_proxy(icmp_error(sent, family.node))[:2] == ("PROXY_ICMP", OK)


def test_row_3_a_syn_that_a_connection_has_is_for_the_stack(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.remote)
    with kernel.proxy_socket(packet):
        assert kernel.at_proxy(packet, mark=MARK_OUT_NEW)[:3] == ("PROXY_SYN", OK, 0)


def test_row_3_a_listener_found_by_address_does_not_count(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.remote)
    with kernel.proxy_listener(packet):
        assert kernel.at_proxy(packet, mark=MARK_OUT_NEW).reason == "PROXY_AWAY"


@pytest.mark.parametrize("flags", [SYN_ACK, ACK, RST])
def test_row_4_running_connections_are_for_the_stack(kernel: Kernel, family: Family, flags: int) -> None:
    packet = Packet(family.pod, family.remote, flags)
    assert kernel.at_proxy(packet, mark=MARK_OUT)[:3] == ("PROXY_PACKET", OK, 0)
    assert kernel.at_proxy(packet, mark=0)[:3] == ("PROXY_PACKET", OK, 0)
    tagged = Packet(family.pod, family.remote, flags, macs=TAGGED)
    assert kernel.at_proxy(tagged, mark=MARK_OUT).reason == "PROXY_PACKET", "a tag means nothing beside a mark"


def test_row_5_nobodys_reset_is_not_answered(kernel: Kernel, family: Family) -> None:
    assert kernel.at_proxy(Packet(family.pod, family.remote, RST), mark=MARK_OUT_NEW)[:2] == ("NOBODYS_RESET", SHOT)
    tagged = Packet(family.remote, family.pod, RST | ACK, macs=TAGGED)
    assert kernel.at_proxy(tagged)[:2] == ("NOBODYS_RESET", SHOT)


def test_row_6_no_listener_means_drop(kernel: Kernel, family: Family) -> None:
    for flags, mark, macs in ((SYN, MARK_OUT_NEW, bytes(12)), (SYN, 0, bytes(12)), (ACK, 0, TAGGED)):
        packet = Packet(family.pod, family.remote, flags, macs=macs)
        assert kernel.at_proxy(packet, mark=mark)[:2] == ("PROXY_AWAY", SHOT)


@pytest.mark.parametrize(
    ("kind", "mark", "port", "macs"),
    [
        pytest.param(ListenerKind.OUTBOUND, MARK_OUT_NEW, 80, bytes(12), id="from a pod"),
        pytest.param(ListenerKind.OUTBOUND, MARK_OUT_NEW, 15008, bytes(12), id="from a pod to 15008"),
        pytest.param(ListenerKind.HBONE, 0, 15008, bytes(12), id="to a pod's 15008"),
        pytest.param(ListenerKind.PLAINTEXT, 0, 80, bytes(12), id="to a pod"),
    ],
)
@pytest.mark.parametrize("slot", range(4))
def test_row_6_each_kind_has_its_listener_in_whatever_slot(
    kernel: Kernel, family: Family, kind: ListenerKind, mark: int, port: int, macs: bytes, slot: int
) -> None:
    """The only listener is found from every first slot, and another kind's never."""
    steering = kernel.node.steering
    made = steering.make_listeners()
    packets = [
        Packet(family.pod, family.remote, source_port=source, destination_port=port, macs=macs)
        for source in range(41000, 41008)
    ]
    try:
        for other in ListenerKind:
            if other is not kind:
                steering.put_listener(other, slot, made[other])
        assert {kernel.at_proxy(packet, mark=mark).reason for packet in packets} == {"PROXY_AWAY"}
        steering.put_listener(kind, slot, made[kind])
        assert {kernel.at_proxy(packet, mark=mark).reason for packet in packets} == {"ASSIGN_REFUSED"}
    finally:
        for sock in made.values():
            sock.close()
    assert kernel.at_proxy(packets[0], mark=mark).reason == "PROXY_AWAY", "an entry ends with its socket"
