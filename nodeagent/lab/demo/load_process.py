# SPDX-License-Identifier: Apache-2.0
"""A load in a pod, as a process of its own: started, asked how it goes, and brought to its end.

The script is run by itself, without site-packages, and imports nothing of the product. It answers a byte on standard
input with a report, a line of JSON; at the end of its input it ends the load and writes the last one.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import msgspec

from nodeagent.lab.namespaces import Pod
from nodeagent.lab.ready import readable

R = TypeVar("R")
_ANSWER_SECONDS = 60.0


class LoadProcess(Generic[R]):
    """Inside the block the pod is busy; `last` is there afterwards."""

    last: R

    def __init__(self, source: Pod, script: Path, words: Sequence[str], kind: type[R], ending_seconds: float) -> None:
        """`kind` of report; `ending_seconds`: what bringing everything to its end may take."""
        self._source, self._kind, self._ending_seconds = source, kind, ending_seconds
        self._command: list[str | Path] = [sys.executable, "-S", "-E", script, *words]

    def __enter__(self) -> Self:
        self._process = self._source.spawn(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            if error is None:
                self.last = self._read(self._ending_seconds + _ANSWER_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def ask(self, question: bytes = b"?") -> R:
        """One byte. Raises TimeoutError or ChildProcessError without an answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(question)
        self._process.stdin.flush()
        return self._read(_ANSWER_SECONDS)

    def _read(self, within_seconds: float) -> R:
        stdout = self._process.stdout
        assert stdout is not None
        if not readable([stdout], within_seconds):
            raise TimeoutError(f"the load did not answer within {within_seconds:g} s")
        line = stdout.readline()
        if not line:
            raise ChildProcessError("the load has ended; standard error tells more")
        return msgspec.json.decode(line, type=self._kind)
