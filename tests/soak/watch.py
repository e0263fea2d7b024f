# SPDX-License-Identifier: Apache-2.0
"""Memory and descriptors of the agents and workers, as the kernel has them, again and again; and what they mean."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from nodeagent.lab.demo.processes import status
from nodeagent.lab.demo.stage import NODES, Stage

_LOOK_SECONDS = 1.0
_WARM_SHARE = 0.4
"""Of a process's life, in which it takes what it will use again: an agent does so for some minutes of such changes."""


class Sample(NamedTuple):
    at: float
    who: str
    pid: int
    bytes: int
    """Anonymous memory: what a leak would take."""


def processes(stage: Stage) -> dict[str, list[int]]:
    """Pids by who they are: `agent of node-a`, `worker of node-a`."""
    found = {f"agent of {node}": [stage.agents[node].pid] for node in NODES}
    return found | {f"worker of {node}": stage.worker_pids(node) for node in NODES}


def descriptors(stage: Stage) -> dict[str, int]:
    """Open ones, of all processes of a kind together."""
    counted: dict[str, int] = {}
    for who, pids in processes(stage).items():
        with contextlib.suppress(FileNotFoundError):  # it ended meanwhile: whoever waits looks again
            counted[who] = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
    return counted


class Watch:
    """Looks every second, from its beginning to the end of the block."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            now = time.monotonic()
            for who, pids in processes(self._stage).items():
                for pid in pids:
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError):  # it ended meanwhile
                        self.samples.append(Sample(now, who, pid, int(status(pid)["RssAnon"].split()[0]) << 10))


class Growth(NamedTuple):
    """Of the process of a kind that was seen longest."""

    seconds: float
    """Seen, without its warming up."""
    bytes: int
    """At the end."""
    bytes_per_minute: float


def growth(samples: Iterable[Sample]) -> Mapping[str, Growth]:
    """By who they are: the slope of a straight line through the memory, by least squares. Pure."""
    by_who: dict[str, list[Sample]] = {}
    for sample in samples:
        by_who.setdefault(sample.who, []).append(sample)
    return {who: _growth(of_kind) for who, of_kind in by_who.items()}


def _growth(samples: Sequence[Sample]) -> Growth:
    [(longest, _)] = Counter(sample.pid for sample in samples).most_common(1)
    own = [sample for sample in samples if sample.pid == longest]
    warm = own[int(len(own) * _WARM_SHARE) :]
    times, sizes = [sample.at for sample in warm], [sample.bytes for sample in warm]
    middle, average = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((at - middle) ** 2 for at in times)
    slope = sum((at - middle) * (size - average) for at, size in zip(times, sizes, strict=True)) / (spread or 1)
    return Growth(times[-1] - times[0], sizes[-1], slope * 60)
