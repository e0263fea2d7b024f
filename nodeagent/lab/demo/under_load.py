# SPDX-License-Identifier: Apache-2.0
"""The lab's side of load.py: starts it in a pod, asks how it goes, and says what was lost."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from nodeagent.lab.demo.claims import ClaimFalse
from nodeagent.lab.demo.load import PATIENCE_SECONDS
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip

RATE = 50.0
"""New connections a second."""
_ANSWER_SECONDS = 60.0


class Failure(msgspec.Struct, frozen=True):
    """Times are of CLOCK_MONOTONIC, which all processes share."""

    what: str
    """refused, reset, silent, ended without an answer, or the kernel's own word."""
    place: Ip
    began: float
    connected: float
    """0: never."""
    ended: float


class Report(msgspec.Struct, frozen=True):
    now: float
    seconds: float
    opened: int
    served: Mapping[Ip, int]
    failures: tuple[Failure, ...]
    """Of short connections."""
    bytes: Mapping[Ip, int]
    broken: tuple[Failure, ...]
    """Streams that did not live as long as the load."""
    whole: int
    """Streams that did, and arrived unchanged."""
    slowest: float


class UnderLoad:
    """Inside the block the pod is busy; `last` is there afterwards."""

    last: Report

    def __init__(self, source: Pod, places: Sequence[Ip], port: int, marker: bytes, rate: float = RATE) -> None:
        self._source, self._places, self._port, self._marker, self._rate = source, places, port, marker, rate

    def __enter__(self) -> Self:
        script = Path(__file__).with_name("load.py")
        words = [str(self._rate), self._marker.hex(), *(f"{ip}:{self._port}" for ip in self._places)]
        pipe = subprocess.PIPE
        self._process = self._source.spawn([sys.executable, "-S", "-E", script, *words], stdin=pipe, stdout=pipe)
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

    def report(self) -> Report:
        assert self._process.stdin is not None
        self._process.stdin.write(b"?")
        self._process.stdin.flush()
        return self._read(_ANSWER_SECONDS)

    def wait_for_more(
        self, connections: int, places: Sequence[Ip] | None = None, within_seconds: float = 120.0
    ) -> Report:
        """Until so many more connections to each place were served, and its stream has sent more. Raises ClaimFalse."""
        wanted = self._places if places is None else places
        before = self.report()

        def goes_on(now: Report) -> bool:
            return all(
                now.served[ip] >= before.served[ip] + connections and now.bytes[ip] > before.bytes[ip] for ip in wanted
            )

        return self._wait_until(goes_on, within_seconds, f"{connections} more connections to {', '.join(wanted)}")

    def _wait_until(self, condition: Callable[[Report], bool], within_seconds: float, what: str) -> Report:
        deadline = time.monotonic() + within_seconds
        while not condition(now := self.report()):
            if time.monotonic() > deadline:
                raise ClaimFalse(f"not within {within_seconds:g} s: {what}; {in_words(now)}")
            time.sleep(0.02)
        return now

    def _read(self, within_seconds: float) -> Report:
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], within_seconds)[0]:
            raise ClaimFalse(f"the load did not answer within {within_seconds:g} s")
        line = stdout.readline()
        if not line:
            raise ClaimFalse("the load has ended; standard error tells more")
        return msgspec.json.decode(line, type=Report)


def in_words(report: Report) -> str:
    failures = [f"{failure.what} ({failure.place})" for failure in (*report.failures, *report.broken)]
    return json.dumps({"served": report.served, "failures": failures[:10], "number of failures": len(failures)})
