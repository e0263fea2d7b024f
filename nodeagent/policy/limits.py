# SPDX-License-Identifier: Apache-2.0
"""How many connections, and how fast, one source may open to one workload. Pure: the time is an argument.

A token bucket for each pair: it holds `burst` connections and fills at the rate. A source is an identity; clients
without one are told apart by their address, since nothing else is known of them. Counts are one worker's.
"""

import msgspec

from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.traffic import WorkloadLimits

Source = Identity | str
"""Or an address."""

_MOST_SOURCES = 16384
"""Pairs remembered; beyond it those that have nothing open and a full bucket are forgotten, which changes no answer."""


class _Account(msgspec.Struct):
    tokens: float
    counted_at: float
    """Monotonic seconds, when `tokens` was true."""
    open: int = 0
    full_at: float = 0.0
    """When the bucket is full again, if nothing comes."""


class Place:
    """Of an admitted connection, until its release."""

    def __init__(self, account: _Account) -> None:
        self._account: _Account | None = account
        account.open += 1

    def release(self) -> None:
        """Once; more often changes nothing."""
        if self._account is not None:
            self._account.open -= 1
            self._account = None


class SourceLimits:
    """What one worker has admitted."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, Source], _Account] = {}
        self._sweep_at = _MOST_SOURCES

    def admit(self, limits: WorkloadLimits, source: Source, now: float) -> Place | Reason:
        """For a connection from `source` to the workload that `limits` are about; else why not."""
        account = self._account(limits, source, now)
        if limits.concurrent and account.open >= limits.concurrent:
            return Reason.SOURCE_CONNECTIONS
        if limits.per_second:
            tokens = min(limits.burst, account.tokens + (now - account.counted_at) * limits.per_second)
            account.tokens, account.counted_at = tokens, now
            if tokens < 1:
                return Reason.SOURCE_RATE
            account.tokens -= 1
            account.full_at = now + (limits.burst - account.tokens) / limits.per_second
        return Place(account)

    def _account(self, limits: WorkloadLimits, source: Source, now: float) -> _Account:
        key = (limits.uid, source)
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= self._sweep_at:
                self._forget_idle(now)
            account = self._accounts[key] = _Account(limits.burst, now)
        return account

    def _forget_idle(self, now: float) -> None:
        self._accounts = {key: one for key, one in self._accounts.items() if one.open or one.full_at > now}
        self._sweep_at = max(_MOST_SOURCES, 2 * len(self._accounts))
