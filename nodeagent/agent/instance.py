# SPDX-License-Identifier: Apache-2.0
"""One agent per node: a lock on `<run dir>/agent.lock`, held for life and released by the kernel when we die.

With --takeover the running agent is asked to leave (SIGTERM: it leaves workers, namespace and programs in place) and
its lock is waited for, so that there are never two agents that write the same maps.
"""

import contextlib
import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from nodeagent.errors import AlreadyRunning, MissingPrivilege, NotPossible

TAKEOVER_SECONDS = 30.0
"""An agent that was told to stop has nothing to wait for: workers drain on their own."""


@contextlib.contextmanager
def only_instance(run_dir: str, *, takeover: bool) -> Iterator[None]:
    """Raises AlreadyRunning when another agent holds this node, NotPossible when the directory cannot be used."""
    descriptor = _open_lock(Path(run_dir) / "agent.lock")
    try:
        if not _lock(descriptor):
            owner = _owner(descriptor)
            if not takeover:
                raise AlreadyRunning(f"an agent is already running on this node (pid {owner or 'unknown'})")
            _ask_to_leave(descriptor, owner)
        if not _is_file_of(descriptor, Path(run_dir) / "agent.lock"):
            # A cleanup removed the file while we waited: the next agent would make another, and lock that.
            raise AlreadyRunning("the run directory was cleaned up at this moment", check="Start the agent again.")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)  # a pid that is gone must not be taken for the next holder's
    finally:
        os.close(descriptor)


def running_agent(run_dir: str) -> int | None:
    """Pid of the agent that holds this run directory, 0 when it holds it but has not said its pid; None without one."""
    try:
        descriptor = os.open(Path(run_dir) / "agent.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return None if _lock(descriptor) else _owner(descriptor)
    finally:
        os.close(descriptor)


def _open_lock(lock: Path) -> int:
    try:
        lock.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        # Workers reach their rendezvous socket in this directory with another uid: pass, but do not list.
        lock.parent.chmod(0o711)
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise MissingPrivilege(f"run directory {lock.parent}: {error.strerror}") from error
    except OSError as error:
        words = f"run directory {lock.parent}: {error.strerror}"
        raise NotPossible(words, check="Give another with --run-dir.") from error


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EAGAIN}:
            return False
        raise
    return True


def _owner(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else 0


def _ask_to_leave(descriptor: int, owner: int) -> None:
    if owner:
        with contextlib.suppress(ProcessLookupError):  # it left in between: the lock will tell
            os.kill(owner, signal.SIGTERM)
    deadline = time.monotonic() + TAKEOVER_SECONDS
    while not _lock(descriptor):
        if time.monotonic() > deadline:
            raise AlreadyRunning(
                f"the running agent (pid {owner or 'unknown'}) did not leave within {TAKEOVER_SECONDS:.0f} s",
                check="Is it stopped or hanging? End it by its pid and start again.",
            )
        time.sleep(0.02)
