# SPDX-License-Identifier: Apache-2.0
"""What a run made, written down before it is made, so that whoever comes next can remove it.

A journal is a file `<run number>.journal` of JSON lines. Its lock says whether the run lives: the kernel releases it
with the process, however that ends, and unlike a pid it cannot be mistaken for another process'. It is an open file
description lock, because that can be asked about without being taken. The pid in the journal is only told to people.

Devices, addresses and routes have no line of their own: they live in network namespaces that do, and end with them.
Nothing here removes an object; that is clean.py.
"""

import dataclasses
import enum
import errno
import fcntl
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from nodeagent.errors import MissingPrivilege, NotPossible

DIRECTORY = Path("/run/nodeagent-lab")
SUFFIX = ".journal"
MAX_RUNS = 99

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_WRITE_LOCK = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class Kind(enum.StrEnum):
    CGROUP = "cgroup"  # with everything below it and every process in it
    PINNED = "pinned"  # a file on which a namespace is bind-mounted
    LINK = "link"
    DIRECTORY = "directory"  # removed when it is empty
    TREE = "tree"  # a directory of ours with everything below it


@dataclasses.dataclass(frozen=True)
class Entry:
    kind: Kind
    path: str


@dataclasses.dataclass(frozen=True)
class Run:
    """What a journal says, read by anyone."""

    number: int
    pid: int
    entries: tuple[Entry, ...]


class Journal:
    """A journal whose lock we hold. Leaving it without `finish` is what a crash does: the file stays for the next."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.number = _number(path)

    @classmethod
    def claim(cls, directory: Path = DIRECTORY) -> Self:
        """The lowest number that no living run has and whose journal is clean. Raises NotPossible beyond MAX_RUNS."""
        for number in range(1, MAX_RUNS + 1):
            journal = cls._lock(directory / f"{number}{SUFFIX}", create=True)
            if journal is None:
                continue
            if journal.read().entries:  # it died after the caller cleaned: its objects still have these names
                journal.close()
                continue
            journal._append({"pid": os.getpid()})  # noqa: SLF001 - our own alternative constructor
            return journal
        raise NotPossible(f"{MAX_RUNS} labs are running", check="Stop some: `nodeagent lab clean` lists them.")

    @classmethod
    def dead(cls, directory: Path = DIRECTORY) -> Iterator[Self]:
        """Journals of runs that ended without cleaning, each locked while the caller has it. Close or finish each."""
        for path in _journals(directory):
            journal = cls._lock(path, create=False)
            if journal is not None:
                yield journal

    @classmethod
    def _lock(cls, path: Path, *, create: bool) -> Self | None:
        """None when a living run holds it, or when it is gone and shall not be made."""
        while True:
            try:
                if create:
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0), 0o600)
            except FileNotFoundError:
                if create:
                    continue  # another run removed the empty directory between the two calls
                return None
            except PermissionError as error:
                raise MissingPrivilege(f"the lab's journal {path} cannot be written") from error
            except OSError as error:
                raise NotPossible(f"the lab's journal {path}: {error.strerror}", check="Is /run writable?") from error
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WRITE_LOCK)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if os.fstat(descriptor).st_nlink:
                return cls(path, descriptor)
            os.close(descriptor)  # its owner finished between our open and our lock: this file has no name any more

    def read(self) -> Run:
        return _parse(self.path, os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0))

    def note(self, kind: Kind, path: Path | str) -> Entry:
        """To be called before the object is made."""
        entry = Entry(kind, os.fspath(path))
        self._append({"made": entry.kind, "path": entry.path})
        return entry

    def forget(self, entry: Entry) -> None:
        """To be called after the object was removed, or when it turned out to be someone else's."""
        self._append({"gone": entry.kind, "path": entry.path})

    def _append(self, line: dict[str, object]) -> None:
        try:
            os.write(self._descriptor, json.dumps(line).encode() + b"\n")
            os.fsync(self._descriptor)
        except OSError as error:
            raise NotPossible(f"the lab's journal {self.path}: {error.strerror}", check="Is the disk full?") from error

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def finish(self) -> None:
        """Everything that stood here is gone: the journal goes too, and its directory with the last one."""
        self.path.unlink(missing_ok=True)  # before the lock is released, see _lock
        self.close()
        try:
            self.path.parent.rmdir()
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT}:  # another run's journal is there, or it was the last
                raise


def living_runs(directory: Path = DIRECTORY) -> list[Run]:
    """Runs whose lock is held, by whatever process, this one included."""
    runs = []
    for path in _journals(directory):
        try:
            with path.open("rb") as file:
                holder = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _WRITE_LOCK)
                if struct.unpack(_FLOCK, holder)[0] != fcntl.F_UNLCK:
                    runs.append(_parse(path, file.read()))
        except FileNotFoundError:
            continue  # finished in between
    return runs


def _journals(directory: Path) -> list[Path]:
    numbered = [path for path in directory.glob(f"*{SUFFIX}") if path.name.removesuffix(SUFFIX).isdigit()]
    return sorted(numbered, key=_number)


def _number(path: Path) -> int:
    return int(path.name.removesuffix(SUFFIX))


def _parse(path: Path, content: bytes) -> Run:
    complete, _, _ = content.rpartition(b"\n")  # a line torn by a crash: its object was not made, the line comes first
    pid = 0
    entries: dict[Entry, None] = {}
    for raw in complete.splitlines():
        try:
            line = json.loads(raw)
            if "pid" in line:
                pid = int(line["pid"])
            elif "made" in line:
                entries[Entry(Kind(line["made"]), str(line["path"]))] = None
            else:
                entries.pop(Entry(Kind(line["gone"]), str(line["path"])), None)
        except (ValueError, KeyError, TypeError) as error:
            raise NotPossible(
                f"the lab's journal {path} has a line that is not understood: {raw!r}",
                check="Was it written by another version? That version's `nodeagent lab clean` can read it.",
            ) from error
    return Run(_number(path), pid, tuple(entries))
