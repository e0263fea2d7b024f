# SPDX-License-Identifier: Apache-2.0
"""Where tunnels come from, and how much of this worker's time was wasted from there. Pure: times are the caller's.

Whoever floods a tunnel is cut off by name, and makes the next: a handshake for us, and again all that one tunnel is
put up with. So what an address wastes is its debt, and its next tunnels wait until that is over, fifty times as long
as it took. Who wastes less than a fiftieth of a worker never waits: an expired certificate that is tried again and
again, a probe that says nothing.
"""

import math

from nodeagent.model.address import Ip

ATTEMPT_SECONDS = 0.5e-3
"""Of CPU, of a connection that never became a tunnel."""
HANDSHAKE_SECONDS = 1e-3
"""Of a tunnel, until it has a request: whoever makes many and holds them is known by that."""
STREAM_SECONDS = 0.15e-3
"""Of a stream that is cut because its tunnel's peer broke a rule."""

PRICE = 50
"""A fiftieth of the time is little beyond the slowest hundredth of others' answers (DECISIONS.md, 83)."""
CREDIT_SECONDS = 5.0
"""Of waiting, for who has wasted nothing of late: a tenth of a second of CPU. So a hundred of its tunnels may shake
hands at once; those of a gateway that was just started wait for each other's."""
_LONGEST_SECONDS = 5.0
"""A peer that was mended is served again before its clients lose patience, which for a handshake are ten seconds."""
_LOOK_SECONDS = 0.25
"""After which it is looked again: a tunnel of the same source that did come to something shortens the wait."""
_MOST_IN_ORDER = 4096
"""Tunnels of a source that wait for others of it to have shaken hands,"""
_MOST_WAITING = 64
"""of a source in debt, and"""
_LONGEST_WAIT_SECONDS = 4.0
"""of one that has to wait longer, none: what comes is refused, since a flood of it would fill the worker."""
_MOST_SOURCES = 4096
_TOLD_SECONDS = 60.0
_RECORDED_SECONDS = 1.0


class _Source:
    __slots__ = ("recorded", "shaking", "told", "until")

    def __init__(self) -> None:
        self.until = -math.inf
        """Of its debt; what is within the credit makes nobody wait."""
        self.shaking = 0
        """Tunnels that shake hands at this moment: they may yet come to nothing."""
        self.recorded = -math.inf
        """When one that was refused was last recorded."""
        self.told = -math.inf
        """When the operator was last told."""

    def is_forgotten(self, now: float) -> bool:
        return not self.shaking and self.until <= now - CREDIT_SECONDS


class Sources:
    """Of one worker. All times in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._known: dict[Ip, _Source] = {}

    def refuses(self, ip: Ip, waiting: int, now: float) -> bool:
        """One more tunnel is too many, where so many wait."""
        source = self._known.get(ip)
        if source is None or source.until <= now:
            return waiting >= _MOST_IN_ORDER
        return waiting >= _MOST_WAITING or source.until > now + _LONGEST_WAIT_SECONDS

    def records(self, ip: Ip, now: float) -> bool:
        """Whether a refused one leaves a record: one a second, since a record costs more than to refuse."""
        source = self._source(ip, now)
        if now - source.recorded < _RECORDED_SECONDS:
            return False
        source.recorded = now
        return True

    def wait(self, ip: Ip, now: float) -> float:
        """Before its next tunnel begins: 0, or for how long not to ask again."""
        source = self._known.get(ip)
        if source is None:
            return 0.0
        debt = max(source.until, now - CREDIT_SECONDS) + PRICE * HANDSHAKE_SECONDS * source.shaking - now
        return min(max(debt, 0.0), _LOOK_SECONDS)

    def rest(self, ip: Ip, now: float) -> float:
        """Before more is looked at of a tunnel that has wasted a turn."""
        source = self._known.get(ip)
        return min(max(source.until - now, 0.0), _LOOK_SECONDS) if source is not None else 0.0

    def begin(self, ip: Ip, now: float) -> None:
        """A tunnel shakes hands, until `shaken`."""
        self._source(ip, now).shaking += 1

    def shaken(self, ip: Ip) -> None:
        source = self._known.get(ip)
        if source is not None and source.shaking:
            source.shaking -= 1

    def charge(self, ip: Ip, seconds: float, now: float) -> float:
        """For so much CPU. The debt that it adds, in seconds of waiting."""
        source = self._source(ip, now)
        before = max(source.until, now - CREDIT_SECONDS)
        source.until = min(before + PRICE * seconds, max(before, now + _LONGEST_SECONDS))
        return source.until - before

    def pay_back(self, ip: Ip, debt: float, since: float, now: float) -> None:
        """What is left of a debt, which was charged for something that has come to something."""
        source = self._known.get(ip)
        if source is not None:
            source.until -= max(debt - (now - since), 0.0)

    def is_news(self, ip: Ip, now: float) -> bool:
        """Whether to tell the operator that its next tunnels wait: once a minute."""
        source = self._known.get(ip)
        if source is None or source.until <= now or now - source.told < _TOLD_SECONDS:
            return False
        source.told = now
        return True

    def _source(self, ip: Ip, now: float) -> _Source:
        source = self._known.get(ip)
        if source is None:
            if len(self._known) >= _MOST_SOURCES:
                self._make_room(now)
            source = self._known[ip] = _Source()
        return source

    def _make_room(self, now: float) -> None:
        """Of half, so that it is not looked for each time: whoever owes nothing first, then whoever was known first."""
        forgotten = [ip for ip, source in self._known.items() if source.is_forgotten(now)]
        for ip in forgotten or list(self._known)[: _MOST_SOURCES // 2]:
            del self._known[ip]
