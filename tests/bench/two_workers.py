# SPDX-License-Identifier: Apache-2.0
"""Two workers on each node against one: what the same work costs, and how it is shared.

Agents are started again for each turn. One worker has the core that it has everywhere in this part; of two each has
a core.
"""

import os
import statistics
from collections.abc import Sequence

from nodeagent.errors import NotPossible
from nodeagent.lab.demo.claims import ClaimFalse, eventually
from nodeagent.lab.demo.stage import NODES, START_SECONDS
from tests.bench import load, proxies
from tests.bench.ground import Ground
from tests.bench.report import Comparison, Row, at_least, at_most, summarize
from tests.bench.rounds import Harness, Subject

WORKS = (load.bulk("upload", 8), load.exchange(64))
ONE, TWO = "one worker", "two workers"
GOAL, LEAST_SHARE = at_most(1.18), at_least(40)


def run(title: str, ground: Ground, harness: Harness, ends: tuple[int, int], wanted: int) -> list[Row]:
    fleets = {name: _Fleet(ground, count, ends) for name, count in ((ONE, 1), (TWO, 2))}
    rounds = harness.run([fleet.subject(name) for name, fleet in fleets.items()], WORKS, wanted)
    rows = [
        Comparison(f"{title} {TWO} to {ONE}, {work.cost.name}", work.cost.name, work.cost.unit, TWO, ONE, GOAL)
        for work in WORKS
    ]
    fleets[ONE].prepare()
    return [*summarize(rounds, rows), share_row(title, fleets[TWO].shares)]


def share_row(title: str, shares: Sequence[float]) -> Row:
    """Pure. Of the worker that did less, on the node where that was least."""
    name = f"{title} {TWO}, share of the one that did less"
    return Row(name, statistics.median(shares), "%", goal=LEAST_SHARE, lowest=min(shares), highest=max(shares))


def least_share(spent: Sequence[Sequence[float]]) -> float:
    """Pure. In percent; CPU seconds of each worker, by node."""
    return min(100 * min(node) / sum(node) for node in spent)


class _Fleet:
    def __init__(self, ground: Ground, count: int, ends: tuple[int, int]) -> None:
        self.shares: list[float] = []
        """One for each turn."""
        self._ground, self._count, self._ends = ground, count, ends
        self._client, self._server = ground.pod("web"), ground.pod("db")
        self._before: list[list[float]] = []

    def subject(self, name: str) -> Subject:
        return Subject(name, self._client, self._server.ipv4, load.PORT, self.prepare, self._check, self._every_pid)

    def prepare(self) -> None:
        stage = self._ground.stage
        for node, end in zip(NODES, self._ends, strict=True):
            stage.stop_agent(node)
            stage.start_agent(node, workers=str(self._count))
            self._await_workers(node)
            cores = [end] if self._count == 1 else sorted(os.sched_getaffinity(0))
            for pid, core in zip(stage.worker_pids(node), cores, strict=False):
                proxies.pin(pid, core)
        self._ground.await_reason(NODES[0], "STEERED", self._client, self._server.ipv4, load.PORT)
        self._before = self._spent()

    def _await_workers(self, node: str) -> None:
        """One that is superfluous drains beside the new agent. Raises NotPossible."""
        try:
            eventually(lambda: len(self._ground.stage.worker_pids(node)) == self._count, START_SECONDS, "workers")
        except ClaimFalse as failure:
            raise NotPossible(f"{node} has not {self._count} workers within {START_SECONDS:g} s") from failure

    def _check(self) -> None:
        after = self._spent()
        grown = [
            [now - then for now, then in zip(*pair, strict=True)] for pair in zip(after, self._before, strict=True)
        ]
        self.shares.append(least_share(grown))

    def _spent(self) -> list[list[float]]:
        return [[proxies.spent([pid]) for pid in self._ground.stage.worker_pids(node)] for node in NODES]

    def _every_pid(self) -> list[int]:
        return [pid for node in NODES for pid in self._ground.stage.worker_pids(node)]
