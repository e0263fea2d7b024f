# SPDX-License-Identifier: Apache-2.0
"""From what the kernel tells of a direct connection to the record that the proxy would have made of it. Pure.

Names, identities and the deciding policy are those of the agent's own picture; the answer of evaluate() is the one that
the kernel's table holds. How it ended is said as far as the client's kernel knows it.
"""

import time
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from nodeagent.kernel.codings import FlowReport, ReportState
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, Direction, Party
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Verdict, evaluate_for
from nodeagent.policy.rehearse import Basis, note


class Moment(NamedTuple):
    """One moment on both clocks, to turn the kernel's times into everybody's."""

    wall: float
    monotonic_ns: int

    @classmethod
    def now(cls) -> "Moment":
        return cls(time.time(), time.monotonic_ns())

    def wall_at(self, monotonic_ns: int) -> float:
        return self.wall - (self.monotonic_ns - monotonic_ns) / 1e9


class Ending(NamedTuple):
    reason: Reason
    policy: str | None = None
    """The one that decides now; None: as at the opening."""
    error: str = ""


def describe(report: FlowReport, mesh: Mesh, network: str, now: Moment) -> ConnectionRecord:
    """As it opened. An end without a name is one that the mesh does not know any more."""
    record = ConnectionRecord(
        id=report.cookie,
        direction=Direction.OUTBOUND,
        started=now.wall_at(report.started),
        source_ip=report.client,
        source_port=report.client_port,
        original_ip=report.server,
        original_port=report.server_port,
        destination_ip=report.server,
        destination_port=report.server_port,
        is_in_kernel=True,
    )
    source, destination = (mesh.workload_at(network, ip) for ip in (report.client, report.server))
    if source is not None:
        record.source, record.source_identity = Party.of(source), source.identity
    if destination is not None:
        record.destination, record.destination_identity = Party.of(destination), destination.identity
        basis, facts = Basis.of(mesh, destination), _facts(record)
        verdict = basis.evaluate(facts)
        if isinstance(verdict, Allow):
            record.policy = verdict.policy or ""
        note(record, basis.rehearse(facts), verdict)
    return record


def judge(record: ConnectionRecord, mesh: Mesh, network: str) -> Verdict | None:
    """At this moment; None when the destination is not known."""
    destination = mesh.workload_at(network, record.destination_ip)
    if destination is None:
        return None
    return evaluate_for(mesh, destination, _facts(record))


def _facts(record: ConnectionRecord) -> ConnectionFacts:
    return ConnectionFacts(record.source_identity, record.source_ip, record.destination_ip, record.destination_port)


def revocation(record: ConnectionRecord, mesh: Mesh, network: str, lapsed: Collection[Identity] = ()) -> Ending:
    """Of a connection that the table in force does not allow. `lapsed`: whose certificate has ended."""
    unvouched = sorted(str(one) for one in (record.source_identity, record.destination_identity) if one in lapsed)
    if unvouched:
        return Ending(Reason.CERTIFICATE_MISSING, error=f"for {' and '.join(unvouched)}")
    verdict = judge(record, mesh, network)
    if isinstance(verdict, Deny):
        return Ending(Reason.POLICY_CHANGED, verdict.policy or "", f"now {verdict.reason.value}")
    return Ending(Reason.POLICY_CHANGED, error="now for the proxy to judge")


def how_it_ended(report: FlowReport, record: ConnectionRecord, mesh: Mesh, network: str) -> Ending:
    match report.state:
        case ReportState.CLOSED:
            return Ending(Reason.CLOSED)
        case ReportState.REFUSED:
            return Ending(Reason.CONNECT_REFUSED)
        case ReportState.UNANSWERED:
            sent = 1 + report.retransmissions
            return Ending(Reason.CONNECT_TIMEOUT, error=f"no answer; the SYN was sent {sent} time{'s' * (sent > 1)}")
        case _:
            # A reset looks alike, whoever sends it; that the connection is denied by now tells that it was us.
            is_denied = isinstance(judge(record, mesh, network), Deny)
            return revocation(record, mesh, network) if is_denied else Ending(Reason.RESET)


def ended(record: ConnectionRecord, report: FlowReport, ending: Ending) -> ConnectionRecord:
    return msgspec.structs.replace(
        record,
        sent_bytes=report.sent,
        received_bytes=report.received,
        round_trip_us=report.round_trip_us,
        retransmissions=report.retransmissions,
        seconds=max(0, report.ended - report.started) / 1e9,
        reason=ending.reason.value,
        policy=record.policy if ending.policy is None else ending.policy,
        error=ending.error,
    )
