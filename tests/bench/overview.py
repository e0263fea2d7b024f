# SPDX-License-Identifier: Apache-2.0
"""Several subjects beside each other, as a table in Markdown: medians, and ours as a ratio to each peer. Pure."""

import statistics
from collections.abc import Sequence

from tests.bench.load import Work
from tests.bench.report import Round, number

OURS = ("steered", "bare")
PEERS = ("Envoy", "ztunnel")


def overview(rounds: Sequence[Round], works: Sequence[Work], subjects: Sequence[str]) -> list[str]:
    """A ratio is the median of the rounds' own, with the lowest and the highest."""
    pairs = [(ours, peer) for peer in PEERS if peer in subjects for ours in OURS if ours in subjects]
    heads = ["work", "unit", *subjects, *(f"{ours} to {peer}" for ours, peer in pairs)]
    lines = [_line(heads), _line(["---", "---", *("---:" for _ in heads[2:])])]
    for work in works:
        units = {name: measure.unit for name, measure in work.measures.items()} | {work.cost.name: work.cost.unit}
        for measure, unit in units.items():
            values = [_median(rounds, subject, measure) for subject in subjects]
            lines.append(_line([measure, unit, *values, *(_ratio(rounds, measure, *pair) for pair in pairs)]))
    return lines


def _median(rounds: Sequence[Round], subject: str, measure: str) -> str:
    """Empty where it was not measured, as the CPU time of no proxy."""
    values = [made[subject, measure] for made in rounds if (subject, measure) in made]
    return number(statistics.median(values)) if values else ""


def _ratio(rounds: Sequence[Round], measure: str, ours: str, peer: str) -> str:
    ratios = [made[ours, measure] / made[peer, measure] for made in rounds]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
