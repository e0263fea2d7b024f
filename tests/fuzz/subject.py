# SPDX-License-Identifier: Apache-2.0
"""An input of the fuzzer as a value that can be kept, and what each of its subjects is."""

import random
from pathlib import Path
from typing import Protocol

import msgspec


class Input(msgspec.Struct, frozen=True):
    """Everything that a run depends on, so that the same comes of it again."""

    subject: str
    pieces: tuple[bytes, ...]
    """Batches, as they are received."""
    calls: bytes = b""
    """What the worker does in between: a byte for each batch, over and over."""

    def call(self, n: int) -> int:
        """0, which is nothing, when there are none."""
        return self.calls[n % len(self.calls)] if self.calls else 0

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)))

    @classmethod
    def read(cls, path: Path) -> "Input":
        return msgspec.json.decode(path.read_bytes(), type=cls)


class Subject(Protocol):
    name: str

    def make(self, rng: random.Random) -> Input: ...

    def run(self, given: Input) -> None:
        """Raises whatever should not have been raised, and AssertionError for a promise that was not kept."""


def make_calls(rng: random.Random) -> bytes:
    """None in every third input: then what is heard must not depend on how it was cut."""
    return b"" if rng.randrange(3) == 0 else bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
