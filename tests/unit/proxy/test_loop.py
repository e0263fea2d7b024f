# SPDX-License-Identifier: Apache-2.0
"""Events, timers and the one place that catches defects."""

import functools
import logging
import socket
from collections.abc import Callable, Iterator

import pytest

from nodeagent.proxy.loop import READ, Loop


class Clock:
    """Time as the test says it."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Recorder:
    def __init__(self, on_ready: Callable[[], None] = lambda: None) -> None:
        self.events: list[int] = []
        self.is_crashed = False
        self._on_ready = on_ready

    def ready(self, events: int) -> None:
        self.events.append(events)
        self._on_ready()

    def crashed(self) -> None:
        self.is_crashed = True


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_a_readable_socket_wakes_its_watcher(pair: tuple[socket.socket, socket.socket]) -> None:
    loop, watcher = Loop(), Recorder()
    loop.watch(pair[0].fileno(), READ, watcher)
    pair[1].send(b"x")
    loop.turn(60)
    assert watcher.events == [READ]
    loop.forget(pair[0].fileno())
    loop.turn(0)
    assert watcher.events == [READ]


def test_a_defect_breaks_one_watcher_and_is_counted(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    loop, broken, sound = Loop(), Recorder(fail), Recorder()
    loop.watch(pair[0].fileno(), READ, broken)
    loop.watch(pair[1].fileno(), READ, sound)
    pair[0].send(b"x")
    pair[1].send(b"x")
    with caplog.at_level(logging.ERROR):
        loop.turn(60)
    assert broken.is_crashed
    assert not sound.is_crashed
    assert sound.events == [READ]
    assert loop.bugs == 1
    assert "ZeroDivisionError" in caplog.text


def test_a_number_reused_within_a_turn_does_not_inherit_its_events() -> None:
    """Both sockets are readable; the first callback replaces the second's watcher under the same number."""
    loop, heir = Loop(), Recorder()
    a, b = socket.socketpair()
    c, d = socket.socketpair()
    seen: list[Recorder] = []

    def replace_other(own: socket.socket, other: socket.socket) -> Callable[[], None]:
        def act() -> None:
            if not seen:
                seen.append(heir)
                loop.forget(other.fileno())
                loop.watch(other.fileno(), READ, heir)

        return act

    loop.watch(a.fileno(), READ, Recorder(replace_other(a, c)))
    loop.watch(c.fileno(), READ, Recorder(replace_other(c, a)))
    b.send(b"x")
    d.send(b"x")
    loop.turn(60)
    assert heir.events == []
    loop.turn(60)
    assert heir.events == [READ]
    for each in (a, b, c, d):
        each.close()


def test_a_descriptor_that_is_closed_needs_no_call() -> None:
    loop, watcher, heir = Loop(), Recorder(), Recorder()
    a, b = socket.socketpair()
    number = a.fileno()
    loop.watch(number, READ, watcher)
    loop.let_go(number)
    a.close()
    b.close()
    c, d = socket.socketpair()
    with c, d:
        assert number in {c.fileno(), d.fileno()}
        loop.watch(number, READ, heir)  # would raise if the kernel still had the former one
        (d if number == c.fileno() else c).send(b"x")
        loop.turn(1)
        assert (watcher.events, heir.events) == ([], [READ])
        loop.forget(number)
    assert loop.watched == 0


def test_timers_fire_in_order_and_not_after_cancel() -> None:
    clock = Clock()
    loop, owner, fired = Loop(clock), Recorder(), list[str]()
    loop.after(2, owner, lambda: fired.append("second"))
    loop.after(1, owner, lambda: fired.append("first"))
    cancelled = loop.after(1.5, owner, lambda: fired.append("never"))
    cancelled.cancel()
    cancelled.cancel()
    clock.seconds += 3
    loop.turn(0)
    assert fired == ["first", "second"]


def test_many_cancelled_timers_are_swept() -> None:
    clock = Clock()
    loop, owner, fired = Loop(clock), Recorder(), list[int]()
    loop.after(50, owner, lambda: fired.append(1))
    for _ in range(5000):
        loop.after(100, owner, lambda: fired.append(2)).cancel()
    assert len(loop._timers) < 2000
    clock.seconds += 200
    loop.turn(0)
    assert fired == [1]


def test_work_at_the_end_of_a_turn_runs_once_and_may_add_more() -> None:
    loop, owner, order = Loop(), Recorder(), list[str]()

    def first() -> None:
        order.append("first")
        loop.at_end_of_turn(owner, lambda: order.append("added"))

    loop.at_end_of_turn(owner, first)
    loop.turn(0)
    loop.turn(0)
    assert order == ["first", "added"]


def test_what_is_due_soon_waits_for_a_few_callbacks_and_not_for_all() -> None:
    loop, order = Loop(), list[str]()
    pairs = [socket.socketpair() for _ in range(20)]
    for number, (left, right) in enumerate(pairs):
        loop.watch(left.fileno(), READ, Recorder(lambda number=number: order.append(str(number))))  # type: ignore[misc]
        right.send(b"x")
    loop.soon(Recorder(), lambda: order.append("sent"))
    loop.turn(60)
    assert len(order) == 21
    assert order.index("sent") == 8
    for left, right in pairs:
        left.close()
        right.close()


def test_what_is_due_soon_does_not_wait_for_a_callback_that_does_the_work_of_many() -> None:
    """As a listener does, for which many wait."""
    loop, owner, order = Loop(), Recorder(), list[str]()
    left, right = socket.socketpair()

    def accept_all() -> None:
        loop.soon(owner, lambda: order.append("sent"))
        for number in range(20):
            order.append(str(number))
            loop.share()

    with left, right:
        loop.watch(left.fileno(), READ, Recorder(accept_all))
        right.send(b"x")
        loop.turn(1)
        loop.forget(left.fileno())
    assert order.index("sent") == 8
    assert len(order) == 21


def test_what_is_due_soon_is_done_within_the_turn_and_among_its_ends() -> None:
    """Two dozen dials are ends; what the first have made to be sent does not wait for the last."""
    loop, owner, order = Loop(), Recorder(), list[str]()

    def dial(number: int) -> None:
        order.append(str(number))
        if number == 0:
            loop.soon(owner, lambda: order.append("sent"))

    for number in range(24):
        loop.at_end_of_turn(owner, functools.partial(dial, number))
    loop.turn(0)
    assert order.index("sent") == 8
    assert len(order) == 25
    loop.turn(0)
    assert len(order) == 25


class BusyPeer:
    """Always has something to say, and hearing it takes `seconds`."""

    def __init__(self, loop: Loop, clock: Clock, seconds: float) -> None:
        self._loop, self._clock, self._seconds = loop, clock, seconds
        self.heard, self._since = 0, 0.0
        self._near, self._far = socket.socketpair()
        self._far.send(b"x")
        loop.watch(self._near.fileno(), READ, self)

    def ready(self, events: int) -> None:
        del events
        self._hear()

    def _hear(self) -> None:
        self.heard += 1
        self._clock.seconds += self._seconds

    def crashed(self) -> None:
        raise AssertionError

    def close(self) -> None:
        self._near.close()
        self._far.close()


class SlowPeer(BusyPeer):
    def ready(self, events: int) -> None:
        del events
        self._since = self._since or self._loop.now
        self._loop.slow_step(self._since, self, self._step)

    def _step(self) -> None:
        self._since = 0.0
        self._hear()


def test_slow_steps_have_a_quarter_of_the_time_while_others_have_something_to_do() -> None:
    clock = Clock()
    loop = Loop(clock)
    slow, busy = [SlowPeer(loop, clock, 0.001) for _ in range(5)], BusyPeer(loop, clock, 0.0001)
    began, in_a_turn = clock.seconds, []
    for _ in range(1000):
        before = sum(peer.heard for peer in slow)
        loop.turn(0)
        in_a_turn.append(sum(peer.heard for peer in slow) - before)
    assert max(in_a_turn) == 1
    assert sum(in_a_turn) * 0.001 == pytest.approx((clock.seconds - began) / 4, rel=0.05)
    assert max(peer.heard for peer in slow) <= min(peer.heard for peer in slow) + 1
    assert busy.heard == 1000
    for peer in (*slow, busy):
        peer.close()


def test_a_slow_step_that_was_interrupted_makes_nobody_wait_for_long() -> None:
    clock = Clock()
    loop = Loop(clock)
    slow, busy = [SlowPeer(loop, clock, 2.0) for _ in range(2)], BusyPeer(loop, clock, 0.001)
    for _ in range(20):
        loop.turn(0)
    assert sum(peer.heard for peer in slow) >= 3
    for peer in (*slow, busy):
        peer.close()


def test_slow_steps_have_all_of_the_time_where_nobody_else_wants_it() -> None:
    clock = Clock()
    loop = Loop(clock)
    slow = [SlowPeer(loop, clock, 0.001) for _ in range(5)]
    for _ in range(1000):
        loop.turn(0)
    assert sum(peer.heard for peer in slow) == 1000
    for peer in slow:
        peer.close()


def test_what_is_postponed_comes_behind_the_events_of_the_next_turn() -> None:
    loop, order = Loop(), list[str]()
    left, right = socket.socketpair()

    def again() -> None:
        order.append("postponed")
        if order.count("postponed") < 3:
            loop.next_turn(owner, again)

    def read() -> None:
        left.recv(1)
        order.append("event")
        loop.next_turn(owner, again)

    owner = Recorder(read)
    loop.watch(left.fileno(), READ, owner)
    right.send(b"x")
    loop.turn(1)
    assert order == ["event"]
    order.clear()
    left.settimeout(0)
    for turn in range(3):
        loop.turn(60)  # which it does not wait for
        assert order == ["postponed"] * (turn + 1)
    loop.turn(0)
    assert len(order) == 3
    left.close()
    right.close()


# ---- looking again before it sleeps ----------------------------------------------------------------------------------


class SteppingClock(Clock):
    """Ten microseconds pass with each look at it."""

    def __call__(self) -> float:
        self.seconds += 10e-6
        return self.seconds


class Polls:
    """What epoll is asked, and answers; an answer is ready when it is asked as often as `after` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
        self.patiences: list[float] = []
        self.after = 0
        monkeypatch.setattr(loop, "_epoll", self)

    def poll(self, patience: float, _most: int) -> list[tuple[int, int]]:
        self.patiences.append(patience)
        if patience or len(self.patiences) > self.after:
            return [(1, READ)]
        return []


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> tuple[Loop, Polls]:
    loop = Loop(SteppingClock())
    loop.spin_seconds = 50e-6
    polls = Polls(monkeypatch, loop)
    loop.turn()  # an answer that came at once
    return loop, polls


def looks(polls: Polls, loop: Loop, after: int) -> list[float]:
    """How epoll is asked in a turn whose events come with the look of this number."""
    polls.patiences.clear()
    polls.after = after
    loop.turn()
    return polls.patiences


def test_it_looks_again_before_it_sleeps_when_answers_come_at_once(brisk: tuple[Loop, Polls]) -> None:
    loop, polls = brisk
    assert looks(polls, loop, 2) == [0, 0, 0]
    assert loop.spins_in_vain == 0


def test_a_spin_ends_and_is_not_repeated_when_it_was_in_vain(brisk: tuple[Loop, Polls]) -> None:
    loop, polls = brisk
    vain = looks(polls, loop, 1000)
    assert set(vain[:-1]) == {0}
    assert len(vain) <= 7
    assert vain[-1] == -1
    assert looks(polls, loop, 1000) == [-1], "asleep at once"
    assert loop.spins_in_vain == 1


def test_sleeps_that_were_short_make_it_spin_again(brisk: tuple[Loop, Polls]) -> None:
    loop, polls = brisk
    looks(polls, loop, 1000)
    assert [len(looks(polls, loop, 1)) for _ in range(3)] == [1, 1, 2]


def test_it_does_not_spin_while_others_want_the_core(
    brisk: tuple[Loop, Polls], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who yields to them comes back a slice later, and then there is something, of course."""
    loop, polls = brisk
    clock = loop._clock
    assert isinstance(clock, SteppingClock)

    def yield_to_others() -> None:
        clock.seconds += 0.005

    monkeypatch.setattr("os.sched_yield", yield_to_others)
    assert looks(polls, loop, 1) == [0, 0]
    assert [looks(polls, loop, 1) for _ in range(5)] == [[-1]] * 5, "it sleeps, and is woken in time"
    clock.seconds += 1
    loop.turn()
    assert looks(polls, loop, 1)[0] == 0


def test_it_never_spins_unless_it_is_told_to(brisk: tuple[Loop, Polls]) -> None:
    loop, polls = brisk
    loop.spin_seconds = 0
    loop._spin_credit = 0
    assert [looks(polls, loop, 1) for _ in range(5)] == [[-1]] * 5


def test_after_a_turn_with_much_to_do_it_does_not_spin(brisk: tuple[Loop, Polls]) -> None:
    loop, polls = brisk
    loop.next_turn(Recorder(), lambda: None)
    loop.turn()
    loop.now -= 100e-6
    assert looks(polls, loop, 1) == [-1]


def test_what_is_due_is_not_delayed_by_a_spin(brisk: tuple[Loop, Polls]) -> None:
    loop, polls = brisk
    loop.soon(Recorder(), lambda: None)
    assert looks(polls, loop, 1000) == [0]
