# SPDX-License-Identifier: Apache-2.0
"""Runs a part over many cases from one seed, up to the first that differs."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.differential.comparison import Comparison, Part, shrink
from tests.differential.mesh import MeshPart
from tests.differential.wire import WirePart

PARTS: Mapping[str, Part] = {part.name: part for part in (WirePart(), MeshPart())}


@dataclass
class Outcome:
    cases: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """How many cases had which verdict: a generator that never reaches one proves nothing about it."""
    difference: Comparison | None = None
    """The first case that differs, made small."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common())
        return f"{self.cases:,} cases ({kinds})"


def run(part: Part, seed: int, cases: int, progress: Callable[[int], None]) -> Outcome:
    """At least `cases`; what one input gives is never cut off."""
    rng, outcome = random.Random(seed), Outcome()
    while outcome.cases < cases:
        for comparison in part.compare(rng):
            outcome.cases += 1
            outcome.kinds[comparison.kind] += 1
            if not comparison.agrees:
                outcome.difference = shrink(part, comparison)
                return outcome
        progress(outcome.cases)
    return outcome
