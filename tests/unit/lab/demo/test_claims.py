# SPDX-License-Identifier: Apache-2.0
"""A claim is true, false with its evidence, or not even tried; the tour goes on in each case."""

import pytest

from nodeagent.errors import NotPossible
from nodeagent.lab.demo.claims import Claim, ClaimFalse, demand, eventually, run_claims


def _fail(failure: Exception) -> Claim[str]:
    def prove(_stage: str) -> str:
        raise failure

    return Claim("it fails", prove)


@pytest.mark.parametrize(
    ("claim", "ok", "evidence"),
    [
        pytest.param(Claim("true", lambda stage: f"seen on {stage}"), True, "seen on stage", id="true"),
        pytest.param(_fail(ClaimFalse("3 of 4 bytes")), False, "3 of 4 bytes", id="false"),
        pytest.param(_fail(ConnectionResetError("reset")), False, "ConnectionResetError: reset", id="refused"),
        pytest.param(_fail(NotPossible("no agent")), False, "NotPossible: no agent", id="not possible"),
    ],
)
def test_a_claim_has_an_outcome_with_evidence_and_the_next_one_is_tried(
    claim: Claim[str], *, ok: bool, evidence: str
) -> None:
    last = Claim[str]("the last", lambda _stage: "tried")
    begun: list[str] = []
    first, second = run_claims([claim, last], "stage", begun.append)
    assert (first.claim, first.ok, first.evidence) == (claim.words, ok, evidence)
    assert second.ok
    assert begun == [claim.words, "the last"]
    assert first.seconds >= 0


def test_a_bug_of_the_tour_is_no_false_claim() -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_claims([_fail(ZeroDivisionError())], "stage"))


def test_an_outcome_is_an_object_of_four_fields() -> None:
    (outcome,) = run_claims([Claim[str]("true", lambda _stage: "seen")], "stage")
    told = outcome.as_object()
    assert set(told) == {"claim", "ok", "evidence", "seconds"}
    assert told["seconds"] == round(outcome.seconds, 3)


def test_claims_are_tried_one_by_one() -> None:
    begun: list[str] = []
    outcomes = run_claims([Claim[str](words, lambda stage: stage) for words in ("a", "b")], "stage", begun.append)
    next(outcomes)
    assert begun == ["a"]


def test_demand() -> None:
    demand([1], "there is one")
    with pytest.raises(ClaimFalse, match="there is none"):
        demand([], "there is none")


def test_eventually_waits_for_the_condition_and_no_longer() -> None:
    answers = iter([False, False, True])
    assert 0 < eventually(lambda: next(answers), 5, "the third") < 5
    assert eventually(lambda: True, 0, "at once") < 1
    with pytest.raises(ClaimFalse, match=r"never: not within 0\.02 s"):
        eventually(lambda: False, 0.02, "never")
