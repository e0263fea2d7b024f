# SPDX-License-Identifier: Apache-2.0
"""Connections that wait for what is on its way."""

from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.proxy.holds import Holds
from nodeagent.proxy.loop import Loop


class Waiting:
    def __init__(self, holds: Holds) -> None:
        self.has_arrived = self.is_given_up = self.is_crashed = False
        self.attempts = 0
        self.hold = holds.wait(self, 2, self.attempt, self.give_up)

    def attempt(self) -> bool:
        self.attempts += 1
        return self.has_arrived

    def give_up(self) -> None:
        self.is_given_up = True

    def crashed(self) -> None:
        self.is_crashed = True


def has_given_up(waiting: Waiting) -> bool:
    return waiting.is_given_up


@pytest.fixture
def holds(clock: Callable[[], float]) -> Holds:
    return Holds(Loop(clock))


def test_what_is_there_is_not_waited_for(holds: Holds) -> None:
    class Ready(Waiting):
        def attempt(self) -> bool:
            return True

    assert Ready(holds).hold is None
    assert not holds.waiting


def test_each_change_is_a_new_attempt_until_one_succeeds(holds: Holds) -> None:
    waiting = Waiting(holds)
    holds.state_changed()
    assert waiting.attempts == 2
    waiting.has_arrived = True
    holds.state_changed()
    holds.state_changed()
    assert waiting.attempts == 3
    assert not holds.waiting


def test_at_the_deadline_it_is_given_up(holds: Holds, clock: Any) -> None:
    waiting = Waiting(holds)
    clock.seconds += 1.9
    holds.loop.turn(0)
    assert not has_given_up(waiting)
    clock.seconds += 0.2
    holds.loop.turn(0)
    assert has_given_up(waiting)
    assert not holds.waiting


def test_a_released_one_is_neither_tried_nor_given_up(holds: Holds, clock: Any) -> None:
    waiting = Waiting(holds)
    assert waiting.hold is not None
    waiting.hold.release()
    waiting.hold.release()
    clock.seconds += 5
    holds.loop.turn(0)
    holds.state_changed()
    assert (waiting.attempts, waiting.is_given_up) == (1, False)


def test_one_that_breaks_does_not_stop_the_others(holds: Holds) -> None:
    first, second = Waiting(holds), Waiting(holds)
    assert first.hold is not None
    first.hold._attempt = lambda: 1 / 0 > 0
    second.has_arrived = True
    holds.state_changed()
    assert first.is_crashed
    assert second.attempts == 2
