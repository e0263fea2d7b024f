# SPDX-License-Identifier: Apache-2.0
"""Keeps the kernel's table of verdicts true: connections between pods of this node that need no proxy.

The table is computed whenever something has changed that it was made from, and swapped in one step; what is open and no
longer allowed is ended then. The kernel does so at the next packet of either end; ends that are idle are closed here,
inside the pods' namespaces.

Workers know a change first, and before they do the table is suspended (nodeagent/kernel/verdicts.py).

Pods that the kernel does not decide about are left out, and the proxy answers for them: those without a number, those
behind a waypoint, and those whose certificate has ended, for whom nobody vouches any more. That an agent has no
certificates yet means nothing: its predecessor's table stays true.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from nodeagent.agent.enrolment import EnrolledPod, Enrolment
from nodeagent.agent.state import NodeState
from nodeagent.config import Config
from nodeagent.errors import KernelError
from nodeagent.kernel.codings import NUMBERS
from nodeagent.kernel.reconcile import Owner
from nodeagent.kernel.sock_destroy import End, destroy_sockets
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.verdicts import Revoked
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.policy.verdict_table import Member, VerdictRow, verdict_table
from nodeagent.routing.decide import is_reached_directly
from nodeagent.routing.route import PROXY_PORTS

log = logging.getLogger(__name__)


class NodeVerdicts:
    """One task calls `update`, its loop the rest. `on_revoked` hears of what a change ends, before it ends."""

    def __init__(
        self,
        config: Config,
        steering: Steering,
        state: NodeState,
        on_revoked: Callable[[Sequence[Revoked]], None] = lambda _revoked: None,
    ) -> None:
        self._is_kernel = config.same_node == "kernel"
        self._steering, self._state, self._on_revoked = steering, state, on_revoked
        self._members: list[Member] | None = None
        self._enrolled: tuple[EnrolledPod, ...] = ()
        self._numbers: Mapping[Owner, int] = {}
        """What the members were found for."""
        self._rows: list[VerdictRow] | None = None
        """What the kernel has; None before the first swap of this agent, when a swap failed or its table is gone."""
        self._told: frozenset[Revoked] = frozenset()
        self.generation = 0
        """Of the table in force, as the kernel counts; 0 before the first swap of this agent."""
        self.rows = self.judged = 0
        """Of that table: rows, and pods that it is about."""
        self.since = 0.0
        """Unix time of that swap."""

    async def succeed(self, enrolment: Enrolment) -> None:
        """Suspends a predecessor's table unless it is what would be made now, for these pods. Raises KernelError."""
        if self._is_kernel and await asyncio.to_thread(self._differs, enrolment):
            self._steering.suspend_verdicts()

    def _differs(self, enrolment: Enrolment) -> bool:
        in_force, by_address = self._steering.verdicts_in_force()
        numbers = {
            (pod.pod.namespace, pod.pod.name, pod.pod.netns): by_address[ip]
            for pod in enrolment.enrolled
            for ip in pod.workload.addresses
            if ip in by_address
        }
        found = find_members(self._state.mesh, enrolment.enrolled, numbers, self._state.lapsed)
        return in_force != frozenset(verdict_table(sorted(found, key=lambda member: member.number), PROXY_PORTS))

    def suspend_if_changed(self) -> None:
        """Until the next update every new connection is the proxy's, if the table would be of something else now."""
        if self._members is None or self._find_members() == self._members:
            return
        try:
            self._steering.suspend_verdicts()
        except KernelError as error:  # the next update meets it again, and has somebody to tell
            log.warning("%s; new connections are decided by the former table until the next. %s", error, error.check)

    async def update(self, enrolment: Enrolment) -> None:
        """The table as the mesh is at this moment, for the pods that are captured. Raises KernelError."""
        suspensions = self._steering.suspensions()
        if self.generation != self._steering.generation():  # the maps had to be made again, and are empty
            self._rows = None
        self._enrolled, self._numbers = enrolment.enrolled, self._steering.numbers()
        former, members = self._members, self._find_members()
        self._members = members  # a change is one from these, also while their table is being made
        if members == former and self._rows is not None:
            self._steering.resume_verdicts(suspensions)
            return
        rows = await asyncio.to_thread(verdict_table, members, PROXY_PORTS)
        if rows == self._rows:
            self._steering.resume_verdicts(suspensions)
        else:
            self._rows = None
            swap = await asyncio.to_thread(self._steering.put_verdicts, rows, suspensions)
            self.generation, self.rows, self.judged = swap.generation, swap.rows, len(members)
            self.since = time.time()
            log.info("kernel: verdicts for %d pods, generation %d, %d rows", len(members), swap.generation, swap.rows)
            await self._end_revoked(enrolment)
        self._rows = rows

    def _find_members(self) -> list[Member]:
        if not self._is_kernel:
            return []
        found = find_members(self._state.mesh, self._enrolled, self._numbers, self._state.lapsed)
        return sorted(found, key=lambda member: member.number)  # the same pods make the same table

    async def _end_revoked(self, enrolment: Enrolment) -> None:
        revoked = frozenset(await asyncio.to_thread(self._steering.revoked))
        ended, self._told = sorted(revoked - self._told), revoked
        if not ended:
            return
        log.info("%d open connections between pods of this node are no longer allowed", len(ended))
        self._on_revoked(ended)
        namespaces = {ip: pod.pod.netns for pod in enrolment.enrolled for ip in pod.workload.addresses}
        await asyncio.to_thread(_destroy, find_ends(ended, namespaces))


def find_members(
    mesh: Mesh, enrolled: Sequence[EnrolledPod], numbers: Mapping[Owner, int], lapsed: Collection[Identity]
) -> Iterator[Member]:
    """Pure. The pods that the kernel may decide about, with what decides about them in the mesh of this moment."""
    for pod in enrolled:
        workload = mesh.workloads.get(pod.workload.uid)  # enrolment may have been decided before the last change
        if workload is None:
            continue
        number = numbers.get((pod.pod.namespace, pod.pod.name, pod.pod.netns), NUMBERS)
        if number < NUMBERS and workload.identity not in lapsed:
            policies, missing = mesh.policies_for(workload)
            yield Member(
                number,
                workload.identity,
                workload.addresses,
                policies,
                missing,
                # Whose connections are counted, a worker must see them.
                is_destination=is_reached_directly(workload, mesh) and mesh.limits(workload.uid) is None,
            )


def find_ends(revoked: Sequence[Revoked], namespaces: Mapping[Ip, str]) -> dict[str, list[End]]:
    """Pure. Both ends of each connection by the network namespace that holds them; a pod that left has none."""
    ends: dict[str, list[End]] = {}
    for flow in revoked:
        client = End(flow.client, flow.client_port, flow.server, flow.server_port)
        server = End(flow.server, flow.server_port, flow.client, flow.client_port)
        for end in (client, server):
            if end.ip in namespaces:
                ends.setdefault(namespaces[end.ip], []).append(end)
    return ends


def _destroy(ends: Mapping[str, Sequence[End]]) -> None:
    """What cannot be ended from here is reset by the kernel at its next packet, so a failure is a remark."""
    for netns, in_netns in ends.items():
        try:
            destroy_sockets(netns, in_netns)
        except KernelError as error:
            log.warning("%s; reset at the next packet instead. %s", error, error.check)
