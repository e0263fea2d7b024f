# SPDX-License-Identifier: Apache-2.0
"""IP addresses, networks and ports.

An address is its canonical text (RFC 5952 for IPv6), because it is looked up far more often than computed with; an
IPv4-mapped IPv6 address is the IPv4 address, since the listeners are dual-stack and report the mapped form.
"""

import ipaddress
from functools import lru_cache
from typing import NewType, Self

import msgspec

Ip = NewType("Ip", str)
"""Canonical text of an IPv4 or IPv6 address, never the mapped form, never with a scope."""
Port = NewType("Port", int)
"""TCP port, 1 to 65535 (0 only where a field says what it means)."""

_MAPPED = "::ffff:"


@lru_cache(maxsize=4096)  # some addresses come with every connection, and the library takes 5 us
def parse_ip(text: str) -> Ip:
    """Canonical form of `text`. Raises ValueError for anything but a plain IPv4 or IPv6 address."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{text!r} has a zone index, which means nothing outside its host")
    return _canonical(address)


def unpack_ip(packed: bytes) -> Ip:
    """From 4 or 16 bytes in network order. Raises ValueError for any other length.

    Nothing is remembered: all addresses of a large mesh come this way once, and would push out those that repeat.
    """
    return _canonical(ipaddress.ip_address(packed))


def _canonical(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Ip:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return Ip(str(address if mapped is None else mapped))


def socket_ip(text: str) -> Ip:
    """From what getsockname() or accept() gave: already canonical, except for the IPv4-mapped form."""
    if text.startswith(_MAPPED) and "." in text:
        return Ip(text[len(_MAPPED) :])
    return Ip(text)


@lru_cache(maxsize=4096)
def packed_ip(ip: Ip) -> bytes:
    """As `pack_ip`, remembered: for addresses of this node's pods and of whom they speak to."""
    return pack_ip(ip)


def pack_ip(ip: Ip) -> bytes:
    """16 bytes in network order; IPv4 as the mapped form. The form of every address in the kernel maps."""
    address = ipaddress.ip_address(ip)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def is_ipv6(ip: Ip) -> bool:
    return ":" in ip


def join_host_port(host: str, port: int) -> str:
    """`host:port` with brackets around an IPv6 address (RFC 3986 §3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str) -> tuple[str, Port]:
    """Inverse of join_host_port. Raises ValueError for a missing or impossible port or stray brackets."""
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address needs brackets")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not host:port")
    return host, Port(int(port))


class Cidr(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An address block: `network` is 16 bytes (IPv4 mapped), already masked; `bits` counts from the first of 128."""

    network: bytes
    bits: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `10.0.0.0/8`, `fd00::/8` or a single address; host bits are masked. Raises ValueError."""
        address, slash, bits = text.partition("/")
        if "%" in address or (slash and not (bits.isascii() and bits.isdigit())):  # ip_network() takes masks as well
            raise ValueError(f"{text!r} is not an address or a CIDR block")
        return cls._of(ipaddress.ip_network(text, strict=False))

    @classmethod
    def unpack(cls, packed: bytes, length: int) -> Self:
        """From 4 or 16 bytes and a prefix length in that family. Raises ValueError when either is impossible."""
        return cls._of(ipaddress.ip_network((packed, length), strict=False))

    @classmethod
    def _of(cls, block: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Self:
        if block.version == 4:
            return cls(b"\0" * 10 + b"\xff\xff" + block.network_address.packed, block.prefixlen + 96)
        return cls(block.network_address.packed, block.prefixlen)

    def contains(self, ip: Ip) -> bool:
        """An IPv6 block such as ::/0 never contains an IPv4 address: families do not mix, as in Istio."""
        is_v4 = self.bits >= 96 and self.network[:12] == b"\0" * 10 + b"\xff\xff"
        if is_v4 == is_ipv6(ip):
            return False
        shift = 128 - self.bits
        return int.from_bytes(packed_ip(ip), "big") >> shift == int.from_bytes(self.network, "big") >> shift

    def __str__(self) -> str:
        if self.bits >= 96 and self.network[:12] == b"\0" * 10 + b"\xff\xff":
            return f"{ipaddress.IPv4Address(self.network[12:])}/{self.bits - 96}"
        return f"{ipaddress.IPv6Address(self.network)}/{self.bits}"
