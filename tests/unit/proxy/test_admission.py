# SPDX-License-Identifier: Apache-2.0
"""Tunnels begin at once, and those of a wasteful source in turn."""

from collections import Counter

import pytest

from nodeagent.model.address import Ip
from nodeagent.proxy.admission import Admission
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.sources import CREDIT_SECONDS, PRICE
from tests.unit.proxy.conftest import Clock

WASTEFUL, OTHER = Ip("10.0.0.1"), Ip("10.0.0.2")


class Entrant:
    def __init__(self, begun: "list[Entrant]") -> None:
        self._begun = begun
        self.is_crashed = self.is_too_late = False

    def too_late(self) -> None:
        self.is_too_late = True

    def begin(self) -> None:
        self._begun.append(self)

    def crashed(self) -> None:
        self.is_crashed = True


class Broken(Entrant):
    def begin(self) -> None:
        raise RuntimeError


@pytest.fixture
def loop(clock: Clock) -> Loop:
    return Loop(clock)


@pytest.fixture
def admission(loop: Loop) -> Admission:
    return Admission(loop, Counter(), lambda: 10.0)


def owe(admission: Admission, seconds: float) -> None:
    """Of waiting, which is what WASTEFUL has beyond its credit."""
    admission.charge(WASTEFUL, (CREDIT_SECONDS + seconds) / PRICE)


def test_whoever_wastes_nothing_begins_at_once(admission: Admission, loop: Loop) -> None:
    begun: list[Entrant] = []
    for _ in range(1000):
        admission.enter(OTHER, Entrant(begun))
        admission.pay_back(OTHER, admission.charge(OTHER, 0.001), loop.now)
        admission.shaken(OTHER)
    assert len(begun) == 1000
    assert admission._counters == {}


def test_who_is_in_debt_waits_in_its_order_and_nobody_else_does(admission: Admission, loop: Loop, clock: Clock) -> None:
    begun: list[Entrant] = []
    owe(admission, 1)
    first, second, third = (Entrant(begun) for _ in range(3))
    for entrant in (first, second, third):
        admission.enter(WASTEFUL, entrant)
    other = Entrant(begun)
    admission.enter(OTHER, other)
    assert begun == [other]
    assert admission._counters == {"tunnels_delayed": 3}
    assert admission.leave(WASTEFUL, second)
    assert not admission.leave(WASTEFUL, second)
    for _ in range(8):
        clock.seconds += 0.26
        loop.turn(0)
    assert begun == [other, first, third]
    assert admission._queues == {}
    assert not admission.leave(WASTEFUL, first)


def test_what_comes_meanwhile_does_not_pass_who_waits(admission: Admission, loop: Loop, clock: Clock) -> None:
    begun: list[Entrant] = []
    owe(admission, 0.1)
    first, second = (Entrant(begun) for _ in range(2))
    admission.enter(WASTEFUL, first)
    clock.seconds += 1
    loop.now = clock.seconds
    admission.enter(WASTEFUL, second)
    assert begun == [first, second]


def test_handshakes_that_end_let_the_next_begin(admission: Admission, loop: Loop) -> None:
    """Two hundred tunnels of a gateway, of which a hundred shake hands at once."""
    begun: list[Entrant] = []
    for _ in range(200):
        admission.enter(OTHER, Entrant(begun))
    assert len(begun) == pytest.approx(100, abs=1)
    assert not admission.refuses(OTHER)
    for _ in range(200):
        admission.shaken(OTHER)
        loop.turn(0)
    assert len(begun) == 200


def test_a_crowd_of_a_wasteful_source_is_refused(admission: Admission, loop: Loop, clock: Clock) -> None:
    begun: list[Entrant] = []
    owe(admission, 2)
    for _ in range(64):
        assert not admission.refuses(WASTEFUL)
        admission.enter(WASTEFUL, Entrant(begun))
    assert admission.refuses(WASTEFUL)
    assert admission.records(WASTEFUL)
    assert not admission.records(WASTEFUL)
    assert admission._counters == {"tunnels_delayed": 64, "tunnels_refused": 1}
    clock.seconds += 10
    for turn in range(1, 5):
        loop.turn(0)
        assert len(begun) == 16 * turn, "nobody else would have a turn"
    assert not admission.refuses(WASTEFUL)


def test_one_that_breaks_down_keeps_nobody(admission: Admission, loop: Loop, clock: Clock) -> None:
    begun: list[Entrant] = []
    owe(admission, 1)
    broken, next_one = Broken(begun), Entrant(begun)
    admission.enter(WASTEFUL, broken)
    admission.enter(WASTEFUL, next_one)
    for _ in range(8):
        clock.seconds += 0.26
        loop.turn(0)
    assert broken.is_crashed
    assert begun == [next_one]


def test_nobody_waits_for_ever(admission: Admission, loop: Loop, clock: Clock) -> None:
    """Behind a hundred that say nothing."""
    begun: list[Entrant] = []
    silent = [Entrant(begun) for _ in range(110)]
    for entrant in silent:
        admission.enter(OTHER, entrant)
    clock.seconds += 6
    loop.turn(0)
    last = Entrant(begun)
    admission.enter(OTHER, last)
    clock.seconds += 6
    loop.turn(0)
    waited = [entrant for entrant in silent if entrant not in begun]
    assert len(waited) == pytest.approx(10, abs=1)
    assert all(entrant.is_too_late for entrant in waited)
    assert list(admission._queues[OTHER]) == [last]
    clock.seconds += 6
    loop.turn(0)
    assert last.is_too_late
    assert admission._queues == {}
