# SPDX-License-Identifier: Apache-2.0
"""Which name is asked when, and what it means until then; without clock or I/O.

The rules:

- A wanted name is asked at once, and for both families; at most `CONCURRENT` names are being asked, each once.
- It is asked again when the shorter of its answers ends (its TTL, not below `SHORTEST_SECONDS` nor above
  `LONGEST_SECONDS`), up to a tenth earlier, so that the nodes of a mesh do not ask together.
- What a name meant in the last `FORMER_SECONDS` is told too: a client that has resolved it by itself may dial that.
- That there is no such name, or that it has no address, is an answer: what it had is forgotten.
- A resolver that does not answer, or cannot, is asked again after 1 s, doubling to 30 s, each ± 20 %. The last good
  answer of that family is kept meanwhile, for `KEPT_SECONDS`.
- So is one that an agent before this one had: it counts once the resolver has failed, or has not answered for
  `RECALLED_SECONDS`, and its age is counted from when it was given.
- A node knows `MOST_NAMES` at most, and of a name `MOST_ADDRESSES`; beyond it names are told to be unresolved.
- Addresses at which no pod can reach anything but itself are none.
"""

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from nodeagent.model.address import Ip
from nodeagent.model.mesh import Changes
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.upstream.backoff import delay

CONCURRENT = 16
"""Names that are being asked at once: a node's come in a second when they all start, gentle on a cluster's resolver."""
MOST_NAMES = 1024
"""ServiceEntries are written by hand; a resolver that is asked for each every few seconds can take that."""
MOST_ADDRESSES = 32
"""Of a name, in both families: twice what fits into a UDP answer of usual size."""
SHORTEST_SECONDS, LONGEST_SECONDS = 5.0, 300.0
KEPT_SECONDS = 3600.0
"""RFC 8767 §5 lets stale answers be used for days; an hour outlives the usual outage of a resolver, not its cause."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 30.0
RECALLED_SECONDS = 1.0
"""A resolver that works has answered by then; an agent that starts waits for longer before it tells what it knows."""
EARLIER_SHARE = 0.1
FORMER_SECONDS = 600.0
"""Longer than most clients and the resolvers between them remember."""


class Family(IntEnum):
    IPV4 = 4
    IPV6 = 6


class Outcome(NamedTuple):
    """What came of one question."""

    addresses: tuple[Ip, ...] = ()
    seconds: float = 0.0
    """For how long it holds."""
    words: str = ""
    """Why there are no addresses."""
    is_answer: bool = True
    """False: the resolver could not say."""


_SILENT = Outcome(words="the node's resolver has not answered yet", is_answer=False)
Outcomes = dict[Family, Outcome]


class GoodAnswer(NamedTuple):
    """Of one family, when it was given last."""

    name: str
    family: Family
    addresses: tuple[Ip, ...]
    at: float


@dataclass(slots=True)
class _Known:
    """Of one family. Times are those of a clock that never goes back, in seconds."""

    addresses: tuple[Ip, ...] = ()
    good_at: float = 0.0
    words: str = ""


@dataclass(slots=True)
class _Entry:
    next_try: float
    known: dict[Family, _Known] = field(default_factory=lambda: {family: _Known() for family in Family})
    failures: int = 0
    """In a row."""
    told: ResolvedName | None = None
    seen: dict[Ip, float] = field(default_factory=dict)
    """When it meant this address last."""
    recalled_at: float | None = None
    """When what was known before counts, unless something was learned by then."""


class NameBook:
    """`pick` draws from [0, 1)."""

    def __init__(self, pick: Callable[[], float]) -> None:
        self._pick = pick
        self._entries: dict[str, _Entry] = {}
        self._recalled: dict[str, dict[Family, _Known]] = {}
        """Known before, and not wanted since."""
        self._surplus: dict[str, None] = {}
        self._asked: set[str] = set()
        """Also one that nobody wants any more, until its answer comes."""

    def has_told(self, names: Iterable[str]) -> bool:
        """Whether each of them has been answered, or could not be."""
        return all(name in self._surplus or (name in self._entries and self._entries[name].told) for name in names)

    @property
    def names(self) -> int:
        return len(self._entries) + len(self._surplus)

    @property
    def failing(self) -> list[ResolvedName]:
        """Names of which something is to be said."""
        told = [entry.told for entry in self._entries.values() if entry.told is not None and entry.told.error]
        return told + [_too_many(name) for name in self._surplus]

    def recall(self, answers: Iterable[GoodAnswer]) -> None:
        """What was known before; to be called before anything is wanted."""
        for answer in answers:
            if answer.name in self._recalled or len(self._recalled) < MOST_NAMES:
                families = self._recalled.setdefault(answer.name, {})
                families[answer.family] = _Known(answer.addresses[:MOST_ADDRESSES], answer.at)

    def good_answers(self, now: float) -> Iterator[GoodAnswer]:
        """What may be recalled by another."""
        known = self._recalled | {name: entry.known for name, entry in self._entries.items()}
        for name, families in known.items():
            for family, one in families.items():
                if one.addresses and now - one.good_at <= KEPT_SECONDS:
                    yield GoodAnswer(name, family, one.addresses, one.good_at)

    def want(self, names: Collection[str], now: float) -> Changes:
        """All that are wanted from here on. Returns what is to be told at once."""
        gone = [name for name in (*self._entries, *self._surplus) if name not in names]
        for name in gone:
            self._entries.pop(name, None)
            self._surplus.pop(name, None)
        for name in names:
            if name not in self._entries and len(self._entries) < MOST_NAMES:
                self._entries[name] = self._begin(name, now)
                self._surplus.pop(name, None)
        new = [name for name in names if name not in self._entries and name not in self._surplus]
        self._surplus.update(dict.fromkeys(new))
        return Changes(
            names=tuple(map(_too_many, new)),
            removed_names=tuple(gone),
        )

    def due(self, now: float) -> list[str]:
        """Names to be asked; `learned` has to be called for each of them."""
        waiting = [name for name, entry in self._entries.items() if name not in self._asked and entry.next_try <= now]
        chosen = sorted(waiting, key=lambda name: self._entries[name].next_try)[: CONCURRENT - len(self._asked)]
        self._asked.update(chosen)
        return chosen

    def overdue(self, now: float) -> Changes:
        """Names of which the resolver says nothing yet, with what they meant before."""
        found = []
        for name, entry in self._entries.items():
            if entry.recalled_at is not None and entry.recalled_at <= now:
                entry.recalled_at = None
                for family in Family:
                    _learn(entry.known[family], _SILENT, now)
                entry.told = _sum_up(name, entry, now)
                found.append(entry.told)
        return Changes(names=tuple(found))

    def next_event(self) -> float | None:
        """When `due` or `overdue` may have something; None: not before something else happens."""
        times = [entry.recalled_at for entry in self._entries.values() if entry.recalled_at is not None]
        if len(self._asked) < CONCURRENT:
            times += [entry.next_try for name, entry in self._entries.items() if name not in self._asked]
        return min(times, default=None)

    def learned(self, name: str, outcomes: Outcomes, now: float) -> Changes:
        """Returns what is to be told: nothing if the name means what it meant, or if nobody wants it any more."""
        self._asked.discard(name)
        entry = self._entries.get(name)
        if entry is None:
            return Changes()
        entry.recalled_at = None
        for family, outcome in outcomes.items():
            _learn(entry.known[family], outcome, now)
        entry.failures = entry.failures + 1 if any(not one.is_answer for one in outcomes.values()) else 0
        entry.next_try = now + self._pause(entry.failures, outcomes.values())
        found = _sum_up(name, entry, now)
        if found == entry.told:
            return Changes()
        entry.told = found
        return Changes(names=(found,))

    def _begin(self, name: str, now: float) -> _Entry:
        known = self._recalled.pop(name, {})
        recalled = {family: one for family, one in known.items() if now - one.good_at <= KEPT_SECONDS}
        if not recalled:
            return _Entry(next_try=now)
        return _Entry(
            next_try=now,
            known={family: recalled.get(family, _Known()) for family in Family},
            seen={ip: one.good_at for one in recalled.values() for ip in one.addresses},
            recalled_at=now + RECALLED_SECONDS,
        )

    def _pause(self, failures: int, outcomes: Iterable[Outcome]) -> float:
        if failures:
            return delay(failures, FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, self._pick)
        shortest = min(outcome.seconds for outcome in outcomes)
        return min(max(shortest, SHORTEST_SECONDS), LONGEST_SECONDS) * (1.0 - EARLIER_SHARE * self._pick())


def _learn(known: _Known, outcome: Outcome, now: float) -> None:
    known.words = outcome.words
    if outcome.is_answer:
        usable = [ip for ip in outcome.addresses if _is_usable(ip)]
        known.addresses, known.good_at = tuple(sorted(usable)[:MOST_ADDRESSES]), now
        if outcome.addresses and not usable:
            known.words = f"{outcome.addresses[0]} is no address that a pod could reach it by"
    elif now - known.good_at > KEPT_SECONDS:
        known.addresses = ()


def _sum_up(name: str, entry: _Entry, now: float) -> ResolvedName:
    """That one family has no address is usual; that its resolver did not answer is told beside what it had."""
    families = entry.known.values()
    addresses = tuple(ip for one in families for ip in one.addresses)
    failed = [one.words for one in families if one.words and (one.addresses or not addresses)]
    seen = {ip: then for ip, then in entry.seen.items() if now - then < FORMER_SECONDS} if addresses else {}
    former = sorted((ip for ip in seen if ip not in addresses), key=lambda ip: -seen[ip])[:MOST_ADDRESSES]
    entry.seen = {ip: seen[ip] for ip in former} | dict.fromkeys(addresses, now)
    return ResolvedName(
        hostname=name, addresses=addresses, former=tuple(sorted(former)), error=failed[0] if failed else ""
    )


def _too_many(name: str) -> ResolvedName:
    return ResolvedName(hostname=name, error=f"of the mesh's names this node resolves {MOST_NAMES} at most")


def _is_usable(ip: Ip) -> bool:
    """Not those that mean each host itself, many at once, or something else on each link."""
    address = ipaddress.ip_address(ip)
    is_local = address.is_loopback or address.is_unspecified or (address.version == 6 and address.is_link_local)
    return not (is_local or address.is_multicast)
