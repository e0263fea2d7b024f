# SPDX-License-Identifier: Apache-2.0
"""Vectors of a worker that an attacker controls, with every capability in its namespace; UDP and ICMP."""

from collections.abc import Mapping

from tests.kernel.no_way_around.frames import (
    ACK,
    ARP,
    DESTINATION_OPTIONS,
    ICMP,
    ICMPV6,
    MORE_FRAGMENTS,
    PADDING_OPTIONS,
    QINQ,
    RST,
    SYN,
    TAG,
    UDP,
    VLAN,
    Frame,
    checksum,
    fragment_header,
    icmp_message,
)
from tests.kernel.no_way_around.vector import (
    IPV4_ONLY,
    IPV6_ONLY,
    NOWHERE,
    Cast,
    Make,
    Place,
    Table,
    Vector,
    Way,
    sends,
)

_FOREIGN = {"FOREIGN_SOURCE": 1}
_NOT_TCP = {"PROXY_NOT_TCP": 1}
_INTO_NODE = {"INTO_NODE": 1, "PROXY_PASSAGE": 1}
_AS_POD = "what a worker is for: as a pod of this node, which could send it itself"
_TO_POD = "what a worker is for: into a pod of this node, as whoever it says the client is"
_WIRE: frozenset[Place] = frozenset({"wire"})
_B: frozenset[Place] = frozenset({"b"})


def _worker(
    name: str,
    make: Make,
    counts: Mapping[str, int],
    arrives: frozenset[Place] = NOWHERE,
    documented: str = "",
    families: frozenset[str] = IPV4_ONLY | IPV6_ONLY,
    by: Way = Way(),  # noqa: B008 - frozen
) -> Vector:
    return Vector(name, make, counts, arrives, sender="worker", families=families, documented=documented, by=by)


WORKER = Table(
    "A worker that an attacker controls",
    (
        _worker("as the node, to another node's pod", sends(SYN, "remote", "node"), _FOREIGN),
        _worker("as the node, to an unknown address", sends(SYN, "outside", "node"), _FOREIGN),
        _worker("as a pod outside the mesh", sends(SYN, "outside", "stranger"), _FOREIGN),
        _worker("as a pod of another node, to an unknown address", sends(SYN, "outside", "remote"), _FOREIGN),
        _worker("as anybody, to a pod outside the mesh", sends(SYN, "stranger", "outside"), _FOREIGN),
        _worker("as anybody, to the node", sends(SYN, "node", "outside"), _FOREIGN),
        _worker("as anybody, to the gateway", sends(SYN, "gateway", "outside"), _FOREIGN),
        _worker("as nobody, to the node", sends(SYN, "node", "unspecified"), _FOREIGN),
        _worker("as the loopback address, to the node", sends(SYN, "node", "loopback"), _FOREIGN),
        _worker("as a multicast group, to another node's pod", sends(SYN, "remote", "multicast"), _FOREIGN),
        _worker("data as a pod of another node, to a pod outside the mesh", sends(ACK, "stranger", "remote"), _FOREIGN),
        _worker("a reset as the node", sends(RST, "remote", "node"), _FOREIGN),
        _worker(
            "from a pod's address, mapped",
            sends(SYN, "outside", "::ffff:10.99.1.2"),
            {"MAPPED_ADDRESS": 1},
            families=IPV6_ONLY,
        ),
        _worker(
            "to a pod's address, mapped",
            sends(SYN, "::ffff:10.99.1.3", "outside"),
            {"MAPPED_ADDRESS": 1},
            families=IPV6_ONLY,
        ),
        _worker("ARP", sends(SYN, "outside", ethertype=ARP), _NOT_TCP),
        _worker("UDP as a pod", sends(0, "outside", protocol=UDP), _NOT_TCP),
        _worker("UDP into a pod", sends(0, "neighbour", protocol=UDP), _NOT_TCP),
        _worker("another protocol as a pod", sends(0, "outside", protocol=132), _NOT_TCP),
        _worker("an unknown ethertype", sends(SYN, "outside", ethertype=0x88B5), _NOT_TCP),
        _worker("one VLAN tag", sends(SYN, "outside", tags=((VLAN, 0),)), _NOT_TCP),
        _worker("one VLAN tag, into a pod", sends(SYN, "neighbour", tags=((VLAN, 1),)), _NOT_TCP),
        _worker("two VLAN tags", sends(SYN, "outside", tags=((QINQ, 0), (VLAN, 0))), _NOT_TCP),
        _worker(
            "IPv4 options as a pod",
            sends(SYN, "outside", options=bytes((1,) * 4)),
            {"IP_OPTIONS": 1},
            families=IPV4_ONLY,
        ),
        _worker(
            "a fragment as a pod", sends(SYN, "outside", fragment=MORE_FRAGMENTS), {"FRAGMENT": 1}, families=IPV4_ONLY
        ),
        _worker(
            "a fragment as a pod",
            sends(SYN, "outside", extensions=(fragment_header(0, more=True),)),
            {"FRAGMENT": 1},
            families=IPV6_ONLY,
        ),
        _worker(
            "extension headers as a pod",
            sends(SYN, "outside", extensions=((DESTINATION_OPTIONS, PADDING_OPTIONS),)),
            {"EXTENSION_HEADERS": 1},
            families=IPV6_ONLY,
        ),
        _worker("cut short, as a pod", sends(SYN, "outside", cut=14 + 39), {"CUT_SHORT": 1}, families=IPV4_ONLY),
        _worker("cut short, as a pod", sends(SYN, "outside", cut=14 + 59), {"CUT_SHORT": 1}, families=IPV6_ONLY),
        *(
            _worker(f"as the node, with mark {mark:#x}", sends(SYN, "outside", "node"), _FOREIGN, by=Way(mark=mark))
            for mark in (0x1001, 0x1002, 0x1003, 0x1005)
        ),
        _worker("as the node, to the tag of to_pod", sends(SYN, "outside", "node", to_mac=TAG), _FOREIGN),
        _worker("as a pod, to another node", sends(SYN, "remote", destination_port=15008), _INTO_NODE, _WIRE, _AS_POD),
        _worker("as a pod, to an unknown address", sends(SYN, "outside"), _INTO_NODE, _WIRE, _AS_POD),
        _worker("as a pod, to a pod outside the mesh", sends(SYN, "stranger"), _INTO_NODE, frozenset({"x"}), _AS_POD),
        _worker(
            "as a pod, to the node",
            sends(SYN, "node", destination_port=81),
            {**_INTO_NODE, "NODE_ANSWER": 1},
            frozenset({"node"}),
            _AS_POD,
        ),
        _worker(
            "as a pod, to the loopback address, which the node does not take from outside",
            sends(SYN, "loopback"),
            _INTO_NODE,
        ),
        _worker("as a pod, to a multicast group", sends(SYN, "multicast"), _INTO_NODE),
        _worker("as a pod, into another", sends(SYN, "neighbour"), {"INTO_POD": 1}, _B, _TO_POD),
        _worker(
            "as a pod of another node, into a pod", sends(SYN, "neighbour", "remote"), {"INTO_POD": 1}, _B, _TO_POD
        ),
        _worker("as the node, into a pod", sends(SYN, "neighbour", "node"), {"INTO_POD": 1}, _B, _TO_POD),
        _worker("data as anybody, into a pod", sends(ACK, "neighbour", "outside"), {"INTO_POD": 1}, _B, _TO_POD),
    ),
)


def _icmp(kind: int, kind6: int, to: str, source: str = "") -> Make:
    """An echo request, or an error that is about nothing."""

    def make(cast: Cast) -> Frame:
        given = {"source": cast.address(source)} if source else {}
        frame = cast.frame(0, cast.address(to), protocol=ICMPV6 if cast.is_ipv6 else ICMP, **given)
        body = bytes(4) + cast.marker
        if not cast.is_ipv6:
            return cast.frame(0, frame.destination, protocol=ICMP, payload=icmp_message(kind, 0, body), **given)
        return cast.frame(0, frame.destination, protocol=ICMPV6, payload=_icmpv6(frame, kind6, body), **given)

    return make


def _icmpv6(frame: Frame, kind: int, rest: bytes) -> bytes:
    message = bytes((kind, 0, 0, 0)) + rest
    pseudo = frame.network[8:40] + len(message).to_bytes(4, "big") + ICMPV6.to_bytes(4, "big")
    return message[:2] + checksum(pseudo + message).to_bytes(2, "big") + rest


_PASSES = {"NOT_TCP": 1}
_PASSES_TWICE = {"NOT_TCP": 2}
_UDP = "UDP is not captured, and its sources are not checked"
_ICMP = "ICMP is not captured, and its sources are not checked"

DOCUMENTED = Table(
    "UDP and ICMP: neither captured nor checked",
    (
        Vector("UDP to the mesh", sends(0, "remote", protocol=UDP), _PASSES, _WIRE, documented=_UDP),
        Vector("UDP to an unknown address", sends(0, "outside", protocol=UDP), _PASSES, _WIRE, documented=_UDP),
        Vector("UDP to a pod of this node", sends(0, "neighbour", protocol=UDP), _PASSES_TWICE, _B, documented=_UDP),
        Vector("UDP as another pod", sends(0, "remote", "neighbour", protocol=UDP), _PASSES, _WIRE, documented=_UDP),
        Vector(
            "UDP to a pod of this node, as a pod of another",
            sends(0, "neighbour", "remote", protocol=UDP),
            _PASSES_TWICE,
            _B,
            documented=_UDP,
        ),
        Vector(
            "UDP to port 15008",
            sends(0, "remote", protocol=UDP, destination_port=15008),
            _PASSES,
            _WIRE,
            documented=_UDP,
        ),
        Vector(
            "a stranger's UDP", sends(0, "pod", protocol=UDP), _PASSES, frozenset({"a"}), sender="x", documented=_UDP
        ),
        Vector(
            "UDP in a fragment",
            sends(0, "remote", protocol=UDP, fragment=MORE_FRAGMENTS),
            _PASSES,
            _WIRE,
            families=IPV4_ONLY,
            documented=_UDP,
        ),
        Vector(
            "UDP in a fragment",
            sends(0, "remote", protocol=UDP, extensions=(fragment_header(0, more=True),)),
            _PASSES,
            _WIRE,
            families=IPV6_ONLY,
            documented=_UDP,
        ),
        Vector(
            "options in a fragment of UDP: TCP might hide there",
            sends(0, "remote", protocol=UDP, extensions=(fragment_header(0, more=True), (60, bytes(6)))),
            {"FRAGMENT": 1},
            families=IPV6_ONLY,
        ),
        Vector("ICMP echo to the mesh", _icmp(8, 128, "remote"), _PASSES, _WIRE, documented=_ICMP),
        Vector("ICMP echo to a pod of this node", _icmp(8, 128, "neighbour"), _PASSES_TWICE, _B, documented=_ICMP),
        Vector("ICMP echo as another pod", _icmp(8, 128, "remote", "neighbour"), _PASSES, _WIRE, documented=_ICMP),
        Vector("an ICMP error about nothing", _icmp(3, 1, "neighbour"), _PASSES_TWICE, _B, documented=_ICMP),
        Vector("an ICMP redirect", _icmp(5, 137, "neighbour"), _PASSES_TWICE, _B, documented=_ICMP),
    ),
)
