# SPDX-License-Identifier: Apache-2.0
"""What the programs tell of direct connections: events as they come, and a table of those that are open.

An event may be late, never lost: an opening is in the table until its end, and an end for which the ring had no room
is in the table until it is fetched. Only a connection for which the table has no room leaves nothing but its count.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from nodeagent.errors import KernelError
from nodeagent.kernel import codings, syscall
from nodeagent.kernel.codings import FlowReport
from nodeagent.kernel.maps import Table
from nodeagent.kernel.ring import Ring

_LOSS_OF_EVENT, _LOSS_OF_FLOW = 0, 1
"""enum flow_loss of bpf/maps.h."""


class Losses(NamedTuple):
    late: int = 0
    """Events that did not fit into the ring."""
    unseen: int = 0
    """Connections that did not fit into the table."""


class FlowTable:
    """Of one layout, open. Methods raise KernelError."""

    def __init__(self, maps: Path) -> None:
        self._path = maps / "flow_events"
        self._decode = codings.of_flow_report().decode
        with ExitStack() as opened:
            try:
                self._ring = Ring(str(self._path))
            except OSError as error:
                raise KernelError(f"map {self._path}: {error.strerror}", check="Did the loader run?") from error
            opened.callback(self._ring.close)
            self._rows = Table(maps, "flow_reports", codings.of_number("=Q"), codings.of_flow_report())
            opened.callback(self._rows.close)
            self._losses = Table(maps, "flow_losses", codings.of_number(), codings.of_sum(), is_per_cpu=True)
            opened.callback(self._losses.close)
            self._opened = opened.pop_all()

    @property
    def descriptor(self) -> int:
        """Readable while there are events."""
        return self._ring.descriptor

    def is_current(self) -> bool:
        """Whether the pins still name what is open here; somebody may have taken them away and the agent made new."""
        try:
            with syscall.opened(str(self._path)) as descriptor:
                return syscall.map_info(descriptor).id == self._ring.id
        except OSError:
            return False

    def events(self, limit: int) -> list[FlowReport]:
        return [self._decode(event) for event in self._ring.read(limit)]

    def rows(self) -> list[FlowReport]:
        return list(self._rows.rows().values())

    def forget(self, cookie: int) -> None:
        self._rows.remove(cookie)

    def losses(self) -> Losses:
        return Losses(self._losses.find(_LOSS_OF_EVENT) or 0, self._losses.find(_LOSS_OF_FLOW) or 0)

    def close(self) -> None:
        self._opened.close()
