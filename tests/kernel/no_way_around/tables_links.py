# SPDX-License-Identifier: Apache-2.0
"""Vectors on the link and in tunnels: VLAN tags, other ethertypes, MAC addresses, packets inside packets."""

from collections.abc import Mapping

from tests.kernel.no_way_around.frames import (
    ACK,
    ARP,
    GRE,
    IPIP,
    IPV4,
    IPV6,
    IPV6_IN_IP,
    MPLS,
    QINQ,
    SYN,
    TAG,
    UDP,
    VLAN,
    Frame,
)
from tests.kernel.no_way_around.vector import (
    INBOUND,
    IPV4_ONLY,
    IPV6_ONLY,
    NOWHERE,
    PROXY,
    RESET,
    STEERED,
    STEERED_UNANSWERED,
    Answer,
    Cast,
    Make,
    Place,
    Sender,
    Table,
    Vector,
    sends,
)

_TAGGED_TWICE = {"TAGGED_TWICE": 1}


def _twice(name: str, *tags: tuple[int, int], to: str = "remote", flags: int = SYN, sender: Sender = "a") -> Vector:
    return Vector(name, sends(flags, to, tags=tags), _TAGGED_TWICE, sender=sender)


VLANS = Table(
    "VLAN tags",
    (
        Vector("one tag, of another VLAN", sends(SYN, "remote", tags=((VLAN, 5),)), STEERED_UNANSWERED, PROXY),
        Vector("one tag, of no VLAN", sends(SYN, "remote", tags=((VLAN, 0),)), STEERED, PROXY, "SYN-ACK"),
        Vector("one service tag, of no VLAN", sends(SYN, "remote", tags=((QINQ, 0),)), STEERED, PROXY, "SYN-ACK"),
        Vector("one tag, as another pod", sends(SYN, "remote", "neighbour", tags=((VLAN, 0),)), {"SPOOFED_SOURCE": 1}),
        Vector("one tag, data", sends(ACK, "neighbour", tags=((VLAN, 0),)), RESET, PROXY, "reset"),
        _twice("two tags of no VLAN, which Linux takes off like one", (VLAN, 0), (VLAN, 0)),
        _twice("a service tag and a tag, of no VLAN", (QINQ, 0), (VLAN, 0)),
        _twice("two service tags, of no VLAN", (QINQ, 0), (QINQ, 0)),
        _twice("two tags, of other VLANs", (VLAN, 5), (VLAN, 6)),
        _twice("three tags", (QINQ, 0), (VLAN, 0), (VLAN, 0)),
        _twice("two tags of no VLAN, to a pod of this node", (VLAN, 0), (VLAN, 0), to="neighbour"),
        _twice("two tags of no VLAN, to an unknown address", (VLAN, 0), (VLAN, 0), to="outside"),
        _twice("two tags of no VLAN, to the node", (VLAN, 0), (VLAN, 0), to="node"),
        _twice("two tags of no VLAN, data to a pod of this node", (VLAN, 0), (VLAN, 0), to="neighbour", flags=ACK),
        Vector(
            "two tags of no VLAN, as another pod",
            sends(SYN, "remote", "neighbour", tags=((VLAN, 0), (VLAN, 0))),
            _TAGGED_TWICE,
        ),
        Vector(
            "a stranger's two tags of no VLAN, which its own node takes off",
            sends(SYN, "pod", tags=((VLAN, 0), (VLAN, 0))),
            INBOUND,
            PROXY,
            "SYN-ACK",
            sender="x",
        ),
    ),
)


def _on_the_bridge(
    name: str, flags: int, counts: Mapping[str, int], *tags: tuple[int, int], arrives: frozenset[Place] = NOWHERE
) -> Vector:
    """From the pod outside the mesh to pod a, straight to its MAC: no program stands at the sender's device."""

    def make(cast: Cast) -> Frame:
        return cast.frame(flags, cast.pod, to_mac=cast.macs["a"], tags=tags)

    answer: Answer = "SYN-ACK" if arrives else ""
    return Vector(name, make, counts, arrives, answer, sender="x", is_bridged=True)


BRIDGED = Table(
    "On a bridge, from a pod outside the mesh straight to the MAC of an enrolled one",
    (
        _on_the_bridge("a SYN", SYN, INBOUND, arrives=PROXY),
        _on_the_bridge("a SYN with one tag of no VLAN", SYN, INBOUND, (VLAN, 0), arrives=PROXY),
        _on_the_bridge("a SYN with two tags of no VLAN", SYN, _TAGGED_TWICE, (VLAN, 0), (VLAN, 0)),
        _on_the_bridge("a SYN with a service tag and a tag of no VLAN", SYN, _TAGGED_TWICE, (QINQ, 0), (VLAN, 0)),
        _on_the_bridge("data with two tags of no VLAN", ACK, _TAGGED_TWICE, (VLAN, 0), (VLAN, 0)),
    ),
)


def _other(name: str, ethertype: int, payload: bytes = b"") -> Vector:
    """TCP behind an ethertype that is not IP's."""

    def make(cast: Cast) -> Frame:
        return cast.frame(SYN, cast.remote, ethertype=ethertype, payload=payload + cast.marker)

    return Vector(name, make, {"NOT_IP": 1})


ETHERTYPES = Table(
    "Other ethertypes, with an IP packet behind them",
    (
        _other("of an experiment", 0x88B5),
        _other("ARP", ARP),
        _other("MPLS", MPLS),
        _other("PPPoE", 0x8864),
        _other("MACsec", 0x88E5),
        _other("a length, as of IEEE 802.2", 0x0040),
        _other("transparent Ethernet", 0x6558),
        Vector("an IPv4 packet as IPv6", sends(SYN, "remote", ethertype=IPV6), {"NOT_TCP": 1}, families=IPV4_ONLY),
        Vector("an IPv6 packet as IPv4", sends(SYN, "remote", ethertype=IPV4), {"NOT_TCP": 1}, families=IPV6_ONLY),
    ),
)


def _addressed(flags: int, to: str, *, to_mac: str | bytes = b"", from_mac: str | bytes = b"") -> Make:
    """MACs: of one of the cast, or as given; none is the right one."""

    def make(cast: Cast) -> Frame:
        right = cast.frame(flags, cast.address(to))
        chosen = [cast.macs[mac] if isinstance(mac, str) else mac for mac in (to_mac, from_mac)]
        return cast.frame(
            flags, cast.address(to), to_mac=chosen[0] or right.to_mac, from_mac=chosen[1] or right.from_mac
        )

    return make


def _steered(name: str, make: Make) -> Vector:
    return Vector(name, make, STEERED, PROXY, "SYN-ACK")


_ALL, _GROUP, _NONE = b"\xff" * 6, bytes.fromhex("01005e010101"), bytes(6)

MACS = Table(
    "MAC addresses",
    (
        _steered("to another pod's", _addressed(SYN, "remote", to_mac="b")),
        _steered("to everybody's", _addressed(SYN, "remote", to_mac=_ALL)),
        _steered("to a group's", _addressed(SYN, "remote", to_mac=_GROUP)),
        _steered("to the pod's own", _addressed(SYN, "remote", to_mac="a")),
        _steered("to nobody's", _addressed(SYN, "remote", to_mac=_NONE)),
        _steered("to the tag of to_pod", _addressed(SYN, "remote", to_mac=TAG)),
        _steered("from another pod's", _addressed(SYN, "remote", from_mac="b")),
        _steered("from the node's device's", _addressed(SYN, "remote", from_mac="a'")),
        _steered("from a group's", _addressed(SYN, "remote", from_mac=_GROUP)),
        Vector("data to the tag of to_pod", _addressed(ACK, "neighbour", to_mac=TAG), RESET, PROXY, "reset"),
        Vector("data to another pod's", _addressed(ACK, "neighbour", to_mac="b"), RESET, PROXY, "reset"),
        Vector(
            "to an unknown address, and nobody's MAC",
            _addressed(SYN, "outside", to_mac=_NONE),
            {"UNKNOWN_DESTINATION": 1},
        ),
        Vector(
            "a stranger's SYN to the tag of to_pod, which the node does not take",
            _addressed(SYN, "pod", to_mac=TAG),
            {},
            sender="x",
        ),
        Vector(
            "on a bridge, which floods it: a stranger's SYN to the tag of to_pod",
            _addressed(SYN, "pod", to_mac=TAG),
            {"INBOUND": 2, "ASSIGNED_PLAINTEXT": 1, "PROXY_SYN": 1, "INTO_NODE": 2, "PROXY_PASSAGE": 2},
            PROXY,
            "SYN-ACK",
            sender="x",
            is_bridged=True,
        ),
        Vector(
            "on a bridge, which floods it: a stranger's data to the tag of to_pod",
            _addressed(ACK, "pod", to_mac=TAG),
            {"INBOUND_OTHER": 2},
            frozenset({"a", "b"}),
            sender="x",
            is_bridged=True,
            documented="no connection: the pods' stacks do not take it in, since it is to another MAC",
        ),
    ),
)

_PASSES = {"NOT_TCP": 1}
_NO_TCP = "not TCP: never captured; whoever opens it is no pod of the mesh, or has the program at its own device"


def _inside(
    name: str,
    outer: int,
    inner: Make,
    to: str = "remote",
    where: Place = "wire",
    *,
    head: bytes = b"",
    counts: Mapping[str, int] = _PASSES,
) -> Vector:
    def make(cast: Cast) -> Frame:
        packets = inner(cast)
        assert isinstance(packets, Frame)
        return cast.frame(0, cast.address(to), protocol=outer, payload=head + packets.network, destination_port=80)

    return Vector(name, make, counts, frozenset({where}), documented=_NO_TCP)


_FORGED = sends(SYN, "neighbour", "remote")

TUNNELS = Table(
    "Packets inside packets",
    (
        _inside("IPv4 in IP, to another node", IPIP, sends(SYN, "10.99.2.2", "10.99.1.3")),
        _inside("IPv6 in IP, to another node", IPV6_IN_IP, sends(SYN, "fd99:2::2", "fd99:1::3")),
        _inside("GRE, to another node", GRE, _FORGED, head=b"\0\0\x08\0"),
        _inside("VXLAN, to another node", UDP, _FORGED, head=bytes((8,)) + bytes(7 + 14)),
        _inside(
            "IPv4 in IP, to the node, which has no tunnel that would open it",
            IPIP,
            sends(SYN, "10.99.1.3", "10.99.2.2"),
            "node",
            "node",
        ),
        _inside(
            "IPv6 in IP, to the node, which has no tunnel that would open it",
            IPV6_IN_IP,
            sends(SYN, "fd99:1::3", "fd99:2::2"),
            "node",
            "node",
        ),
        _inside(
            "IP in IP, to a pod of this node",
            IPIP,
            sends(SYN, "10.99.1.3", "10.99.1.3"),
            "neighbour",
            "b",
            counts={"NOT_TCP": 2},
        ),
    ),
)
