# SPDX-License-Identifier: Apache-2.0
"""What a proxy's process has cost, as the kernel has it: CPU seconds, resident memory; and on which core it runs.

What the kernel does for its packets in softirqs is the process's that happened to run, which is the proxy's mostly.
"""

import os
from collections.abc import Collection
from pathlib import Path

from tests.bench.quiet import parse_stat

PROC = Path("/proc")


def spent(pids: Collection[int]) -> float:
    """CPU seconds of these processes, all threads, user and system. Of one that has ended, none."""
    total = 0.0
    for pid in pids:
        try:
            line = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        total += parse_stat(line)[1].own
    return total


def resident_bytes(pid: int) -> int:
    for line in (PROC / str(pid) / "status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no resident memory: it ended")


def pin(pid: int, core: int) -> None:
    """All its threads, and those that they will start."""
    for task in (PROC / str(pid) / "task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
