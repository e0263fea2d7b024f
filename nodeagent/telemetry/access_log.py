# SPDX-License-Identifier: Apache-2.0
"""One line per connection with ztunnel's field names and format, as text or JSON. Formatting is pure.

ztunnel's fields come first and are exactly its own. Behind them stands by whom the bytes were carried, what the kernel
tells of those that it carried alone, and what dry runs would have decided. A refused or broken connection adds
`reason`, `policy` and `check`, which name what the error alone does not: the counted reason, the policy that decided,
and what to look at.
"""

import json
from collections.abc import Callable, Iterator
from functools import lru_cache

from nodeagent.logs.escape import bare, bounded, quoted
from nodeagent.logs.levels import LogLevels, is_told
from nodeagent.logs.moment import LAST_SECOND, timestamp
from nodeagent.model.address import join_host_port
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.record import OPEN_FLAG, ConnectionRecord, Direction, Party, Path, reason_of

_BARE_FIELDS = frozenset({"src.addr", "dst.addr", "dst.hbone_addr", "bytes_sent", "bytes_recv", "retransmissions"})

"""The end of year 9999, which datetime cannot pass."""


class AccessLog:
    """`write` gets each line, with its newline; it must neither block nor raise (see LineWriter)."""

    def __init__(self, write: Callable[[str], None], *, as_json: bool = False, level: str = "info") -> None:
        self._write, self._format = write, format_json if as_json else format_text
        self._level = level
        """At debug there is a line when a connection opens, too."""

    def follow(self, levels: LogLevels) -> None:
        self._level = levels.access()

    def opened(self, record: ConnectionRecord) -> None:
        if is_told("debug", self._level):
            self._write(self._format(record.started, "debug", "connection opened", dict(_ends(record))))

    def closed(self, record: ConnectionRecord) -> None:
        level, message = level_and_message(record)
        if is_told(level, self._level):
            self._write(self._format(record.started + record.seconds, level, message, fields_of(record)))


def level_and_message(record: ConnectionRecord) -> tuple[str, str]:
    """As ztunnel: `connection failed` is a refusal before anything was chosen; else how it ended tells the level."""
    reason = reason_of(record)
    if reason is None or reason.flag == OPEN_FLAG:
        return "info", "connection complete"
    return ("error", "connection complete") if record.destination_ip else ("warn", "connection failed")


def fields_of(record: ConnectionRecord) -> dict[str, str | int]:
    """Of an ended connection, in ztunnel's order. Absent is what is not known."""
    fields: dict[str, str | int] = dict(_ends(record))
    # As this node's pod sees it: what a client sent, what a server answered.
    sent, received = record.sent_bytes, record.received_bytes
    if record.direction is Direction.INBOUND:
        sent, received = received, sent
    fields |= {"bytes_sent": sent, "bytes_recv": received, "duration": _milliseconds(record.seconds)}
    fields["path"] = record.path
    if record.path is Path.KERNEL:
        fields |= {"rtt": f"{record.round_trip_us}us", "retransmissions": record.retransmissions}
    if record.dry_run:
        fields["dry_run"] = record.dry_run
        fields |= {"dry_run.policy": record.dry_run_policy} if record.dry_run_policy else {}
    reason = reason_of(record)
    if reason is not None and reason is not Reason.CLOSED:
        # The record's own word: of a reason that this release does not know, the name must not get lost.
        fields["error"] = record.error or reason.check or record.reason
        fields["reason"] = record.reason
        fields |= {"policy": record.policy} if record.policy else {}
        fields |= {"check": reason.check} if reason.check and reason.check != fields["error"] else {}
    return fields


def format_text(time: float, level: str, message: str, fields: dict[str, str | int]) -> str:
    pairs = " ".join(
        f"{name}={bare(str(value)) if name in _BARE_FIELDS else quoted(str(value))}" for name, value in fields.items()
    )
    return f"{timestamp(time)}\t{level}\taccess\t{message}\t{pairs}\n"


def format_json(time: float, level: str, message: str, fields: dict[str, str | int]) -> str:
    """ASCII only: every other character is escaped, so nothing in a line can talk to a terminal."""
    pairs = ",".join(
        f'"{name}":{value if isinstance(value, int) else _own(value) if name in _BARE_FIELDS else _repeated(value)}'
        for name, value in fields.items()
    )
    head = f'"level":"{level}","time":"{timestamp(time)}","scope":"access","message":"{message}"'
    return f"{{{head},{pairs}}}\n" if pairs else f"{{{head}}}\n"


def _own(text: str) -> str:
    return json.dumps(bounded(text))


_repeated = lru_cache(maxsize=1024)(_own)  # names of workloads and identities stand in each line again


def _milliseconds(seconds: float) -> str:
    return f"{int(min(max(0.0, seconds), LAST_SECOND) * 1000)}ms"


def _ends(record: ConnectionRecord) -> Iterator[tuple[str, str | int]]:
    yield "src.addr", join_host_port(record.source_ip, record.source_port)
    yield from _party("src", record.source, record.source_identity)
    target = join_host_port(
        record.destination_ip or record.original_ip, record.destination_port or record.original_port
    )
    yield "dst.addr", record.hop or target
    if record.hop:
        yield "dst.hbone_addr", target
    if record.service:
        yield "dst.service", record.service.partition("/")[2]
    yield from _party("dst", record.destination, record.destination_identity)
    yield "direction", str(record.direction)


@lru_cache(maxsize=1024)  # the same ends talk again and again
def _party(side: str, party: Party, identity: Identity | None) -> tuple[tuple[str, str], ...]:
    named = (
        ("workload", party.workload or party.canonical_name),
        ("namespace", party.namespace),
        ("identity", str(identity or "")),
        ("cluster", party.cluster),
    )
    return tuple((f"{side}.{name}", value) for name, value in named if value)
