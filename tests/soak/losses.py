# SPDX-License-Identifier: Apache-2.0
"""What an injected fault may cost: connections that a killed worker held. Pure."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

from nodeagent.model.address import Ip

IN_FLIGHT_SECONDS = 2.0
"""Until the other node's worker knows that a tunnel ended: on a starved machine it may not run for so long. What it has
put on the tunnel meanwhile was held by the worker that went."""
RESET = frozenset({"reset", "ended in mid-stream"})


class Loss(NamedTuple):
    """Of a worker: connections that it held may end so. Times are of CLOCK_MONOTONIC."""

    since: float
    until: float
    """When it had stopped to take connections."""
    endings: AbstractSet[str]


class Failure(Protocol):
    @property
    def what(self) -> str: ...
    @property
    def place(self) -> Ip: ...
    @property
    def connected(self) -> float: ...
    @property
    def ended(self) -> float: ...


def is_excused(failure: Failure, tunnelled: AbstractSet[Ip], lost: Iterable[Loss]) -> bool:
    """What goes past the workers, in the kernel, never notices; nor does who was not connected yet, or is later."""
    return failure.place in tunnelled and any(
        failure.what in loss.endings and 0 < failure.connected <= loss.until and failure.ended >= loss.since
        for loss in lost
    )
