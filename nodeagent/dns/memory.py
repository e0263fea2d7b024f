# SPDX-License-Identifier: Apache-2.0
"""The last good answers on disk, for an agent that starts while the node's resolver does not answer.

How long one may be used is counted from when the resolver gave it, so times are those of the wall clock. A file that is
damaged or cannot be read is told and costs a wait for the resolver.
"""

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from nodeagent.dns.book import Family
from nodeagent.errors import StateFileUnwritable
from nodeagent.model.address import Ip, parse_ip

_log = logging.getLogger(__name__)

FILE_NAME = "names.json"


class KeptAnswer(msgspec.Struct, frozen=True):
    """Of one family."""

    name: str
    family: Family
    addresses: tuple[Ip, ...]
    at: float
    """Unix seconds: when the resolver said so."""


class AnswerFile:
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def load(self) -> tuple[KeptAnswer, ...]:
        """Blocking. What was saved last; nothing, with a warning, if that cannot be told."""
        try:
            return _read(self.path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            _log.warning("%s is ignored, so names mean nothing before the resolver answers: %s", self.path, why)
            return ()

    def save(self, answers: Iterable[KeptAnswer]) -> None:
        """Blocking. Replaces the file whole. Raises StateFileUnwritable; the former one is then still there."""
        aside = self.path.with_suffix(".partial")
        try:
            aside.unlink(missing_ok=True)
            with open(aside, "xb", opener=_for_owner_alone) as file:
                file.write(msgspec.json.encode(tuple(answers)))
            aside.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                aside.unlink(missing_ok=True)
            raise StateFileUnwritable(f"{self.path}: {error.strerror}") from error


def _read(data: bytes) -> tuple[KeptAnswer, ...]:
    """Raises ValueError or MsgspecError."""
    found = msgspec.json.decode(data, type=tuple[KeptAnswer, ...])
    for answer in found:
        if answer.addresses != tuple(map(parse_ip, answer.addresses)):
            raise ValueError(f"{answer.name}: an address is not written as it is here")
    return found


def _for_owner_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
