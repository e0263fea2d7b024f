# SPDX-License-Identifier: Apache-2.0
"""The truth tables of the four programs in plain Python: slow, obvious, and the programs' twin in test_model.py.

Written from the tables and from the design, row by row in their words; not from the code below the tables. It has its
own idea of a flow (two ends and who opened it) and of a block of addresses, so that a mistake is not made twice.
"""

from typing import NamedTuple

from nodeagent.model.mark import DEFAULT_MARKS
from tests.kernel.proof.reading import End, Quoted, Tcp, read
from tests.kernel.proof.recording import Redirect
from tests.kernel.proof.world import (
    ADOPTED,
    ALLOWED,
    DROP,
    EITHER,
    EXCLUDED,
    HBONE_PORT,
    TAKEN,
    Flow,
    Hairpin,
    Pod,
    Sender,
    World,
)

PASS, STACK, REDIRECT = -1, 0, 7
OUT, LOCAL, PROXY, OUT_NEW = map(DEFAULT_MARKS.value, ("OUT", "LOCAL", "PROXY", "OUT_NEW"))
OURS = DEFAULT_MARKS.mask
TAG = b"\x02mesh\x01"
INTO_INGRESS = 1
"""BPF_F_INGRESS."""


class Outcome(NamedTuple):
    """What becomes of a packet. Of one that is dropped nothing else is said."""

    row: int
    reason: str
    verdict: int
    mark: int = 0
    frame: bytes = b""
    redirect: Redirect | None = None
    is_for_host: bool = False
    listener: int = 0


def remark(mark: int, ours: int) -> int:
    """Bits of others stay."""
    return mark & ~OURS | ours


# ---- from_pod --------------------------------------------------------------------------------------------------------

_UNREADABLE = {"CUT_SHORT", "IP_OPTIONS", "FRAGMENT", "EXTENSION_HEADERS", "TAGGED_TWICE", "MAPPED_ADDRESS"}


def from_pod(world: World, frame: bytes, device: int, mark: int = 0, *, is_signed: bool = False) -> Outcome:
    """`is_signed`: it carries from_proxy's secret."""
    row, reason = _judge_from_pod(world, frame, device, is_from_proxy=is_signed and mark & OURS == PROXY)
    passes = {
        "PROXY_PASSAGE",
        "NOT_IP",
        "NOT_TCP",
        "LOCAL_FLOW",
        "NODE_FLOW",
        "FLOW_RENEWED",
        "OUTSIDE_FLOW",
        "EXCLUDED_FLOW",
    }
    passes |= {"FLOW_RESTORED", "ADOPTED", "NODE_ADDRESS", "EXCLUDED", "LOCAL_ALLOWED", "UNKNOWN_DESTINATION"}
    drops = _UNREADABLE | {"SPOOFED_SOURCE", "NOT_REGISTERED", "SETTLING"}
    if reason in drops:
        outcome = Outcome(row, reason, DROP)
    elif reason in {"LOCAL_FLOW", "FLOW_RENEWED", "FLOW_RESTORED", "ADOPTED", "LOCAL_ALLOWED"}:
        outcome = Outcome(row, reason, PASS, remark(mark, LOCAL), frame)
    elif reason in passes:
        outcome = Outcome(row, reason, PASS, mark if row == 1 else remark(mark, 0), frame)
    else:
        ours = OUT if row in {4, 6} else OUT_NEW
        to_proxy = Redirect("redirect_peer", world.proxy_device, 0)
        outcome = Outcome(row, reason, REDIRECT, remark(mark, ours), frame, to_proxy)
    world.count(reason, device, outcome.verdict)
    packet = read(frame)
    if row in {10, 12} and isinstance(packet, Tcp) and packet.answers_syn:
        world.pod_counts[device, "unasked"] += 1
    return outcome


def _judge_from_pod(world: World, frame: bytes, device: int, *, is_from_proxy: bool) -> tuple[int, str]:
    if is_from_proxy:
        return 1, "PROXY_PASSAGE"
    packet = read(frame)
    if not isinstance(packet, Tcp):
        return 2, packet if isinstance(packet, str) else "NOT_TCP"
    sender = world.senders.get((device, packet.source[0]))
    if sender is None:
        return 3, "SPOOFED_SOURCE"
    if packet.opens:
        return _judge_opening(world, packet, sender)
    return _judge_running(world, packet, sender)


def _take(world: World, packet: Tcp) -> None:
    """The connection is the proxy's from here on."""
    world.flows[packet.connection] = Flow(world.generation, TAKEN, packet.source)


def _judge_running(world: World, packet: Tcp, sender: Sender) -> tuple[int, str]:
    """Rows 4 to 12."""
    holds = world.has_socket(packet)
    if packet.answers_syn and holds:
        _take(world, packet)
        return 4, "PROXY_ANSWERED"
    found = world.flows.get(packet.connection)
    is_taken = found is not None and found.kind == TAKEN
    if found and is_taken and packet.answers_syn:
        world.flows[packet.connection] = found = found._replace(held=frozenset())
    if found and is_taken and packet.source in found.held and not packet.resets:
        return 6, "PROXY_FLOW"
    flow = None if is_taken else found
    if flow and flow.kind == EXCLUDED:
        return 5, "EXCLUDED_FLOW"
    if flow and flow.generation == world.generation:
        return 5, "LOCAL_FLOW"
    if holds:
        if not found:
            _take(world, packet)
            found = world.flows[packet.connection]
        if found.kind == TAKEN:
            world.flows[packet.connection] = found._replace(held=found.held | {packet.source})
        return 6, "PROXY_FLOW"
    if packet.destination[0] in world.node_addresses:
        return 7, "NODE_FLOW"
    return _judge_direct(world, packet, sender, flow, is_taken=is_taken)


def _judge_direct(world: World, packet: Tcp, sender: Sender, flow: Flow | None, *, is_taken: bool) -> tuple[int, str]:
    """Rows 8 to 12."""
    if flow:
        if flow.kind != ALLOWED or _is_still_good(world, packet, flow, sender):
            world.flows[packet.connection] = flow._replace(generation=world.generation)
            return 8, "FLOW_RENEWED"
        return 9, "REVOKED"
    if packet.destination[0] not in world.pods and not world.is_known(packet.destination[0]):
        return 10, "OUTSIDE_FLOW"
    return _judge_unknown(world, packet, sender, is_taken=is_taken)


def _judge_unknown(world: World, packet: Tcp, sender: Sender, *, is_taken: bool) -> tuple[int, str]:
    """Rows 11 and 12."""
    if world.is_settling:
        return 11, "SETTLING"
    if not is_taken and (opener := _may_be_open(world, packet, sender)) is not None:
        world.flows[packet.connection] = Flow(world.generation, ALLOWED, opener)
        return 11, "FLOW_RESTORED"
    if not packet.resets and not is_taken and sender.is_window_open:
        if world.kept_cookie(packet, "OUTBOUND"):
            return 11, "SYN_COOKIE"
        world.flows[packet.connection] = Flow(world.generation, ADOPTED, packet.source)
        return 11, "ADOPTED"
    return 12, "UNKNOWN_FLOW"


def _is_still_good(world: World, packet: Tcp, flow: Flow, sender: Sender) -> bool:
    """The verdict, in the direction of the connection's SYN."""
    peer = world.pods.get(packet.destination[0])
    if peer is None:
        return False
    as_client = world.may_go_on(sender.number, peer.number, packet.destination[1])
    as_server = world.may_go_on(peer.number, sender.number, packet.source[1])
    if flow.opener == EITHER:
        return as_client and as_server
    return as_client if flow.opener == packet.source else as_server


def _may_be_open(world: World, packet: Tcp, sender: Sender) -> End | None:
    """Who has opened the connection in whose middle this packet is, as far as verdicts allow it; None: nobody."""
    peer = world.pods.get(packet.destination[0])
    if peer is None or packet.has_syn_alone:
        return None
    as_client = not packet.answers_syn and world.may_go_on(sender.number, peer.number, packet.destination[1])
    as_server = world.may_go_on(peer.number, sender.number, packet.source[1])
    if as_client and as_server:
        return EITHER
    if as_client:
        return packet.source
    return packet.destination if as_server else None


def _judge_opening(world: World, packet: Tcp, sender: Sender) -> tuple[int, str]:
    """Rows 13 to 18."""
    address, port = packet.destination
    pod = world.pods.get(address)
    if address in world.node_addresses:
        world.flows.pop(packet.connection, None)
        return 13, "NODE_ADDRESS"
    if not pod and world.is_excluded(address, port):
        if world.is_known(address):
            world.flows[packet.connection] = Flow(world.generation, EXCLUDED, packet.source)
        else:
            world.flows.pop(packet.connection, None)
        return 14, "EXCLUDED"
    if pod and world.may_connect(sender.number, pod.number, port) and not world.has_socket(packet):
        world.flows[packet.connection] = Flow(world.generation, ALLOWED, packet.source)
        return 15, "LOCAL_ALLOWED"
    if pod:
        _take(world, packet)
        world.hairpins.discard(Hairpin(packet.source, packet.destination))
        return 16, "LOCAL_STEERED"
    if world.is_known(address) or world.is_named(address, port):
        _take(world, packet)
        return 17, "STEERED"
    world.flows.pop(packet.connection, None)
    return 18, "NOT_REGISTERED" if world.registry_only or sender.registry_only else "UNKNOWN_DESTINATION"


def leaves_signed(outcome: Outcome, *, is_signed: bool) -> bool:
    """Whether a packet carries from_proxy's secret afterwards; `is_signed`: whether it did before."""
    return is_signed or outcome.reason == "INTO_NODE"


# ---- to_pod ----------------------------------------------------------------------------------------------------------


def to_pod(world: World, frame: bytes, device: int, mark: int = 0, ingress: int = 0) -> Outcome:
    row, reason = _judge_to_pod(world, frame, mark, is_made_here=ingress == 0)
    to_proxy = Redirect("redirect", world.proxy_device, 0)
    if reason in _UNREADABLE or row == 9:
        outcome = Outcome(row, reason, DROP)
    elif row == 8:
        outcome = Outcome(row, reason, REDIRECT, mark, TAG + frame[6:], to_proxy)
    elif row in {2, 5, 6, 10}:
        outcome = Outcome(row, reason, REDIRECT, mark, frame, to_proxy)
    else:
        outcome = Outcome(row, reason, PASS, mark, frame)
    world.count(reason, device, outcome.verdict)
    packet = read(frame)
    if row == 4 and isinstance(packet, Tcp) and packet.source[0] not in world.node_addresses:
        world.pod_counts[device, "admitted"] += 1
    return outcome


def _judge_to_pod(world: World, frame: bytes, mark: int, *, is_made_here: bool) -> tuple[int, str]:
    if mark & OURS == LOCAL:
        return 1, "LOCAL_DELIVERED"
    packet = read(frame)
    if isinstance(packet, Quoted) and world.has_socket(packet):
        return 2, "ICMP_ERROR"
    if not isinstance(packet, Tcp):
        return 3, packet if isinstance(packet, str) else "NOT_TCP"
    arrival = packet.source, packet.destination
    if packet.opens or packet.answers_syn:
        world.inbound.discard(arrival)
    if packet.opens:
        if is_made_here:
            return 4, "NODE_PROBE"
        if packet.source[0] in world.pods:
            world.hairpins.add(Hairpin(packet.source, packet.destination))
        return 5, "INBOUND"
    if arrival in world.inbound and not packet.resets:
        return 6, "INBOUND_FLOW"
    if world.has_socket(packet):
        world.inbound.add(arrival)
        return 6, "INBOUND_FLOW"
    return _judge_running_to_pod(world, packet, is_made_here=is_made_here)


def _judge_running_to_pod(world: World, packet: Tcp, *, is_made_here: bool) -> tuple[int, str]:
    """Rows 7 to 10, of what the proxy does not hold."""
    if is_made_here:
        return 7, "NODE_ANSWER"
    if world.kept_cookie(packet, "HBONE" if packet.destination[1] == HBONE_PORT else "PLAINTEXT"):
        return 8, "SYN_COOKIE"
    flow = world.flows.get(packet.connection)
    if flow and flow.kind == ALLOWED:
        return 9, "FORGED_FLOW"
    if packet.destination[1] == HBONE_PORT and not packet.resets and world.is_mesh(packet.source[0]):
        return 10, "UNKNOWN_TUNNEL"
    return 11, "INBOUND_OTHER"


# ---- from_proxy ------------------------------------------------------------------------------------------------------


def from_proxy(world: World, frame: bytes, mark: int = 0) -> Outcome:
    row, reason, by = _judge_from_proxy(world, frame)
    world.reasons[reason] += 1
    if reason == "INTO_PROXY":
        return Outcome(row, reason, REDIRECT, mark, frame, Redirect("redirect", world.proxy_device, 0))
    if by is None:
        return Outcome(row, reason, DROP)
    if reason == "INTO_POD":
        rewritten = by.pod_mac + by.gateway_mac + frame[12:]
        into_pod = Redirect("redirect_peer", by.device, 0)
        return Outcome(row, reason, REDIRECT, remark(mark, 0), rewritten, into_pod, is_for_host=True)
    rewritten = by.gateway_mac + by.pod_mac + frame[12:]
    return Outcome(row, reason, REDIRECT, remark(mark, PROXY), rewritten, Redirect("redirect", by.device, INTO_INGRESS))


def _judge_from_proxy(world: World, frame: bytes) -> tuple[int, str, Pod | None]:
    """With the pod whose device is meant."""
    packet = read(frame)
    if not isinstance(packet, Tcp):
        is_other = isinstance(packet, Quoted) or packet in {"NOT_IP", "NOT_TCP", "TAGGED_TWICE"}
        return 1, "PROXY_NOT_TCP" if is_other else str(packet), None
    source, destination = world.pods.get(packet.source[0]), world.pods.get(packet.destination[0])
    answered = Hairpin(client=packet.destination, server=packet.source)
    if source and destination:
        if packet.opens and packet.destination[1] == HBONE_PORT:
            return 2, "INTO_PROXY", None
        if HBONE_PORT in {packet.source[1], packet.destination[1]} and world.has_socket(packet):
            return 2, "INTO_PROXY", None
        if packet.opens:
            world.hairpins.discard(answered)
    answers_hairpin = source is not None and answered in world.hairpins
    if destination and not answers_hairpin:
        world.pod_counts[destination.device, "admitted"] += packet.opens
        if source and not packet.opens and world.is_settling:
            return 4, "SETTLING", None
        return 4, "INTO_POD", destination
    if source:
        return 5, "INTO_NODE", source
    return 6, "FOREIGN_SOURCE", None


# ---- at_proxy --------------------------------------------------------------------------------------------------------


def at_proxy(world: World, frame: bytes, mark: int = 0, flow_hash: int = 0, *, refuses: bool = False) -> Outcome:
    """`refuses`: the kernel does not let the packet be assigned."""
    row, reason, listener = _judge_at_proxy(world, frame, mark & OURS, flow_hash, refuses=refuses)
    world.reasons[reason] += 1
    if row in {1, 5} or reason in {"PROXY_AWAY", "ASSIGN_REFUSED"}:
        return Outcome(row, reason, DROP)
    return Outcome(row, reason, STACK, remark(mark, 0), frame, is_for_host=True, listener=listener)


def _judge_at_proxy(world: World, frame: bytes, ours: int, flow_hash: int, *, refuses: bool) -> tuple[int, str, int]:
    """With the port of the listener."""
    packet = read(frame)
    if isinstance(packet, Quoted):
        return 2, "PROXY_ICMP", 0
    if not isinstance(packet, Tcp):
        return 1, "NOT_FOR_PROXY" if packet in {"NOT_IP", "NOT_TCP"} else packet, 0
    if packet.opens and world.has_socket(packet):
        return 3, "PROXY_SYN", 0
    is_tagged = ours == 0 and frame[:6] == TAG
    if not packet.opens and ours != OUT_NEW and not is_tagged:
        return 4, "PROXY_PACKET", 0
    if not packet.opens and packet.resets:
        return 5, "NOBODYS_RESET", 0
    inbound = "HBONE" if packet.destination[1] == HBONE_PORT else "PLAINTEXT"
    kind = "OUTBOUND" if ours == OUT_NEW else inbound
    first = packet.source[1] // 2 if kind == "HBONE" else flow_hash
    for further in range(world.slots):
        listener = world.listeners.get((kind, (first + further) % world.slots))
        if listener is not None:
            return 6, "ASSIGN_REFUSED" if refuses else f"ASSIGNED_{kind}", listener
    return 6, "PROXY_AWAY", 0
