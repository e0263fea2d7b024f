# SPDX-License-Identifier: Apache-2.0
"""Which resources a name stands for, for clients that ask on demand. Pure.

A service brings its endpoints, because one without the other is of no use; so does a service's address.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache

from nodeagent.controlplane.snapshot import ADDRESS, Snapshot


@dataclasses.dataclass(frozen=True, slots=True)
class _Index:
    by_alias: Mapping[str, set[str]]
    endpoints: Mapping[str, set[str]]
    by_node: Mapping[str, set[str]]


@lru_cache(maxsize=2)
def _index(snapshot: Snapshot) -> _Index:
    """By identity of the snapshot; two, because streams lag by one at most."""
    by_alias: dict[str, set[str]] = defaultdict(set)
    endpoints: dict[str, set[str]] = defaultdict(set)
    by_node: dict[str, set[str]] = defaultdict(set)
    for name, resource in snapshot.of_type(ADDRESS).items():
        for alias in resource.aliases:
            by_alias[alias].add(name)
    for uid, workload in snapshot.translation.workloads.items():
        by_node[workload.node].add(uid)
        for key in workload.services:
            endpoints[key].add(uid)
    return _Index(by_alias, endpoints, by_node)


def find_names(name: str, snapshot: Snapshot) -> set[str]:
    """Empty when there is no such thing."""
    index = _index(snapshot)
    known = snapshot.of_type(ADDRESS)
    found = {name} if name in known else set(index.by_alias.get(name, ()))
    for key in tuple(found):
        found |= index.endpoints.get(key, set())
    return found


def expand(node: str, names: Iterable[str], snapshot: Snapshot) -> set[str]:
    """The workloads of `node`, and all that `names` stand for."""
    wanted = set(_index(snapshot).by_node.get(node, ()))
    for name in names:
        wanted |= find_names(name, snapshot)
    return wanted
