# SPDX-License-Identifier: Apache-2.0
"""Which of the candidates gets a connection where a policy says more than "by weight", and who gets none for a while.

Remembers what one worker has seen: open connections and failures of each endpoint. Workers do not tell each other, so
limits and counts are a worker's. Random numbers and the time are arguments, so nothing here is more than arithmetic.

Outliers are ejected as Envoy does it for TCP (outlier_detection.proto): so many connections in a row that could not be
made, for `base_ejection_seconds` times the number of ejections, at most so many per cent of the endpoints at once but
always one. Ejections are forgotten one by one, an interval each.
"""

import hashlib
import math
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Collection
from itertools import accumulate

import msgspec

from nodeagent.model.address import Ip
from nodeagent.model.traffic import Algorithm, OutlierDetection
from nodeagent.model.workload import Workload
from nodeagent.routing.candidates import Candidates, Pick, Terms
from nodeagent.routing.locality import loads

_LONGEST_EJECTION_SECONDS = 300.0
"""Envoy's max_ejection_time, unless a single ejection is longer."""
_MOST_GROUPS = 4096
"""Beyond it those of which nothing is open are forgotten."""
_MOST_SOURCES = 4096
"""Clients whose endpoint is remembered for each group; a node has fewer pods."""


class Chooser:
    """Of one worker."""

    def __init__(self, pick: Pick, now: Callable[[], float]) -> None:
        """`now`: monotonic seconds."""
        self._pick, self._now = pick, now
        self._groups: dict[tuple[str, int, str], _Group] = {}
        self.ejections = 0
        """So far."""

    def choose(self, source: Ip, found: Candidates) -> Workload | None:
        """One of `found`, which have terms, for a client at `source`. None when all are ejected."""
        terms = found.terms
        assert terms is not None
        group = self._group(terms)
        group.size = len(found.endpoints)
        ejected = group.ejected(self._now()) if terms.policy.outlier is not None else frozenset[str]()
        if found.groups:
            found = self._one_of_groups(source, found, ejected)
        elif ejected:
            found = Candidates(*_without(ejected, found.endpoints, found.cumulative), terms)
        if not found.endpoints:
            return None
        match terms.policy.algorithm:
            case Algorithm.LEAST_REQUEST:
                one, other = (self._pick(found.endpoints, found.cumulative) for _ in range(2))
                return min(one, other, key=group.load)
            case Algorithm.ROUND_ROBIN:
                return group.next_in_turn(found)
            case Algorithm.SOURCE_IP:
                return group.of_source(source, found)
            case _:
                return self._pick(found.endpoints, found.cumulative)

    def _one_of_groups(self, source: Ip, found: Candidates, ejected: Collection[str]) -> Candidates:
        """Those of one group, drawn by what each gets. Where a client is to keep its endpoint, it keeps the group."""
        assert found.terms is not None
        groups = [_without(ejected, group.endpoints, group.cumulative) for group in found.groups]
        shares = loads(found.groups, [len(endpoints) for endpoints, _ in groups])
        options = [group for group, share in zip(groups, shares, strict=True) if share]
        cumulative = tuple(accumulate(filter(None, shares)))
        if not options:
            return Candidates((), (), found.terms)
        if found.terms.policy.algorithm is Algorithm.SOURCE_IP:
            chosen = options[bisect(cumulative, _fraction(source) * cumulative[-1])]
        else:
            chosen = self._pick(options, cumulative)
        return Candidates(*chosen, found.terms)

    def take(self, terms: Terms, uid: str) -> "Lease | None":
        """For a connection to this endpoint, until its release. None when there are as many as may be."""
        group, most = self._group(terms), terms.policy.max_connections
        if most and group.open.total() >= most:
            return None
        return Lease(self, group, uid, terms.policy.outlier)

    def failed(self, group: "_Group", uid: str, policy: OutlierDetection) -> None:
        if group.failed(uid, policy, self._now()):
            self.ejections += 1

    def _group(self, terms: Terms) -> "_Group":
        key = (terms.service, terms.port, terms.subset)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _MOST_GROUPS:
                self._groups = {known: group for known, group in self._groups.items() if group.open}
            group = self._groups[key] = _Group()
        return group


class Lease:
    """A connection's place among those of its group."""

    def __init__(self, chooser: Chooser, group: "_Group", uid: str, policy: OutlierDetection | None) -> None:
        self._chooser, self._group, self._uid, self._policy = chooser, group, uid, policy
        self._is_open = True
        group.open[uid] += 1

    def connected(self) -> None:
        self._group.succeeded(self._uid)

    def failed(self) -> None:
        """The endpoint could not be connected to."""
        if self._policy is not None:
            self._chooser.failed(self._group, self._uid, self._policy)

    def release(self) -> None:
        """Once; more often changes nothing."""
        if self._is_open:
            self._is_open = False
            self._group.open[self._uid] -= 1
            if not self._group.open[self._uid]:
                del self._group.open[self._uid]


class _Health(msgspec.Struct):
    failures: int = 0
    """In a row."""
    ejections: int = 0
    until: float = 0.0
    """End of the last ejection."""


class _Group:
    """What is known of the endpoints of one Service, port and subset."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()
        """Connections by endpoint."""
        self.size = 0
        """Candidates, when they were last asked for."""
        self._health: dict[str, _Health] = {}
        self._turn = 0
        self._by_source: dict[Ip, Workload] = {}
        self._sources_of: tuple[Workload, ...] | None = None

    def load(self, endpoint: Workload) -> float:
        return self.open[endpoint.uid] / endpoint.capacity

    def next_in_turn(self, found: Candidates) -> Workload:
        """As often in a round as is its weight."""
        place = self._turn % found.cumulative[-1]
        self._turn += 1
        return next(one for one, upto in zip(found.endpoints, found.cumulative, strict=True) if place < upto)

    def of_source(self, source: Ip, found: Candidates) -> Workload:
        """The same for the same client as long as it is there, at every worker and node: rendezvous hashing."""
        if self._sources_of is not found.endpoints or len(self._by_source) >= _MOST_SOURCES:
            self._sources_of, self._by_source = found.endpoints, {}
        if source not in self._by_source:
            self._by_source[source] = max(found.endpoints, key=lambda endpoint: _score(source, endpoint))
        return self._by_source[source]

    def ejected(self, now: float) -> frozenset[str]:
        return frozenset(uid for uid, health in self._health.items() if health.until > now)

    def succeeded(self, uid: str) -> None:
        health = self._health.get(uid)
        if health is not None:
            health.failures = 0

    def failed(self, uid: str, policy: OutlierDetection, now: float) -> bool:
        """Whether the endpoint is ejected now."""
        health = self._health.setdefault(uid, _Health())
        health.failures += 1
        if health.failures < policy.failures or health.until > now or not self._may_eject(policy, now):
            return False
        forgotten = int((now - health.until) / policy.interval_seconds)
        health.ejections = max(0, health.ejections - forgotten) + 1
        most = max(policy.base_ejection_seconds, _LONGEST_EJECTION_SECONDS)
        health.until = now + min(policy.base_ejection_seconds * health.ejections, most)
        health.failures = 0
        return True

    def _may_eject(self, policy: OutlierDetection, now: float) -> bool:
        ejected = sum(health.until > now for health in self._health.values())
        if not ejected:
            self._forget_recovered(policy, now)
            return policy.max_ejection_percent > 0
        return 100 * (ejected + 1) <= policy.max_ejection_percent * self.size

    def _forget_recovered(self, policy: OutlierDetection, now: float) -> None:
        """Endpoints come and go; of those that have gone nothing must stay."""
        self._health = {
            uid: health
            for uid, health in self._health.items()
            if health.failures or now - health.until < policy.interval_seconds * health.ejections
        }


def _without(
    ejected: Collection[str], endpoints: tuple[Workload, ...], cumulative: tuple[int, ...]
) -> tuple[tuple[Workload, ...], tuple[int, ...]]:
    if not ejected:
        return endpoints, cumulative
    left = tuple(endpoint for endpoint in endpoints if endpoint.uid not in ejected)
    return left, tuple(accumulate(endpoint.capacity for endpoint in left))


def _score(source: Ip, endpoint: Workload) -> float:
    """Weighted rendezvous hashing: the chance to have the highest score is in proportion to the weight."""
    return -endpoint.capacity / math.log(_fraction(f"{source} {endpoint.uid}"))


def _fraction(text: str) -> float:
    """Between 0 and 1, the same everywhere."""
    return (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") + 0.5) / 2**64
