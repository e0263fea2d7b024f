# SPDX-License-Identifier: Apache-2.0
"""What became of a replaced worker's connections, counted from its reports. No I/O; an event tells the end."""

import asyncio
from dataclasses import dataclass, field

from nodeagent.model.reason import Reason

_CUT = frozenset(reason.value for reason in (Reason.DRAINED, Reason.HANDOVER_FAILED, Reason.WORKER_LOST))
"""How a connection ends that its ends would have gone on with; every other reason would have come without us too."""


@dataclass(eq=False, kw_only=True)
class Replacement:
    slot: int
    former: int
    """Pid of the worker that leaves."""
    pid: int
    """Of its successor, which serves."""
    handed_over: int = 0
    """Connections that go on at the successor."""
    drained: int = 0
    """Those that came to their own end at the former worker, beside its successor."""
    cut: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """The former worker is gone, and no figure changes any more."""

    def handed(self, count: int) -> None:
        self.handed_over += count

    def closed(self, reason: str) -> None:
        """One that the former worker tells the end of."""
        if reason in _CUT:
            self.cut += 1
        else:
            self.drained += 1

    def over(self, lost: int) -> None:
        """It is gone, and with it `lost` connections that it told nothing more about."""
        self.cut += lost
        self.ended.set()
