# SPDX-License-Identifier: Apache-2.0
"""The worker's one loop: raw epoll, timers in a heap, work at the end of a turn. Nothing in it may block.

What is sent together is not all of a turn but the work of a few callbacks (`soon`): the peer begins with the first of
sixty requests while we are at the last, instead of both waiting for each other in turn.

It is also the one place where a defect of ours is caught: the traceback is logged, `bugs` is counted, and the one
watcher whose callback raised is told to break down; every other connection goes on.
"""

import heapq
import itertools
import logging
import math
import operator
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HALF_CLOSED = select.EPOLLRDHUP
"""Nothing comes behind what can be read. It is told again and again: asked for with READ, or by who ends with it."""
FAILED = select.EPOLLERR
HUNG_UP = select.EPOLLHUP

_MAX_EVENTS = 256
"""Per turn: enough to share flushes and few enough that a slice of state is never far away."""
_LEAST_SHARING = 8
_PARTS = 6
"""What is due `soon` is done after so many callbacks, or after a sixth of the turn's: 64 connections that ask and
answer carry 1.2 to 1.4 times as many requests a second as with once a turn (docs/performance.md). Of a thousand there
is always something for the peer to do, and larger shares cost less."""
_SHORT_TURN_SECONDS = 60e-6
"""After which it spins: two connections that ask and answer. Who has more to do, or bulk, has no time to be idle."""
_IN_VAIN = 2
_MOST_SPIN_CREDIT = 8
"""A spin that found something, or a sleep that a spin would have saved, is worth one; a spin in vain costs two. So of
waits that are long one in three is begun with a spin at most, and of those that come now and then none."""
_SLICE_SECONDS = 500e-6
"""Less than whoever computes takes of a core (1.5 ms and more), and more than a peer needs for an answer."""
_REST_SECONDS = 1.0
"""Without spinning, when others want the core."""
_SLOW_STEP_REST = 3
"""A step of a handshake takes most of a millisecond: for so many times as long as one took, the next waits while other
descriptors have events. So whoever shakes hands without end has a quarter of a worker and not half of each turn."""
_LONGEST_SLOW_STEP_SECONDS = 2e-3
"""What took longer was interrupted, and whoever comes next shall not wait for that."""
_COMPACT_ABOVE = 1024
"""Cancelled timers are swept when they are more than this and more than half of the heap."""

log = logging.getLogger(__name__)


class Breakable(Protocol):
    """Whose code the loop calls."""

    def crashed(self) -> None:
        """A callback of this one raised: release everything, tell nobody but the record."""


class Watcher(Breakable, Protocol):
    """Something with a descriptor in the loop."""

    def ready(self, events: int) -> None:
        """The descriptor has events; spurious calls are possible and must be harmless."""


class Timer:
    """A deadline that can be called off. Cancelling twice, or after it fired, does nothing."""

    __slots__ = ("_loop", "action", "owner")

    def __init__(self, loop: "Loop", owner: Breakable, action: Callable[[], None]) -> None:
        self._loop = loop
        self.owner: Breakable | None = owner
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        if self.action is not None:
            self.action = self.owner = None
            self._loop.timer_cancelled()


class Loop:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.now = clock()
        """Monotonic seconds at the start of this turn; cheaper than a call per use."""
        self.bugs = 0
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        self._added: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = itertools.count()
        self._cancelled = 0
        self._at_end: deque[tuple[Breakable, Callable[[], None]]] = deque()
        self._soon: list[tuple[Breakable, Callable[[], None]]] = []
        self._postponed: list[tuple[Breakable, Callable[[], None]]] = []
        self._sharing = self._sharing_left = _LEAST_SHARING
        self._slow_steps: list[tuple[float, Breakable, Callable[[], None]]] = []
        """That are wanted in this turn, and since when."""
        self._slow_steps_after = -math.inf
        self._stopped = False
        self.spin_seconds = 0.0
        """How long it looks for events before it sleeps, at most; 0: it does not."""
        self._spin_credit = 0
        self._spins_from = 0.0
        self.spins_in_vain = 0
        self.turns_shared = 0
        """How often one had more to do than a turn may cost, and left the rest to the next."""
        self.slow_steps_deferred = 0

    # ---- descriptors -----------------------------------------------------------------------------------------------

    def watch(self, fd: int, events: int, watcher: Watcher) -> None:
        self._epoll.register(fd, events)
        self._watchers[fd] = watcher
        # A number that was closed and opened again in this turn may still have an event of its former owner queued;
        # taken for its own, it would make a connect in progress look finished.
        self._added.add(fd)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Before the descriptor is closed. Forgetting one that is not watched does nothing."""
        if self._watchers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def let_go(self, fd: int) -> None:
        """As `forget`, of a descriptor that is closed at once and that no other process has: the kernel forgets those.

        One that came by a handover may be open in the former worker for a moment, and its events would reach whoever
        has its number next.
        """
        self._watchers.pop(fd, None)

    def take_over(self, fd: int, events: int, watcher: Watcher) -> None:
        """Of a descriptor that another has watched: one call instead of `forget` and `watch`."""
        self._epoll.modify(fd, events)
        self._watchers[fd] = watcher

    @property
    def watched(self) -> int:
        """Descriptors."""
        return len(self._watchers)

    # ---- time ------------------------------------------------------------------------------------------------------

    def after(self, seconds: float, owner: Breakable, action: Callable[[], None]) -> Timer:
        timer = Timer(self, owner, action)
        heapq.heappush(self._timers, (self.now + seconds, next(self._sequence), timer))
        return timer

    def timer_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > _COMPACT_ABOVE and self._cancelled * 2 > len(self._timers):
            self._timers = [row for row in self._timers if row[2].action is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def at_end_of_turn(self, owner: Breakable, action: Callable[[], None]) -> None:
        """Runs `action` once, after all events of this turn; what it schedules in turn runs in the same round."""
        self._at_end.append((owner, action))

    def soon(self, owner: Breakable, action: Callable[[], None]) -> None:
        """Runs `action` once, after the next few callbacks or at the end of this turn, whatever comes first."""
        self._soon.append((owner, action))

    def next_turn(self, owner: Breakable, action: Callable[[], None]) -> None:
        """Runs `action` once, behind the events of the next turn, which does not wait for any."""
        self._postponed.append((owner, action))
        self.turns_shared += 1

    def slow_step(self, since: float, owner: Breakable, action: Callable[[], None]) -> None:
        """For what takes a millisecond: runs `action` behind the events of this turn, if it is its turn.

        Else `owner` is to ask again, as the event of its descriptor does by itself; `since` is when it first did, since
        whoever has waited longest is next.
        """
        self._slow_steps.append((since, owner, action))

    def share(self) -> None:
        """Of a callback that does the work of many: that of one is done, and what is due `soon` may be due now."""
        self._sharing_left -= 1
        if self._sharing_left <= 0:
            self._run_soon()

    # ---- running ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._stopped = False
        while not self._stopped:
            self.turn()

    def stop(self) -> None:
        """Ends run() after this turn."""
        self._stopped = True

    def turn(self, at_most_seconds: float | None = None) -> None:
        """Waits for events or the next timer, then does everything that is due."""
        events = self._wait(at_most_seconds)
        self.now = self._clock()
        self._added.clear()
        postponed, self._postponed = self._postponed, []
        self._sharing = self._sharing_left = max(_LEAST_SHARING, len(events) // _PARTS)
        added, watchers = self._added, self._watchers
        for fd, mask in events:
            watcher = watchers.get(fd)
            if watcher is None or fd in added:
                continue
            try:  # as `guarded`, without a call
                watcher.ready(mask)
            except Exception:  # noqa: BLE001 - `_broke` logs it
                self._broke(watcher)
            self._sharing_left -= 1
            if self._sharing_left <= 0:
                self._run_soon()
        if self._slow_steps:
            self._run_slow_step(is_alone=len(self._slow_steps) == len(events))
        for owner, action in postponed:
            self.guarded(owner, action)
        if self._timers and self._timers[0][0] <= self.now:
            self._run_timers()
        if self._at_end or self._soon:
            self._run_ends()

    def _wait(self, at_most: float | None) -> list[tuple[int, int]]:
        """What is ready, or nothing when the next timer is due.

        A peer on this node, or on the next machine, answers within microseconds; falling asleep for these and waking up
        takes longer. So, where it is asked for, it looks again and again for `spin_seconds` after a short turn, as long
        as that pays, and lets others run in between.
        """
        patience, poll, clock = self._patience(at_most), self._epoll.poll, self._clock
        if not patience or not self.spin_seconds:
            return poll(patience, _MAX_EVENTS)
        began = clock()
        is_spinning = self._spin_credit > 0 and began - self.now < _SHORT_TURN_SECONDS and began >= self._spins_from
        until = began + self.spin_seconds
        while is_spinning:
            events = poll(0, _MAX_EVENTS)
            now = clock()
            if now - began >= _SLICE_SECONDS:
                # Somebody has our core and took a whole slice for our yield: asleep we would be woken in time.
                self._spins_from = now + _REST_SECONDS
            if events:
                self._spin_credit = min(self._spin_credit + 1, _MOST_SPIN_CREDIT)
                return events
            is_spinning = now < until
            if not is_spinning:
                self._spin_credit -= _IN_VAIN
                self.spins_in_vain += 1
                return poll(self._patience(at_most), _MAX_EVENTS)
            os.sched_yield()
        events = poll(patience, _MAX_EVENTS)
        if clock() < until:
            self._spin_credit = min(self._spin_credit + 1, _MOST_SPIN_CREDIT)
        return events

    def _patience(self, at_most: float | None) -> float:
        if self._at_end or self._soon or self._postponed:
            return 0
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
            self._cancelled -= 1
        if not self._timers:
            return -1 if at_most is None else at_most
        wait = self._timers[0][0] - self._clock()
        if wait <= 0:
            return 0
        wait += 0.001  # epoll's unit; rounding down would spin through the last millisecond
        return wait if at_most is None else min(wait, at_most)

    def _run_slow_step(self, *, is_alone: bool) -> None:
        """Of whoever has waited longest, one in a turn."""
        wanted, self._slow_steps = self._slow_steps, []
        if self.now <= self._slow_steps_after and not is_alone:
            self.slow_steps_deferred += len(wanted)
            return
        self.slow_steps_deferred += len(wanted) - 1
        _, owner, action = min(wanted, key=operator.itemgetter(0))
        began = self._clock()
        self.guarded(owner, action)
        ended = self._clock()
        self._slow_steps_after = ended + _SLOW_STEP_REST * min(ended - began, _LONGEST_SLOW_STEP_SECONDS)

    def _run_timers(self) -> None:
        due: list[Timer] = []
        while self._timers and self._timers[0][0] <= self.now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:  # collected first: what a timer starts with no delay waits for the next turn
            action, owner = timer.action, timer.owner
            if action is None or owner is None:
                self._cancelled -= 1
                continue
            timer.action = timer.owner = None
            self.guarded(owner, action)

    def _run_ends(self) -> None:
        at_end = self._at_end
        while at_end or self._soon:
            while at_end:
                owner, action = at_end.popleft()
                self.guarded(owner, action)
                self._sharing_left -= 1
                if self._sharing_left <= 0:
                    self._run_soon()
            self._run_soon()

    def _run_soon(self) -> None:
        self._sharing_left = self._sharing
        while self._soon:
            due, self._soon = self._soon, []
            for owner, action in due:
                try:  # likewise
                    action()
                except Exception:  # noqa: BLE001 - likewise
                    self._broke(owner)

    def guarded(self, owner: Breakable, action: Callable[..., None], *arguments: object) -> None:
        """Calls `action`; when it raises, only `owner` breaks down."""
        try:
            action(*arguments)
        except Exception:  # noqa: BLE001 - `_broke` logs it
            self._broke(owner)

    def _broke(self, owner: Breakable) -> None:
        """While its exception is being handled."""
        self.bugs += 1
        log.exception("a defect of nodeagent, please report it: in %s", type(owner).__name__)  # noqa: LOG004 - see above
        try:
            owner.crashed()
        except Exception:
            self.bugs += 1
            log.exception("and another while it broke down")
