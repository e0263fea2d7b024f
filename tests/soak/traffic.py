# SPDX-License-Identifier: Apache-2.0
"""The lab's side of client.py: what it is to do, and what it tells."""

import json
from pathlib import Path

import msgspec

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.load_process import LoadProcess
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip
from tests.soak.client import PATIENCE_SECONDS


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


class Client(LoadProcess[Report]):
    def __init__(self, source: Pod, work: Work) -> None:
        words = [json.dumps(msgspec.to_builtins(work))]
        super().__init__(source, Path(__file__).with_name("client.py"), words, Report, PATIENCE_SECONDS)
        self._work = work

    def ask_with_pauses(self) -> Report:
        return self.ask(b"p")

    def wait_for_more(self, served: int, within_seconds: float = PATIENCE_SECONDS) -> Report:
        """Until so many more short connections were served, and every stream is open. Raises ClaimFalse."""
        goal = self.ask().served + served
        found: list[Report] = []

        def is_there() -> bool:
            found[:] = [self.ask()]
            wanted = self._work.streams + len(self._work.bulk_places)
            return found[0].served >= goal and found[0].open == wanted

        eventually(is_there, within_seconds, f"{served} more connections were served, and all streams are open")
        return found[0]
