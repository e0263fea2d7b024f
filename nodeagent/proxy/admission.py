# SPDX-License-Identifier: Apache-2.0
"""Who may begin a tunnel with us, and when: at once, but for those of a source that wastes this worker's time.

Those wait in the order in which they came, and begin one by one as its debt goes (sources.py).
"""

import functools
import logging
from collections import Counter
from typing import Protocol

from nodeagent.model.address import Ip
from nodeagent.proxy.loop import Breakable, Loop
from nodeagent.proxy.sources import Sources

log = logging.getLogger(__name__)


class Entrant(Breakable, Protocol):
    def begin(self) -> None:
        """It shakes hands from now on; `shaken` is to be told."""


class Admission:
    def __init__(self, loop: Loop, counters: Counter[str]) -> None:
        self._loop, self._counters = loop, counters
        self._sources = Sources()
        self._queues: dict[Ip, dict[Entrant, None]] = {}
        """None is empty. In their order, and left from anywhere."""
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
        self._queues.setdefault(ip, {})[entrant] = None
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

    def wasted(self, ip: Ip, seconds: float) -> None:
        """So much CPU."""
        if self._sources.charge(ip, seconds, self._loop.now):
            log.warning("tunnels from %s come to nothing, one after the other: its next ones wait", ip)

    def came_to_something(self, ip: Ip, seconds: float) -> None:
        """What was charged before that was known."""
        self._sources.pay_back(ip, seconds)
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
        while queue := self._queues.get(ip):
            seconds = self._sources.wait(ip, self._loop.now)
            if seconds:
                self._wake(ip, seconds)
                return
            entrant = next(iter(queue))
            self.leave(ip, entrant)
            self._begin(ip, entrant)

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
