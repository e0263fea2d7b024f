# SPDX-License-Identifier: Apache-2.0
"""Who talks to whom: open connections and those that are over, summed by their two ends. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from nodeagent.admin import answers
from nodeagent.admin.state import AgentState, Captured, OpenConnection
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.record import ConnectionRecord, Direction, Party, Path, Verdict

_RANK: tuple[answers.Secured, ...] = ("none", "mtls", "node", "plain")
"""An edge is as secure as the least secure of its connections."""


@dataclass
class _Edge:
    source: str
    destination: str
    source_identity: Identity | None = None
    destination_identity: Identity | None = None
    connections: int = 0
    ended: int = 0
    denied: int = 0
    failed: int = 0
    secured: answers.Secured = "none"
    sent_bytes: int = 0
    received_bytes: int = 0

    def add(self, record: ConnectionRecord, *, is_open: bool) -> None:
        verdict = record.verdict
        self.connections += is_open
        self.ended += not is_open and verdict is Verdict.ALLOWED
        self.denied += verdict is Verdict.DENIED
        self.failed += verdict is Verdict.FAILED
        self.sent_bytes += record.sent_bytes
        self.received_bytes += record.received_bytes
        self.source_identity = self.source_identity or record.source_identity
        self.destination_identity = self.destination_identity or record.destination_identity
        if verdict is Verdict.ALLOWED:
            self.secured = max(self.secured, secured(record), key=_RANK.index)


def edges(state: AgentState, found: Sequence[OpenConnection], over: Sequence[ConnectionRecord]) -> answers.Edges:
    """By the names of both ends. What is tunnelled between two pods of this node is told by its client's end alone."""
    local = frozenset(ip for pod in state.pods if pod.captured is Captured.YES for ip in pod.ips)
    made: dict[tuple[str, str], _Edge] = {}
    records = [(one.record, True) for one in found] + [(record, False) for record in over]
    for record, is_open in records:
        if _is_told_twice(record, local):
            continue
        ends = _name(record.source, record.source_ip), _destination(record)
        made.setdefault(ends, _Edge(*ends)).add(record, is_open=is_open)
    return {"edges": [_show(made[ends]) for ends in sorted(made)]}


def secured(record: ConnectionRecord) -> answers.Secured:
    """How its bytes crossed: by mutual TLS, within this node between two pods that it vouches for, or in plain text."""
    if record.path is Path.TUNNEL:
        return "mtls"
    return "node" if record.source_identity and record.destination_identity else "plain"


def _is_told_twice(record: ConnectionRecord, local: frozenset[Ip]) -> bool:
    return record.direction is Direction.INBOUND and record.path is Path.TUNNEL and record.source_ip in local


def _destination(record: ConnectionRecord) -> str:
    """One that never had an endpoint goes by the Service that was dialled."""
    if record.destination == Party() and record.service:
        return record.service
    return _name(record.destination, record.destination_ip or record.original_ip)


def _name(party: Party, ip: Ip) -> str:
    name = party.workload or party.canonical_name
    return f"{party.namespace}/{name}" if name else ip


def _show(edge: _Edge) -> answers.Edge:
    return {
        "source": edge.source,
        "destination": edge.destination,
        "source_identity": str(edge.source_identity or ""),
        "destination_identity": str(edge.destination_identity or ""),
        "connections": edge.connections,
        "ended": edge.ended,
        "denied": edge.denied,
        "failed": edge.failed,
        "secured": edge.secured,
        "sent_bytes": edge.sent_bytes,
        "received_bytes": edge.received_bytes,
    }
