# SPDX-License-Identifier: Apache-2.0
"""Workers replaced, again and again, under 200 streams that have a tunnel each, and 50 new connections a second.

Every piece of a stream goes forth and back, so the longest that one takes is how long the stream stood still.
"""

import os
import time
from collections.abc import Sequence

from nodeagent.lab import cgroups
from nodeagent.lab.demo.stage import NODES, Stage
from tests.bench import load
from tests.bench.quiet import Foreign, Look, compare, look
from tests.soak.mixed import UNDONE, prepared
from tests.soak.outcome import Options, Outcome, Tell
from tests.soak.traffic import Client, Report, Work

STREAMS = 200
BETWEEN_SECONDS = 1.0
"""Of new connections that are served between two replacements: for about as long as one takes."""
GOAL_SECONDS = 0.05
"""Of the 99th percentile: the longest pause of each stream in each replacement."""


def run(options: Options, tell: Tell) -> Outcome:
    handed_over, problems = 0, list[str]()
    usual, pauses, foreign = list[float](), list[float](), Foreign(0, "")
    with prepared(pool_streams=1, pool_idle_seconds=300) as stage:
        work = Work(
            places=[(ip, load.PORT) for ip in stage.pod("db").ips],
            streams=STREAMS,
            rate=options.rate,
            pause=options.pause_seconds,
        )
        with Client(stage.pod("web"), work) as client:
            before = _look(stage)
            try:
                client.wait_for_more(max(1, int(options.rate * BETWEEN_SECONDS)))
                for number in range(options.replacements):
                    client.ask_with_pauses()
                    client.wait_for_more(max(1, int(options.rate * BETWEEN_SECONDS)))
                    usual += client.ask_with_pauses().pauses
                    began = time.monotonic()
                    told = stage.replace_worker(NODES[number % 2])
                    report = client.ask_with_pauses()
                    pauses += report.pauses
                    handed_over += told["handed_over"]
                    problems += [f"replacement {number + 1}: {told}"] if told["cut"] or told["left"] else []
                    seconds = time.monotonic() - began
                    tell(f"{number + 1:3} of {options.replacements} in {seconds:.1f} s: {_pauses(report.pauses)}")
            except UNDONE as failure:
                problems.append(f"{type(failure).__name__}: {failure}")
            foreign = compare(before, _look(stage), os.cpu_count() or 1)
    return judge(client.last, options.replacements, handed_over, usual, pauses, problems, foreign)


def _look(stage: Stage) -> Look:
    return look({os.getpid(), *cgroups.processes(stage.lab.control.cgroup.parent)}, time.monotonic())


def judge(
    report: Report,
    replacements: int,
    handed_over: int,
    usual: Sequence[float],
    pauses: Sequence[float],
    problems: Sequence[str],
    foreign: Foreign,
) -> Outcome:
    """Pure. `usual` are the pauses without a replacement; `foreign` is who else used the machine."""
    failed = [*report.failures, *report.broken]
    broken = list(problems)
    broken += [f"{len(failed)} connections failed, the first: {failed[0]}"] if failed else []
    if report.whole != STREAMS:
        broken.append(f"{report.whole} of {STREAMS} streams came back whole")
    if handed_over < STREAMS * replacements:
        broken.append(f"{handed_over} connections were handed over, fewer than {STREAMS} each time")
    if percentile(pauses, 0.99) > GOAL_SECONDS and foreign.is_quiet:
        broken.append(f"the pause's p99 is above {GOAL_SECONDS * 1000:.0f} ms: {_pauses(pauses)}")
    summary = (
        f"{replacements} replacements under {STREAMS} tunnels: {handed_over} connections handed over, "
        f"{report.opened} new ones, {len(failed)} cut or refused, {report.bytes >> 20} MiB forth and back, "
        f"{sum(failure.missing for failure in failed)} bytes lost; longest pause of a stream: {_pauses(pauses)}; "
        f"without a replacement: {_pauses(usual)}"
    )
    if not foreign.is_quiet:
        summary += f"; not judged, since others took {foreign.share:.0%} of the CPUs: {foreign.busiest}"
    return Outcome(summary, tuple(broken))


def percentile(values: Sequence[float], share: float) -> float:
    """0 of none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def _pauses(seconds: Sequence[float]) -> str:
    told = (("p50", 0.5), ("p99", 0.99), ("longest", 1.0))
    return ", ".join(f"{name} {percentile(seconds, share) * 1000:.1f} ms" for name, share in told)
