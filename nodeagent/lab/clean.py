# SPDX-License-Identifier: Apache-2.0
"""Removes what journals name: at the end of a run, and for runs that ended without doing so.

Every step finds its object made, half made, or gone already, and ends with it gone; so cleaning can itself be killed
and started again. Only what stands in a journal is touched.
"""

import contextlib
import dataclasses
import errno
import shutil
from pathlib import Path

from nodeagent.errors import NotPossible
from nodeagent.kernel.netns import MNT_DETACH, unmount
from nodeagent.lab import cgroups
from nodeagent.lab.journal import DIRECTORY, Entry, Journal, Kind, Run, living_runs


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """What `clean_dead` found."""

    removed: tuple[Entry, ...]
    alive: tuple[Run, ...]
    """Runs that were left alone, because their process lives."""


def clean_dead(directory: Path = DIRECTORY) -> Cleaned:
    """Removes what dead runs left. Raises NotPossible for an object that resists; its journal then stays."""
    removed: list[Entry] = []
    for journal in Journal.dead(directory):
        try:
            removed += clean(journal)
        finally:
            journal.close()
    return Cleaned(tuple(removed), tuple(living_runs(directory)))


def clean(journal: Journal) -> tuple[Entry, ...]:
    """Removes everything that stands in this journal, the latest first, and the journal itself."""
    entries = journal.read().entries
    latest_first = entries[::-1]
    # Processes first: what they hold open (a device, a mount) would outlive its name.
    for with_processes in (True, False):
        for entry in latest_first:
            if (entry.kind is Kind.CGROUP) is with_processes:
                remove(entry)
    journal.finish()
    return entries


def remove(entry: Entry) -> None:
    path = Path(entry.path)
    try:
        match entry.kind:
            case Kind.CGROUP:
                cgroups.remove(path)
            case Kind.PINNED:
                _unmount(path)
                # The unlink also detaches copies of the pin in mount namespaces that were made while it existed.
                path.unlink(missing_ok=True)
            case Kind.LINK:
                path.unlink(missing_ok=True)
            case Kind.DIRECTORY:
                _remove_directory(path)
            case Kind.TREE:
                _remove_tree(path)
    except OSError as error:
        raise NotPossible(
            f"{entry.kind} {path} cannot be removed: {error.strerror}",
            check="Remove what holds it (fuser -vm), then run `nodeagent lab clean`.",
        ) from error


def _unmount(path: Path) -> None:
    """Until nothing is mounted there: a crash between two starts may have left two layers."""
    while True:
        try:
            unmount(path, MNT_DETACH)
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOENT}:  # not a mount point, or not there
                return
            raise


def _remove_tree(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _remove_directory(path: Path) -> None:
    """Left in place when someone else put something into it, or mounted something on it, in the meantime."""
    with contextlib.suppress(FileNotFoundError):
        try:
            path.rmdir()
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EBUSY}:
                raise
