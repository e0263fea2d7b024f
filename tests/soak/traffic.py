# SPDX-License-Identifier: Apache-2.0
"""The lab's side of client.py: what it is to do, and what it tells."""

import json
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip
from tests.soak.client import PATIENCE_SECONDS

_ANSWER_SECONDS = 30.0


class Work(msgspec.Struct, frozen=True, kw_only=True):
    places: list[tuple[Ip, int]]
    """Of the streams and the new connections, in turn."""
    bulk_places: list[tuple[Ip, int]] = []
    """One for each bulk stream."""
    streams: int
    pause: float
    """Seconds between two pieces of 4 KiB of a stream."""
    rate: float
    """New connections a second."""


class Failure(msgspec.Struct, frozen=True):
    """Times are of CLOCK_MONOTONIC, which all processes share."""

    what: str
    """refused, reset, silent, wrong, ended in mid-stream, ended without an answer, or the kernel's own word."""
    place: Ip
    began: float
    connected: float
    """0: never."""
    ended: float
    missing: int = 0
    """Bytes that were sent on a stream and had not come back."""


class Report(msgspec.Struct, frozen=True):
    seconds: float
    opened: int
    """Short connections, and of them `served`."""
    served: int
    failures: tuple[Failure, ...]
    """Of short connections."""
    broken: tuple[Failure, ...]
    """Of streams."""
    whole: int
    """Streams that came to their own end."""
    bytes: int
    """That came back, and were what was sent."""
    slowest: float
    """Seconds of a short connection, from its SYN to its end."""
    open: int
    """Streams at this moment."""
    pauses: tuple[float, ...]
    """Of each stream: the longest time, in seconds, that a piece took forth and back since they were told last."""


class Client:
    """Inside the block the pod is busy; `last` is there afterwards."""

    last: Report

    def __init__(self, source: Pod, work: Work) -> None:
        self._source, self._work = source, work

    def __enter__(self) -> Self:
        script, pipe = Path(__file__).with_name("client.py"), subprocess.PIPE
        words: list[str | Path] = [sys.executable, "-S", "-E", script, json.dumps(msgspec.to_builtins(self._work))]
        self._process = self._source.spawn(words, stdin=pipe, stdout=pipe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            if error is None:
                self.last = self._read(PATIENCE_SECONDS + _ANSWER_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def report(self, *, with_pauses: bool = False) -> Report:
        assert self._process.stdin is not None
        self._process.stdin.write(b"p" if with_pauses else b"?")
        self._process.stdin.flush()
        return self._read(_ANSWER_SECONDS)

    def wait_for_more(self, served: int, within_seconds: float = PATIENCE_SECONDS) -> Report:
        """Until so many more short connections were served, and every stream is open. Raises ClaimFalse."""
        goal = self.report().served + served
        found: list[Report] = []

        def is_there() -> bool:
            found[:] = [self.report()]
            wanted = self._work.streams + len(self._work.bulk_places)
            return found[0].served >= goal and found[0].open == wanted

        eventually(is_there, within_seconds, f"{served} more connections were served, and all streams are open")
        return found[0]

    def _read(self, within_seconds: float) -> Report:
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], within_seconds)[0]:
            raise TimeoutError(f"the client did not answer within {within_seconds:g} s")
        line = stdout.readline()
        if not line:
            raise ChildProcessError("the client has ended; standard error tells more")
        return msgspec.json.decode(line, type=Report)
