# SPDX-License-Identifier: Apache-2.0
"""From two looks at the open connections, and what ended between them, to rates by workload, Service or edge. Pure.

Works on rows of the agent's answers. What a connection has carried in the interval is what it has carried so far, less
what it had at the look before; one that was not there then has begun in between.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    moment: float
    """Of any clock that only goes forward, seconds."""
    connections: Sequence[Row]


@dataclass
class _Sum:
    opened: int = 0
    denied: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    alive: int = 0
    """Connections that carried something, or could have: open, or ended and not denied."""
    tunnelled: int = 0
    open_now: int = 0
    round_trips: list[int] = field(default_factory=list)


Keys = Callable[[Row], Iterable[tuple[str, bool]]]
"""Whose rates a connection counts for, and whether as its client: a server has sent what its client received."""


def of_workloads(row: Row) -> Iterator[tuple[str, bool]]:
    yield end_name(row["source"]), True
    yield end_name(row["destination"]), False


def of_services(row: Row) -> Iterator[tuple[str, bool]]:
    if row["service"]:
        yield row["service"], True


def of_edges(row: Row) -> Iterator[tuple[str, bool]]:
    yield f"{end_name(row['source'])} -> {end_name(row['destination'])}", True


def end_name(end: Row) -> str:
    return f"{end['namespace']}/{end['workload']}" if end["workload"] else end["address"].rpartition(":")[0]


def rates(keys: Keys, before: Look, now: Look, ended: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows, the busiest first; `ended` are flows that ended since `before`."""
    seconds = max(now.moment - before.moment, 1e-3)
    known = {row["id"]: row for row in before.connections}
    sums: dict[str, _Sum] = {}
    listed = {row["id"] for row in now.connections}
    over = [row for row in ended if row["id"] not in listed]
    for row, is_open in [*((row, True) for row in now.connections), *((row, False) for row in over)]:
        for key, is_client in keys(row):
            _add(sums.setdefault(key, _Sum()), row, known.get(row["id"]), is_open=is_open, is_client=is_client)
    rows = [_row(name, one, seconds) for name, one in sums.items()]
    return sorted(
        rows, key=lambda row: (-row["sent_per_second"] - row["received_per_second"], -row["open"], row["name"])
    )


def _add(one: _Sum, row: Row, former: Row | None, *, is_open: bool, is_client: bool) -> None:
    is_denied = row.get("verdict") == "denied"
    one.opened += former is None
    one.denied += is_denied
    one.open_now += is_open
    one.alive += not is_denied
    one.tunnelled += not is_denied and row["path"] == "tunnel"
    sent, received = (
        max(0, row[name] - (former[name] if former is not None else 0)) for name in ("sent_bytes", "received_bytes")
    )
    one.sent_bytes += sent if is_client else received
    one.received_bytes += received if is_client else sent
    if row["round_trip_us"]:
        one.round_trips.append(row["round_trip_us"])


def _row(name: str, one: _Sum, seconds: float) -> dict[str, Any]:
    return {
        "name": name,
        "open": one.open_now,
        "connections_per_second": round(one.opened / seconds, 3),
        "denied_per_second": round(one.denied / seconds, 3),
        "sent_per_second": round(one.sent_bytes / seconds),
        "received_per_second": round(one.received_bytes / seconds),
        "round_trip_p50_us": percentile(one.round_trips, 50),
        "round_trip_p99_us": percentile(one.round_trips, 99),
        "mtls_percent": round(100 * one.tunnelled / one.alive) if one.alive else 0,
    }


def percentile(values: Sequence[int], share: int) -> int:
    """The least value that `share` percent do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)] if ordered else 0
