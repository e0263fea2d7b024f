# SPDX-License-Identifier: Apache-2.0
"""When which certificate is asked for, without clock or I/O: a method says what happened and returns what to do.

The rules:

- A wanted identity without a certificate is asked for at once; at most `CONCURRENT` requests are on their way, those
  without a valid certificate first.
- A certificate is renewed at half of its lifetime, or, when it came later than that (CAs date back), at half of what
  was left; up to a tenth earlier, so that pods that started together do not renew together.
- A failure is repeated after 1 s, doubling to 150 s, each ± 20 %. A valid certificate is kept meanwhile, and its
  expiry is a reason to try at once.
- An expired certificate is forgotten, and there is no substitute: connections of that identity fail until there is one.
- When the trust bundle changes so that a certificate does not lead to it, it is renewed within a minute.
- An identity that nobody wants is forgotten; the answer to its last request is dropped.
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nodeagent.model.identity import Identity
from nodeagent.upstream.backoff import delay

CONCURRENT = 8
"""Requests on their way at once: enough to fill a node's pods in seconds, gentle on the CA when all nodes start."""
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 150.0
EARLIER_SHARE = 0.1
"""Of the time until renewal: how much earlier it may be."""
SHORTEST_RENEWAL_SECONDS = 1.0
"""A CA that answers with a certificate about to expire is not asked in a loop."""
UNTRUSTED_RENEWAL_SECONDS = 60.0
"""Spread of the renewals after a change of roots: all of a node's certificates at once would be a storm at the CA."""


class State(enum.StrEnum):
    """ztunnel's words."""

    INITIALIZING = "Initializing"
    """Asked for, not answered yet."""
    AVAILABLE = "Available"
    UNAVAILABLE = "Unavailable"
    """Refused or expired, and no valid certificate."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the CA, then call `fetched` or `failed`."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Install:
    """What was fetched is to be used from here on."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the certificate and its key: it has expired, or nobody wants it."""

    identity: Identity


Command = Fetch | Install | Forget


@dataclass(slots=True)
class Entry:
    """One wanted identity. Times are Unix seconds."""

    next_try: float
    not_after: float | None = None
    """Of the certificate in use; None without one."""
    failures: int = 0
    """In a row."""
    error: str = ""
    is_asked: bool = False

    @property
    def state(self) -> State:
        if self.not_after is not None:
            return State.AVAILABLE
        return State.UNAVAILABLE if self.error else State.INITIALIZING


class Rotation:
    """All identities of the node. `pick` draws from [0, 1)."""

    def __init__(self, pick: Callable[[], float]) -> None:
        self.entries: dict[Identity, Entry] = {}
        self._pick = pick
        self._on_their_way: set[Identity] = set()
        """Also those that nobody wants any more: they still occupy the CA."""

    def woken(self, identities: frozenset[Identity], now: float) -> list[Command]:
        """Time has passed, or another set of identities is wanted, or both."""
        unwanted = [identity for identity in self.entries if identity not in identities]
        commands: list[Command] = [
            Forget(identity) for identity in unwanted if self.entries.pop(identity).not_after is not None
        ]
        for identity in sorted(identities - self.entries.keys()):
            self.entries[identity] = Entry(next_try=now, is_asked=identity in self._on_their_way)
        return commands + self._turn(now)

    def fetched(self, identity: Identity, not_before: float, not_after: float, now: float) -> list[Command]:
        self._on_their_way.discard(identity)
        entry = self.entries.get(identity)
        if entry is None:
            return self._turn(now)
        half = not_before + (not_after - not_before) / 2
        wait = half - now if half > now else (not_after - now) / 2
        wait *= 1.0 - EARLIER_SHARE * self._pick()
        entry.next_try = now + max(wait, SHORTEST_RENEWAL_SECONDS)
        entry.not_after, entry.failures, entry.error, entry.is_asked = not_after, 0, "", False
        return [Install(identity), *self._turn(now)]

    def failed(self, identity: Identity, error: str, now: float) -> list[Command]:
        self._on_their_way.discard(identity)
        entry = self.entries.get(identity)
        if entry is not None:
            entry.failures += 1
            entry.error, entry.is_asked = error, False
            entry.next_try = now + delay(entry.failures, FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, self._pick)
            if entry.not_after is not None and entry.not_after > now:
                entry.next_try = min(entry.next_try, entry.not_after)
        return self._turn(now)

    def roots_changed(self, untrusted: Iterable[Identity], now: float) -> list[Command]:
        """`untrusted` are the identities whose chains do not lead to the new roots."""
        for identity in untrusted:
            entry = self.entries.get(identity)
            if entry is not None:
                entry.next_try = min(entry.next_try, now + UNTRUSTED_RENEWAL_SECONDS * self._pick())
        return self._turn(now)

    def renewal_asked(self, now: float) -> list[Command]:
        """Somebody does not want to wait: every certificate is due. What is in use stays until its successor came."""
        for entry in self.entries.values():
            entry.next_try = min(entry.next_try, now)
        return self._turn(now)

    def next_event(self) -> float | None:
        """When `woken` must be called at the latest; None: not before something else happens."""
        times = [entry.not_after for entry in self.entries.values() if entry.not_after is not None]
        if len(self._on_their_way) < CONCURRENT:
            times += [entry.next_try for entry in self.entries.values() if not entry.is_asked]
        return min(times, default=None)

    def _turn(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for identity, entry in self.entries.items():
            if entry.not_after is not None and entry.not_after <= now:
                entry.not_after = None
                entry.error = entry.error or "the certificate has expired before it was renewed"
                commands.append(Forget(identity))
        due = [identity for identity, entry in self.entries.items() if entry.next_try <= now and not entry.is_asked]
        due.sort(key=self._urgency)
        for identity in due[: CONCURRENT - len(self._on_their_way)]:
            self.entries[identity].is_asked = True
            self._on_their_way.add(identity)
            commands.append(Fetch(identity))
        return commands

    def _urgency(self, identity: Identity) -> tuple[float, float, Identity]:
        entry = self.entries[identity]
        return (entry.not_after or 0.0, entry.next_try, identity)
