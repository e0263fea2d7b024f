# SPDX-License-Identifier: Apache-2.0
"""What the model sees in a frame: TCP, the quotation in an ICMP error, or the reason why neither.

Written from the RFCs' shapes of headers, slow and plain, and not from bpf/parse.h. Addresses are
16 bytes, IPv4 as ::ffff:a.b.c.d (layout.h says so).
"""

from typing import NamedTuple

FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP, ICMP, ICMPV6 = 6, 1, 58
HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, FRAGMENT = 0, 43, 60, 44
MOST_EXTENSIONS = 4

End = tuple[bytes, int]
"""Address and port."""
Connection = frozenset[End]
"""Both ends, in no order."""


class Quoted(NamedTuple):
    """The 4-tuple of a packet that an ICMP error is about, as its answers have it."""

    source: End
    destination: End
    is_ipv6: bool


class Tcp(NamedTuple):
    source: End
    destination: End
    flags: int
    acknowledgement: int
    is_ipv6: bool

    @property
    def connection(self) -> Connection:
        return frozenset((self.source, self.destination))

    @property
    def opens(self) -> bool:
        return bool(self.flags & SYN) and not self.flags & (ACK | RST | FIN)

    @property
    def has_syn_alone(self) -> bool:
        """Whatever else is set: somebody might take it for one that opens."""
        return bool(self.flags & SYN) and not self.flags & ACK

    @property
    def answers_syn(self) -> bool:
        return bool(self.flags & SYN and self.flags & ACK)

    @property
    def resets(self) -> bool:
        return bool(self.flags & RST)


Read = Tcp | Quoted | str
"""A string is a reason to stop."""


def read(frame: bytes) -> Read:
    ethertype, packet = frame[12:14], frame[14:]
    if ethertype == b"\x08\x00":
        return _read_ipv4(packet)
    if ethertype == b"\x86\xdd":
        return _read_ipv6(packet)
    if ethertype in {b"\x81\x00", b"\x88\xa8"}:  # one tag would be off already
        return "TAGGED_TWICE"
    return "NOT_IP"


def mapped(ipv4: bytes) -> bytes:
    return bytes(10) + b"\xff\xff" + ipv4


def _number(field: bytes) -> int:
    return int.from_bytes(field, "big")


def _read_ipv4(packet: bytes) -> Read:
    if len(packet) < 20:
        return "CUT_SHORT"
    has_plain_header = packet[0] == 0x45
    more_fragments, offset = packet[6] & 0x20, _number(packet[6:8]) & 0x1FFF
    is_fragment = bool(more_fragments or offset)
    if packet[9] == ICMP and has_plain_header and not is_fragment:
        return _quoted_by_icmpv4(packet[20:])
    if packet[9] != TCP:
        return "NOT_TCP"
    if not has_plain_header:
        return "IP_OPTIONS"
    if is_fragment:
        return "FRAGMENT"
    return _read_tcp(packet[20:], mapped(packet[12:16]), mapped(packet[16:20]), version=4)


def _read_ipv6(packet: bytes) -> Read:
    if len(packet) < 40:
        return "CUT_SHORT"
    if packet[6] == ICMPV6:
        return _quoted_by_icmpv6(packet[40:])
    if packet[6] != TCP:
        return _walk_extensions(packet[6], packet[40:])
    if mapped(b"") in {packet[8:20], packet[24:36]}:
        return "MAPPED_ADDRESS"
    return _read_tcp(packet[40:], packet[8:24], packet[24:40], version=6)


def _walk_extensions(following: int, rest: bytes) -> str:
    for _ in range(MOST_EXTENSIONS):
        if following not in {HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS}:
            break
        if len(rest) < 2:
            return "CUT_SHORT"
        following, rest = rest[0], rest[8 + 8 * rest[1] :]
    if following == FRAGMENT:
        if len(rest) < 2:
            return "CUT_SHORT"
        whole = rest[0]
        return "FRAGMENT" if whole in {TCP, FRAGMENT, HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS} else "NOT_TCP"
    if following in {TCP, HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS}:
        return "EXTENSION_HEADERS"
    return "NOT_TCP"


def _read_tcp(segment: bytes, source: bytes, destination: bytes, *, version: int) -> Read:
    if len(segment) < 20:
        return "CUT_SHORT"
    return Tcp(
        source=(source, _number(segment[0:2])),
        destination=(destination, _number(segment[2:4])),
        flags=segment[13],
        acknowledgement=_number(segment[8:12]),
        is_ipv6=version == 6,
    )


def _quoted_by_icmpv4(message: bytes) -> Read:
    """Destination unreachable, time exceeded, parameter problem; the quotation is 20 bytes of IP and 8 of TCP."""
    quotation = message[8:]
    if len(message) < 8 or message[0] not in {3, 11, 12} or len(quotation) < 24:
        return "NOT_TCP"
    if quotation[0] != 0x45 or quotation[9] != TCP:
        return "NOT_TCP"
    ports = _number(quotation[20:22]), _number(quotation[22:24])
    return Quoted((mapped(quotation[16:20]), ports[1]), (mapped(quotation[12:16]), ports[0]), is_ipv6=False)


def _quoted_by_icmpv6(message: bytes) -> Read:
    """Destination unreachable, packet too big, time exceeded, parameter problem."""
    quotation = message[8:]
    if len(message) < 8 or message[0] not in {1, 2, 3, 4} or len(quotation) < 44:
        return "NOT_TCP"
    if quotation[6] != TCP:
        return "NOT_TCP"
    ports = _number(quotation[40:42]), _number(quotation[42:44])
    return Quoted((quotation[24:40], ports[1]), (quotation[8:24], ports[0]), is_ipv6=True)
