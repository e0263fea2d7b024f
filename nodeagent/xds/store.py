# SPDX-License-Identifier: Apache-2.0
"""The last good state on disk, so that an agent which restarts during an outage of the control plane is ready at once.

The file: a line that names format and version, the SHA-256 of the rest, then one `Saved` in msgpack. It is written
beside and renamed over the old one, so a crash leaves one or the other whole. It belongs to the agent's user and nobody
else can read or write it: whoever could write it would decide who is allowed. What is damaged, foreign or too old is
ignored with a warning that names the file; that costs a wait for the control plane and nothing more.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from nodeagent.errors import StateFileUnwritable
from nodeagent.upstream.backoff import delay
from nodeagent.xds.delta import LastGood

MAGIC = b"nodeagent last good state 1\n"
"""The number is the version of `Saved`; there is no migration, an older file is ignored."""
MAX_AGE_SECONDS = 7 * 86400.0
"""Older state describes pods whose addresses have long been given to others."""
SAVE_INTERVAL_SECONDS = 1.0
"""A burst of updates becomes one write."""
SAVE_SHARE = 10
"""After a write, wait at least this many times as long as it took: a large mesh must not keep the disk busy."""
RETRY_LONGEST_SECONDS = 60.0

_log = logging.getLogger(__name__)
_DIGEST_BYTES = hashlib.sha256().digest_size


class Saved(msgspec.Struct, frozen=True):
    cluster: str
    node: str
    saved_at: float
    """Unix time, seconds: when the control plane was last known to agree, even if nothing had changed."""
    last_good: LastGood


class Store:
    """One file. `cluster` and `node` say whose state it is: another's is foreign."""

    def __init__(self, path: str, *, cluster: str, node: str) -> None:
        self.path = Path(path)
        self._cluster, self._node = cluster, node
        self._decoder = msgspec.msgpack.Decoder(Saved)

    def save(self, last_good: LastGood, now: float) -> None:
        """Blocking. Raises StateFileUnwritable; the old file is then still there, whole."""
        body = msgspec.msgpack.encode(Saved(self._cluster, self._node, now, last_good))
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            # O_EXCL after the removal: never through a link or into a file that somebody else prepared.
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(MAGIC + hashlib.sha256(body).digest())
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                beside.unlink(missing_ok=True)
            raise StateFileUnwritable(f"state file {self.path}: {error.strerror}") from error

    def load(self, now: float) -> Saved | None:
        """Blocking. None when there is no state that can be trusted; the warning says why. Never raises."""
        try:
            return self._read(now)
        except FileNotFoundError:
            return None
        except (OSError, _Unusable, msgspec.MsgspecError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            _log.warning("state file %s is ignored: %s", self.path, why)
            return None

    def _read(self, now: float) -> Saved:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _Unusable("it is not a regular file")
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise _Unusable("others than the agent's user may write or read it")
            content = file.read()
        start = len(MAGIC) + _DIGEST_BYTES
        if not content.startswith(MAGIC):
            raise _Unusable("it has another format or version")
        if hashlib.sha256(content[start:]).digest() != content[len(MAGIC) : start]:
            raise _Unusable("it is damaged, its checksum does not match")
        saved = self._decoder.decode(content[start:])
        if (saved.cluster, saved.node) != (self._cluster, self._node):
            raise _Unusable(f"it is of node {saved.node!r} in cluster {saved.cluster!r}")
        if now - saved.saved_at > MAX_AGE_SECONDS:
            raise _Unusable(f"it is {int((now - saved.saved_at) // 86400)} days old")
        return saved


class _Unusable(Exception):
    """Why a file is ignored."""


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
        *,
        pick: Callable[[], float],
        interval: float = SAVE_INTERVAL_SECONDS,
    ) -> None:
        """`last_good` is asked in the event loop, when a write is due; `pick` draws from [0, 1) for the jitter."""
        self._store, self._last_good, self._pick, self._interval = store, last_good, pick, interval
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
        started = time.monotonic()
        last_good, now = self._last_good(), time.time()
        try:
            await asyncio.to_thread(self._store.save, last_good, now)
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
