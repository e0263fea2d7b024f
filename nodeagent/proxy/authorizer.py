# SPDX-License-Identifier: Apache-2.0
"""Policy on connections to local pods: when they begin, and again when anything that policy depends on has changed.

The decision itself is policy/evaluate.py's. Reviewing goes in slices like applying does, so that ten thousand open
connections do not stop the loop; a change during a review asks for another one.
"""

import time
from collections.abc import Callable, Iterator
from typing import assert_never

from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction
from nodeagent.model.workload import Workload
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Pending, Verdict
from nodeagent.policy.limits import SourceLimits
from nodeagent.policy.rehearse import Basis, note
from nodeagent.proxy.guard import ConnectionGuard, OpenConnections
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.state import State

_SLICE_SECONDS = 0.001


class Authorizer:
    def __init__(self, loop: Loop, state: State, connections: OpenConnections) -> None:
        self._loop, self._state, self._connections = loop, state, connections
        self._reviewed_generation = -1
        self._reviewed_local: frozenset[Ip] = frozenset()
        self._review: Iterator[ConnectionGuard] | None = None
        self._bases: dict[Ip, Basis] = {}
        self._limits = SourceLimits()

    def judge(self, guard: ConnectionGuard, workload: Workload, facts: ConnectionFacts) -> Verdict:
        """The verdict at this moment. An allowed connection is reviewed from now on, also while it is being dialled."""
        basis = Basis.of(self._state.mesh, workload)
        verdict = basis.evaluate(facts)
        note(guard.record, basis.rehearse(facts), verdict)
        if isinstance(verdict, Allow):
            guard.facts, guard.basis = facts, basis
            guard.record.policy = verdict.policy or ""
        return verdict

    def settle(
        self,
        guard: ConnectionGuard,
        workload: Workload,
        facts: ConnectionFacts,
        allowed: Callable[[], None],
        refused: Callable[[Reason], None],
    ) -> bool:
        """Judges and goes on by the verdict; False when a policy that `workload` names has not arrived yet."""
        verdict = self.judge(guard, workload, facts)
        match verdict:
            case Allow():
                reason = self._limited(guard, workload, facts)
                if reason is None:
                    allowed()
                else:
                    refused(reason)
            case Deny(policy, reason):
                guard.record.policy = policy or ""
                refused(reason)
            case Pending():
                return False
            case unreachable:
                assert_never(unreachable)
        return True

    def _limited(self, guard: ConnectionGuard, workload: Workload, facts: ConnectionFacts) -> Reason | None:
        """Why an allowed connection is one too many of its source; None when it has its place, held by the guard."""
        limits = self._state.mesh.limits(workload.uid)
        if limits is None:
            return None
        place = self._limits.admit(limits, facts.source_identity or facts.source_ip, self._loop.now)
        if isinstance(place, Reason):
            return place
        guard.leases = (*guard.leases, place)
        return None

    def state_changed(self) -> None:
        if self._review is None and self._is_stale:
            self._begin()

    def crashed(self) -> None:
        """The connection at which it broke was passed; the rest of the review goes on."""
        if self._review is not None:
            self._loop.after(0, self, self._slice)

    def look_again(self, guard: ConnectionGuard) -> None:
        """At one that was judged by another process. If the review's policies are older than the state, one follows."""
        if guard.is_open:
            self._loop.guarded(self, self._look_again, guard)

    @property
    def _is_stale(self) -> bool:
        return self._reviewed_generation != self._state.mesh.generation or self._reviewed_local is not self._state.local

    def _begin(self) -> None:
        self._reviewed_generation, self._reviewed_local = self._state.mesh.generation, self._state.local
        self._bases.clear()
        self._review = iter(self._connections.all())
        self._loop.after(0, self, self._slice)

    def _slice(self) -> None:
        deadline = time.monotonic() + _SLICE_SECONDS
        for guard in self._review or ():
            if guard.is_open:
                self._loop.guarded(self, self._look_again, guard)
            if time.monotonic() > deadline:
                self._loop.after(0, self, self._slice)
                return
        self._review = None
        self.state_changed()

    def _look_again(self, guard: ConnectionGuard) -> None:
        record = guard.record
        own = {record.source_ip if record.direction is Direction.OUTBOUND else record.original_ip}
        if guard.facts is not None:  # between two pods of this node it is outbound, and judged all the same
            own.add(guard.facts.destination_ip)
        if not own <= self._state.local:
            guard.cut(Reason.POD_REMOVED)
        elif guard.facts is not None:
            self._judge_again(guard, guard.facts)

    def _judge_again(self, guard: ConnectionGuard, facts: ConnectionFacts) -> None:
        basis = self._basis(facts.destination_ip)
        if basis is None or basis == guard.basis:
            return  # the workload is being replaced, or nothing that concerns this connection has changed
        verdict = basis.evaluate(facts)
        note(guard.record, basis.rehearse(facts), verdict)
        if isinstance(verdict, Deny):
            guard.record.policy = verdict.policy or ""
            guard.cut(Reason.POLICY_CHANGED, f"now {verdict.reason.value}")
        elif isinstance(verdict, Allow):
            guard.basis = basis
            guard.record.policy = verdict.policy or ""

    def _basis(self, ip: Ip) -> Basis | None:
        """Looked up once per workload and review, since most connections of a node are to few of them."""
        basis = self._bases.get(ip)
        if basis is None:
            workload = self._state.local_workload(ip)
            if workload is None:
                return None
            basis = self._bases[ip] = Basis.of(self._state.mesh, workload)
        return basis
