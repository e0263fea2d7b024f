# SPDX-License-Identifier: Apache-2.0
"""What all connections of a worker share, made once and handed to each part instead of globals."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from nodeagent.proxy.guard import OpenConnections
from nodeagent.proxy.holds import Holds
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.proxy.state import State

_OWN_DESCRIPTORS = 8
"""Listeners, control, reports, signals."""


_Option = TypeVar("_Option")


class Shared(msgspec.Struct, frozen=True):
    loop: Loop
    state: State
    connections: OpenConnections
    holds: Holds
    secrets: SecretsPipe
    kernel_records: KernelRecords
    counters: Counter[str]
    """Totals for the agent's metrics; what can be derived from records is not counted again."""
    pick_tunnel_port: Callable[[], int] = int
    """From which a tunnel is dialled; 0: any."""

    @property
    def is_full(self) -> bool:
        """As many connections as configured, or as many sockets as those could have: idle tunnels have no record."""
        most = self.state.config.max_connections
        return len(self.connections.guards) >= most or self.loop.watched >= 2 * most + _OWN_DESCRIPTORS


def pick_by_weight(options: Sequence[_Option], cumulative: Sequence[int]) -> _Option:
    """The `Pick` of routing."""
    return random.choices(options, cum_weights=cumulative)[0]  # noqa: S311 - balancing, no secret
