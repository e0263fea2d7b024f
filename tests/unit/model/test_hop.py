# SPDX-License-Identifier: Apache-2.0
"""A packet, in the words of who reads traces."""

import pytest

from nodeagent.model.address import Ip
from nodeagent.model.hop import TracedPacket

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


@pytest.mark.parametrize(
    ("protocol", "flags", "length", "words"),
    [
        (6, SYN, 0, "SYN"),
        (6, SYN | ACK, 0, "SYN-ACK"),
        (6, ACK, 0, "ACK"),
        (6, ACK | PSH, 1024, "data 1024 B"),
        (6, ACK | FIN, 0, "FIN"),
        (6, ACK | FIN | PSH, 7, "FIN, data 7 B"),
        (6, RST, 0, "RST"),
        (6, RST | ACK, 0, "RST"),
        (6, SYN | FIN, 0, "SYN"),
        (6, 0, 512, "TCP 512 B"),
        (17, 0, 80, "UDP 80 B"),
        (1, 0, 64, "ICMP 64 B"),
        (58, 0, 64, "ICMPv6 64 B"),
        (132, 0, 20, "protocol 132 20 B"),
        (0, 0, 0, "not IP 0 B"),
    ],
)
def test_what_it_is(protocol: int, flags: int, length: int, words: str) -> None:
    packet = TracedPacket(
        at=0.0,
        program="from_pod",
        device="va",
        source=Ip("10.0.0.1"),
        destination=Ip("10.0.0.2"),
        protocol=protocol,
        flags=flags,
        bytes=length,
        reason="STEERED",
        verdict="REDIRECT",
        words="steered",
    )
    assert packet.packet == words
