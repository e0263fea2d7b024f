# SPDX-License-Identifier: Apache-2.0
"""The maps that connect4 and connect6 draw from, brought to what is wanted.

A Service that changes gets draws under a new id, all of them, before its row names that id; what the former id had is
removed last. A program that is at work meanwhile finds the former draws, the new ones, or none, and then the proxy
draws; never some of each, and never an endpoint that had gone before `update` returned. Removal goes the other way
round. What does not fit is left to the proxy.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nodeagent.kernel.maps import Maps
from nodeagent.kernel.service_codings import DrawKey, ServiceRow
from nodeagent.routing.route import Target

TABLES = ("namespaces", "services", "draws")
_IDS = 1 << 32

Draws = Mapping[Target, tuple[Target, ...]]
"""By address and port of a Service: endpoints, each as often as is its share."""


class _Drawn(NamedTuple):
    id: int
    endpoints: tuple[Target, ...]


class Services:
    """The caller sees to it that there is one update at a time. Methods raise KernelError."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._drawn: dict[Target, _Drawn] = {}
        self._namespaces: set[int] = set()
        self._last_id = 0
        self._ids: set[int] = set()
        """Of what is drawn."""
        self._wanted: tuple[Draws, frozenset[int]] | None = None
        """What the last update brought about; None before the first one, and when one failed."""
        self._overflow: Counter[str] = Counter()

    def update(self, wanted: Draws, namespaces: frozenset[int]) -> Counter[str]:
        """These Services and no others, for sockets of these network namespaces (by their cookies).

        How much did not fit, by map: namespaces whose sockets draw nothing here, and Services that are not drawn, each
        counted for the map that was full.
        """
        if (wanted, namespaces) == self._wanted:
            return self._overflow
        if self._wanted is None:
            self._read()
        self._wanted = None
        self._overflow = Counter()
        for gone in self._namespaces - namespaces:
            self._maps.namespaces.remove(gone)
        self._namespaces &= namespaces
        for target in self._drawn.keys() - wanted.keys():
            self._remove(target)
        for target, endpoints in wanted.items():
            if target not in self._drawn or self._drawn[target].endpoints != endpoints:
                self._replace(target, endpoints)
        for come in sorted(namespaces - self._namespaces):
            if self._maps.namespaces.put(come, 1):
                self._namespaces.add(come)
            else:
                self._overflow["namespaces"] += 1
        self._wanted = dict(wanted), namespaces
        return self._overflow

    def _read(self) -> None:
        """What a predecessor has left. Draws that no Service names, or not all of whose are there, are not for us."""
        self._namespaces = set(self._maps.namespaces.keys())
        draws = self._maps.draws.rows()
        self._last_id = max((key.service for key in draws), default=0)
        self._drawn = {}
        for target, row in self._maps.services.rows().items():
            found = tuple(draws[key] for key in _keys(row.id, row.draws) if key in draws)
            if found and len(found) == row.draws:
                self._drawn[target] = _Drawn(row.id, found)
            else:
                self._maps.services.remove(target)
            self._last_id = max(self._last_id, row.id)
        self._ids = {drawn.id for drawn in self._drawn.values()}
        self._forget([key for key in draws if key.service not in self._ids])

    def _replace(self, target: Target, endpoints: tuple[Target, ...]) -> None:
        full = self._put(target, endpoints)
        if full and target in self._drawn:  # its former draws may be what there is no room for
            self._remove(target)
            full = self._put(target, endpoints)
        if full:
            self._overflow[full] += 1

    def _put(self, target: Target, endpoints: tuple[Target, ...]) -> str:
        """The map that is full; empty when all is there."""
        number = self._next_id()
        keys = _keys(number, len(endpoints))
        if self._maps.draws.put_all(list(zip(keys, endpoints, strict=True))) < len(endpoints):
            self._forget(keys)
            return "draws"
        if not self._maps.services.put(target, ServiceRow(number, len(endpoints))):
            self._forget(keys)
            return "services"
        if target in self._drawn:
            self._withdraw(target)
        self._drawn[target] = _Drawn(number, endpoints)
        self._ids.add(number)
        return ""

    def _remove(self, target: Target) -> None:
        self._maps.services.remove(target)
        self._withdraw(target)

    def _withdraw(self, target: Target) -> None:
        """Draws that no row names any more."""
        drawn = self._drawn.pop(target)
        self._ids.discard(drawn.id)
        self._forget(_keys(drawn.id, len(drawn.endpoints)))

    def _forget(self, keys: Sequence[DrawKey]) -> None:
        self._maps.draws.remove_all(keys)

    def _next_id(self) -> int:
        """Never 0, and none that is in use: one that comes round again has not been anybody's for a long time."""
        while True:
            self._last_id = (self._last_id + 1) % _IDS
            if self._last_id and self._last_id not in self._ids:
                return self._last_id


def _keys(service: int, draws: int) -> list[DrawKey]:
    return [DrawKey(service, number) for number in range(draws)]
