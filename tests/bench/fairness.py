# SPDX-License-Identifier: Apache-2.0
"""A hundred connections that ask and answer, alone and beside one that sends in bulk, through one tunnel.

Both bare workers, the load and the bulk share the two cores that everything has in this part, so half of what the bulk
costs the others is the cores'.
"""

import contextlib
from collections.abc import Iterator, Sequence

from tests.bench import load, worker_pair
from tests.bench.ground import Ground
from tests.bench.report import Comparison, Round, Row, at_most, summarize
from tests.bench.rounds import Harness, Subject

BESIDE, ALONE = "beside a bulk stream", "alone"
GOAL = at_most(5)
_WORK, _BULK = load.exchange(100), load.bulk("upload")
_MEASURE = f"{_WORK.cost.name.removesuffix(', CPU')}, p99"


def run(title: str, ground: Ground, harness: Harness, ends: tuple[int, int], wanted: int) -> list[Row]:
    with contextlib.ExitStack() as stack:
        pair = stack.enter_context(worker_pair.running(ground.stage.lab.control.cgroup, ends))
        ground.generator.serve(pair.server, pair.port)
        bulk = stack.enter_context(contextlib.ExitStack())

        def begin() -> None:
            bulk.enter_context(ground.generator.beside(pair.client, _BULK, pair.ip, pair.port))

        subjects = [
            Subject(ALONE, pair.client, pair.ip, pair.port, lambda: None, proxies=lambda: pair.pids),
            Subject(BESIDE, pair.client, pair.ip, pair.port, begin, bulk.close),
        ]
        return rows(title, harness.run(subjects, [_WORK], wanted))


def rows(title: str, rounds: Sequence[Round]) -> list[Row]:
    """Pure."""
    return summarize(rounds, _comparisons(title))


def _comparisons(title: str) -> Iterator[Comparison]:
    yield Comparison(f"{title} {_MEASURE}, {BESIDE} to {ALONE}", _MEASURE, "us", BESIDE, ALONE, GOAL)
