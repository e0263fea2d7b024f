# SPDX-License-Identifier: Apache-2.0
"""What a part of the soak hands back. A new part is a function of Options, in PARTS of __main__.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Tell: TypeAlias = Callable[[str], None]
"""Shows a line of progress."""


@dataclass(frozen=True)
class Options:
    seconds: float = 600.0
    """Of `mixed`."""
    replacements: int = 20
    """Of `handover`."""
    cases: int = 1_000_000
    """Of `policies`, each kind."""
    pause_seconds: float = 0.25
    """Of `handover`, between two pieces of a stream: 800 pieces a second are half of what two cores carry so."""
    rate: float = 50.0
    """New connections a second."""


@dataclass(frozen=True)
class Outcome:
    summary: str
    """One line with all figures."""
    broken: tuple[str, ...]
    """Promises that did not hold, and how."""


Part: TypeAlias = Callable[[Options, Tell], Outcome]
