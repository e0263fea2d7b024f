# SPDX-License-Identifier: Apache-2.0
"""`nodeagent cleanup`: the only thing that takes the data plane of a node away.

Captured connections end and the pods talk in plain text from then on, so nothing else ever calls this.
"""

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from nodeagent.agent.instance import only_instance
from nodeagent.agent.kubernetes_pods import FILE_NAME as FOUND_PODS
from nodeagent.agent.roster import FILE_NAME, LEAVING, living_workers
from nodeagent.dns.memory import FILE_NAME as NAMES
from nodeagent.kernel.loader import LOADER_LOG
from nodeagent.kernel.steering import Steering

DRAIN_SECONDS = 5.0
"""What a worker is given to end its connections in order; then it is killed."""
_FILES = (
    *(FILE_NAME, "workers.partial", "workers.sock", "admin.sock", "state", "state.new", LOADER_LOG),
    *(FOUND_PODS, "kubernetes-pods.partial", NAMES, "names.partial"),
)
"""The second of a pair is what a crash leaves of the first in the middle of a write."""


def cleanup(run_dir: str, bpffs: str) -> list[str]:
    """What was removed, in words. Raises AlreadyRunning while an agent runs: it would put everything back."""
    if not Path(run_dir).exists() and not (Path(bpffs) / "nodeagent").exists():
        return []
    with only_instance(run_dir, takeover=False):
        done = [f"worker {_name(slot)} (pid {pid}) ended" for slot, pid in living_workers(run_dir) if _end(pid)]
        done += Steering(bpffs=bpffs, run_dir=run_dir).remove()
        for name in _FILES:
            path = Path(run_dir) / name
            if path.exists():
                path.unlink()
                done.append(f"{path} removed")
        (Path(run_dir) / "agent.lock").unlink(missing_ok=True)  # we made it ourselves, if nobody else had
    with contextlib.suppress(OSError):  # somebody keeps something else there
        Path(run_dir).rmdir()
    return done


def _name(slot: int) -> str:
    return "without a slot" if slot == LEAVING else str(slot)


def _end(pid: int) -> bool:
    """False when it had ended by itself."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        for number, seconds in ((signal.SIGTERM, DRAIN_SECONDS + 1), (signal.SIGKILL, DRAIN_SECONDS)):
            signal.pidfd_send_signal(process, number)
            if _ended(process, seconds):
                return True
    except ProcessLookupError:
        return True
    finally:
        os.close(process)
    return False


def _ended(process: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([process], [], [], left)[0]:
            return True
    return False
