# SPDX-License-Identifier: Apache-2.0
"""Endpoints in groups by their distance from the client, and how much of the traffic each group gets.

Istio's localityLbSetting with Envoy's arithmetic. `distribute` shares connections out among localities, whoever is
nearer. Otherwise the nearest group gets all, as long as enough of it is in service: a group of which less than five
sevenths (1 / 1.4) are gives a part to the next one. Which that is, `failoverPriority` says by labels, else region, zone
and subzone do, and among other regions `failover`.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from nodeagent.model.mesh import Mesh
from nodeagent.model.traffic import LocalityBalancing
from nodeagent.model.workload import Workload

_WHOLE = 100
_OVERPROVISIONED = 140
"""Envoy's overprovisioning_factor: a group counts as whole while 1.4 times those in service are as many as it has."""
_ATTRIBUTES = {
    "topology.kubernetes.io/region": "region",
    "topology.kubernetes.io/zone": "zone",
    "topology.istio.io/subzone": "subzone",
    "topology.istio.io/network": "network",
    "topology.istio.io/cluster": "cluster",
    "kubernetes.io/hostname": "node",
}
"""Labels that every workload has, from its place."""
PLACE_LABELS = frozenset(_ATTRIBUTES)


class Group(msgspec.Struct, frozen=True):
    endpoints: tuple[Workload, ...]
    cumulative: tuple[int, ...]
    """Sums of their capacities."""
    share: int
    """Of the connections, in proportion to those of the others; 0: it gets what nearer groups leave."""


def group(
    locality: LocalityBalancing, source: Workload, endpoints: Sequence[Workload], mesh: Mesh, *, fails_over: bool
) -> tuple[Group, ...]:
    """The nearest first. Endpoints that get nothing are in none; no groups at all: there is nothing to choose.

    `fails_over`: failures are counted (outlierDetection). Without them nobody would know when to go further.
    """
    own = place(source)
    for distribution in locality.distributions:
        if is_at(own, distribution.source):
            return tuple(_distributed(distribution.shares, endpoints))
    if not fails_over or locality.distributions:
        return ()
    by_rank: defaultdict[tuple[int, int], list[Workload]] = defaultdict(list)
    for endpoint in endpoints:
        by_rank[_rank(locality, source, endpoint, mesh)].append(endpoint)
    return tuple(_group(by_rank[rank], 0) for rank in sorted(by_rank))


def loads(groups: Sequence[Group], in_service: Sequence[int]) -> tuple[int, ...]:
    """How much each group gets, in proportion. `in_service`: how many of its endpoints are; with none it gets none."""
    whole = [
        min(_WHOLE, _OVERPROVISIONED * count // len(one.endpoints))
        for one, count in zip(groups, in_service, strict=True)
    ]
    if groups[0].share:
        return tuple(one.share * health for one, health in zip(groups, whole, strict=True))
    total, left, found = min(_WHOLE, sum(whole)), _WHOLE, []
    for health in whole:
        load = min(left, _WHOLE * health // total) if total else 0
        found.append(load)
        left -= load
    return tuple(found)


def label_of(workload: Workload, name: str, mesh: Mesh) -> str:
    """Empty without it."""
    attribute = _ATTRIBUTES.get(name)
    found: str = getattr(workload, attribute) if attribute is not None else mesh.labels(workload.uid).get(name, "")
    return found


def place(workload: Workload) -> str:
    return f"{workload.region}/{workload.zone}/{workload.subzone}"


def is_at(place: str, pattern: str) -> bool:
    """Whether `region/zone/subzone` is in the locality: `*`, or such of one to three parts, the last perhaps `*`."""
    wanted = pattern.split("/")
    return all(part in {"*", own} for part, own in zip(wanted, place.split("/"), strict=False))


def _distributed(shares: Sequence[tuple[str, int]], endpoints: Sequence[Workload]) -> list[Group]:
    """Two localities that a pattern names have its share by their numbers of endpoints, as one."""
    left, found = list(endpoints), []
    for pattern, share in shares:
        here = [endpoint for endpoint in left if is_at(place(endpoint), pattern)]
        left = [endpoint for endpoint in left if not is_at(place(endpoint), pattern)]
        if here:
            found.append(_group(here, share))
    return found


def _group(endpoints: Sequence[Workload], share: int) -> Group:
    return Group(tuple(endpoints), tuple(accumulate(endpoint.capacity for endpoint in endpoints)), share)


def _rank(locality: LocalityBalancing, source: Workload, endpoint: Workload, mesh: Mesh) -> tuple[int, int]:
    """Lower is nearer: by labels, and by place where that is asked for."""
    by_labels = 0
    if locality.priority_labels:
        by_labels = _unshared_labels(locality.priority_labels, source, endpoint, mesh)
        if not locality.failover:
            return by_labels, 0
    return by_labels, _distance(locality, source, endpoint)


def _unshared_labels(names: Sequence[str], source: Workload, endpoint: Workload, mesh: Mesh) -> int:
    """How many are left from the first on that differs. `name=value` is compared with that value."""
    for number, text in enumerate(names):
        name, is_given, value = text.partition("=")
        wanted = value if is_given else label_of(source, name, mesh)
        if label_of(endpoint, name, mesh) != wanted:
            return len(names) - number
    return 0


def _distance(locality: LocalityBalancing, source: Workload, endpoint: Workload) -> int:
    if source.region != endpoint.region:
        chosen = next((to for region, to in locality.failover if region == source.region), endpoint.region)
        return 3 if endpoint.region == chosen else 4
    if source.zone != endpoint.zone:
        return 2
    return 0 if source.subzone == endpoint.subzone else 1
