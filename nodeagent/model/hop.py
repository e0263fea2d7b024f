# SPDX-License-Identifier: Apache-2.0
"""A packet at one of our kernel programs, as `nodeagent trace` tells it: which one, and what became of it."""

from dataclasses import dataclass

from nodeagent.model.address import Ip

TCP = 6
_PROTOCOLS = {0: "not IP", 1: "ICMP", TCP: "TCP", 17: "UDP", 58: "ICMPv6"}
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


@dataclass(frozen=True, kw_only=True)
class TracedPacket:
    at: float
    """Unix time in seconds, by the kernel's clock."""
    program: str
    """`from_pod`, `to_pod`, `from_proxy` or `at_proxy`."""
    device: str
    """By its name, in the namespace of the program."""
    source: Ip
    destination: Ip
    """`::` of what is not IP."""
    source_port: int = 0
    destination_port: int = 0
    """0 where there are none to be read: no TCP, or a fragment."""
    protocol: int = TCP
    flags: int = 0
    """Of TCP."""
    bytes: int = 0
    """Of the application; of what is no TCP all behind the IP header."""
    reason: str
    verdict: str
    words: str
    """All three of a row of bpf/reasons.h."""

    @property
    def packet(self) -> str:
        """What it is, in the words of tcpdump's readers: `SYN`, `data 1024 B`, `FIN`, `UDP 80 B`."""
        if self.protocol != TCP or not self.flags:
            return f"{_PROTOCOLS.get(self.protocol, f'protocol {self.protocol}')} {self.bytes} B"
        if self.flags & _RST:
            return "RST"
        if self.flags & _SYN:
            return "SYN-ACK" if self.flags & _ACK else "SYN"
        end = "FIN" if self.flags & _FIN else ""
        data = f"data {self.bytes} B" if self.bytes else ""
        return f"{end}, {data}" if end and data else end or data or "ACK"
