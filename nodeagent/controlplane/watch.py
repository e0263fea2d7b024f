# SPDX-License-Identifier: Apache-2.0
"""Says which files of the mesh directory have changed, a few milliseconds after they did.

inotify, because an edit should be in force before the operator has looked up; polling where inotify cannot be had (no
instances left, a foreign file system notices nothing). A file counts once its writer has closed or renamed it, so that
a half-written one is not read. The directory may be a symlink, may be swapped for another and may go and come back.
"""

import asyncio
import ctypes
import errno
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from nodeagent.controlplane.files import is_mesh_file

_log = logging.getLogger(__name__)

QUIET_SECONDS = 0.002
"""A change is told when nothing more has come for this long,"""
DEBOUNCE_SECONDS = 0.01
"""or at the latest after this."""
IDENTITY_SECONDS = 1.0
"""How often it is checked that the path still leads to the watched directory: no event says so for a symlink."""
POLL_SECONDS = 0.03

_IN_MODIFY, _IN_ATTRIB, _IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
_IN_CREATE, _IN_DELETE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_IN_Q_OVERFLOW, _IN_IGNORED, _IN_ONLYDIR, _IN_ISDIR = 0x4000, 0x8000, 0x1000000, 0x40000000
_OF_FILES = _IN_MODIFY | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_OF_DIRECTORY = _IN_DELETE_SELF | _IN_MOVE_SELF
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65536

Changed = frozenset[str] | None
"""Names of files; None means: look at everything."""


class DirectoryWatch:
    """Made before the first reading of the directory, so that no change falls in between."""

    def __init__(self, directory: Path, *, allows_inotify: bool = True) -> None:
        self._directory = directory
        self._inotify = _open_inotify() if allows_inotify else -1
        self._watch = -1
        self._identity = self._look()
        self._signatures = self._sign()
        self._attach()

    async def changed(self) -> Changed:
        """Waits for the next change."""
        while True:
            if self._inotify >= 0:
                found = await self._notified()
            else:
                await asyncio.sleep(POLL_SECONDS)
                found = self._compared()
            if self._look() != self._identity:
                self._identity = self._look()
                self._attach()
                return None
            if found != frozenset():
                return found

    def close(self) -> None:
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1

    def _attach(self) -> None:
        if self._inotify < 0 or self._identity is None:
            return
        path = os.fsencode(self._directory)
        mask = _OF_FILES | _OF_DIRECTORY | _IN_ONLYDIR
        self._watch = _libc.inotify_add_watch(self._inotify, path, mask)
        if self._watch < 0:
            _log.warning("inotify: %s; polling instead", os.strerror(ctypes.get_errno()))
            self.close()

    async def _notified(self) -> Changed:
        try:
            async with asyncio.timeout(IDENTITY_SECONDS):
                await _readable(self._inotify)
        except TimeoutError:
            return frozenset()
        settled: set[str] = set()
        is_quiet = False
        deadline = asyncio.get_running_loop().time() + DEBOUNCE_SECONDS
        while not is_quiet and asyncio.get_running_loop().time() < deadline:
            events = list(self._events())
            for watch, mask, name in events:
                if self._is_about_everything(watch, mask, name):
                    return None
                if watch == self._watch and is_mesh_file(name) and not mask & _IN_ISDIR:
                    self._note(settled, mask, name)
            is_quiet = not events
            if not is_quiet:
                await asyncio.sleep(QUIET_SECONDS)
        return frozenset(settled)

    def _is_about_everything(self, watch: int, mask: int, name: str) -> bool:
        if mask & _IN_Q_OVERFLOW:
            return True
        # A mounted ConfigMap swaps the symlink ..data, behind all its files.
        return watch == self._watch and bool(mask & (_OF_DIRECTORY | _IN_IGNORED) or name.startswith(".."))

    def _note(self, settled: set[str], mask: int, name: str) -> None:
        """A file that is written again after it was closed is not settled: read now, it might be half there."""
        if mask & _IN_MODIFY or (mask & _IN_CREATE and self._is_being_written(name)):
            settled.discard(name)
        else:
            settled.add(name)

    def _events(self) -> Iterator[tuple[int, int, str]]:
        try:
            data = os.read(self._inotify, _READ_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            yield watch, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
            at += length

    def _is_being_written(self, name: str) -> bool:
        """A link is complete when it is made; of any other created file the closing is still to come."""
        try:
            status = os.lstat(self._directory / name)
        except OSError:
            return False
        return status.st_nlink == 1 and not (self._directory / name).is_symlink()

    def _look(self) -> tuple[int, int] | None:
        try:
            status = self._directory.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _compared(self) -> Changed:
        before, self._signatures = self._signatures, self._sign()
        return frozenset(name for name, _ in before.items() ^ self._signatures.items())

    def _sign(self) -> dict[str, tuple[int, int, int, int]]:
        if self._inotify >= 0:
            return {}
        try:
            with os.scandir(self._directory) as entries:
                found = [(entry.name, entry.stat()) for entry in entries if is_mesh_file(entry.name)]
        except OSError:
            return {}
        return {name: (file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for name, file in found}


_libc = ctypes.CDLL(None, use_errno=True)


def _open_inotify() -> int:
    descriptor = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        _log.warning("inotify: %s; polling instead", os.strerror(ctypes.get_errno() or errno.ENOSYS))
    return descriptor


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
