# SPDX-License-Identifier: Apache-2.0
"""What one case of a differential test is, and how a case that differs is made small."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

Plain = dict[str, Any]


class Comparison(NamedTuple):
    case: Plain
    """All that the two answers depend on, as JSON has it."""
    expected: str
    """By the naive evaluator."""
    found: str
    agrees: bool

    @property
    def kind(self) -> str:
        """The verdict without the policy's name."""
        return self.expected.split(" by ", maxsplit=1)[0].split(" [", maxsplit=1)[0]

    def __str__(self) -> str:
        return f"naive: {self.expected}\nours:  {self.found}"


class Part(Protocol):
    """Two evaluators of the same input."""

    name: str

    def compare(self, rng: random.Random) -> Iterator[Comparison]:
        """One random input, and a case for each connection that is judged by it."""

    def replay(self, case: Plain) -> Comparison: ...

    def without(self, case: Plain, number: int) -> Plain | None:
        """The case without its piece of this number; None when it has not as many."""


def shrink(part: Part, comparison: Comparison) -> Comparison:
    """The same difference with as few pieces as leaving out one after the other gives."""
    number = 0
    while (smaller := part.without(comparison.case, number)) is not None:
        again = part.replay(smaller)
        if again.agrees:
            number += 1
        else:
            comparison = again
    return comparison
