# SPDX-License-Identifier: Apache-2.0
"""The roster: which workers an agent left behind, so that its successor knows whom to wait for and cleanup whom to end.

A process is named by pid and start time, since a pid alone may be somebody else's by now.
"""

import json
from collections.abc import Iterable
from pathlib import Path

FILE_NAME = "workers.json"
LEAVING = -1
"""Slot of a worker that has none any more and drains: cleanup ends it, a successor does not wait for it."""


def write_roster(run_dir: str, workers: Iterable[tuple[int, int]]) -> None:
    """Replaces the roster by these (slot, pid). Raises OSError."""
    path = Path(run_dir) / FILE_NAME
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps([[slot, pid, start_time(pid)] for slot, pid in workers]), encoding="ascii")
    aside.replace(path)


def start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot: with the pid it names a process for good.

    0 when it is gone, or dead and not reaped yet, as its children are when an agent in a container is killed.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    state, *rest = stat.rpartition(")")[2].split()
    return 0 if state in {"Z", "X"} else int(rest[18])


def living_workers(run_dir: str) -> list[tuple[int, int]]:
    """(slot, pid) of the workers that an agent of this run directory left and that still run."""
    try:
        rows = json.loads((Path(run_dir) / FILE_NAME).read_text(encoding="ascii"))
        return [(slot, pid) for slot, pid, started in rows if started and start_time(pid) == started]
    except (OSError, ValueError, TypeError):
        return []  # no roster, or one that was cut short by a crash: nobody is waited for
