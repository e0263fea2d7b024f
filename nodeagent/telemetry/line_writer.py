# SPDX-License-Identifier: Apache-2.0
"""Writes log lines from a thread of its own, because a full disk or a stuck reader of a pipe must not stop the agent.

What does not fit into the queue is dropped and counted: connections go on, and the metrics keep the exact numbers.
"""

import collections
import logging
import os
import threading
from types import TracebackType
from typing import Self

from nodeagent.errors import ConfigError

MAX_LINES = 10_000
"""ztunnel's number; at 500 bytes a line it is 5 MB, and seconds of a busy node's connections."""
_BATCH_LINES = 64
"""In one write(), so that other writers of the same file or pipe get their turn."""
_GATHER_SECONDS = 0.02
"""For a batch to become whole. A thread that is woken for each of them takes the interpreter from the agent's loop as
often."""

_log = logging.getLogger(__name__)


class LineWriter:
    """To a file that is appended to, or to standard output with `-`. `reopen` follows a rotation of the file."""

    def __init__(self, path: str, max_lines: int = MAX_LINES) -> None:
        """Raises ConfigError when the file cannot be opened for writing."""
        self._path, self._max_lines = path, max_lines
        self._lines: collections.deque[str] = collections.deque()
        self._changed = threading.Condition()
        self._is_closing = self._is_failing = False
        self.lost = 0
        """Lines that were dropped so far: the queue was full, or the write failed."""
        self._fd = _open(path)
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def write(self, line: str) -> None:
        """Never blocks for longer than another thread's append, never raises. After `close` it only counts."""
        with self._changed:
            if self._is_closing or len(self._lines) >= self._max_lines:
                self.lost += 1
                return
            self._lines.append(line)
            if len(self._lines) in {1, _BATCH_LINES}:
                self._changed.notify()

    def reopen(self) -> None:
        """For SIGHUP after the file was renamed. If the file cannot be opened, says so and goes on with the old one."""
        if self._path == "-":
            return
        try:
            fd = _open(self._path)
        except ConfigError as error:
            _log.warning("%s; the lines go on to the old file", error)
            return
        with self._changed:
            os.dup2(fd, self._fd)  # the writing thread may be inside write() with this very number
        os.close(fd)

    def close(self, seconds: float = 2.0) -> None:
        """Writes what is queued, for at most `seconds`: a reader that is stuck must not keep the agent from ending."""
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
            self._changed.notify()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            os.close(self._fd)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._is_closing)
                self._changed.wait_for(lambda: len(self._lines) >= _BATCH_LINES or self._is_closing, _GATHER_SECONDS)
                count = min(_BATCH_LINES, len(self._lines))
                batch = [self._lines.popleft() for _ in range(count)]
            if not batch:
                return
            self._write_out(batch)

    def _write_out(self, batch: list[str]) -> None:
        left = memoryview("".join(batch).encode("utf-8", "backslashreplace"))
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            with self._changed:
                self.lost += len(batch)
            if not self._is_failing:  # once per failure, or the log would fill with it
                _log.warning("access log %s: %s; lines are dropped until it works again", self._path, error)
            self._is_failing = True
        else:
            self._is_failing = False


def _open(path: str) -> int:
    if path == "-":
        return os.dup(1)
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640)
    except OSError as error:
        raise ConfigError(
            f"access log {path}: {error.strerror}", check="Does its directory exist, and may the agent write there?"
        ) from error
