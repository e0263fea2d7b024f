# SPDX-License-Identifier: Apache-2.0
"""`make bench-control`: the control plane and an agent in a large mesh, at 1,000 and at 10,000 workloads in one run.

In the lab: the control plane with a directory of that many workloads, a tenth of them Services and a tenth policies,
on 200 nodes. Node-a has a real agent, the other 199 agents are connections of one process that takes and acknowledges
what it is sent. It prints a table and writes build/bench.json. When the machine was busy with something else it says
so and writes nothing.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from nodeagent.errors import NodeagentError
from nodeagent.lab.demo.claims import ClaimFalse
from nodeagent.lab.demo.stage import running
from tests.bench import quiet
from tests.bench.__main__ import write
from tests.bench.control.decode import decode_seconds
from tests.bench.control.measure import Figures, measure
from tests.bench.control.rows import rows
from tests.bench.ground import Ground
from tests.bench.report import table
from tests.bench.rounds import Busy

SIZES = (1_000, 10_000)
_ATTEMPTS = 2


def main() -> int:
    arguments = _arguments()
    found: dict[int, Figures] = {}
    try:
        for size in arguments.sizes:
            found[size] = _undisturbed(size, arguments.changes, is_busy_good_enough=arguments.even_busy)
        made = rows(found, {size: decode_seconds(size) for size in arguments.sizes})
    except Busy as busy:
        print(f"no report: the machine was busy with something else; {busy}", file=sys.stderr)
        return 1
    except ClaimFalse as failure:
        print(f"no report: {failure}", file=sys.stderr)
        return 1
    except NodeagentError as error:
        print(f"{error}. {error.check}", file=sys.stderr)
        return 1
    print("\n".join(table(made)))
    if arguments.even_busy:
        print("nothing is written: figures of a busy machine count nothing", file=sys.stderr)
        return 1
    write(made)
    return 0


def _undisturbed(size: int, changes: int, *, is_busy_good_enough: bool) -> Figures:
    """Raises Busy."""
    foreign = quiet.Foreign(0, "")
    for _ in range(_ATTEMPTS):
        print(f"{size} workloads:", flush=True)
        with running() as stage:
            own_pids = Ground(stage).own_pids
            before = quiet.look(own_pids(), time.monotonic())
            found = measure(stage, size, changes, lambda words: print(f"  {words}", flush=True))
            foreign = quiet.compare(before, quiet.look(own_pids(), time.monotonic()), len(os.sched_getaffinity(0)))
        if foreign.is_quiet or is_busy_good_enough:
            return found
    raise Busy(f"{foreign.share:.0%} of the CPUs: {foreign.busiest}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-control CONTROL=...", description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=_sizes, default=SIZES, help="numbers of workloads, with commas (1000,10000)")
    parser.add_argument("--changes", type=int, default=30, help="of each kind; p99 is the slowest of fewer than 100")
    parser.add_argument("--even-busy", action="store_true", help="print figures of a busy machine, which count nothing")
    arguments = parser.parse_args()
    if arguments.changes < 1:
        parser.error("--changes: at least one")
    return arguments


def _sizes(text: str) -> Sequence[int]:
    sizes = tuple(sorted(int(part) for part in text.split(",")))
    if any(size < 100 or size % 10 for size in sizes):
        raise argparse.ArgumentTypeError("each is a multiple of 10, at least 100")
    return sizes


if __name__ == "__main__":
    raise SystemExit(main())
