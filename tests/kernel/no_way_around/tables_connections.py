# SPDX-License-Identifier: Apache-2.0
"""Vectors about connections: odd flags, packets of none, special ports and addresses, what comes from outside."""

from collections.abc import Mapping

from tests.kernel.no_way_around.frames import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Frame
from tests.kernel.no_way_around.vector import (
    IGNORED,
    INBOUND,
    IPV4_ONLY,
    IPV6_ONLY,
    LOCAL_STEERED,
    PROXY,
    RESET,
    STEERED,
    Answer,
    Cast,
    Make,
    Place,
    Table,
    Vector,
    sends,
)

_ODD: tuple[tuple[str, int, Mapping[str, int], Answer], ...] = (
    ("ACK", ACK, RESET, "reset"),
    ("FIN and ACK", FIN | ACK, RESET, "reset"),
    ("SYN and ACK", SYN | ACK, RESET, "reset"),
    ("SYN, ACK and FIN", SYN | ACK | FIN, RESET, "reset"),
    ("FIN alone", FIN, IGNORED, ""),
    ("no flag", 0, IGNORED, ""),
    ("FIN, PSH and URG", FIN | PSH | URG, IGNORED, ""),
    ("SYN and FIN", SYN | FIN, IGNORED, ""),
    ("SYN and RST", SYN | RST, {"UNKNOWN_FLOW": 1, "NOBODYS_RESET": 1}, ""),
    ("RST", RST, {"UNKNOWN_FLOW": 1, "NOBODYS_RESET": 1}, ""),
    ("RST and ACK", RST | ACK, {"UNKNOWN_FLOW": 1, "NOBODYS_RESET": 1}, ""),
    ("every flag", 0xFF, {"UNKNOWN_FLOW": 1, "NOBODYS_RESET": 1}, ""),
)
_WHERE = (("another node's pod", "remote"), ("a pod of this node", "neighbour"), ("the pod itself", "pod"))

NOBODYS = Table(
    "Packets of no connection, towards the mesh",
    tuple(
        Vector(f"{name}, to {where}", sends(flags, to), counts, PROXY, answer)
        for name, flags, counts, answer in _ODD
        for where, to in _WHERE
    ),
)

_OUTSIDE = "an address that the mesh does not know"
_WIRE: frozenset[Place] = frozenset({"wire"})
_NODE: frozenset[Place] = frozenset({"node"})

OTHERS = Table(
    "Packets of no connection, towards others",
    (
        *(
            Vector(
                f"{name}, to an unknown address",
                sends(flags, "outside"),
                {"OUTSIDE_FLOW": 1},
                _WIRE,
                documented=_OUTSIDE,
            )
            for name, flags, _, _ in _ODD
        ),
        Vector(
            "ACK, to the node",
            sends(ACK, "node"),
            {"NODE_FLOW": 1, "NODE_ANSWER": 1},
            _NODE,
            "reset",
            documented="the node itself",
        ),
        Vector("RST, to the node", sends(RST, "node"), {"NODE_FLOW": 1}, _NODE, documented="the node itself"),
        Vector("ACK, to an excluded address that nobody connected to", sends(ACK, "excluded"), RESET, PROXY, "reset"),
    ),
)

_SYNS = (
    ("with data, as of TCP Fast Open", SYN, b"\x22\x0a" + bytes(8) + bytes(2)),
    ("with ECE and CWR", SYN | ECE | CWR, b""),
    ("with PSH and URG", SYN | PSH | URG, b""),
)


def _fast_open(flags: int, to: str, option: bytes) -> Make:
    """TCP options are in front of the payload."""

    def make(cast: Cast) -> Frame:
        return cast.frame(flags, cast.address(to), tcp_words=5 + len(option) // 4, payload=option + cast.marker)

    return make


SYNS = Table(
    "Odd SYNs",
    (
        *(
            Vector(f"to the mesh, {name}", _fast_open(flags, "remote", option), STEERED, PROXY, "SYN-ACK")
            for name, flags, option in _SYNS
        ),
        *(
            Vector(
                f"to a pod of this node, {name}",
                _fast_open(flags, "neighbour", option),
                LOCAL_STEERED,
                PROXY,
                "SYN-ACK",
            )
            for name, flags, option in _SYNS
        ),
        Vector("from port 0", sends(SYN, "remote", source_port=0), STEERED, PROXY, "SYN-ACK"),
        Vector("to port 0", sends(SYN, "remote", destination_port=0), STEERED, PROXY, "SYN-ACK"),
        Vector(
            "to port 0 of a pod of this node",
            sends(SYN, "neighbour", destination_port=0),
            LOCAL_STEERED,
            PROXY,
            "SYN-ACK",
        ),
        Vector("from and to the same port", sends(SYN, "neighbour", source_port=80), LOCAL_STEERED, PROXY, "SYN-ACK"),
    ),
)


def _listener(flags: int, to: str, number: int) -> Make:
    def make(cast: Cast) -> Frame:
        return cast.frame(flags, cast.address(to), destination_port=cast.listeners[number])

    return make


_KINDS = ("outbound", "HBONE", "plaintext")
_ITSELF = "the node itself, where nothing of ours listens"

PORTS = Table(
    "Ports of the proxy",
    (
        *(
            vector
            for number, kind in enumerate(_KINDS)
            for vector in (
                Vector(
                    f"SYN to the {kind} listener's port, of the mesh",
                    _listener(SYN, "remote", number),
                    STEERED,
                    PROXY,
                    "SYN-ACK",
                ),
                Vector(
                    f"ACK to the {kind} listener's port, of the mesh",
                    _listener(ACK, "remote", number),
                    RESET,
                    PROXY,
                    "reset",
                ),
                Vector(
                    f"SYN to the {kind} listener's port, of a pod of this node",
                    _listener(SYN, "neighbour", number),
                    LOCAL_STEERED,
                    PROXY,
                    "SYN-ACK",
                ),
                Vector(
                    f"a stranger's SYN to the {kind} listener's port, of the pod",
                    _listener(SYN, "pod", number),
                    INBOUND,
                    PROXY,
                    "SYN-ACK",
                    sender="x",
                ),
                Vector(
                    f"SYN to the {kind} listener's port, of the node",
                    _listener(SYN, "node", number),
                    {"NODE_ADDRESS": 1, "NODE_ANSWER": 1},
                    _NODE,
                    "reset",
                    documented=_ITSELF,
                ),
            )
        ),
        Vector(
            "SYN to 15008, of another node's pod",
            sends(SYN, "remote", destination_port=15008),
            STEERED,
            PROXY,
            "SYN-ACK",
        ),
        Vector(
            "SYN to 15008, of a pod of this node",
            sends(SYN, "neighbour", destination_port=15008),
            LOCAL_STEERED,
            PROXY,
            "SYN-ACK",
        ),
        Vector(
            "SYN to 15008, of the pod itself",
            sends(SYN, "pod", destination_port=15008),
            LOCAL_STEERED,
            PROXY,
            "SYN-ACK",
        ),
        Vector(
            "SYN from 15008, to a pod of this node",
            sends(SYN, "neighbour", source_port=15008),
            LOCAL_STEERED,
            PROXY,
            "SYN-ACK",
        ),
        Vector(
            "ACK to 15008, of another node's pod", sends(ACK, "remote", destination_port=15008), RESET, PROXY, "reset"
        ),
        Vector(
            "ACK to 15008, of a pod of this node",
            sends(ACK, "neighbour", destination_port=15008),
            RESET,
            PROXY,
            "reset",
        ),
        Vector(
            "SYN to 15008, of the node",
            sends(SYN, "node", destination_port=15008),
            {"NODE_ADDRESS": 1, "NODE_ANSWER": 1},
            _NODE,
            "reset",
            documented=_ITSELF,
        ),
        Vector(
            "a stranger's SYN to 15008 of the pod",
            sends(SYN, "pod", destination_port=15008),
            {**INBOUND, "ASSIGNED_HBONE": 1, "ASSIGNED_PLAINTEXT": 0},
            PROXY,
            "SYN-ACK",
            sender="x",
        ),
    ),
)

_UNKNOWN = {"UNKNOWN_DESTINATION": 1}

DESTINATIONS = Table(
    "Destinations that are special",
    (
        Vector(
            "SYN to the node",
            sends(SYN, "node", destination_port=81),
            {"NODE_ADDRESS": 1, "NODE_ANSWER": 1},
            _NODE,
            "reset",
            documented="the node itself",
        ),
        Vector(
            "SYN to the gateway",
            sends(SYN, "gateway", destination_port=81),
            {"NODE_ADDRESS": 1, "NODE_ANSWER": 1},
            _NODE,
            "reset",
            documented="the node itself",
        ),
        Vector("SYN to the cloud's metadata", sends(SYN, "metadata"), _UNKNOWN, _WIRE, documented=_OUTSIDE),
        Vector("SYN to an unknown address", sends(SYN, "outside"), _UNKNOWN, _WIRE, documented=_OUTSIDE),
        Vector(
            "SYN to the loopback address, which the node does not take from outside",
            sends(SYN, "loopback"),
            {"NODE_ADDRESS": 1},
        ),
        Vector("SYN to a multicast group", sends(SYN, "multicast"), _UNKNOWN),
        Vector(
            "SYN to an excluded address",
            sends(SYN, "excluded"),
            {"EXCLUDED": 1},
            _WIRE,
            documented="excluded by the operator",
        ),
        Vector(
            "SYN to a pod outside the mesh", sends(SYN, "stranger"), _UNKNOWN, frozenset({"x"}), documented=_OUTSIDE
        ),
        Vector("SYN to the pod itself", sends(SYN, "pod"), LOCAL_STEERED, PROXY, "SYN-ACK"),
    ),
)

_GUARDED = {"INBOUND_OTHER": 1}
_NO_CONNECTION = "no connection: a stack answers it with a reset, or not at all"
_A: frozenset[Place] = frozenset({"a"})

STRANGERS = Table(
    "From a pod outside the mesh and from the wire",
    (
        Vector("SYN", sends(SYN, "pod"), INBOUND, PROXY, "SYN-ACK", sender="x"),
        Vector("SYN, from the wire", sends(SYN, "pod"), INBOUND, PROXY, "SYN-ACK", sender="wire"),
        Vector(
            "SYN with data, as of TCP Fast Open",
            _fast_open(SYN, "pod", _SYNS[0][2]),
            INBOUND,
            PROXY,
            "SYN-ACK",
            sender="x",
        ),
        Vector("SYN as a pod of another node", sends(SYN, "pod", "remote"), INBOUND, PROXY, sender="x"),
        Vector(
            "SYN as an enrolled pod of this node: the answer goes to that one",
            sends(SYN, "pod", "neighbour"),
            {**INBOUND, "INBOUND_OTHER": 1},
            PROXY,
            sender="x",
        ),
        Vector(
            "SYN as the pod itself: the answer goes back to it",
            sends(SYN, "pod", "pod"),
            {**INBOUND, "INBOUND_OTHER": 1},
            PROXY,
            sender="x",
            families=IPV4_ONLY,  # over IPv6 the node also tells the pod of a shorter way, but not always
        ),
        Vector(
            "SYN as the node, which does not take it", sends(SYN, "pod", "node"), {}, sender="x", families=IPV4_ONLY
        ),
        Vector(
            "SYN as the node: the answer goes to the node, which resets it",
            sends(SYN, "pod", "node"),
            {**INBOUND, "INBOUND_FLOW": 1, "PROXY_PACKET": 1},
            PROXY,
            sender="x",
            families=IPV6_ONLY,
        ),
        Vector(
            "SYN as the loopback address, which the node does not take", sends(SYN, "pod", "loopback"), {}, sender="x"
        ),
        *(
            Vector(f"{name}", sends(flags, "pod"), _GUARDED, _A, sender="x", documented=_NO_CONNECTION)
            for name, flags, _, _ in _ODD
        ),
        Vector(
            "data as an enrolled pod of this node",
            sends(ACK, "pod", "neighbour"),
            _GUARDED,
            _A,
            sender="x",
            documented=_NO_CONNECTION,
        ),
        Vector(
            "data as a pod of another node, from the wire",
            sends(ACK, "pod", "remote"),
            _GUARDED,
            _A,
            sender="wire",
            documented=_NO_CONNECTION,
        ),
        Vector(
            "SYN to a mapped address, which no route leads to",
            sends(SYN, "::ffff:10.99.1.2"),
            {},
            _WIRE,
            sender="x",
            families=IPV6_ONLY,
            documented="a stranger's packet to nobody",
        ),
        Vector(
            "SYN by way of another host, which the node does not take",
            sends(SYN, "pod", options=b"\x83\x07\x04\x0a\x63\x01\x02\0"),
            {},
            sender="x",
            families=IPV4_ONLY,
        ),
    ),
)

OPENINGS = Table(
    "Both ends open: split handshakes and simultaneous opens",
    (
        Vector(
            "a stranger answers the pod's SYN with a SYN of its own",
            sends(SYN, "pod", source_port=7, destination_port=7),
            INBOUND,
            PROXY,
            "SYN-ACK",
            sender="x",
            before=(("a", sends(SYN, "stranger", source_port=7, destination_port=7)),),
        ),
        Vector(
            "a pod of another node sends a SYN where the pod's own has gone to the proxy",
            sends(SYN, "pod", "remote", source_port=8, destination_port=8),
            INBOUND,
            PROXY,
            "SYN-ACK",
            sender="wire",
            before=(("a", sends(SYN, "remote", source_port=8, destination_port=8)),),
        ),
        Vector(
            "the pod answers a SYN with a SYN, for the same connection",
            sends(SYN, "stranger", source_port=9, destination_port=9),
            _UNKNOWN,
            frozenset({"x"}),
            documented=_OUTSIDE,
            before=(("x", sends(SYN, "pod", source_port=9, destination_port=9)),),
        ),
    ),
)
