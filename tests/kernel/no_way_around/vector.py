# SPDX-License-Identifier: Apache-2.0
"""What a vector is: one attempt, by whom, and everything that may come of it.

The oracle (test_no_way_around.py) holds a vector to three things: the payload's marker arrives in exactly the places
that are named, exactly the named counters move, and the sender is answered as said and not otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.kernel.no_way_around.frames import ACK, Frame

Sender = Literal["a", "b", "x", "wire", "worker"]
"""Two enrolled pods, one outside the mesh, a host beyond the node, a worker with every capability in its namespace."""
Place = Literal["a", "b", "x", "wire", "proxy", "node"]
"""Pods, the host beyond the node, the proxy's namespace, the node's own stack."""
Answer = Literal["", "SYN-ACK", "reset"]

PROXY: frozenset[Place] = frozenset({"proxy"})
NOWHERE: frozenset[Place] = frozenset()


ALLOWED_PORT, BACK_PORT = 7000, 7100
"""Of pod b, where the table of verdicts lets pod a go, and of a, where it lets b go. It allows nothing else."""

_WELL_KNOWN = {
    "another": ("10.99.2.3", "fd99:2::3"),
    "random": ("198.18.7.7", "2001:db8:7::7"),
    "multicast": ("239.1.1.1", "ff05::1:3"),
    "loopback": ("127.0.0.1", "::1"),
    "unspecified": ("0.0.0.0", "::"),  # noqa: S104 - of a packet, not of a socket
    "link-local": ("169.254.7.7", "fe80::7"),
    "metadata": ("169.254.169.254", "fd00:ec2::254"),
}


@dataclass(frozen=True)
class Cast:
    """Who there is, in one address family, as one vector sees them."""

    is_ipv6: bool
    pod: str
    """Of a, which is enrolled as b is."""
    neighbour: str
    """Of b."""
    stranger: str
    """Of x, which is not."""
    remote: str
    """A mesh address behind the wire."""
    outside: str
    """Behind the wire, and unknown to the mesh."""
    node: str
    gateway: str
    """Of the node, link-local: what the pods route by."""
    excluded: str
    """A mesh address behind the wire, in an excluded block."""
    macs: Mapping[str, bytes]
    """Of each pod's own device by the pod's name, and of what it sends to, by the name and a prime: a'."""
    listeners: tuple[int, int, int] = (0, 0, 0)
    """Ports of the worker's listening sockets: outbound, HBONE, plaintext."""
    sender: Sender = "a"
    port: int = 40000
    """Source port of this vector alone."""
    marker: bytes = b"leak"
    """Payload of this vector alone."""

    def address(self, name: str) -> str:
        """Of one of the cast, or of those who are in no cast; an address is itself."""
        if name in _WELL_KNOWN:
            return _WELL_KNOWN[name][self.is_ipv6]
        return str(getattr(self, name, name))

    def frame(self, flags: int, destination: str, **twists: Any) -> Frame:
        """From the sender's own address by its own device, right in every way, but for the twists."""
        own = {"a": self.pod, "b": self.neighbour, "x": self.stranger, "wire": self.outside, "worker": self.pod}[
            self.sender
        ]
        right = Frame(
            own,
            destination,
            to_mac=self.macs[f"{self.sender}'"],
            from_mac=self.macs[self.sender],
            payload=self.marker,
            flags=flags,
            source_port=self.port,
            acknowledgement=1 if flags & ACK else 0,
        )
        return replace(right, **twists)


@dataclass(frozen=True)
class Way:
    """The socket that sends: of AF_PACKET and a whole frame, or of IPPROTO_RAW and an IP packet."""

    kind: Literal["packet", "ip"] = "packet"
    mark: int = 0
    bind_to_device: str = ""


PACKET = Way()
Make = Callable[[Cast], Frame | tuple[Frame, ...]]


def sends(flags: int, to: str, source: str = "", **twists: Any) -> Make:
    """One packet; `to` and `source` are names of the cast or addresses, no source is the sender's own."""

    def make(cast: Cast) -> Frame:
        given = {"source": cast.address(source)} if source else {}
        return cast.frame(flags, cast.address(to), **given, **twists)

    return make


@dataclass(frozen=True)
class Vector:
    name: str
    frames: Make
    counts: Mapping[str, int]
    """What moves, by the names of bpf/reasons.h, and by how much; the first is what decided. Nothing moves when the
    node's stack is before us."""
    arrives: frozenset[Place] = NOWHERE
    """Where the payload is seen, in plain text."""
    answer: Answer = ""
    sender: Sender = "a"
    families: frozenset[str] = frozenset({"IPv4", "IPv6"})
    by: Way = PACKET
    before: tuple[tuple[Sender, Make], ...] = ()
    """What is sent first, and has come to its end."""
    is_bridged: bool = False
    """On a node whose pods are ports of one bridge; else each has a route."""
    documented: str = ""
    """Why the payload may arrive where it does, when that is not the proxy."""

    @property
    def reason(self) -> str:
        return next(iter(self.counts), "")


@dataclass(frozen=True)
class Table:
    """A group of vectors under one heading."""

    title: str
    vectors: tuple[Vector, ...] = field(default_factory=tuple)


IPV4_ONLY = frozenset({"IPv4"})
IPV6_ONLY = frozenset({"IPv6"})

# What one packet moves on its whole way, with the worker's answer where its stack gives one.
STEERED = {"STEERED": 1, "ASSIGNED_OUTBOUND": 1, "INTO_POD": 1}
LOCAL_STEERED = {"LOCAL_STEERED": 1, "ASSIGNED_OUTBOUND": 1, "INTO_POD": 1}
STEERED_UNANSWERED = {"STEERED": 1, "ASSIGNED_OUTBOUND": 1}
RESET = {"UNKNOWN_FLOW": 1, "ASSIGNED_OUTBOUND": 1, "INTO_POD": 1}
IGNORED = {"UNKNOWN_FLOW": 1, "ASSIGNED_OUTBOUND": 1}
INBOUND = {"INBOUND": 1, "ASSIGNED_PLAINTEXT": 1, "INTO_NODE": 1, "PROXY_PASSAGE": 1}
