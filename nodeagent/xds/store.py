# SPDX-License-Identifier: Apache-2.0
"""The last good state on disk, so that an agent which restarts during an outage of the control plane is ready at once.

What is in the file is in saved.py. A process writes it whole once, beside the old one and renamed over it, so that a
crash leaves one or the other; then it appends what changes, until that is as much again. The file belongs to the
agent's user and nobody else can read or write it: whoever could write it would decide who is allowed. What is damaged,
foreign or too old is ignored with a warning that names the file; that costs a wait for the control plane and nothing
more.
"""

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from nodeagent.errors import StateFileUnwritable
from nodeagent.upstream.backoff import delay
from nodeagent.xds.delta import LastGood, Step
from nodeagent.xds.saved import Owner, Saved, Unusable, decode, encode_step, encode_whole

MAX_AGE_SECONDS = 7 * 86400.0
"""Older state describes pods whose addresses have long been given to others."""
SAVE_INTERVAL_SECONDS = 1.0
"""A burst of updates becomes one write."""
SAVE_SHARE = 10
"""After a write, wait at least this many times as long as it took: a large mesh must not keep the disk busy."""
RETRY_LONGEST_SECONDS = 60.0
LEAST_APPENDED_BYTES = 1 << 16
"""Before a file is written whole again. A larger one may grow to twice its size: so the whole costs each change as much
as its own record does."""

_log = logging.getLogger(__name__)


class Store:
    """One file. `cluster` and `node` say whose state it is: another's is foreign."""

    def __init__(self, path: str, *, cluster: str, node: str) -> None:
        self.path = Path(path)
        self._owner = Owner(cluster, node)
        self._file = -1
        """Open for appending: what this object has written. It never appends to what another has left."""
        self._whole_bytes = self._appended_bytes = 0

    @property
    def is_whole_due(self) -> bool:
        """Whether the next thing to do is `save`: nothing to append to, or enough was appended."""
        if self._file < 0 or self._appended_bytes > max(self._whole_bytes, LEAST_APPENDED_BYTES):
            return True
        try:
            return not os.path.samestat(os.fstat(self._file), self.path.lstat())
        except OSError:
            return True  # somebody has taken it away

    def save(self, last_good: LastGood, now: float) -> None:
        """The whole. Blocking. Raises StateFileUnwritable; the old file is then still there, whole."""
        self.close()
        beside = self.path.with_name(f"{self.path.name}.new")
        descriptor = -1
        try:
            # O_EXCL after the removal: never through a link or into a file that somebody else prepared.
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            size = sum(_write(descriptor, part) for part in encode_whole(self._owner, last_good, now))
            os.fsync(descriptor)
            beside.replace(self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                beside.unlink(missing_ok=True)
            if descriptor >= 0:
                os.close(descriptor)
            raise StateFileUnwritable(f"state file {self.path}: {error.strerror}") from error
        self._file, self._whole_bytes, self._appended_bytes = descriptor, size, 0

    def append(self, step: Step, now: float) -> None:
        """What has changed; not when `is_whole_due`. Blocking. Raises StateFileUnwritable; then a whole is due."""
        try:
            self._appended_bytes += _write(self._file, encode_step(step, now))
            os.fdatasync(self._file)
        except OSError as error:
            self.close()  # half a record may be there: nothing must come behind it
            raise StateFileUnwritable(f"state file {self.path}: {error.strerror}") from error

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def load(self, now: float) -> Saved | None:
        """Blocking. None when there is no state that can be trusted; the warning says why. Never raises."""
        try:
            return self._read(now)
        except FileNotFoundError:
            return None
        except (OSError, Unusable, msgspec.MsgspecError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            _log.warning("state file %s is ignored: %s", self.path, why)
            return None

    def _read(self, now: float) -> Saved:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("it is not a regular file")
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise Unusable("others than the agent's user may write or read it")
            content = file.read()
        saved = decode(content, self._owner)
        if now - saved.saved_at > MAX_AGE_SECONDS:
            raise Unusable(f"it is {int((now - saved.saved_at) // 86400)} days old")
        return saved


def _write(descriptor: int, content: bytes) -> int:
    """All of it; returns how much that is. Raises OSError."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    return len(content)


def _sync_directory(path: Path) -> None:
    """Without it the rename itself may be lost with the power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Saver:
    """Writes the state some time after it has changed, in a thread; goes on when it cannot."""

    def __init__(
        self,
        store: Store,
        last_good: Callable[[], LastGood],
        news: Callable[[], Step],
        *,
        pick: Callable[[], float],
        interval: float = SAVE_INTERVAL_SECONDS,
    ) -> None:
        """One of the two is asked in the event loop, when a write is due; `pick` draws from [0, 1) for the jitter.

        Args:
            store: the file.
            last_good: all that is held.
            news: what has changed since either of them was asked.
            pick: see above.
            interval: seconds from a change to its write.
        """
        self._store, self._pick, self._interval = store, pick, interval
        self._last_good, self._news = last_good, news
        self._changed = asyncio.Event()
        self.writes = 0
        self.failures = 0
        """Of all times."""
        self.error = ""
        """Of the last attempt; empty when it succeeded."""
        self._failures_in_a_row = 0

    def note_change(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(self._interval)
            self._changed.clear()
            await asyncio.sleep(await self._save())

    async def _save(self) -> float:
        """Returns the seconds to wait before the next attempt."""
        started, now = time.monotonic(), time.time()
        try:
            if self._store.is_whole_due:
                await asyncio.to_thread(self._store.save, self._last_good(), now)
            else:
                await asyncio.to_thread(self._store.append, self._news(), now)
        except StateFileUnwritable as error:
            self.failures += 1
            self._failures_in_a_row += 1
            self._changed.set()  # it is still to be written
            if not self.error:  # once per outage of the disk, not once per attempt
                _log.warning("%s. %s", error, error.check)
            self.error = str(error)
            return delay(self._failures_in_a_row, self._interval, RETRY_LONGEST_SECONDS, self._pick)
        self.writes += 1
        if self.error:
            _log.info("state file %s is written again", self._store.path)
        self.error, self._failures_in_a_row = "", 0
        return (time.monotonic() - started) * SAVE_SHARE
