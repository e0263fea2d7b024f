# SPDX-License-Identifier: Apache-2.0
"""Sums over workers that come and go: each reports totals since its own start, a metric must never fall."""

from collections import Counter
from collections.abc import Mapping


class Totals:
    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._running: dict[int, Mapping[str, int]] = {}

    def reported(self, worker: int, totals: Mapping[str, int]) -> None:
        """What `worker` has counted since it started; replaces what it reported before."""
        self._running[worker] = dict(totals)

    def ended(self, worker: int) -> None:
        self._ended.update(self._running.pop(worker, {}))

    def sums(self) -> dict[str, int]:
        sums = Counter(self._ended)
        for totals in self._running.values():
            sums.update(totals)
        return dict(sums)
