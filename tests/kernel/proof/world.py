# SPDX-License-Identifier: Apache-2.0
"""What the model believes the programs know, and the questions that the truth tables ask of it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.kernel.proof.reading import ACK, RST, SYN, Connection, End, Quoted, Tcp
from tests.kernel.proof.recording import COOKIE

DROP = 2
"""TC_ACT_SHOT."""
HBONE_PORT = 15008
ALLOWED, EXCLUDED, ADOPTED, TAKEN = 1, 2, 3, 4
"""Kinds of flows."""
EITHER: End = (b"", 0)
"""In place of a flow's opener: not known, and both directions are allowed."""


class Pod(NamedTuple):
    device: int
    gateway_mac: bytes
    pod_mac: bytes
    number: int


class Sender(NamedTuple):
    number: int
    is_window_open: bool
    registry_only: bool = False


class Block(NamedTuple):
    network: bytes
    bits: int
    port: int
    """0: every port."""

    def holds(self, address: bytes) -> bool:
        return (int.from_bytes(address, "big") ^ int.from_bytes(self.network, "big")) >> (128 - self.bits) == 0


class Verdict(NamedTuple):
    sources: frozenset[int] = frozenset()
    """Who may connect: numbers of pods."""
    is_pending: bool = False
    """A policy is on its way: only who is connected may go on."""


class Flow(NamedTuple):
    generation: int
    kind: int
    opener: End
    held: frozenset[End] = frozenset()
    """The ends for whose packets the proxy was seen to have a socket."""


class Hairpin(NamedTuple):
    """A connection between two pods of this node that came through the node's NAT, as to_pod saw it."""

    client: End
    server: End


class Socket(NamedTuple):
    """A connection of the proxy, as packets to it have it."""

    source: End
    destination: End
    is_ipv6: bool


@dataclass
class World:
    """All that the programs know."""

    proxy_device: int
    generation: int = 1
    slots: int = 0
    registry_only: bool = False
    is_settling: bool = False
    is_changing: bool = False
    senders: dict[tuple[int, bytes], Sender] = field(default_factory=dict)
    """By device and address."""
    pods: dict[bytes, Pod] = field(default_factory=dict)
    known: set[bytes] = field(default_factory=set)
    known_blocks: set[Block] = field(default_factory=set)
    node_addresses: set[bytes] = field(default_factory=set)
    excluded: set[Block] = field(default_factory=set)
    verdicts: dict[tuple[int, int, int], Verdict] = field(default_factory=dict)
    """By generation, number of the destination and port (0: all without a row of their own)."""
    sockets: set[Socket] = field(default_factory=set)
    listeners: dict[tuple[str, int], int] = field(default_factory=dict)
    """By kind and slot: its port, which tells it from others."""
    flows: dict[Connection, Flow] = field(default_factory=dict)
    inbound: set[tuple[End, End]] = field(default_factory=set)
    """Who sends to whom by the proxy, as far as to_pod has seen a socket for it."""
    hairpins: set[Hairpin] = field(default_factory=set)
    believes_cookies: bool = True
    """No number that a test could make is a cookie of the kernel's own."""

    reasons: Counter[str] = field(default_factory=Counter)
    pod_counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    """By device and field of layout.h's struct."""

    # ---- what the tables ask -------------------------------------------------------------------------------------

    def has_socket(self, packet: Tcp | Quoted) -> bool:
        return Socket(packet.source, packet.destination, packet.is_ipv6) in self.sockets

    def is_mesh(self, address: bytes) -> bool:
        return address in self.pods or address in self.known

    def is_known(self, address: bytes) -> bool:
        return address in self.known or any(not block.port and block.holds(address) for block in self.known_blocks)

    def is_named(self, address: bytes, port: int) -> bool:
        """Whether this is a port of an endpoint that is known by its name."""
        return any(block.port == port and block.holds(address) for block in self.known_blocks)

    def is_excluded(self, address: bytes, port: int) -> bool:
        return any(block.port in {0, port} and block.holds(address) for block in self.excluded)

    def may_connect(self, source: int, destination: int, port: int) -> bool:
        verdict = self._verdict(destination, port)
        return source in verdict.sources and not verdict.is_pending and not self.is_changing

    def may_go_on(self, source: int, destination: int, port: int) -> bool:
        """Of a connection that is open already."""
        return source in self._verdict(destination, port).sources

    def _verdict(self, destination: int, port: int) -> Verdict:
        own = self.verdicts.get((self.generation, destination, port))
        return own or self.verdicts.get((self.generation, destination, 0)) or Verdict()

    def kept_cookie(self, packet: Tcp, kind: str) -> bool:
        """Is this the ACK that ends a handshake which a listener of this kind answered with a cookie?"""
        is_bare_ack = self.believes_cookies and packet.flags & (SYN | RST | ACK) == ACK
        ports = (self.listeners.get((kind, slot)) for slot in range(self.slots))
        return is_bare_ack and packet.acknowledgement in {COOKIE + port for port in ports if port}

    def count(self, reason: str, device: int, verdict: int) -> None:
        self.reasons[reason] += 1
        if reason in {"STEERED", "LOCAL_STEERED"}:
            self.pod_counts[device, "outbound"] += 1
        elif reason == "INBOUND":
            self.pod_counts[device, "inbound"] += 1
        elif verdict == DROP:
            self.pod_counts[device, "dropped"] += 1
