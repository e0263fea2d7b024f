# SPDX-License-Identifier: Apache-2.0
"""Ends one open connection by an operator's order, whoever carries it, and tells how it ended.

The worker that has it cuts it; of one in the kernel both sockets are ended in the pods' namespaces. The order may come
at a bad moment (the connection is between a worker and its successor, or just ending), so it is given until the record
of an end is there, which is also what is answered: not what was wanted, but what happened.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from nodeagent.agent.fleet import WorkerFleet
from nodeagent.agent.flow_reports import FlowReports
from nodeagent.agent.verdicts import find_ends
from nodeagent.errors import ConfigError, NotPossible
from nodeagent.kernel.sock_destroy import End, destroy_sockets
from nodeagent.kernel.verdicts import Revoked
from nodeagent.model.address import Ip
from nodeagent.model.record import ConnectionId, ConnectionRecord
from nodeagent.telemetry.open_connections import KERNEL, OpenConnections

WAIT_SECONDS = 1.0
"""For the record of the end, before the order is given again."""
ATTEMPTS = 5


class Killer:
    def __init__(
        self,
        connections: OpenConnections,
        fleet: WorkerFleet,
        flows: FlowReports,
        namespaces: Callable[[], Mapping[Ip, str] | None],
    ) -> None:
        """`namespaces`: paths of the pods' network namespaces by their addresses; None while not known."""
        self._connections, self._fleet, self._flows, self._namespaces = connections, fleet, flows, namespaces

    async def kill(self, name: str) -> ConnectionRecord:
        """The record of its end. Raises ConfigError for what is not open, NotPossible for what does not end."""
        try:
            wanted = ConnectionId.parse(name)
        except ValueError as error:
            raise ConfigError(str(error), check=_LISTED) from error
        history = self._connections.history
        cursor = history.newest(0).cursor
        for attempt in range(ATTEMPTS):
            holder = self._connections.holder(wanted)
            if holder is not None:
                await self._end(holder, wanted)
            elif not attempt:
                raise ConfigError(f"no connection {name} is open here", check=_LISTED)
            page = await history.follow(cursor, WAIT_SECONDS)
            cursor = page.cursor
            for record in page.records:
                if record.name == name:
                    return record
        raise NotPossible(
            f"connection {name} was told to end, and no end of it was told",
            check="Is its worker being replaced, or overloaded? `nodeagent status` tells.",
        )

    async def _end(self, holder: int, wanted: ConnectionId) -> None:
        if holder != KERNEL:
            self._fleet.cut(holder, wanted.id)
            return
        record = self._connections.find(KERNEL, wanted.id)
        assert record is not None  # it was there in this turn of the loop
        flow = Revoked(record.source_ip, record.source_port, record.destination_ip, record.destination_port)
        self._flows.killed(flow)
        ends = find_ends([flow], self._namespaces() or {})
        if not ends:
            raise NotPossible(
                "the pods of this connection are not known any more", check="`nodeagent pods` lists those that are."
            )
        await asyncio.to_thread(_destroy, ends)


_LISTED = "`nodeagent connections` lists those that are open, with their ids."


def _destroy(ends: Mapping[str, Sequence[End]]) -> None:
    """Raises KernelError."""
    for netns, in_netns in ends.items():
        destroy_sockets(netns, in_netns)
