# SPDX-License-Identifier: Apache-2.0
"""Vectors in which TCP hides: behind options, extension headers and fragments, or in lengths that lie."""

from dataclasses import replace

from tests.kernel.no_way_around.frames import (
    ACK,
    AUTHENTICATION,
    DESTINATION_OPTIONS,
    DO_NOT_FRAGMENT,
    EVIL,
    HOP_BY_HOP,
    MORE_FRAGMENTS,
    PADDING_OPTIONS,
    ROUTING,
    SYN,
    Frame,
    fragment_header,
)
from tests.kernel.no_way_around.vector import (
    IPV4_ONLY,
    IPV6_ONLY,
    PROXY,
    STEERED,
    STEERED_UNANSWERED,
    Cast,
    Make,
    Sender,
    Table,
    Vector,
    sends,
)

_HOP = (HOP_BY_HOP, PADDING_OPTIONS)
_DESTINATION = (DESTINATION_OPTIONS, PADDING_OPTIONS)
_JUMBO = (HOP_BY_HOP, bytes((194, 4, 0, 1, 0, 0)))


def _route(kind: int, *, left: int = 1) -> tuple[int, bytes]:
    """A routing header with one address: type 0, 2 (mobile), 3 (RPL) or 4 (segments)."""
    return ROUTING, bytes((kind, left, 0, 0, 0, 0)) + bytes.fromhex("fd990001000000000000000000000003")


def _source_route(kind: int) -> bytes:
    """Loose (131) or strict (137), by way of pod b."""
    return bytes((kind, 7, 4, 10, 99, 1, 3, 0))


def _options(name: str, options: bytes, sender: Sender = "a", to: str = "remote") -> Vector:
    return Vector(name, sends(SYN, to, options=options), {"IP_OPTIONS": 1}, sender=sender, families=IPV4_ONLY)


OPTIONS = Table(
    "IPv4 options and header lengths",
    (
        _options("no operation", bytes((1, 1, 1, 1))),
        _options("loose source route by way of another pod", _source_route(131)),
        _options("strict source route by way of another pod", _source_route(137)),
        _options("record route", bytes((7, 7, 4, 0, 0, 0, 0, 0))),
        _options("timestamp", bytes((68, 8, 5, 0, 0, 0, 0, 0))),
        _options("router alert", bytes((148, 4, 0, 0))),
        _options("an unknown option", bytes((222, 4, 0, 0))),
        _options("loose source route to a pod of this node", _source_route(131), to="neighbour"),
        _options("a stranger's, to the pod", bytes((1, 1, 1, 1)), "x", "pod"),
        Vector(
            "data behind options", sends(ACK, "remote", options=bytes((1,) * 4)), {"IP_OPTIONS": 1}, families=IPV4_ONLY
        ),
        Vector("a header of four words", sends(SYN, "remote", words=4), {"IP_OPTIONS": 1}, families=IPV4_ONLY),
        Vector("a header of no words", sends(SYN, "remote", words=0), {"IP_OPTIONS": 1}, families=IPV4_ONLY),
        Vector(
            "fifteen words that are not there", sends(SYN, "remote", words=15), {"IP_OPTIONS": 1}, families=IPV4_ONLY
        ),
        Vector("version 6 in an IPv4 frame", sends(SYN, "remote", version=6), {"IP_OPTIONS": 1}, families=IPV4_ONLY),
    ),
)


def _chain(
    name: str, *extensions: tuple[int, bytes], reason: str = "EXTENSION_HEADERS", sender: Sender = "a"
) -> Vector:
    to = "remote" if sender == "a" else "pod"
    return Vector(name, sends(SYN, to, extensions=extensions), {reason: 1}, sender=sender, families=IPV6_ONLY)


EXTENSIONS = Table(
    "IPv6 extension headers",
    (
        _chain("hop-by-hop options", _HOP),
        _chain("destination options", _DESTINATION),
        _chain("routing header of type 0, by way of another pod", _route(0)),
        _chain("routing header of type 2", _route(2)),
        _chain("routing header of type 3", _route(3)),
        _chain("segment routing", _route(4)),
        _chain("routing header with no segment left", _route(0, left=0)),
        _chain("hop-by-hop, destination, routing and destination options", _HOP, _DESTINATION, _route(0), _DESTINATION),
        _chain("one more than are read", _HOP, *(_DESTINATION,) * 4),
        _chain("many more than are read", *(_DESTINATION,) * 40),
        _chain("hop-by-hop options in the second place", _DESTINATION, _HOP),
        _chain("a long one", (DESTINATION_OPTIONS, bytes((1, 244)) + bytes(244) + bytes((1, 6)) + bytes(6))),
        _chain("a fragment behind options", _DESTINATION, fragment_header(0, more=True), reason="FRAGMENT"),
        _chain(
            "a fragment behind four headers",
            _HOP,
            *(_DESTINATION,) * 3,
            fragment_header(0, more=True),
            reason="FRAGMENT",
        ),
        _chain(
            "an atomic fragment with options inside", fragment_header(0, more=False), _DESTINATION, reason="FRAGMENT"
        ),
        _chain("a jumbogram", _JUMBO),
        _chain("a stranger's, to the pod", _DESTINATION, sender="x"),
        Vector(
            "data behind options",
            sends(ACK, "neighbour", extensions=(_DESTINATION,)),
            {"EXTENSION_HEADERS": 1},
            families=IPV6_ONLY,
        ),
        Vector(
            "a header that ends the packet",
            sends(SYN, "remote", extensions=(_HOP,), cut=14 + 40),
            {"CUT_SHORT": 1},
            families=IPV6_ONLY,
        ),
        Vector(
            "TCP behind an authentication header, which no stack opens without an association",
            sends(SYN, "neighbour", extensions=((AUTHENTICATION, bytes(22)),)),
            {"NOT_TCP": 2},
            frozenset({"b"}),
            families=IPV6_ONLY,
            documented="not TCP as any stack reads it that shares no key with the pod",
        ),
    ),
)


def _piece(whole: Frame, part: slice, *, more: bool) -> Frame:
    offset = (part.start or 0) // 8
    if whole.is_ipv6:
        return replace(whole, extensions=(fragment_header(offset, more=more),), part=part)
    return replace(whole, fragment=MORE_FRAGMENTS * more | offset, part=part)


def _pieces(*parts: slice, to: str = "remote", flags: int = SYN) -> Make:
    """One packet in pieces; the one that goes to its end says that it is the last."""

    def make(cast: Cast) -> tuple[Frame, ...]:
        whole = cast.frame(flags, cast.address(to), payload=bytes(12) + cast.marker)
        return tuple(_piece(whole, part, more=part.stop is not None) for part in parts)

    return make


def _fragments(name: str, make: Make, count: int, sender: Sender = "a") -> Vector:
    return Vector(name, make, {"FRAGMENT": count}, sender=sender)


FRAGMENTS = Table(
    "Fragments",
    (
        _fragments("a SYN in two", _pieces(slice(0, 24), slice(24, None)), 2),
        _fragments("a SYN in two, the later one first", _pieces(slice(24, None), slice(0, 24)), 2),
        _fragments("a first fragment alone, with all of TCP", _pieces(slice(0, 32), slice(32, None)), 2),
        _fragments("a tiny first fragment: ports, and no flags", _pieces(slice(0, 8), slice(8, None)), 2),
        _fragments("overlapping: the second writes the flags anew", _pieces(slice(0, 24), slice(8, None)), 2),
        _fragments("the same place twice", _pieces(slice(0, 24), slice(0, 32), slice(24, None)), 3),
        _fragments(
            "data in two, to a pod of this node", _pieces(slice(0, 24), slice(24, None), to="neighbour", flags=ACK), 2
        ),
        _fragments("to an unknown address", _pieces(slice(0, 24), slice(24, None), to="outside"), 2),
        _fragments("to the node", _pieces(slice(0, 24), slice(24, None), to="node"), 2),
        _fragments("a stranger's SYN in two, to the pod", _pieces(slice(0, 24), slice(24, None), to="pod"), 2, "x"),
        _fragments("a stranger's tiny first fragment", _pieces(slice(0, 8), slice(8, None), to="pod"), 2, "x"),
        Vector(
            "an atomic fragment",
            sends(SYN, "remote", extensions=(fragment_header(0, more=False),)),
            {"FRAGMENT": 1},
            families=IPV6_ONLY,
        ),
        Vector(
            "not to be fragmented: none",
            sends(SYN, "remote", fragment=DO_NOT_FRAGMENT),
            STEERED,
            PROXY,
            "SYN-ACK",
            families=IPV4_ONLY,
        ),
        Vector(
            "the reserved bit: none",
            sends(SYN, "remote", fragment=EVIL),
            STEERED,
            PROXY,
            "SYN-ACK",
            families=IPV4_ONLY,
        ),
    ),
)

_ETHERNET = 14


def _short(name: str, ipv4_bytes: int, ipv6_bytes: int, flags: int = SYN) -> tuple[Vector, ...]:
    return tuple(
        Vector(name, sends(flags, "remote", cut=_ETHERNET + left), {"CUT_SHORT": 1}, families=family)
        for left, family in ((ipv4_bytes, IPV4_ONLY), (ipv6_bytes, IPV6_ONLY))
    )


LENGTHS = Table(
    "Lengths that lie, and headers that are cut short",
    (
        *_short("nothing behind Ethernet", 0, 0),
        *_short("half an IP header", 12, 20),
        *_short("an IP header and nothing else", 20, 40),
        *_short("ports and nothing else", 24, 44),
        *_short("one byte of TCP too few", 39, 59),
        *_short("one byte of TCP too few, in a packet of a running connection", 39, 59, ACK),
        *(
            Vector(f"a TCP header of {words} words", sends(SYN, "remote", tcp_words=words), STEERED_UNANSWERED, PROXY)
            for words in range(5)
        ),
        Vector("a TCP header beyond the packet", sends(SYN, "remote", tcp_words=15), STEERED_UNANSWERED, PROXY),
        Vector("IP's length is zero", sends(SYN, "remote", length=0), STEERED_UNANSWERED, PROXY),
        Vector(
            "IP's length ends within TCP",
            sends(SYN, "remote", length=30),
            STEERED_UNANSWERED,
            PROXY,
            families=IPV4_ONLY,
        ),
        Vector(
            "IP's length ends within TCP",
            sends(SYN, "remote", length=10),
            STEERED_UNANSWERED,
            PROXY,
            families=IPV6_ONLY,
        ),
        Vector("IP's length is beyond the packet", sends(SYN, "remote", length=9000), STEERED_UNANSWERED, PROXY),
        Vector("IP's length is the largest", sends(SYN, "remote", length=65535), STEERED_UNANSWERED, PROXY),
        Vector("a wrong TCP checksum", sends(SYN, "remote", bad_tcp_checksum=True), STEERED_UNANSWERED, PROXY),
        Vector(
            "a wrong IP checksum",
            sends(SYN, "remote", bad_ip_checksum=True),
            STEERED_UNANSWERED,
            PROXY,
            families=IPV4_ONLY,
        ),
        Vector("no hop left", sends(SYN, "remote", hops=0), STEERED, PROXY, "SYN-ACK"),
        Vector(
            "version 5 in an IPv6 frame", sends(SYN, "remote", version=5), STEERED_UNANSWERED, PROXY, families=IPV6_ONLY
        ),
        Vector("a packet of the largest frame", sends(SYN, "remote", payload=bytes(1300)), STEERED, answer="SYN-ACK"),
    ),
)
