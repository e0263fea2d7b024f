# SPDX-License-Identifier: Apache-2.0
"""Waiting for files and sockets. select(2) cannot: it takes no descriptor beyond 1023, and a lab's process has more."""

import select
from collections.abc import Iterable
from typing import Protocol, TypeVar


class HasDescriptor(Protocol):
    def fileno(self) -> int: ...


_File = TypeVar("_File", bound=HasDescriptor | int)


def readable(files: Iterable[_File], seconds: float) -> list[_File]:
    """Those that have something to read or have ended, as soon as there is one; none when the time is up."""
    return _ready(files, select.POLLIN, seconds)


def writable(files: Iterable[_File], seconds: float) -> list[_File]:
    """Those that take something or have failed, as soon as there is one; none when the time is up."""
    return _ready(files, select.POLLOUT, seconds)


def _ready(files: Iterable[_File], event: int, seconds: float) -> list[_File]:
    by_descriptor = {file if isinstance(file, int) else file.fileno(): file for file in files}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, event)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(max(0.0, seconds) * 1000)]
