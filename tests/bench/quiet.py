# SPDX-License-Identifier: Apache-2.0
"""Was the machine busy with something else? CPU time of everybody who is not of this run, and time that was stolen.

The sum is over all processes, with that of their children which have ended, so that what came and went in between is
counted by its parent. Kernel threads are left out: most of what they do here is done for the run.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FOREIGN_SHARE = 0.05
"""Of all CPUs. A twentieth is what an idle machine's own services and a shell take; more moves a ratio of 1.05."""
_TICKS = os.sysconf("SC_CLK_TCK")
_KTHREADD = 2


class Spent(NamedTuple):
    """CPU seconds of one process so far."""

    name: str
    own: float
    children: float


@dataclass(frozen=True)
class Look:
    at: float
    """Seconds of the clock that never jumps."""
    stolen: float
    processes: Mapping[int, Spent]


@dataclass(frozen=True)
class Foreign:
    share: float
    """Of all CPUs, from 0 to 1."""
    busiest: str
    """Who that was, in words."""

    @property
    def is_quiet(self) -> bool:
        return self.share <= FOREIGN_SHARE


def compare(before: Look, after: Look, cpus: int) -> Foreign:
    """Pure."""
    spent = _total(after) - _total(before) + after.stolen - before.stolen
    share = max(0.0, spent / cpus / (after.at - before.at))
    grown = [
        (now.own - (before.processes[pid].own if pid in before.processes else 0), now.name, pid)
        for pid, now in after.processes.items()
    ]
    words = [f"{name} ({pid}) {seconds:.2f} s" for seconds, name, pid in sorted(grown, reverse=True)[:3] if seconds > 0]
    if after.stolen > before.stolen:
        words.append(f"the machine below {after.stolen - before.stolen:.2f} s")
    return Foreign(share, ", ".join(words))


def look(own: Collection[int], at: float) -> Look:
    """`own`: pids of this run."""
    return Look(at, _stolen(), {pid: spent for pid, spent in _processes() if pid not in own})


def _total(seen: Look) -> float:
    return sum(spent.own + spent.children for spent in seen.processes.values())


def _stolen() -> float:
    return int(Path("/proc/stat").read_text(encoding="ascii").split()[8]) / _TICKS


def _processes() -> Iterator[tuple[int, Spent]]:
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            line = (directory / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        parent, spent = parse_stat(line)
        if parent != _KTHREADD:
            yield int(directory.name), spent


def parse_stat(line: str) -> tuple[int, Spent]:
    """A process's parent, and what it has spent. Its name may hold anything, brackets too (proc_pid_stat(5))."""
    start, _, rest = line.rpartition(")")
    fields = rest.split()
    user, system, children_user, children_system = (int(field) / _TICKS for field in fields[11:15])
    return int(fields[1]), Spent(start.partition("(")[2], user + system, children_user + children_system)
