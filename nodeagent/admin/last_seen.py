# SPDX-License-Identifier: Apache-2.0
"""When a connection like the one that `explain` is asked about was last seen on this node, and how it ended. Pure.

Only what is over is looked at, as `nodeagent flows` has it. A node sees what its own pods dial and what dials them, so
the other end's node may know of one that this one never met.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from nodeagent.logs.moment import timestamp
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.routing.route import Target

RECENT_SECONDS = 300.0
"""How far back those are counted that are like it."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What makes a connection such a one."""

    sources: Collection[Ip]
    dialled: Collection[Target]
    """Where the client connected to."""
    endpoints: Collection[Target]
    """Where it may have been led; an inbound record has nothing else."""
    identity: Identity | None = None
    """That was proved; None: whichever."""
    is_plaintext: bool = False
    """Nobody proved any."""

    def fits(self, record: ConnectionRecord) -> bool:
        if record.source_ip not in self.sources or not self._is_there(record):
            return False
        if self.is_plaintext:
            return record.source_identity is None and record.direction is Direction.INBOUND
        return self.identity in {None, record.source_identity}

    def _is_there(self, record: ConnectionRecord) -> bool:
        original = Target(record.original_ip, record.original_port)
        return original in self.dialled or Target(record.destination_ip, record.destination_port) in self.endpoints


def last_seen(newest_first: Iterable[ConnectionRecord], likeness: Likeness, now: float) -> dict[str, object] | None:
    """The last one, and how many there were lately; None when there is none among those that are given."""
    last: ConnectionRecord | None = None
    recent = 0
    for record in newest_first:
        is_recent = record.started + record.seconds >= now - RECENT_SECONDS
        if last is not None and not is_recent:
            break
        if likeness.fits(record):
            last = last or record
            recent += is_recent
    if last is None:
        return None
    return {
        "ended": timestamp(last.started + last.seconds),
        "direction": last.direction,
        "path": last.path,
        "verdict": last.verdict,
        "reason": last.reason,
        "policy": last.policy,
        "recent": recent,
        "recent_seconds": int(RECENT_SECONDS),
    }
