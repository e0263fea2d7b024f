# SPDX-License-Identifier: Apache-2.0
"""From rounds to rows: medians, spread, ratios within a round, and whether a goal is met. Pure.

A ratio is the median of the rounds' own ratios, so what changes from one round to the next (a warmer CPU, a neighbour)
is in both its halves. The file is an array of objects; a part of the benchmark replaces its own rows by name.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Round: TypeAlias = Mapping[tuple[str, str], float]
"""What one round measured, by subject and measure."""


class Goal(NamedTuple):
    """A bound of the ratio where a row has a baseline, of the value elsewhere."""

    bound: float
    is_least: bool
    """Not less than the bound; else not more."""

    def is_met_by(self, found: float) -> bool:
        return found >= self.bound if self.is_least else found <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.bound:g}"


def at_most(bound: float) -> Goal:
    return Goal(bound, is_least=False)


def at_least(bound: float) -> Goal:
    return Goal(bound, is_least=True)


class Comparison(NamedTuple):
    """A row that is wanted: one subject's measure, beside the same of a peer or alone."""

    name: str
    measure: str
    unit: str
    subject: str
    peer: str = ""
    goal: Goal | None = None


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    goal: Goal | None = None
    lowest: float | None = None
    """Spread over the rounds: of the ratio, or of the value where there is none."""
    highest: float | None = None

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.goal.is_met_by(self.value if self.ratio is None else self.ratio)

    def as_object(self) -> dict[str, object]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "baseline": self.baseline,
            "ratio": self.ratio,
            "goal": None if self.goal is None else self.goal.bound,
            "met": self.met,
        }


def summarize(rounds: Sequence[Round], wanted: Iterable[Comparison]) -> list[Row]:
    return [_row(rounds, one) for one in wanted]


def _row(rounds: Sequence[Round], wanted: Comparison) -> Row:
    values = [made[wanted.subject, wanted.measure] for made in rounds]
    value = statistics.median(values)
    if not wanted.peer:
        return Row(wanted.name, value, wanted.unit, goal=wanted.goal, lowest=min(values), highest=max(values))
    peers = [made[wanted.peer, wanted.measure] for made in rounds]
    ratios = [mine / theirs for mine, theirs in zip(values, peers, strict=True)]
    return Row(
        wanted.name,
        value,
        wanted.unit,
        statistics.median(peers),
        statistics.median(ratios),
        wanted.goal,
        min(ratios),
        max(ratios),
    )


def merge(kept: Iterable[Mapping[str, object]], rows: Iterable[Row]) -> list[Mapping[str, object]]:
    """`kept` without the rows that are here again, and these."""
    made = [row.as_object() for row in rows]
    names = {row["name"] for row in made}
    return [*(row for row in kept if row["name"] not in names), *made]


def table(rows: Sequence[Row]) -> list[str]:
    """Lines for people."""
    width = max((len(row.name) for row in rows), default=0)
    return [f"{row.name:{width}}  {number(row.value):>9} {row.unit:5} {_beside(row)}".rstrip() for row in rows]


def _beside(row: Row) -> str:
    words = []
    if row.ratio is not None and row.baseline is not None:
        words.append(f"of {number(row.baseline):>9}: {row.ratio:.3f} x")
    if row.lowest is not None and row.highest is not None and row.lowest != row.highest:
        words.append(f"({number(row.lowest)} to {number(row.highest)})")
    if row.goal is not None:
        words.append(f"goal {row.goal}: {'met' if row.met else 'NOT MET'}")
    return "  ".join(words)


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}"
