# SPDX-License-Identifier: Apache-2.0
"""Who may begin a tunnel with us, and when: at once, but for those of a source that wastes this worker's time.

Those wait in the order in which they came, and begin one by one as its debt goes (sources.py).
"""

import functools
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from nodeagent.model.address import Ip
from nodeagent.proxy.loop import Breakable, Loop
from nodeagent.proxy.sources import Sources

_PER_TURN = 16
"""Of one source begin, or are sent away."""

log = logging.getLogger(__name__)


class Entrant(Breakable, Protocol):
    def begin(self) -> None:
        """It shakes hands from now on; `shaken` is to be told."""

    def too_late(self) -> None:
        """It has waited as long as it may."""


class Admission:
    def __init__(self, loop: Loop, counters: Counter[str], patience: Callable[[], float]) -> None:
        """`patience`: seconds that a tunnel may wait."""
        self._loop, self._counters, self._patience = loop, counters, patience
        self._sources = Sources()
        self._queues: dict[Ip, dict[Entrant, float]] = {}
        """None is empty. In their order, with since when they wait, and left from anywhere."""
        self._timed: set[Ip] = set()

    def refuses(self, ip: Ip) -> bool:
        """One more of this source is too many to wait."""
        is_refused = self._sources.refuses(ip, len(self._queues.get(ip, ())), self._loop.now)
        if is_refused:
            self._counters["tunnels_refused"] += 1
        return is_refused

    def records(self, ip: Ip) -> bool:
        """Whether one that is refused leaves a record."""
        return self._sources.records(ip, self._loop.now)

    def enter(self, ip: Ip, entrant: Entrant) -> None:
        """Its `begin` is called, now or when it is its turn."""
        if ip not in self._queues and not self._sources.wait(ip, self._loop.now):
            self._begin(ip, entrant)
            return
        self._counters["tunnels_delayed"] += 1
        self._queues.setdefault(ip, {})[entrant] = self._loop.now
        self._go_on(ip)

    def leave(self, ip: Ip, entrant: Entrant) -> bool:
        """Whether it waited; it does no more."""
        queue = self._queues.get(ip)
        if queue is None or entrant not in queue:
            return False
        del queue[entrant]
        if not queue:
            del self._queues[ip]
        return True

    def shaken(self, ip: Ip) -> None:
        """The handshake of one that had begun is over, or given up."""
        self._sources.shaken(ip)
        self._look_soon(ip)

    def charge(self, ip: Ip, seconds: float) -> float:
        """For so much CPU that was wasted. The debt, in seconds, for `pay_back`."""
        now = self._loop.now
        debt = self._sources.charge(ip, seconds, now)
        if self._sources.is_news(ip, now):
            log.warning("%s wastes this worker's time with what comes to nothing: its tunnels wait", ip)
        return debt

    def pay_back(self, ip: Ip, debt: float, since: float) -> None:
        """It was no waste after all."""
        self._sources.pay_back(ip, debt, since, self._loop.now)
        self._look_soon(ip)

    def rest(self, ip: Ip) -> float:
        """Seconds before more is looked at of a tunnel that has wasted a turn."""
        return self._sources.rest(ip, self._loop.now)

    def crashed(self) -> None:
        """Each entrant breaks down for itself."""

    def _look_soon(self, ip: Ip) -> None:
        """Not at once: whoever calls is in the middle of an end, and the next may end as fast."""
        if ip in self._queues:
            self._loop.at_end_of_turn(self, functools.partial(self._go_on, ip))

    def _go_on(self, ip: Ip) -> None:
        for _ in range(_PER_TURN):
            queue = self._queues.get(ip)
            if not queue:
                return
            entrant, since = next(iter(queue.items()))
            if self._loop.now - since > self._patience():
                self.leave(ip, entrant)
                self._loop.guarded(entrant, entrant.too_late)
                continue
            seconds = self._sources.wait(ip, self._loop.now)
            if seconds:
                self._wake(ip, seconds)
                return
            self.leave(ip, entrant)
            self._begin(ip, entrant)
        self._loop.next_turn(self, functools.partial(self._go_on, ip))

    def _begin(self, ip: Ip, entrant: Entrant) -> None:
        self._sources.begin(ip, self._loop.now)
        self._loop.guarded(entrant, entrant.begin)

    def _wake(self, ip: Ip, seconds: float) -> None:
        if ip not in self._timed:
            self._timed.add(ip)
            self._loop.after(seconds, self, functools.partial(self._woken, ip))

    def _woken(self, ip: Ip) -> None:
        self._timed.discard(ip)
        self._go_on(ip)
