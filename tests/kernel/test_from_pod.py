# SPDX-License-Identifier: Apache-2.0
"""from_pod, row by row of the truth table on top of bpf/from_pod.c, in both families."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest

from nodeagent.kernel.codings import NO_NUMBER, Source
from tests.kernel.conftest import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    MARK_LOCAL,
    MARK_OUT,
    MARK_OUT_NEW,
    MARK_PROXY,
    NAMED_PORT,
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

TAKEN = 4
"""FLOW_TAKEN of bpf/flow.h: the proxy's."""
OTHERS_MARK = 0x4000
"""kube-proxy's: bits that are not ours stay as they were."""


def test_row_1_the_proxys_own_packet_passes_and_loses_our_mark(kernel: Kernel, family: Family) -> None:
    passing = Packet(family.outside, family.pod, ACK)
    outcome = kernel.from_pod(passing, mark=MARK_PROXY | OTHERS_MARK, is_signed=True)
    assert outcome[:3] == ("PROXY_PASSAGE", UNSPEC, MARK_PROXY | OTHERS_MARK)
    assert kernel.from_pod(passing, mark=MARK_PROXY).reason == "SPOOFED_SOURCE", "a mark without the secret"
    assert kernel.from_pod(passing, is_signed=True).reason == "SPOOFED_SOURCE", "the secret without a mark"


def test_row_1_without_a_secret_nothing_is_the_proxys(kernel: Kernel, family: Family) -> None:
    settings = kernel.maps.read_settings()
    kernel.maps.settings.put(0, settings._replace(secret=0))
    try:
        passing = Packet(family.outside, family.pod, ACK)
        assert kernel.from_pod(passing, mark=MARK_PROXY, is_signed=True).reason == "SPOOFED_SOURCE"
    finally:
        kernel.maps.settings.put(0, settings)


@pytest.mark.parametrize(
    ("change", "reason", "verdict"),
    [
        pytest.param({"ethertype": 0x0806}, "NOT_IP", UNSPEC, id="ARP"),
        pytest.param({"ethertype": 0x88B5}, "NOT_IP", UNSPEC, id="another ethertype"),
        pytest.param({"ethertype": 0x8100}, "TAGGED_TWICE", SHOT, id="a VLAN tag behind the one that is off"),
        pytest.param({"ethertype": 0x88A8}, "TAGGED_TWICE", SHOT, id="a service tag behind the one that is off"),
        pytest.param({"protocol": UDP}, "NOT_TCP", UNSPEC, id="UDP"),
        pytest.param({"cut": 1}, "CUT_SHORT", SHOT, id="one byte of the TCP header missing"),
        pytest.param({"cut": 20}, "CUT_SHORT", SHOT, id="no TCP header at all"),
    ],
)
def test_row_2_in_both_families(
    kernel: Kernel, family: Family, change: dict[str, int], reason: str, verdict: int
) -> None:
    outcome = kernel.from_pod(Packet(family.pod, family.remote, **change))  # type: ignore[arg-type]
    assert outcome[:3] == (reason, verdict, 0)


@pytest.mark.parametrize(
    ("packet", "reason", "verdict"),
    [
        pytest.param(Packet("::ffff:10.99.1.2", "fd99:2::2"), "MAPPED_ADDRESS", SHOT, id="the pod's address, mapped"),
        pytest.param(Packet("fd99:1::2", "::ffff:10.99.2.2"), "MAPPED_ADDRESS", SHOT, id="a mesh address, mapped"),
        pytest.param(Packet("10.99.1.2", "10.99.2.2", first_byte=0x46), "IP_OPTIONS", SHOT, id="options"),
        pytest.param(Packet("10.99.1.2", "10.99.2.2", first_byte=0x44), "IP_OPTIONS", SHOT, id="header of 16 bytes"),
        pytest.param(Packet("10.99.1.2", "10.99.2.2", fragment=0x2000), "FRAGMENT", SHOT, id="first fragment"),
        pytest.param(Packet("10.99.1.2", "10.99.2.2", fragment=0x0010), "FRAGMENT", SHOT, id="later fragment"),
        pytest.param(
            Packet("10.99.1.2", "10.99.2.2", fragment=0x4000), "STEERED", REDIRECT, id="do not fragment is no fragment"
        ),
        pytest.param(
            Packet("10.99.1.2", "10.99.2.2", protocol=UDP, fragment=0x2000), "NOT_TCP", UNSPEC, id="fragment of UDP"
        ),
        pytest.param(
            Packet("10.99.1.2", "10.99.2.2", protocol=ICMP, payload=bytes(8)), "NOT_TCP", UNSPEC, id="echo reply"
        ),
        pytest.param(
            icmp_error(Packet("10.99.2.2", "10.99.1.2", ACK), "10.99.1.2"),
            "NOT_TCP",
            UNSPEC,
            id="ICMP error of the pod",
        ),
        pytest.param(
            Packet("fd99:1::2", "fd99:2::2", extensions=(0,)), "EXTENSION_HEADERS", SHOT, id="TCP behind hop-by-hop"
        ),
        pytest.param(
            Packet("fd99:1::2", "fd99:2::2", extensions=(0, 43, 60, 60)),
            "EXTENSION_HEADERS",
            SHOT,
            id="TCP behind four headers",
        ),
        pytest.param(
            Packet("fd99:1::2", "fd99:2::2", extensions=(60,) * 5), "EXTENSION_HEADERS", SHOT, id="more than four"
        ),
        pytest.param(Packet("fd99:1::2", "fd99:2::2", extensions=(44,)), "FRAGMENT", SHOT, id="fragment header"),
        pytest.param(
            Packet("fd99:1::2", "fd99:2::2", extensions=(44,), protocol=UDP), "NOT_TCP", UNSPEC, id="fragment of UDP"
        ),
        pytest.param(
            Packet("fd99:1::2", "fd99:2::2", extensions=(44, 60), protocol=UDP),
            "FRAGMENT",
            SHOT,
            id="fragmented options",
        ),
        pytest.param(Packet("fd99:1::2", "fd99:2::2", extensions=(44, 44), protocol=UDP), "FRAGMENT", SHOT, id="twice"),
        pytest.param(
            Packet("fd99:1::2", "fd99:2::2", extensions=(44,), cut=27), "CUT_SHORT", SHOT, id="cut fragment header"
        ),
        pytest.param(
            Packet("fd99:1::2", "fd99:2::2", extensions=(60, 44)), "FRAGMENT", SHOT, id="fragment header behind another"
        ),
        pytest.param(
            Packet("fd99:1::2", "ff02::16", protocol=ICMPV6, extensions=(0,), payload=bytes(8)),
            "NOT_TCP",
            UNSPEC,
            id="MLD behind hop-by-hop",
        ),
        pytest.param(
            Packet("fd99:1::2", "fd99:2::2", extensions=(0,), cut=28), "CUT_SHORT", SHOT, id="cut extension header"
        ),
    ],
)
def test_row_2_what_only_one_family_has(kernel: Kernel, packet: Packet, reason: str, verdict: int) -> None:
    assert kernel.from_pod(packet)[:2] == (reason, verdict)


@pytest.mark.parametrize("mark", [MARK_OUT, MARK_LOCAL, MARK_OUT_NEW])
def test_what_passes_keeps_no_mark_of_ours_that_a_pod_has_brought(kernel: Kernel, family: Family, mark: int) -> None:
    for destination, flags, reason in (
        (family.outside, SYN, "UNKNOWN_DESTINATION"),
        (family.outside, ACK, "OUTSIDE_FLOW"),
        (family.node, SYN, "NODE_ADDRESS"),
        (family.node, ACK, "NODE_FLOW"),
        (family.excluded, SYN, "EXCLUDED"),
    ):
        outcome = kernel.from_pod(Packet(family.pod, destination, flags), mark=mark | OTHERS_MARK)
        assert outcome[:3] == (reason, UNSPEC, OTHERS_MARK)


def test_row_3_an_address_that_is_not_the_pods_is_dropped(kernel: Kernel, family: Family) -> None:
    for source in (family.neighbour, family.remote, family.outside, family.node):
        for flags in (SYN, ACK, SYN_ACK, RST):
            assert kernel.from_pod(Packet(source, family.remote, flags))[:2] == ("SPOOFED_SOURCE", SHOT)


def test_row_3_identity_is_the_device_and_not_the_address(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.remote)
    assert kernel.from_pod(packet, device=kernel.a).reason == "STEERED"
    assert kernel.from_pod(packet, device=kernel.b).reason == "SPOOFED_SOURCE"


def _begin(kernel: Kernel, packet: Packet, way: str) -> str:
    """This packet's connection, as it begins in that way; the reason of its running packets."""
    if way == "direct":
        with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}):
            assert kernel.from_pod(replace(packet, flags=SYN)).reason == "LOCAL_ALLOWED"
            assert kernel.from_pod(packet).reason == "LOCAL_FLOW"
        _age_flows(kernel, by=-1)
        return "LOCAL_FLOW"
    assert kernel.from_pod(replace(packet, flags=SYN)).reason == "LOCAL_STEERED"
    with kernel.proxy_socket(packet):
        assert kernel.from_pod(packet).reason == "PROXY_FLOW"
    return "PROXY_FLOW"


@pytest.mark.parametrize("way", ["direct", "held"])
def test_row_3_is_remembered_of_one_device_until_any_source_goes(kernel: Kernel, family: Family, way: str) -> None:
    packet = Packet(family.pod, family.neighbour, ACK)
    goes_on = _begin(kernel, packet, way)
    settings, source = kernel.maps.read_settings(), Source(kernel.a, family.pod)
    row = kernel.maps.sources.find(source)
    assert row is not None
    try:
        assert kernel.from_pod(packet, device=kernel.b).reason == "SPOOFED_SOURCE"
        kernel.maps.sources.remove(source)
        assert kernel.from_pod(packet).reason == goes_on, "nobody has said that it went"
        for number in (0, settings.sources ^ 1):
            kernel.maps.settings.put(0, settings._replace(sources=number))
            assert kernel.from_pod(packet).reason == "SPOOFED_SOURCE"
        kernel.maps.sources.put(source, row)
        assert [kernel.from_pod(packet).reason for _ in range(2)] == [goes_on] * 2
        assert kernel.from_pod(packet, device=kernel.b).reason == "SPOOFED_SOURCE"
    finally:
        kernel.maps.sources.put(source, row)
        kernel.maps.settings.put(0, settings)


@pytest.mark.parametrize("way", ["direct", "held"])
def test_row_3_nothing_is_remembered_while_a_source_goes(kernel: Kernel, family: Family, way: str) -> None:
    """A packet that has read the settings before may be judged until then, and not be believed afterwards."""
    packet = Packet(family.pod, family.neighbour, ACK)
    goes_on = _begin(kernel, packet, way)
    settings = kernel.maps.read_settings()
    ((key, flow),) = kernel.flows().items()
    unchecked = flow._replace(first_checked=0, second_checked=0)
    kernel.put_flow(key, unchecked)
    kernel.maps.settings.put(0, settings._replace(sources=0))
    try:
        assert kernel.from_pod(packet).reason == goes_on
        assert kernel.flows() == {key: unchecked}
    finally:
        kernel.maps.settings.put(0, settings)
    assert kernel.from_pod(packet).reason == goes_on
    assert kernel.flows() == {key: flow}


def test_row_4_a_pod_answers_the_proxy_and_an_old_flow_is_taken(kernel: Kernel, family: Family) -> None:
    answer = Packet(family.pod, family.excluded, SYN_ACK)
    kernel.from_pod(Packet(family.pod, family.excluded))
    assert kernel.from_pod(answer).reason == "EXCLUDED_FLOW"
    with kernel.proxy_socket(answer):
        assert kernel.from_pod(answer)[:3] == ("PROXY_ANSWERED", REDIRECT, MARK_OUT)
    assert [flow.kind for flow in kernel.flows().values()] == [TAKEN]


def test_row_5_an_excluded_connection_goes_on_without_a_mark(kernel: Kernel, family: Family) -> None:
    """The node may lead it to a pod of its own: that one's to_pod must judge these packets as it judged the SYN."""
    kernel.from_pod(Packet(family.pod, family.excluded))
    for flags in (ACK, PSH | ACK, FIN | ACK, RST):
        packet = Packet(family.pod, family.excluded, flags)
        assert kernel.from_pod(packet, mark=MARK_LOCAL)[:3] == ("EXCLUDED_FLOW", UNSPEC, 0)
    _age_flows(kernel)
    assert kernel.from_pod(Packet(family.pod, family.excluded, ACK)).reason == "EXCLUDED_FLOW", (
        "policies change nothing"
    )
    assert kernel.from_pod(Packet(family.pod, family.excluded, ACK, source_port=40001)).reason == "UNKNOWN_FLOW"


def test_row_6_a_connection_of_the_proxy(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.remote, ACK)
    with kernel.proxy_socket(packet):
        assert kernel.from_pod(packet)[:3] == ("PROXY_FLOW", REDIRECT, MARK_OUT)
        assert kernel.from_pod(Packet(family.pod, family.remote, RST))[:3] == ("PROXY_FLOW", REDIRECT, MARK_OUT)
        assert kernel.from_pod(replace(packet, source_port=40001)).reason == "UNKNOWN_FLOW"


@pytest.mark.parametrize("flags", [ACK, PSH | ACK, FIN | ACK, 0])
@pytest.mark.parametrize(("peer", "begins"), [("neighbour", "LOCAL_STEERED"), ("remote", "STEERED")])
def test_row_6_a_flow_is_held_once_a_socket_was_seen(
    kernel: Kernel, family: Family, peer: str, begins: str, flags: int
) -> None:
    """Whatever else is true of it: no other row may have what is the proxy's."""
    packet = Packet(family.pod, getattr(family, peer), ACK)
    assert kernel.from_pod(replace(packet, flags=SYN)).reason == begins
    with kernel.proxy_socket(packet):
        assert kernel.from_pod(packet).reason == "PROXY_FLOW"
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}), _adoption(kernel, family):
        assert kernel.from_pod(replace(packet, flags=flags))[:3] == ("PROXY_FLOW", REDIRECT, MARK_OUT)


@pytest.mark.parametrize("flags", [RST, RST | ACK])
@pytest.mark.parametrize(
    ("peer", "goes_on"), [("node", "NODE_FLOW"), ("outside", "OUTSIDE_FLOW"), ("remote", "UNKNOWN_FLOW")]
)
def test_row_6_a_pod_refuses_who_dials_from_a_port_that_was_the_proxys(
    kernel: Kernel, family: Family, peer: str, goes_on: str, flags: int
) -> None:
    """It had answered the proxy, which dialled in that address's name; now the same port dials by itself."""
    answer = Packet(family.pod, getattr(family, peer), SYN_ACK)
    with kernel.proxy_socket(answer):
        assert kernel.from_pod(answer).reason == "PROXY_ANSWERED"
        assert kernel.from_pod(replace(answer, flags=ACK)).reason == "PROXY_FLOW"
        assert kernel.from_pod(replace(answer, flags=flags)).reason == "PROXY_FLOW"
    assert kernel.from_pod(replace(answer, flags=ACK)).reason == "PROXY_FLOW"
    assert kernel.from_pod(replace(answer, flags=flags)).reason == goes_on


def test_row_6_what_the_table_has_forgotten_is_held_again(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.remote, ACK)
    with kernel.proxy_socket(packet):
        assert kernel.from_pod(packet).reason == "PROXY_FLOW"
    with _adoption(kernel, family):
        assert kernel.from_pod(packet).reason == "PROXY_FLOW"
        assert kernel.from_pod(packet.reply(ACK), device=kernel.a).reason == "SPOOFED_SOURCE"


@pytest.mark.parametrize("is_open", [True, False])
def test_what_could_be_adopted_is_kept_where_no_other_connections_push_it_out(
    kernel: Kernel, family: Family, *, is_open: bool
) -> None:
    with _adoption(kernel, family) if is_open else nullcontext():
        assert kernel.from_pod(Packet(family.pod, family.remote)).reason == "STEERED"
    (table,) = (table for table in (kernel.maps.flows, kernel.maps.kept_flows) if table.keys())
    assert table.name == ("kept_flows" if is_open else "flows")


def test_row_6_each_end_is_held_by_its_own_socket(kernel: Kernel, family: Family) -> None:
    """That with the server may outlive that with the client, whose next handshake may end by a SYN cookie."""
    packet = Packet(family.pod, family.neighbour, ACK)
    assert kernel.from_pod(replace(packet, flags=SYN)).reason == "LOCAL_STEERED"
    with kernel.proxy_socket(packet.reply(ACK)):
        assert kernel.from_pod(packet.reply(ACK), device=kernel.b).reason == "PROXY_FLOW"
        assert kernel.from_pod(packet)[:3] == ("UNKNOWN_FLOW", REDIRECT, MARK_OUT_NEW)
    with kernel.proxy_socket(packet):
        assert kernel.from_pod(packet).reason == "PROXY_FLOW"
    assert kernel.from_pod(packet)[:3] == ("PROXY_FLOW", REDIRECT, MARK_OUT)
    assert kernel.from_pod(packet.reply(ACK), device=kernel.b)[:3] == ("PROXY_FLOW", REDIRECT, MARK_OUT)


def test_row_6_who_begins_again_is_asked_again(kernel: Kernel, family: Family) -> None:
    opening, packet = Packet(family.pod, family.neighbour), Packet(family.pod, family.neighbour, ACK)

    def hold() -> None:
        kernel.forget()
        assert kernel.from_pod(opening).reason == "LOCAL_STEERED"
        with kernel.proxy_socket(packet):
            assert kernel.from_pod(packet).reason == "PROXY_FLOW"

    hold()
    assert kernel.from_pod(packet.reply(SYN_ACK), device=kernel.b).reason == "UNKNOWN_FLOW"
    assert kernel.from_pod(packet).reason == "UNKNOWN_FLOW"
    hold()
    assert kernel.from_pod(opening).reason == "LOCAL_STEERED"
    assert kernel.from_pod(packet).reason == "UNKNOWN_FLOW"


@pytest.mark.parametrize(
    ("port", "is_node", "begins", "goes_on"),
    [
        pytest.param(80, True, "NODE_ADDRESS", "NODE_FLOW", id="the node's"),
        pytest.param(2049, False, "EXCLUDED", "OUTSIDE_FLOW", id="excluded"),
        pytest.param(80, False, "UNKNOWN_DESTINATION", "OUTSIDE_FLOW", id="nobody's"),
    ],
)
def test_row_6_an_address_that_is_no_pods_any_more_is_asked_again(
    kernel: Kernel, family: Family, port: int, *, is_node: bool, begins: str, goes_on: str
) -> None:
    """Its SYN passes and writes no flow of its own: the former one, which would take all else, is forgotten."""
    opening = Packet(family.pod, family.neighbour, destination_port=port)
    packet = replace(opening, flags=ACK)
    assert kernel.from_pod(opening).reason == "LOCAL_STEERED"
    with kernel.proxy_socket(packet):
        assert kernel.from_pod(packet).reason == "PROXY_FLOW"
    pod = kernel.maps.pods.find(family.neighbour)
    assert pod is not None
    try:
        kernel.maps.pods.remove(family.neighbour)
        kernel.maps.known.remove(family.neighbour)
        if is_node:
            kernel.maps.node_addresses.put(family.neighbour, 1)
        assert kernel.from_pod(packet).reason == "PROXY_FLOW"
        assert kernel.from_pod(opening).reason == begins
        assert kernel.flows() == {}
        assert kernel.from_pod(packet).reason == goes_on
    finally:
        kernel.maps.node_addresses.remove(family.neighbour)
        kernel.maps.known.put(family.neighbour, 1)
        kernel.maps.pods.put(family.neighbour, pod)


def test_row_6_a_listener_is_no_connection(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.remote, ACK)
    with kernel.proxy_listener(packet):
        assert kernel.from_pod(packet).reason == "UNKNOWN_FLOW"


def test_row_7_and_13_the_node_itself(kernel: Kernel, family: Family) -> None:
    assert kernel.from_pod(Packet(family.pod, family.node, ACK))[:3] == ("NODE_FLOW", UNSPEC, 0)
    assert kernel.from_pod(Packet(family.pod, family.node))[:3] == ("NODE_ADDRESS", UNSPEC, 0)


@pytest.mark.parametrize("gateway", ["169.254.1.1", "fe80::ee"])
def test_row_13_gateways_are_addresses_of_the_node(kernel: Kernel, gateway: str) -> None:
    source = "fd99:1::2" if ":" in gateway else "10.99.1.2"
    assert kernel.from_pod(Packet(source, gateway)).reason == "NODE_ADDRESS"


def test_row_8_what_needs_no_verdict_is_renewed_once(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.remote, ACK)
    with _adoption(kernel, family):
        assert kernel.from_pod(packet).reason == "ADOPTED"
    _age_flows(kernel)
    assert kernel.from_pod(packet)[:3] == ("FLOW_RENEWED", UNSPEC, MARK_LOCAL)
    assert kernel.from_pod(packet).reason == "LOCAL_FLOW"


def test_row_9_what_no_verdict_allows_any_more_is_reset_by_the_proxy(kernel: Kernel, family: Family) -> None:
    kernel.from_pod(Packet(family.pod, family.excluded))
    _age_flows(kernel, kind=1)  # FLOW_ALLOWED
    packet = Packet(family.pod, family.excluded, ACK)
    assert kernel.from_pod(packet)[:3] == ("REVOKED", REDIRECT, MARK_OUT_NEW)
    assert kernel.from_pod(packet).reason == "REVOKED"


@pytest.mark.parametrize("is_client", [True, False])
def test_row_8_an_allowed_flow_is_judged_again_in_the_direction_of_its_syn(
    kernel: Kernel, family: Family, *, is_client: bool
) -> None:
    """Both ends' packets ask the same question, and only the client may connect to the server."""
    opening = Packet(family.pod, family.neighbour)
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}):
        assert kernel.from_pod(opening).reason == "LOCAL_ALLOWED"
    packet, device = (replace(opening, flags=ACK), kernel.a) if is_client else (opening.reply(ACK), kernel.b)
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}):
        assert kernel.from_pod(packet, device=device)[:3] == ("FLOW_RENEWED", UNSPEC, MARK_LOCAL)
        assert kernel.from_pod(packet, device=device).reason == "LOCAL_FLOW"
    with kernel.verdicts({(kernel.number_a, 80): {kernel.number_b}, (kernel.number_b, 81): {kernel.number_a}}):
        assert kernel.from_pod(packet, device=device)[:3] == ("REVOKED", REDIRECT, MARK_OUT_NEW)


def test_row_9_a_flow_to_a_pod_that_left_is_reset(kernel: Kernel, family: Family) -> None:
    with kernel.verdicts({(kernel.number_b, 0): {kernel.number_a}}):
        assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_ALLOWED"
    row = kernel.maps.pods.find(family.neighbour)
    assert row is not None
    kernel.maps.pods.remove(family.neighbour)
    try:
        with kernel.verdicts({(kernel.number_b, 0): {kernel.number_a}}):
            assert kernel.from_pod(Packet(family.pod, family.neighbour, ACK)).reason == "REVOKED"
    finally:
        kernel.maps.pods.put(family.neighbour, row)


def test_row_10_connections_with_the_outside_pass(kernel: Kernel, family: Family) -> None:
    for flags in (ACK, SYN_ACK, RST, SYN | FIN):
        assert kernel.from_pod(Packet(family.pod, family.outside, flags))[:3] == ("OUTSIDE_FLOW", UNSPEC, 0)


def test_row_11_an_open_connection_is_adopted_while_the_window_is_open(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.remote, ACK)
    with _adoption(kernel, family):
        assert kernel.from_pod(Packet(family.pod, family.remote, RST)).reason == "UNKNOWN_FLOW"
        assert kernel.from_pod(packet)[:3] == ("ADOPTED", UNSPEC, MARK_LOCAL)
    assert kernel.from_pod(packet).reason == "LOCAL_FLOW"
    assert kernel.from_pod(Packet(family.pod, family.remote, ACK, source_port=40001)).reason == "UNKNOWN_FLOW"


def test_row_11_a_connection_that_the_proxy_had_is_never_adopted(kernel: Kernel, family: Family) -> None:
    """Its worker may die while the window is open: what the pod sends then would leave in plain text."""
    answer = Packet(family.pod, family.remote, SYN_ACK, source_port=80, destination_port=40002)
    with _adoption(kernel, family):
        assert kernel.from_pod(Packet(family.pod, family.remote)).reason == "STEERED"
        assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_STEERED"
        with kernel.proxy_socket(answer):
            assert kernel.from_pod(answer).reason == "PROXY_ANSWERED"
        for packet in (
            Packet(family.pod, family.remote, ACK),
            Packet(family.pod, family.neighbour, ACK),
            Packet(family.pod, family.remote, ACK, source_port=80, destination_port=40002),
        ):
            assert kernel.from_pod(packet)[:3] == ("UNKNOWN_FLOW", REDIRECT, MARK_OUT_NEW), "nobody has it yet"
            with kernel.proxy_socket(packet):
                assert kernel.from_pod(packet).reason == "PROXY_FLOW"
            assert kernel.from_pod(packet)[:3] == ("PROXY_FLOW", REDIRECT, MARK_OUT), "the proxy's stack resets it"


@pytest.mark.parametrize("flags", [ACK, PSH | ACK, FIN | ACK, RST, RST | ACK])
def test_row_11_a_flow_that_was_pushed_out_is_restored_for_either_end(
    kernel: Kernel, family: Family, flags: int
) -> None:
    packet = Packet(family.pod, family.neighbour, flags)
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}):
        assert kernel.from_pod(packet)[:3] == ("FLOW_RESTORED", UNSPEC, MARK_LOCAL)
        assert kernel.from_pod(packet).reason == "LOCAL_FLOW"
        assert kernel.from_pod(packet.reply(ACK), device=kernel.b).reason == "LOCAL_FLOW"
        kernel.forget()
        assert kernel.from_pod(packet.reply(flags), device=kernel.b)[:3] == ("FLOW_RESTORED", UNSPEC, MARK_LOCAL)
    with kernel.verdicts({(kernel.number_a, 40000): {kernel.number_b}}):
        assert kernel.from_pod(packet).reason == "REVOKED", "the other way round is another connection"


def test_row_11_nothing_is_restored_that_no_verdict_allows(kernel: Kernel, family: Family) -> None:
    unknown = ("UNKNOWN_FLOW", REDIRECT, MARK_OUT_NEW)
    with kernel.verdicts({(kernel.number_b, 81): {kernel.number_a}, (kernel.number_a, 80): {kernel.number_b}}):
        assert kernel.from_pod(Packet(family.pod, family.neighbour, ACK))[:3] == unknown
        for flags in (SYN | FIN, SYN | RST):
            odd = Packet(family.pod, family.neighbour, flags, destination_port=81)
            assert kernel.from_pod(odd)[:3] == unknown
        answer = Packet(family.pod, family.neighbour, SYN_ACK, destination_port=81)
        assert kernel.from_pod(answer)[:3] == unknown, "who answers has not opened it"


def test_row_11_a_connection_that_the_proxy_had_is_never_restored(kernel: Kernel, family: Family) -> None:
    """Its two halves have numbers of their own: bytes of one would be taken for those of the other."""
    opening = Packet(family.pod, family.neighbour)
    assert kernel.from_pod(opening).reason == "LOCAL_STEERED"
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}):
        for packet, device in ((replace(opening, flags=ACK), kernel.a), (opening.reply(ACK), kernel.b)):
            assert kernel.from_pod(packet, device=device).reason == "UNKNOWN_FLOW"


def test_row_11_a_flow_that_either_end_may_have_opened_goes_on_while_both_may(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.neighbour, ACK)
    both = {(kernel.number_b, 80): {kernel.number_a}, (kernel.number_a, 40000): {kernel.number_b}}
    with kernel.verdicts(both):
        assert kernel.from_pod(packet).reason == "FLOW_RESTORED"
    with kernel.verdicts(both):
        assert kernel.from_pod(packet).reason == "FLOW_RENEWED"
    for place, sources in both.items():
        with kernel.verdicts({place: sources}):
            assert kernel.from_pod(packet).reason == "REVOKED"
            assert kernel.from_pod(packet.reply(ACK), device=kernel.b).reason == "REVOKED"


def test_row_12_nobodys_packet_to_the_mesh_is_never_passed(kernel: Kernel, family: Family) -> None:
    for destination in (family.remote, family.neighbour):
        for flags in (ACK, SYN_ACK, RST, FIN, SYN | FIN, SYN | RST, 0):
            outcome = kernel.from_pod(Packet(family.pod, destination, flags))
            assert outcome[:3] == ("UNKNOWN_FLOW", REDIRECT, MARK_OUT_NEW)


def test_row_14_an_excluded_block_passes_and_its_flow_is_kept(kernel: Kernel, family: Family) -> None:
    assert kernel.from_pod(Packet(family.pod, family.excluded))[:3] == ("EXCLUDED", UNSPEC, 0)
    (flow,) = kernel.flows().values()
    assert flow.kind == 2


def test_row_14_an_excluded_port_passes_for_everyone(kernel: Kernel, family: Family) -> None:
    excluded = Packet(family.pod, family.outside, destination_port=2049)
    assert kernel.from_pod(excluded).reason == "EXCLUDED"
    assert kernel.flows().keys() == set(), "an address outside the mesh needs no flow"
    assert kernel.from_pod(Packet(family.pod, family.remote, destination_port=2049)).reason == "EXCLUDED"
    assert kernel.from_pod(Packet(family.pod, family.remote, destination_port=2050)).reason == "STEERED"


def test_row_14_a_pod_of_this_node_is_never_excluded(kernel: Kernel, family: Family) -> None:
    """Its guard would give the connection to the proxy, as one that came through the node's NAT."""
    opening = Packet(family.pod, family.neighbour, destination_port=2049)
    assert kernel.from_pod(opening).reason == "LOCAL_STEERED"
    with kernel.verdicts({(kernel.number_b, 0): {kernel.number_a}}):
        assert kernel.from_pod(replace(opening, source_port=40001)).reason == "LOCAL_ALLOWED"


def test_row_15_an_allowed_connection_to_a_pod_of_this_node_passes(kernel: Kernel, family: Family) -> None:
    opening = Packet(family.pod, family.neighbour)
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}):
        assert kernel.from_pod(opening, mark=OTHERS_MARK)[:3] == ("LOCAL_ALLOWED", UNSPEC, MARK_LOCAL | OTHERS_MARK)
        (flow,) = kernel.flows().values()
        assert flow.kind == 1
        answer = kernel.from_pod(opening.reply(SYN_ACK), device=kernel.b)
        assert answer[:3] == ("LOCAL_FLOW", UNSPEC, MARK_LOCAL)
        assert kernel.to_pod(opening.reply(SYN_ACK), mark=MARK_LOCAL).reason == "LOCAL_DELIVERED"
        assert kernel.from_pod(replace(opening, flags=PSH | ACK)).reason == "LOCAL_FLOW"


def test_row_15_a_verdict_is_for_one_source_one_destination_and_one_port(kernel: Kernel, family: Family) -> None:
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}):
        assert kernel.from_pod(Packet(family.pod, family.neighbour, destination_port=81)).reason == "LOCAL_STEERED"
        backwards = Packet(family.neighbour, family.pod)
        assert kernel.from_pod(backwards, device=kernel.b).reason == "LOCAL_STEERED"
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_b, 5, 1023}}):
        assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_STEERED"


def test_row_15_a_ports_own_row_goes_before_the_row_for_all_others(kernel: Kernel, family: Family) -> None:
    with kernel.verdicts({(kernel.number_b, 80): set(), (kernel.number_b, 0): {kernel.number_a}}):
        assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_STEERED"
        assert kernel.from_pod(Packet(family.pod, family.neighbour, destination_port=81)).reason == "LOCAL_ALLOWED"


def test_row_15_rows_of_another_generation_allow_nothing(kernel: Kernel, family: Family) -> None:
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}):
        settings = kernel.maps.read_settings()
        for generation in (settings.generation - 1, settings.generation + 1):
            kernel.maps.settings.put(0, settings._replace(generation=generation))
            assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_STEERED"
        kernel.maps.settings.put(0, settings)
        assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_ALLOWED"


def test_row_15_a_pod_without_a_number_is_in_no_verdict(kernel: Kernel, family: Family) -> None:
    source = Source(kernel.a, family.pod)
    row = kernel.maps.sources.find(source)
    assert row is not None
    with kernel.verdicts({(kernel.number_b, 80): set(range(1024))}):
        for number in (NO_NUMBER, 1024):
            kernel.maps.sources.put(source, row._replace(number=number))
            assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_STEERED"
        kernel.maps.sources.put(source, row._replace(number=1023))
        assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_ALLOWED"
        kernel.maps.sources.put(source, row)


def test_row_15_while_a_policy_is_on_its_way_open_connections_go_on_and_new_ones_are_the_proxys(
    kernel: Kernel, family: Family
) -> None:
    with kernel.verdicts({(kernel.number_b, 0): {kernel.number_a}}):
        assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_ALLOWED"
    with kernel.verdicts({(kernel.number_b, 0): {kernel.number_a}}, is_pending=True):
        assert kernel.from_pod(Packet(family.pod, family.neighbour, ACK)).reason == "FLOW_RENEWED"
        assert kernel.from_pod(Packet(family.pod, family.neighbour, source_port=40001)).reason == "LOCAL_STEERED"
        assert kernel.from_pod(Packet(family.pod, family.neighbour, ACK)).reason == "LOCAL_FLOW"


def test_row_15_a_connection_that_the_proxy_holds_stays_with_it(kernel: Kernel, family: Family) -> None:
    """The SYN came before the verdict, and is sent once more after it."""
    opening = Packet(family.pod, family.neighbour)
    with kernel.verdicts({(kernel.number_b, 80): {kernel.number_a}}), kernel.proxy_socket(opening):
        assert kernel.from_pod(opening).reason == "LOCAL_STEERED"
    assert [flow.kind for flow in kernel.flows().values()] == [TAKEN]


def test_row_16_a_pod_of_this_node_is_steered(kernel: Kernel, family: Family) -> None:
    opening = Packet(family.pod, family.neighbour)
    kernel.to_pod(opening)
    assert len(kernel.maps.hairpins.keys()) == 1
    outcome = kernel.from_pod(opening)
    assert outcome[:3] == ("LOCAL_STEERED", REDIRECT, MARK_OUT_NEW)
    assert kernel.maps.hairpins.keys() == set()


def test_row_17_a_known_address_is_steered_and_an_old_flow_taken(kernel: Kernel, family: Family) -> None:
    with _adoption(kernel, family):
        kernel.from_pod(Packet(family.pod, family.remote, ACK))
    assert len(kernel.flows().keys()) == 1
    outcome = kernel.from_pod(Packet(family.pod, family.remote), mark=OTHERS_MARK)
    assert outcome[:3] == ("STEERED", REDIRECT, MARK_OUT_NEW | OTHERS_MARK)
    assert [flow.kind for flow in kernel.flows().values()] == [TAKEN]


def test_rows_10_and_17_an_address_in_a_services_block_is_the_meshs(kernel: Kernel, family: Family) -> None:
    assert kernel.from_pod(Packet(family.pod, family.registered))[:2] == ("STEERED", REDIRECT)
    kernel.forget()
    assert kernel.from_pod(Packet(family.pod, family.registered, ACK))[:2] == ("UNKNOWN_FLOW", REDIRECT)
    assert kernel.from_pod(Packet(family.pod, family.outside, ACK))[0] == "OUTSIDE_FLOW"


def test_rows_10_and_17_a_port_of_a_name_is_the_meshs_for_who_begins(kernel: Kernel, family: Family) -> None:
    """A connection that began before the name meant this address goes on as it is."""
    opening = Packet(family.pod, family.named, destination_port=NAMED_PORT)
    assert kernel.from_pod(replace(opening, flags=ACK))[:3] == ("OUTSIDE_FLOW", UNSPEC, 0)
    assert kernel.from_pod(replace(opening, destination_port=80))[:3] == ("UNKNOWN_DESTINATION", UNSPEC, 0)
    assert kernel.from_pod(opening)[:3] == ("STEERED", REDIRECT, MARK_OUT_NEW)
    assert [flow.kind for flow in kernel.flows().values()] == [TAKEN]


def test_row_18_an_unknown_destination_passes_or_is_dropped(kernel: Kernel, family: Family) -> None:
    packet = Packet(family.pod, family.outside)
    assert kernel.from_pod(packet)[:3] == ("UNKNOWN_DESTINATION", UNSPEC, 0)
    settings = kernel.maps.read_settings()
    kernel.maps.settings.put(0, settings._replace(registry_only=1))
    try:
        assert kernel.from_pod(packet)[:2] == ("NOT_REGISTERED", SHOT)
    finally:
        kernel.maps.settings.put(0, settings)
    source = Source(kernel.a, family.pod)
    row = kernel.maps.sources.find(source)
    assert row is not None
    kernel.maps.sources.put(source, row._replace(registry_only=1))
    try:
        assert kernel.from_pod(packet)[:2] == ("NOT_REGISTERED", SHOT)
        assert kernel.from_pod(Packet(family.pod, family.remote))[:2] == ("STEERED", REDIRECT)
    finally:
        kernel.maps.sources.put(source, row)
    assert kernel.from_pod(packet)[:3] == ("UNKNOWN_DESTINATION", UNSPEC, 0)


def test_connections_and_drops_are_counted_for_the_pods_device(kernel: Kernel, family: Family) -> None:
    before = kernel.maps.pod_counts.find(kernel.a)
    assert before is not None
    kernel.from_pod(Packet(family.pod, family.remote))
    kernel.from_pod(Packet(family.pod, family.neighbour))
    kernel.from_pod(Packet(family.remote, family.pod))
    kernel.to_pod(Packet(family.remote, family.pod))
    kernel.from_pod(Packet(family.pod, family.node))
    after = kernel.maps.pod_counts.find(kernel.a)
    assert after is not None
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 1, 0, 0]


def test_an_answer_that_nobody_asked_for_is_counted_and_one_that_was_admitted(kernel: Kernel, family: Family) -> None:
    """What nodeagent/kernel/guard.py weighs against each other."""
    before = kernel.maps.pod_counts.find(kernel.a)
    assert before is not None
    for peer in (family.remote, family.outside):
        kernel.from_pod(Packet(family.pod, peer, SYN_ACK))
        kernel.from_pod(Packet(family.pod, peer, ACK))
        kernel.from_proxy(Packet(peer, family.pod))
        kernel.from_proxy(Packet(peer, family.pod, ACK))
    kernel.from_pod(Packet(family.pod, family.node, SYN_ACK))
    kernel.to_pod(Packet(family.node, family.pod), is_made_here=True)
    kernel.to_pod(Packet(family.outside, family.pod), is_made_here=True)
    after = kernel.maps.pod_counts.find(kernel.a)
    assert after is not None
    assert (after.unasked - before.unasked, after.admitted - before.admitted) == (2, 3)


def _age_flows(kernel: Kernel, kind: int = 0, by: int = 1) -> None:
    """All flows are of so many generations before; `kind` replaces theirs."""
    for key, flow in kernel.flows().items():
        kernel.put_flow(key, flow._replace(generation=flow.generation - by, kind=kind or flow.kind))


@contextmanager
def _adoption(kernel: Kernel, family: Family) -> Iterator[None]:
    """The adoption window of pod a is open in this block."""
    source = Source(kernel.a, family.pod)
    row = kernel.maps.sources.find(source)
    assert row is not None
    kernel.maps.sources.put(source, row._replace(adopt_until=time.monotonic_ns() + 60 * 10**9))
    try:
        yield
    finally:
        kernel.maps.sources.put(source, row)
