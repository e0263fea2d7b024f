# SPDX-License-Identifier: Apache-2.0
"""Connections that the kernel carries alone, brought into the same records, metrics and log as those of the workers.

Events tell openings and ends at once. A look at the kernel's table, every LOOK_SECONDS, brings the bytes of those that
are open into the metrics, fetches ends for which the ring had no room, and finds what a former agent had seen open. The
bytes are asked of TCP itself (sock_diag, in the pod's namespace): nothing is counted on a packet's way.

A report is believed when it comes from the network namespace of the pod whose address it names: inside a namespace of
its own anybody can have any address.
"""

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import msgspec

from nodeagent.agent.flow_record import Ending, Moment, describe, ended, how_it_ended, revocation
from nodeagent.agent.state import NodeState
from nodeagent.errors import KernelError
from nodeagent.kernel.codings import FlowReport, ReportState
from nodeagent.kernel.flow_table import FlowTable, Losses
from nodeagent.kernel.netns import netns_cookie
from nodeagent.kernel.sock_destroy import End
from nodeagent.kernel.sock_diag import Carried, read_sockets
from nodeagent.kernel.verdicts import Revoked
from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord
from nodeagent.telemetry.open_connections import KERNEL, OpenConnections

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0
"""As the workers are asked: a usual scrape interval."""
MOST_EVENTS = 64
"""Of one turn of the loop: some milliseconds. What else there is waits its turn with everything else."""
NODE_SHARE = 0.03
"""Of the node's processors, and one at most: what telling may take from those of whom it tells. On two processors that
are some 2000 connections a second; of more the ends stay in the table, whose looks have the same share."""
LEAST_PAUSE_SECONDS = 0.002
"""Between two turns: events that come in quick succession wake the agent once."""
RETRY_SECONDS = 1.0


class Look(NamedTuple):
    """The kernel's table at one moment."""

    rows: Sequence[FlowReport] = ()
    carried: Mapping[int, Carried] = {}
    """By cookie, of those that are open and whose socket could be asked."""
    gone: frozenset[int] = frozenset()
    """Not ended by the table, and without a socket."""
    error: str = ""
    """Of a namespace that could not be asked."""


class FlowReports:
    def __init__(
        self,
        maps: Path,
        network: str,
        state: NodeState,
        connections: OpenConnections,
        pods: Callable[[], Mapping[Ip, str] | None],
    ) -> None:
        """`pods`: paths of the network namespaces of enrolled pods, by their addresses; None while not known."""
        self.disowned = 0
        """Reports that came from somebody else than the pod they named."""
        self.error = ""
        """Why connections in the kernel are not told, or not whole; empty when they are."""
        self._maps, self._network, self._state = maps, network, state
        self._connections, self._pods = connections, pods
        self._table: FlowTable | None = None
        self._cookies: dict[str, int] = {}
        """Of network namespaces, by their paths, as they were when last read."""
        self._revoked: frozenset[Revoked] = frozenset()
        self._killed: frozenset[Revoked] = frozenset()
        self._gone: frozenset[int] = frozenset()
        """Of the last look."""
        self._rest = rest_for(len(os.sched_getaffinity(0)))
        self._resumes: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Ends only by cancellation. Begins when the pods are known: reports of unknown pods would have no names."""
        try:
            while True:
                if self._pods() is None:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                try:
                    await self.look()
                except KernelError as error:
                    self._fails(f"{error}. {error.check}")
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._close()

    def revoked(self, flows: Iterable[Revoked]) -> None:
        """These are direct and not allowed any more. To be told before their sockets are ended."""
        self._revoked |= frozenset(flows)

    def killed(self, flow: Revoked) -> None:
        """An operator has this one ended. To be told before its sockets are."""
        self._killed |= {flow}

    def losses(self) -> Losses:
        try:
            return self._table.losses() if self._table is not None else Losses()
        except KernelError:
            return Losses()  # the next look says so

    async def connections(self) -> list[ConnectionRecord]:
        """Those that are open, with what they have carried up to this moment."""
        if self._table is None:
            return []
        try:
            look = await self._read(self._table)
        except KernelError as error:
            self._fails(str(error))
            return []
        now = Moment.now()
        return [self._so_far(report, look, now) for report in look.rows if self._is_open(report, look)]

    # ---- events ----------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """A bounded piece, then a pause for others; the descriptor stays readable while there is more."""
        if self._table is None:
            return
        loop, began = asyncio.get_running_loop(), time.thread_time()
        loop.remove_reader(self._table.descriptor)
        try:
            self._tell(self._table)
        finally:
            pause = max(LEAST_PAUSE_SECONDS, (time.thread_time() - began) * self._rest)
            self._resumes = loop.call_later(pause, self._attend)

    def _attend(self) -> None:
        if self._table is not None:
            asyncio.get_running_loop().add_reader(self._table.descriptor, self._readable)

    def _tell(self, table: FlowTable) -> None:
        now = Moment.now()
        for report in table.events(MOST_EVENTS):
            if not self._is_owned(report):
                self.disowned += 1
            elif report.ended:
                self._ended(report, now)
            else:
                self._connections.opened(KERNEL, describe(report, self._state.mesh, self._network, now))

    def _ended(self, report: FlowReport, now: Moment) -> None:
        record, mesh = self._record(report, now), self._state.mesh
        ending = how_it_ended(report, record, mesh, self._network)
        if report.state == ReportState.RESET and _name(report) in self._killed:
            ending = Ending(Reason.OPERATOR_KILLED)
        elif ending.reason is Reason.RESET and self._has_left(report):
            ending = Ending(Reason.POD_REMOVED)
        elif ending.reason is Reason.RESET and _name(report) in self._revoked:
            ending = revocation(record, mesh, self._network, self._state.lapsed)
        self._connections.closed(KERNEL, ended(record, report, ending))

    def _record(self, report: FlowReport, now: Moment) -> ConnectionRecord:
        """With the names that it had when it opened, if that was told."""
        record = self._connections.find(KERNEL, report.cookie)
        return record or describe(report, self._state.mesh, self._network, now)

    def _is_owned(self, report: FlowReport) -> bool:
        path = (self._pods() or {}).get(report.client)
        if path is None:  # it has left; its connections had been believed while it was there
            return self._connections.find(KERNEL, report.cookie) is not None
        if report.netns in {0, self._cookies.get(path)}:
            return True
        try:
            self._cookies[path] = netns_cookie(path)  # the path may have come to name another namespace
        except OSError:
            return False
        return report.netns == self._cookies[path]

    # ---- looks -----------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Raises KernelError."""
        if self._table is None or not self._table.is_current():
            self._open()
        table = self._table
        assert table is not None
        with self._connections.asking(KERNEL) as already_ended:
            look = await self._read(table)
            records = [record async for record in self._go_through(table, look, already_ended)]
            self._connections.observed(KERNEL, records, time.time(), already_ended, Reason.END_UNSEEN)
        for cookie in look.gone & self._gone:  # one that has just ended may be missed once
            table.forget(cookie)
        self._gone = look.gone
        names = {_name(report) for report in look.rows}
        self._revoked &= names
        self._killed &= names
        if look.error:
            self._fails(look.error)
        else:
            self.error = ""

    async def _read(self, table: FlowTable) -> Look:
        return await asyncio.to_thread(read_look, table, dict(self._pods() or {}))

    async def _go_through(
        self, table: FlowTable, look: Look, already_ended: AbstractSet[int]
    ) -> AsyncIterator[ConnectionRecord]:
        """Those that are open; the ends that waited are told, and those of pods that have left."""
        now, began = Moment.now(), time.thread_time()
        for number, report in enumerate(look.rows):
            if number % MOST_EVENTS == MOST_EVENTS - 1:
                await asyncio.sleep((time.thread_time() - began) * self._rest)
                began = time.thread_time()
            if report.ended:
                if report.cookie not in already_ended and self._is_owned(report):
                    self._ended(report, now)
                table.forget(report.cookie)
            elif self._has_left(report):
                self._connections.cut(KERNEL, report.cookie, Reason.POD_REMOVED, now.wall)
                table.forget(report.cookie)
            elif self._is_open(report, look):
                yield self._so_far(report, look, now)

    def _has_left(self, report: FlowReport) -> bool:
        local = self._state.local
        return local is not None and not (report.client in local and report.server in local)

    def _is_open(self, report: FlowReport, look: Look) -> bool:
        return report.state == ReportState.OPEN and report.cookie not in look.gone and self._is_owned(report)

    def _so_far(self, report: FlowReport, look: Look, now: Moment) -> ConnectionRecord:
        record = self._record(report, now)
        carried = look.carried.get(report.cookie, Carried(0, 0, 0, 0))  # what was counted before stays counted
        return msgspec.structs.replace(
            record,
            sent_bytes=carried.sent,
            received_bytes=carried.received,
            round_trip_us=carried.round_trip_us,
            retransmissions=carried.retransmissions,
            seconds=max(0.0, now.wall - record.started),
        )

    # ---- the table -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._close()
        self._table = FlowTable(self._maps)
        self._attend()

    def _close(self) -> None:
        if self._resumes is not None:
            self._resumes.cancel()
            self._resumes = None
        if self._table is not None:
            asyncio.get_running_loop().remove_reader(self._table.descriptor)
            self._table.close()
            self._table = None

    def _fails(self, error: str) -> None:
        if error != self.error:
            log.error("connections in the kernel: %s", error)
        self.error = error


def rest_for(processors: int) -> float:
    """How much longer than a turn the pause behind it is, so that turns take NODE_SHARE of so many processors."""
    return max(0.0, 1 / min(1.0, NODE_SHARE * processors) - 1)


def read_look(table: FlowTable, pods: Mapping[Ip, str]) -> Look:
    """In a thread: it takes some 15 µs for each open connection."""
    rows = table.rows()
    asked: defaultdict[str, list[tuple[int, End]]] = defaultdict(list)
    for report in rows:
        path = pods.get(report.client)
        if path is not None and not report.ended:
            end = End(report.client, report.client_port, report.server, report.server_port)
            asked[path].append((report.cookie, end))
    carried: dict[int, Carried] = {}
    gone: set[int] = set()
    error = ""
    for path, ends in asked.items():
        try:
            found = read_sockets(path, ends)
        except KernelError as failure:
            error = error or f"{failure}. {failure.check}"
            continue
        carried |= found
        gone |= {cookie for cookie, _ in ends} - found.keys()
    return Look(rows, carried, frozenset(gone), error)


def _name(report: FlowReport) -> Revoked:
    return Revoked(report.client, report.client_port, report.server, report.server_port)
