# SPDX-License-Identifier: Apache-2.0
"""Where tunnels come from, and how much of this worker's time was wasted from there. Pure: times are the caller's.

Whoever floods a tunnel is cut off by name, and makes the next: a handshake for us, and again all that one tunnel is
put up with. So an address that has wasted time waits for its next tunnel, twenty times as long. Who wastes less than
a twentieth of a worker never waits: an expired certificate that is tried again and again, a probe that says nothing.
"""

import math

from nodeagent.model.address import Ip

HANDSHAKE_SECONDS = 1e-3
"""Of CPU, of a tunnel that came to nothing."""
TURN_SECONDS = 0.25e-3
"""Of a turn's share that was used up (tunnel_receiving.py)."""
STREAM_SECONDS = 0.15e-3
"""Of a stream with its application dialled, closed and recorded."""

_PRICE = 20
_CREDIT_SECONDS = 2.0
"""Of waiting, for who has wasted nothing of late: a tenth of a second of CPU, or a hundred handshakes."""
_LONGEST_SECONDS = 5.0
"""A peer that was mended is served again before its clients lose patience, which for a handshake are ten seconds."""
_LOOK_SECONDS = 0.25
"""A tunnel of the same source that did come to something may shorten the wait."""
_MOST_WAITING = 64
"""Tunnels of one source, and"""
_LONGEST_WAIT_SECONDS = 4.0
"""of one that has to wait longer, none: what comes is refused, since a flood of it would fill the worker."""
_MOST_SOURCES = 4096
_TOLD_SECONDS = 60.0
_RECORDED_SECONDS = 1.0


class _Source:
    __slots__ = ("recorded", "told", "until", "waiting")

    def __init__(self) -> None:
        self.recorded = -math.inf
        """When one that was refused was last recorded."""
        self.told = -math.inf
        """When it was last told to the operator that it waits."""
        self.until = 0.0
        """It waits until then; with its credit, it may waste until then without waiting."""
        self.waiting = 0


class Sources:
    """Of one worker. All times in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._known: dict[Ip, _Source] = {}
        """Only who has wasted something of late."""

    def refuses(self, ip: Ip, now: float) -> bool:
        """A tunnel that comes from there is too many to wait."""
        source = self._known.get(ip)
        return source is not None and (source.waiting >= _MOST_WAITING or source.until > now + _LONGEST_WAIT_SECONDS)

    def records(self, ip: Ip, now: float) -> bool:
        """Whether a refused one leaves a record: one a second, since a record costs more than to refuse."""
        source = self._known[ip]
        if now - source.recorded < _RECORDED_SECONDS:
            return False
        source.recorded = now
        return True

    def wait(self, ip: Ip, now: float) -> float:
        """Before its next tunnel begins: 0, or for how long not to ask again."""
        source = self._known.get(ip)
        return min(max(source.until - now, 0.0), _LOOK_SECONDS) if source is not None else 0.0

    def begin(self, ip: Ip, now: float) -> bool:
        """A tunnel begins. Whether its handshake is paid for in advance, so that those that wait begin one by one."""
        source = self._known.get(ip)
        if source is None:
            return False
        if not source.waiting and source.until <= now - _CREDIT_SECONDS:
            del self._known[ip]
            return False
        self._charge(source, HANDSHAKE_SECONDS, now)
        return True

    def wasted(self, ip: Ip, seconds: float, now: float) -> bool:
        """A tunnel has come to nothing and had so much CPU. Whether to tell the operator that the next ones wait."""
        source = self._known.get(ip)
        if source is None:
            if len(self._known) >= _MOST_SOURCES:
                self._known.pop(next(iter(self._known)))
            source = self._known[ip] = _Source()
        self._charge(source, seconds, now)
        if source.until <= now or now - source.told < _TOLD_SECONDS:
            return False
        source.told = now
        return True

    def pay_back(self, ip: Ip) -> None:
        """What was paid in advance for a tunnel that has come to something."""
        source = self._known.get(ip)
        if source is not None:
            source.until -= _PRICE * HANDSHAKE_SECONDS

    def queue(self, ip: Ip) -> None:
        """One more waits."""
        source = self._known.get(ip)
        if source is not None:
            source.waiting += 1

    def leave(self, ip: Ip) -> None:
        """It waits no more."""
        source = self._known.get(ip)
        if source is not None and source.waiting:
            source.waiting -= 1

    def _charge(self, source: _Source, seconds: float, now: float) -> None:
        until = max(source.until, now - _CREDIT_SECONDS) + _PRICE * seconds
        source.until = min(until, now + _LONGEST_SECONDS)
