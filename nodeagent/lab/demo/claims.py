# SPDX-License-Identifier: Apache-2.0
"""What a claim of the tour is, and how claims are run."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from nodeagent.errors import NodeagentError

Stage = TypeVar("Stage")


class ClaimFalse(Exception):
    """The evidence says otherwise; the text is that evidence."""


@dataclasses.dataclass(frozen=True)
class Claim(Generic[Stage]):
    words: str
    prove: Callable[[Stage], str]
    """Returns the evidence. Raises ClaimFalse, or OSError or NodeagentError when not even the attempt worked."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    claim: str
    ok: bool
    evidence: str
    seconds: float

    def as_object(self) -> dict[str, object]:
        return dataclasses.asdict(self) | {"seconds": round(self.seconds, 3)}


def run_claims(
    claims: Sequence[Claim[Stage]], stage: Stage, begins: Callable[[str], None] = lambda _words: None
) -> Iterator[Outcome]:
    """One outcome per claim, in order; a false one does not stop the tour, since the next may tell why.

    `begins` is told the words of a claim before it is tried: some take seconds.
    """
    for claim in claims:
        begins(claim.words)
        began = time.monotonic()
        try:
            ok, evidence = True, claim.prove(stage)
        except ClaimFalse as failure:
            ok, evidence = False, str(failure)
        except (OSError, NodeagentError) as failure:
            ok, evidence = False, f"{type(failure).__name__}: {failure}"
        yield Outcome(claim.words, ok, evidence, time.monotonic() - began)


def demand(condition: object, evidence: str) -> None:
    """Raises ClaimFalse with `evidence` unless `condition` holds."""
    if not condition:
        raise ClaimFalse(evidence)


def eventually(condition: Callable[[], bool], within_seconds: float, words: str) -> float:
    """Waits until `condition` holds and returns the seconds it took. Raises ClaimFalse with `words` after the time."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within_seconds:
            raise ClaimFalse(f"{words}: not within {within_seconds:g} s")
        time.sleep(0.005)
    return time.monotonic() - began
