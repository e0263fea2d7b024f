# SPDX-License-Identifier: Apache-2.0
"""One case for each row and reason of the truth tables: how the world is arranged, and what becomes of the packet."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from nodeagent.kernel.listeners import ListenerKind
from nodeagent.model.address import Ip
from tests.kernel.conftest import ACK, RST, SYN, SYN_ACK, TAG, UDP, icmp_error
from tests.kernel.proof.model import LOCAL, OUT, OUT_NEW, PROXY
from tests.kernel.proof.stage import (
    OTHERS_MARK,
    SERVER,
    Expect,
    Stage,
    dropped,
    into_neighbour,
    into_node,
    into_pod,
    passes,
    to_proxy,
    to_proxy_from_pod,
    to_stack,
)
from tests.kernel.proof.twin import Arrival

TAGGED = TAG + b"\x04" * 6


class Case(NamedTuple):
    arrange: Callable[[Stage], Arrival]
    expect: Expect


_UNREAD: dict[str, dict[str, Any]] = {
    "CUT_SHORT": {"cut": 1},
    "IP_OPTIONS": {"first_byte": 0x46},
    "FRAGMENT": {"fragment": 0x2000, "extensions": (44,)},
    "EXTENSION_HEADERS": {"extensions": (0,)},
    "TAGGED_TWICE": {"ethertype": 0x8100},
    "NOT_IP": {"ethertype": 0x0806},
    "NOT_TCP": {"protocol": UDP},
}
"""What a packet must be so that it is not read; MAPPED_ADDRESS is one of another kind."""


def _unread(program: str, reason: str) -> Callable[[Stage], Arrival]:
    def arrange(stage: Stage) -> Arrival:
        source = Ip("::ffff:10.99.1.2") if reason == "MAPPED_ADDRESS" else stage.family.pod
        packet = replace(stage.packet(source, stage.family.remote), **_UNREAD.get(reason, {}))
        return stage.arrive(program, packet)

    return arrange


def _row_4(stage: Stage) -> Arrival:
    arrival = stage.from_pod(stage.family.remote, SYN_ACK)
    stage.hold(stage.packet(stage.family.pod, stage.family.remote))
    return arrival


def _excluded_flow(stage: Stage) -> Arrival:
    stage.twin.run(stage.from_pod(stage.family.excluded))
    return stage.from_pod(stage.family.excluded, ACK)


def _proxy_flow(stage: Stage) -> Arrival:
    stage.hold(stage.packet(stage.family.pod, stage.family.remote))
    return stage.from_pod(stage.family.remote, ACK)


def _allowed_before(stage: Stage) -> Arrival:
    """An open connection to pod b; its next packet."""
    stage.allow()
    stage.twin.run(stage.from_pod(stage.family.neighbour))
    return stage.from_pod(stage.family.neighbour, ACK)


def _renewed(stage: Stage) -> Arrival:
    arrival = _allowed_before(stage)
    stage.allow()
    return arrival


def _revoked(stage: Stage) -> Arrival:
    arrival = _allowed_before(stage)
    stage.forbid()
    return arrival


def _adopted(stage: Stage) -> Arrival:
    stage.open_window()
    return stage.from_pod(stage.family.remote, ACK)


def _settling(stage: Stage) -> None:
    stage.twin.put_settings(generation=stage.twin.world.generation, registry_only=False, is_settling=True)


def _nobodys_while_settling(stage: Stage) -> Arrival:
    """Not even an open window lets it pass."""
    _settling(stage)
    return _adopted(stage)


def _perhaps_a_hairpins_answer(stage: Stage) -> Arrival:
    _settling(stage)
    return stage.arrive("from_proxy", stage.packet(stage.family.neighbour, stage.family.pod, ACK))


def _cookie_from_pod(stage: Stage) -> Arrival:
    port, arrival = stage.listen(ListenerKind.OUTBOUND), _adopted(stage)
    packet = stage.packet(stage.family.pod, stage.family.remote, ACK)
    return arrival._replace(frame=stage.cookie(packet, port))


def _restored(stage: Stage) -> Arrival:
    stage.allow()
    return stage.from_pod(stage.family.neighbour, ACK)


def _local_allowed(stage: Stage) -> Arrival:
    stage.allow()
    return stage.from_pod(stage.family.neighbour)


def _not_registered(stage: Stage) -> Arrival:
    stage.twin.put_settings(generation=stage.twin.world.generation, registry_only=True)
    return stage.from_pod(stage.family.outside)


def _icmp_error(program: str) -> Callable[[Stage], Arrival]:
    def arrange(stage: Stage) -> Arrival:
        sent = stage.packet(stage.family.pod, stage.family.remote, ACK)
        stage.hold(sent.reply(ACK))
        return stage.arrive(program, icmp_error(sent, stage.family.node))

    return arrange


def _forged_flow(stage: Stage) -> Arrival:
    """The client's own answer, as it were; what b sends itself has mark LOCAL here."""
    _allowed_before(stage)
    answer = stage.packet(stage.family.pod, stage.family.neighbour).reply(ACK)
    return stage.arrive("to_pod", answer, ingress=stage.kernel.b)


def _inbound_flow(stage: Stage) -> Arrival:
    stage.hold(stage.packet(stage.family.remote, stage.family.pod))
    return stage.to_pod(stage.family.remote, ACK, is_made_here=True)


def _cookie_to_pod(stage: Stage) -> Arrival:
    packet = stage.packet(stage.family.remote, stage.family.pod, ACK)
    port = stage.listen(ListenerKind.PLAINTEXT)
    return stage.to_pod(stage.family.remote, ACK)._replace(frame=stage.cookie(packet, port))


def _tunnel(stage: Stage) -> Arrival:
    packet = stage.packet(stage.family.pod, stage.family.neighbour, destination_port=15008)
    return stage.arrive("from_proxy", packet)


def _hairpin(stage: Stage) -> None:
    """Pod b reached pod a by the node's NAT."""
    stage.twin.run(stage.to_pod(stage.family.neighbour))
    assert len(stage.twin.world.hairpins) == 1


def _ended_hairpin(stage: Stage) -> Arrival:
    """By a connection of pod b's server to the client's port."""
    _hairpin(stage)
    return stage.arrive("from_proxy", stage.packet(stage.family.neighbour, stage.family.pod).reply(SYN))


def _hairpins_answer(stage: Stage) -> Arrival:
    _hairpin(stage)
    return stage.arrive("from_proxy", stage.packet(stage.family.neighbour, stage.family.pod).reply(SYN_ACK))


def _proxy_syn(stage: Stage) -> Arrival:
    packet = stage.packet(stage.family.pod, stage.family.remote)
    stage.hold(packet)
    return stage.arrive("at_proxy", packet, mark=OUT_NEW)


def _assigned(kind: ListenerKind, mark: int, port: int) -> Callable[[Stage], Arrival]:
    def arrange(stage: Stage) -> Arrival:
        stage.listen(kind)
        packet = stage.packet(stage.family.remote, stage.family.pod, destination_port=port)
        return stage.arrive("at_proxy", packet, mark=mark)._replace(flow_hash=5)  # 5 % 3: the slot behind it

    return arrange


CASES: dict[tuple[str, int, str], Case] = {
    ("from_pod", 1, "PROXY_PASSAGE"): Case(
        lambda s: s.from_pod(s.family.outside)._replace(mark=PROXY | OTHERS_MARK, is_signed=True), passes()
    ),
    ("from_pod", 2, "NOT_IP"): Case(_unread("from_pod", "NOT_IP"), passes()),
    ("from_pod", 2, "NOT_TCP"): Case(_unread("from_pod", "NOT_TCP"), passes()),
    ("from_pod", 3, "SPOOFED_SOURCE"): Case(
        lambda s: s.arrive("from_pod", s.packet(s.family.neighbour, s.family.remote)), dropped
    ),
    ("from_pod", 4, "PROXY_ANSWERED"): Case(_row_4, to_proxy_from_pod(OUT)),
    ("from_pod", 5, "LOCAL_FLOW"): Case(_allowed_before, passes(LOCAL)),
    ("from_pod", 5, "EXCLUDED_FLOW"): Case(_excluded_flow, passes()),
    ("from_pod", 6, "PROXY_FLOW"): Case(_proxy_flow, to_proxy_from_pod(OUT)),
    ("from_pod", 7, "NODE_FLOW"): Case(lambda s: s.from_pod(s.family.node, ACK), passes()),
    ("from_pod", 8, "FLOW_RENEWED"): Case(_renewed, passes(LOCAL)),
    ("from_pod", 9, "REVOKED"): Case(_revoked, to_proxy_from_pod(OUT_NEW)),
    ("from_pod", 10, "OUTSIDE_FLOW"): Case(lambda s: s.from_pod(s.family.outside, ACK), passes()),
    ("from_pod", 11, "SETTLING"): Case(_nobodys_while_settling, dropped),
    ("from_pod", 11, "FLOW_RESTORED"): Case(_restored, passes(LOCAL)),
    ("from_pod", 11, "ADOPTED"): Case(_adopted, passes(LOCAL)),
    ("from_pod", 11, "SYN_COOKIE"): Case(_cookie_from_pod, to_proxy_from_pod(OUT_NEW)),
    ("from_pod", 12, "UNKNOWN_FLOW"): Case(lambda s: s.from_pod(s.family.remote, ACK), to_proxy_from_pod(OUT_NEW)),
    ("from_pod", 13, "NODE_ADDRESS"): Case(lambda s: s.from_pod(s.family.node), passes()),
    ("from_pod", 14, "EXCLUDED"): Case(lambda s: s.from_pod(s.family.excluded), passes()),
    ("from_pod", 15, "LOCAL_ALLOWED"): Case(_local_allowed, passes(LOCAL)),
    ("from_pod", 16, "LOCAL_STEERED"): Case(lambda s: s.from_pod(s.family.neighbour), to_proxy_from_pod(OUT_NEW)),
    ("from_pod", 17, "STEERED"): Case(lambda s: s.from_pod(s.family.remote), to_proxy_from_pod(OUT_NEW)),
    ("from_pod", 18, "UNKNOWN_DESTINATION"): Case(lambda s: s.from_pod(s.family.outside), passes()),
    ("from_pod", 18, "NOT_REGISTERED"): Case(_not_registered, dropped),
    ("to_pod", 1, "LOCAL_DELIVERED"): Case(
        lambda s: s.to_pod(s.family.neighbour)._replace(mark=LOCAL | OTHERS_MARK), passes()
    ),
    ("to_pod", 2, "ICMP_ERROR"): Case(_icmp_error("to_pod"), to_proxy()),
    ("to_pod", 3, "NOT_IP"): Case(_unread("to_pod", "NOT_IP"), passes()),
    ("to_pod", 3, "NOT_TCP"): Case(_unread("to_pod", "NOT_TCP"), passes()),
    ("to_pod", 4, "NODE_PROBE"): Case(lambda s: s.to_pod(s.family.outside, is_made_here=True), passes()),
    ("to_pod", 5, "INBOUND"): Case(lambda s: s.to_pod(s.family.outside), to_proxy()),
    ("to_pod", 6, "INBOUND_FLOW"): Case(_inbound_flow, to_proxy()),
    ("to_pod", 7, "NODE_ANSWER"): Case(lambda s: s.to_pod(s.family.remote, ACK, is_made_here=True), passes()),
    ("to_pod", 8, "SYN_COOKIE"): Case(_cookie_to_pod, to_proxy(TAG)),
    ("to_pod", 9, "FORGED_FLOW"): Case(_forged_flow, dropped),
    ("to_pod", 10, "UNKNOWN_TUNNEL"): Case(
        lambda s: s.to_pod(s.family.remote, ACK, destination_port=15008), to_proxy()
    ),
    ("to_pod", 11, "INBOUND_OTHER"): Case(lambda s: s.to_pod(s.family.remote, ACK), passes()),
    ("from_proxy", 1, "PROXY_NOT_TCP"): Case(_unread("from_proxy", "NOT_TCP"), dropped),
    ("from_proxy", 2, "INTO_PROXY"): Case(_tunnel, to_proxy()),
    ("from_proxy", 3, ""): Case(_ended_hairpin, into_neighbour),
    ("from_proxy", 4, "INTO_POD"): Case(
        lambda s: s.arrive("from_proxy", s.packet(s.family.remote, s.family.pod, ACK)), into_pod
    ),
    ("from_proxy", 4, "SETTLING"): Case(_perhaps_a_hairpins_answer, dropped),
    ("from_proxy", 5, "INTO_NODE"): Case(_hairpins_answer, into_node),
    ("from_proxy", 6, "FOREIGN_SOURCE"): Case(
        lambda s: s.arrive("from_proxy", s.packet(s.family.remote, s.family.outside)), dropped
    ),
    ("at_proxy", 1, "NOT_FOR_PROXY"): Case(_unread("at_proxy", "NOT_TCP"), dropped),
    ("at_proxy", 2, "PROXY_ICMP"): Case(_icmp_error("at_proxy"), to_stack()),
    ("at_proxy", 3, "PROXY_SYN"): Case(_proxy_syn, to_stack()),
    ("at_proxy", 4, "PROXY_PACKET"): Case(
        lambda s: s.arrive("at_proxy", s.packet(s.family.pod, s.family.remote, ACK), mark=OUT), to_stack()
    ),
    ("at_proxy", 5, "NOBODYS_RESET"): Case(
        lambda s: s.arrive("at_proxy", s.packet(s.family.remote, s.family.pod, RST, macs=TAGGED)), dropped
    ),
    ("at_proxy", 6, "ASSIGNED_OUTBOUND"): Case(
        _assigned(ListenerKind.OUTBOUND, OUT_NEW, 15008), to_stack(ListenerKind.OUTBOUND)
    ),
    ("at_proxy", 6, "ASSIGNED_HBONE"): Case(_assigned(ListenerKind.HBONE, 0, 15008), to_stack(ListenerKind.HBONE)),
    ("at_proxy", 6, "ASSIGNED_PLAINTEXT"): Case(
        _assigned(ListenerKind.PLAINTEXT, 0, SERVER), to_stack(ListenerKind.PLAINTEXT)
    ),
    ("at_proxy", 6, "PROXY_AWAY"): Case(_assigned(ListenerKind.HBONE, 0, SERVER), dropped),
    ("at_proxy", 6, "ASSIGN_REFUSED"): Case(
        lambda s: _assigned(ListenerKind.HBONE, 0, 15008)(s)._replace(refuses=True), dropped
    ),
}
for _program, _number in (("from_pod", 2), ("to_pod", 3), ("from_proxy", 1), ("at_proxy", 1)):
    for _reason in ("CUT_SHORT", "IP_OPTIONS", "FRAGMENT", "EXTENSION_HEADERS", "TAGGED_TWICE", "MAPPED_ADDRESS"):
        if (_program, _reason) != ("from_proxy", "TAGGED_TWICE"):  # PROXY_NOT_TCP there
            CASES[_program, _number, _reason] = Case(_unread(_program, _reason), dropped)
