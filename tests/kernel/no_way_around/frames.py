# SPDX-License-Identifier: Apache-2.0
"""Frames as an attacker builds them: right in all that is not told otherwise, checksums included.

tests/kernel/conftest.py has a Packet too, for programs that are run by hand and look at no checksum; what is built here
has to be good enough for the stacks that it meets, so that only our programs can be what stops it.
"""

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
HOP_BY_HOP, ICMP, IPIP, TCP, UDP, IPV6_IN_IP = 0, 1, 4, 6, 17, 41
ROUTING, FRAGMENT, GRE, AUTHENTICATION, ICMPV6, DESTINATION_OPTIONS = 43, 44, 47, 51, 58, 60
IPV4, ARP, VLAN, IPV6, QINQ, MPLS = 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8, 0x8847
TAG = bytes((2, *b"mesh", 1))
MORE_FRAGMENTS, DO_NOT_FRAGMENT, EVIL = 0x2000, 0x4000, 0x8000

PADDING_OPTIONS = bytes((1, 4, 0, 0, 0, 0))
"""What fills an extension header up to eight bytes."""


@dataclass(frozen=True)
class Frame:
    source: str
    destination: str
    to_mac: bytes
    from_mac: bytes
    payload: bytes
    flags: int = SYN
    source_port: int = 40000
    destination_port: int = 80
    sequence: int = 1
    acknowledgement: int = 0
    protocol: int = TCP
    """What is not TCP has `payload` behind its IP header; UDP and ICMP get a header of theirs."""
    tcp_words: int = 5
    bad_tcp_checksum: bool = False
    part: slice = field(default_factory=lambda: slice(None))
    """Of TCP and payload: what a fragment holds."""
    hops: int = 64
    # IPv4
    options: bytes = b""
    words: int | None = None
    """None: what the options make it."""
    fragment: int = 0
    bad_ip_checksum: bool = False
    # IPv6
    extensions: tuple[tuple[int, bytes], ...] = ()
    """Number of each header, and what follows its first two bytes."""
    # both
    version: int = 0
    length: int | None = None
    """As the IP header tells it."""
    # Ethernet
    tags: tuple[tuple[int, int], ...] = ()
    """Ethertype and VLAN number of each, outermost first."""
    ethertype: int = 0
    """0: that of the addresses."""
    cut: int = 0
    """Bytes that stay of the whole frame; 0: all."""

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.source

    @property
    def network(self) -> bytes:
        """The IP packet."""
        transport = self._transport()[self.part]
        return self._ipv6(transport) if self.is_ipv6 else self._ipv4(transport)

    def packed(self) -> bytes:
        tags = b"".join(struct.pack("!HH", kind, number) for kind, number in self.tags)
        ethertype = self.ethertype or (IPV6 if self.is_ipv6 else IPV4)
        whole = self.to_mac + self.from_mac + tags + struct.pack("!H", ethertype) + self.network
        return whole[: self.cut] if self.cut else whole

    def _transport(self) -> bytes:
        if self.protocol == TCP:
            head = struct.pack(
                "!HHIIBBHHH",
                self.source_port,
                self.destination_port,
                self.sequence,
                self.acknowledgement,
                self.tcp_words << 4,
                self.flags,
                65535,
                0,
                0,
            )
            return self._summed(head + self.payload, 16, wrong=self.bad_tcp_checksum)
        if self.protocol == UDP:
            head = struct.pack("!HHHH", self.source_port, self.destination_port, 8 + len(self.payload), 0)
            return self._summed(head + self.payload, 6)
        return self.payload

    def _summed(self, segment: bytes, place: int, *, wrong: bool = False) -> bytes:
        pseudo = ip_address(self.source).packed + ip_address(self.destination).packed
        total = checksum(pseudo + struct.pack("!II", len(segment), self.protocol) + segment) ^ wrong
        return segment[:place] + struct.pack("!H", total) + segment[place + 2 :]

    def _ipv4(self, transport: bytes) -> bytes:
        options = self.options + bytes(-len(self.options) % 4)
        words = 5 + len(options) // 4 if self.words is None else self.words
        length = 20 + len(options) + len(transport) if self.length is None else self.length
        first = (self.version or 4) << 4 | words
        head = struct.pack("!BBHHHBBH", first, 0, length, 7, self.fragment, self.hops, self.protocol, 0)
        head += ip_address(self.source).packed + ip_address(self.destination).packed + options
        total = checksum(head[: max(words, 5) * 4]) ^ self.bad_ip_checksum
        return head[:10] + struct.pack("!H", total) + head[12:] + transport

    def _ipv6(self, transport: bytes) -> bytes:
        numbers = (*(number for number, _ in self.extensions), self.protocol)
        chain = b"".join(
            bytes((following, (2 + len(body)) // 8 - 1 if number != FRAGMENT else 0)) + body
            for (number, body), following in zip(self.extensions, numbers[1:], strict=True)
        )
        length = len(chain + transport) if self.length is None else self.length
        head = struct.pack("!IHBB", (self.version or 6) << 28, length, numbers[0], self.hops)
        return head + ip_address(self.source).packed + ip_address(self.destination).packed + chain + transport


def checksum(words: bytes) -> int:
    """Of RFC 1071."""
    padded = words + b"\0" * (len(words) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def fragment_header(offset: int, *, more: bool) -> tuple[int, bytes]:
    """An IPv6 extension; `offset` in units of eight bytes."""
    return FRAGMENT, struct.pack("!HI", offset << 3 | more, 7)


def icmp_message(kind: int, code: int, rest: bytes) -> bytes:
    """For IPv4: no pseudo header in its checksum."""
    head = struct.pack("!BBH", kind, code, 0)
    return head[:2] + struct.pack("!H", checksum(head + rest)) + rest
