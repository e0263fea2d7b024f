# SPDX-License-Identifier: Apache-2.0
"""The run's own cgroup: every process that the lab starts is in it, and so is every process that those start.

That makes the end of a run exact: workers that outlive their agent are found, and nobody else's process is. One level
down there is a cgroup per node, which the node sees as its root, with its pods' processes below it: the place for
programs that a kubelet's node would have on `kubepods`. No controller is enabled and no other cgroup is ever touched.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from nodeagent.errors import NotPossible

PODS = "pods"
END_SECONDS = 10.0
"""SIGKILL takes effect at once except in uninterruptible sleep, which a healthy kernel leaves within seconds."""


def unified_hierarchy(mounts: Path = Path("/proc/self/mounts")) -> Path:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or beside version 1 in .../unified. Raises NotPossible."""
    for line in mounts.read_text().splitlines():
        _, target, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(target)
    raise NotPossible(
        "no cgroup v2 hierarchy is mounted, so a run's processes could not be told from others",
        check="mount -t cgroup2 none /sys/fs/cgroup (or /sys/fs/cgroup/unified beside version 1).",
    )


def make(path: Path) -> None:
    """Raises NotPossible when the hierarchy cannot be written, as in a container without --privileged."""
    try:
        path.mkdir()
    except OSError as error:
        raise NotPossible(
            f"cgroup {path} cannot be made: {error.strerror}", check="Is the cgroup v2 file system writable here?"
        ) from error


def processes(path: Path) -> list[int]:
    """Of this cgroup and of all below it. Zombies are not listed by the kernel."""
    pids = []
    for directory in _with_children(path):
        with contextlib.suppress(FileNotFoundError, OSError):  # removed in between: ENOENT or ENODEV
            pids += [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
    return pids


def end_all(path: Path) -> int:
    """SIGKILL to every process of the cgroup until none is left; how many there were. Raises NotPossible.

    Repeated, because a process may fork between the listing and its end. cgroup.kill would do it in one step, but is
    younger (5.14) than the oldest kernel that we support.
    """
    ended = set()
    deadline = time.monotonic() + END_SECONDS
    while pids := processes(path):
        for pid in pids:
            if _end(pid, path):
                ended.add(pid)
        if time.monotonic() > deadline:
            raise NotPossible(f"processes {pids} of {path} do not end", check="Are they in state D (ps -o pid,stat)?")
        time.sleep(0.001)  # let them die; there is nothing to wait on, they are not all our children
    return len(ended)


def _end(pid: int, cgroup: Path) -> bool:
    """By descriptor, and only after a second look at the cgroup: a pid read from a file may be another's by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if pid not in processes(cgroup):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def remove(path: Path) -> None:
    """Ends the processes and removes the directories, the deepest first. Nothing to do when it does not exist."""
    deadline = time.monotonic() + END_SECONDS
    while path.exists():
        end_all(path)
        try:
            for directory in reversed(_with_children(path)):
                directory.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            # EBUSY: the last process is not fully off the cgroup, or one that was about to join has just done so.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def _with_children(path: Path) -> list[Path]:
    """Parents before children."""
    return [Path(directory) for directory, _, _ in os.walk(path)]
