# SPDX-License-Identifier: Apache-2.0
"""The lab's side of load.py: how it goes, and what was lost."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from nodeagent.lab.demo.claims import ClaimFalse
from nodeagent.lab.demo.load import PATIENCE_SECONDS
from nodeagent.lab.demo.load_process import LoadProcess
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip

RATE = 50.0
"""New connections a second."""


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


class UnderLoad(LoadProcess[Report]):
    def __init__(self, source: Pod, places: Sequence[Ip], port: int, marker: bytes, rate: float = RATE) -> None:
        words = [str(rate), marker.hex(), *(f"{ip}:{port}" for ip in places)]
        super().__init__(source, Path(__file__).with_name("load.py"), words, Report, PATIENCE_SECONDS)
        self._places = places

    def wait_for_more(
        self, connections: int, places: Sequence[Ip] | None = None, within_seconds: float = 120.0
    ) -> Report:
        """Until so many more connections to each place were served, and its stream has sent more. Raises ClaimFalse."""
        wanted = self._places if places is None else places
        before = self.ask()

        def goes_on(now: Report) -> bool:
            return all(
                now.served[ip] >= before.served[ip] + connections and now.bytes[ip] > before.bytes[ip] for ip in wanted
            )

        return self._wait_until(goes_on, within_seconds, f"{connections} more connections to {', '.join(wanted)}")

    def _wait_until(self, condition: Callable[[Report], bool], within_seconds: float, what: str) -> Report:
        deadline = time.monotonic() + within_seconds
        while not condition(now := self.ask()):
            if time.monotonic() > deadline:
                raise ClaimFalse(f"not within {within_seconds:g} s: {what}; {in_words(now)}")
            time.sleep(0.02)
        return now


def in_words(report: Report) -> str:
    failures = [f"{failure.what} ({failure.place})" for failure in (*report.failures, *report.broken)]
    return json.dumps({"served": report.served, "failures": failures[:10], "number of failures": len(failures)})
