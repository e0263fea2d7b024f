# SPDX-License-Identifier: Apache-2.0
"""Many inputs, each named by the seed and its number; the first that breaks a promise is kept as a file."""

import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeagent.hbone.limits import Role
from tests.fuzz.codec import Codec
from tests.fuzz.documents import Documents
from tests.fuzz.hot_path import HotPath
from tests.fuzz.records import Records
from tests.fuzz.requests import Requests
from tests.fuzz.resources import Resources
from tests.fuzz.subject import Input, Subject
from tests.fuzz.tunnels import Tunnels

FAILURES = Path("build/fuzz")
_STEP = 1 << 32
"""Between the seeds of two campaigns, so that none repeats a part of the other."""


def subjects() -> list[Subject]:
    return [
        Codec(Role.SERVER),
        Codec(Role.CLIENT),
        Records(is_server=False),
        Records(is_server=True),
        Requests(),
        Tunnels(),
        HotPath(),
        Documents(),
        Resources(),
    ]


@dataclass(frozen=True)
class Failure:
    number: int
    path: Path
    words: str

    def __str__(self) -> str:
        return f"input {self.number} failed and is kept: make fuzz FUZZ='--replay {self.path}'\n{self.words}"


def run(
    chosen: Sequence[Subject], seed: int, inputs: int, progress: Callable[[int], None], kept: Path = FAILURES
) -> Failure | None:
    """In turn over the subjects. `progress` is told how many are done, now and then."""
    for number in range(inputs):
        if number % 1000 == 0:
            progress(number)
        subject = chosen[number % len(chosen)]
        given = subject.make(random.Random(seed * _STEP + number))
        words = attempt(subject, given)
        if words:
            path = kept / f"{subject.name}-{seed}-{number}.json"
            given.write(path)
            return Failure(number, path, words)
    progress(inputs)
    return None


def attempt(subject: Subject, given: Input) -> str:
    """The traceback of what should not have been, or ""."""
    try:
        subject.run(given)
    except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
        return traceback.format_exc()
    return ""
