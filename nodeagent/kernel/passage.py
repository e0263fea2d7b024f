# SPDX-License-Identifier: Apache-2.0
"""Whether what one of our programs lets pass or sends comes to the next one. Pure, from the counters by reason.

Each packet meets two programs of ours on its way. If the first has sent many and not one came to the second, something
in between takes them: another program at one of our hooks, a firewall or a NetworkPolicy, or the device is gone. Some
that are missing say nothing, since dropping some is what NetworkPolicies are for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MEANS_SOMETHING = 20
"""Packets sent between two looks; fewer may be on their way, or be the same SYN again and again."""


@dataclass(frozen=True)
class Passage:
    name: str
    sent: tuple[str, ...]
    """Reasons of the program that sends."""
    arrived: tuple[str, ...]
    """Reasons of the program where it arrives; none of these moves without an arrival."""
    words: str


PASSAGES = (
    Passage(
        "INTO_PROXY_LOST",
        ("STEERED", "LOCAL_STEERED", "PROXY_FLOW", "PROXY_ANSWERED", "INBOUND", "INBOUND_FLOW"),
        (
            "PROXY_SYN",
            "PROXY_PACKET",
            "PROXY_ICMP",
            "NOBODYS_RESET",
            "ASSIGNED_OUTBOUND",
            "ASSIGNED_HBONE",
            "ASSIGNED_PLAINTEXT",
            "PROXY_AWAY",
            "ASSIGN_REFUSED",
            "NOT_FOR_PROXY",
        ),
        "packets steered to the proxy do not come to it: look at na0, and at other programs on eth0 of its namespace",
    ),
    Passage(
        "INTO_NODE_LOST",
        ("INTO_NODE",),
        ("PROXY_PASSAGE",),
        "the proxy's packets do not come through the pods' devices: another program there takes them before ours",
    ),
    Passage(
        "LOCAL_LOST",
        ("LOCAL_ALLOWED",),
        ("LOCAL_DELIVERED",),
        "connections allowed between pods of this node do not arrive: a NetworkPolicy, a firewall or another program "
        "between the pods' devices takes them",
    ),
)


def find_lost(before: Mapping[str, int], after: Mapping[str, int]) -> list[Passage]:
    """Passages by which nothing came between two looks although enough was sent."""
    return [
        passage
        for passage in PASSAGES
        if _moved(before, after, passage.sent) >= MEANS_SOMETHING and not _moved(before, after, passage.arrived)
    ]


def _moved(before: Mapping[str, int], after: Mapping[str, int], reasons: Sequence[str]) -> int:
    return sum(after.get(reason, 0) - before.get(reason, 0) for reason in reasons)


class Passages:
    """Keeps what the last look found, until one with traffic finds otherwise."""

    def __init__(self) -> None:
        self._before: Mapping[str, int] | None = None
        self.lost: tuple[Passage, ...] = ()

    def looked(self, counters: Mapping[str, int]) -> None:
        before, self._before = self._before, dict(counters)
        if before is None:
            return
        found = find_lost(before, counters)
        silent = [passage for passage in self.lost if not _moved(before, counters, (*passage.sent, *passage.arrived))]
        self.lost = tuple(passage for passage in PASSAGES if passage in found or passage in silent)
