# SPDX-License-Identifier: Apache-2.0
"""What a client said, and what is to be seen of it: a row for each rule."""

import pytest

from nodeagent.controlplane.answers import KEPT, MAX_ERROR_CHARACTERS, Answers, Sent, State

A, B, C = (
    Sent("1/1", "1", 10.0, frozenset({"a", "b"})),
    Sent("2/2", "2", 20.0, frozenset({"b"})),
    Sent("3/3", "3", 30.0),
)


def told(*steps: Sent | str | tuple[str, str]) -> Answers:
    """A Sent is sent, a nonce is accepted, a nonce with a message is refused."""
    answers = Answers()
    for step in steps:
        match step:
            case Sent():
                answers.sent(step)
            case str():
                answers.accepted(step)
            case (nonce, message):
                answers.is_refused(nonce, message)
    return answers


@pytest.mark.parametrize(
    ("steps", "state", "errors"),
    [
        pytest.param((), State.NOT_SENT, [], id="nothing yet"),
        pytest.param((A,), State.STALE, [], id="sent and not answered"),
        pytest.param((A, "1/1"), State.SYNCED, [], id="accepted"),
        pytest.param((A, "1/1", B), State.STALE, [], id="the next one is on its way"),
        pytest.param((A, B, "2/2"), State.SYNCED, [], id="an answer is for what came before it too"),
        pytest.param((A, B, "1/1"), State.STALE, [], id="an answer is not for what came after it"),
        pytest.param((A, "9/9"), State.STALE, [], id="a nonce that was never sent"),
        pytest.param((A, ("1/1", "no")), State.NACKED, ["no"], id="refused"),
        pytest.param((A, ("1/1", "no"), "1/1"), State.NACKED, ["no"], id="a second answer to the same nonce"),
        pytest.param((A, "1/1", ("1/1", "no")), State.SYNCED, [], id="accepted is accepted"),
        pytest.param((A, ("1/1", "b: no"), B), State.NACKED, ["b: no"], id="a better one is on its way"),
        pytest.param((A, ("1/1", "b: no"), B, "2/2"), State.SYNCED, [], id="the one that was named is accepted"),
        pytest.param(
            (A, ("1/1", "no"), B, "2/2"), State.NACKED, ["no"], id="none was named, and one is not sent again"
        ),
        pytest.param((A, ("1/1", "a: no"), B, "2/2"), State.NACKED, ["a: no"], id="another one is accepted"),
        pytest.param((C, ("3/3", "no")), State.NACKED, ["no"], id="an empty response is refused"),
        pytest.param((C, ("3/3", "no"), A, "1/1"), State.SYNCED, [], id="what is refused of nothing ends with any"),
        pytest.param(
            (A, ("1/1", "a: no; b: nor this"), B, ("2/2", "b: nor now")),
            State.NACKED,
            ["a: no; b: nor this", "b: nor now"],
            id="refused twice",
        ),
    ],
)
def test_a_rule(steps: tuple[Sent | str | tuple[str, str], ...], state: State, errors: list[str]) -> None:
    answers = told(*steps)
    assert answers.state is state
    assert [refusal.message for refusal in answers.refusals] == errors


def test_what_was_sent_and_accepted_last_is_kept_without_its_names() -> None:
    answers = told(A, "1/1", B)
    assert answers.last_sent is not None
    assert answers.last_accepted is not None
    assert (answers.last_sent.nonce, answers.last_sent.version) == ("2/2", "2")
    assert (answers.last_accepted.nonce, answers.last_accepted.names) == ("1/1", frozenset())
    assert (answers.unanswered, answers.waits_since) == (1, 20.0)


def test_a_client_that_says_nothing_or_too_much_does_not_fill_the_memory() -> None:
    answers = told(*(Sent(f"1/{number}", "1", 0.0, frozenset({str(number)})) for number in range(KEPT * 3)))
    assert answers.unanswered == KEPT
    for number in range(KEPT * 2, KEPT * 3):
        assert answers.is_refused(f"1/{number}", "x" * 100_000)
    assert len(answers.refusals) == KEPT
    assert {len(refusal.message) for refusal in answers.refusals} == {MAX_ERROR_CHARACTERS}
    assert answers.refused == KEPT
