# SPDX-License-Identifier: Apache-2.0
"""How long it takes until a connection is there, phase by phase: counted by workers, told by the agent. Pure.

A worker counts into integers and hands them over with its other totals, about once a second. Its times are those of its
loop, taken once a turn: what begins and ends within one turn took no time, as far as it knows.
"""

from bisect import bisect_left
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

BOUNDS = (
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
)
"""Microseconds, upper bounds, included: from a turn of an idle loop to the deadlines of connect and handshake."""
_PREFIX = "set_up/"
_SUM = "sum"
_BEYOND = "inf"


class Phase(StrEnum):
    OUTBOUND = "outbound"
    """From accepting a pod's connection to its being open: all that its client waits for."""
    INBOUND = "inbound"
    """From a CONNECT, or a plain connection from outside, to the application's having accepted it."""
    TUNNEL_CONNECT = "tunnel_connect"
    """TCP to the other node, of tunnels that are opened."""
    TUNNEL_HANDSHAKE = "tunnel_handshake"
    """Mutual TLS behind it, on the side that opened the tunnel."""
    TUNNEL_ACCEPT = "tunnel_accept"
    """The same on the side that was connected to."""
    REQUEST = "request"
    """From CONNECT to the answer of the other side's proxy."""


class SetUp(NamedTuple):
    """A histogram."""

    counts: tuple[tuple[float, int], ...]
    """Upper bounds in seconds, the last one infinite, each with how many took no longer."""
    sum_seconds: float


class SetUpTimes:
    """A worker's. `add` is once for each connection: an integer, a search among few, two additions."""

    def __init__(self) -> None:
        self._counts = {phase: [0] * (len(BOUNDS) + 1) for phase in Phase}
        self._sums = dict.fromkeys(Phase, 0)

    def add(self, phase: Phase, seconds: float) -> None:
        micros = int(seconds * 1e6)
        self._counts[phase][bisect_left(BOUNDS, micros)] += 1
        self._sums[phase] += micros

    def totals(self) -> dict[str, int]:
        """By names that no other total has; what is 0 is left out."""
        told = {
            f"{_PREFIX}{phase}/{bound}": count
            for phase, counts in self._counts.items()
            for bound, count in zip((*BOUNDS, _BEYOND), counts, strict=True)
        }
        told.update({f"{_PREFIX}{phase}/{_SUM}": micros for phase, micros in self._sums.items()})
        return {name: number for name, number in told.items() if number}


def split_totals(totals: Mapping[str, int]) -> tuple[dict[str, int], dict[str, SetUp]]:
    """The totals without set-up times; and these, for every phase. A worker of another release may have other ones."""
    others = {name: number for name, number in totals.items() if not name.startswith(_PREFIX)}
    return others, {phase: _set_up(totals, f"{_PREFIX}{phase}/") for phase in Phase}


def _set_up(totals: Mapping[str, int], prefix: str) -> SetUp:
    below, counts = 0, []
    for bound in (*BOUNDS, _BEYOND):
        below += totals.get(f"{prefix}{bound}", 0)
        counts.append((float("inf") if bound == _BEYOND else float(bound) / 1e6, below))
    return SetUp(tuple(counts), totals.get(f"{prefix}{_SUM}", 0) / 1e6)
