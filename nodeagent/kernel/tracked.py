# SPDX-License-Identifier: Apache-2.0
"""Connections as the kernel's tables have them: one for each pair of ends, with all that is written of it anywhere.

Read from the pins, without an agent. These are notes of our programs and not the kernel's list of sockets: a row of an
LRU table stays until it is pushed out, so it may be of a connection that is over.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from nodeagent.kernel import pinned
from nodeagent.kernel.decoded import Shown
from nodeagent.kernel.pins import Pins
from nodeagent.model.address import join_host_port

Rows: TypeAlias = Iterable[tuple[Shown, Shown]]
TABLES = ("flows", "kept_flows", "inbound_flows", "hairpins", "flow_reports")
"""Of bpf/maps.h, which says who writes each."""
_NOT_KNOWN = 2
"""OPENED_BY_EITHER of bpf/flow.h."""
_NANOSECONDS = 1e9


@dataclass(frozen=True, kw_only=True)
class TrackedConnection:
    source: str
    """`ip:port` of who opened it, as far as that is known; else of the sender of a packet."""
    destination: str
    is_opener_known: bool
    kind: str = ""
    """By what it passes: `allowed`, `excluded`, `adopted`, or `proxy`; empty: no table tells."""
    generation: int = 0
    """Of the policies when it was last judged."""
    tables: tuple[str, ...] = ()
    state: str = ""
    """Of its report: `open`, `closed`, `reset`; empty: it has none, as what the proxy carries."""
    cookie: int = 0
    """Of the client's socket, as is all that follows; 0: no report."""
    netns: int = 0
    age_seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    round_trip_us: int = 0
    retransmissions: int = 0


def connections(pins: Pins) -> list[TrackedConnection]:
    """Of this version's tables. Raises KernelError, MissingPrivilege."""
    return join({name: pinned.rows(pins, name) for name in TABLES}, time.monotonic())


def join(tables: Mapping[str, Rows], now: float) -> list[TrackedConnection]:
    """In order of their ends. `tables`: rows by table as decoded.py shows them; `now` of CLOCK_MONOTONIC. Pure."""
    found: dict[frozenset[str], TrackedConnection] = {}
    for name in TABLES:
        rows = sorted(tables[name], key=_age) if name == "flow_reports" else tables[name]
        for one in _told(name, rows, now):
            ends = frozenset({one.source, one.destination})
            found[ends] = _merged(found.get(ends), one)
    return sorted(found.values(), key=lambda one: (one.source, one.destination))


def _told(name: str, rows: Rows, now: float) -> Iterator[TrackedConnection]:
    for key, value in rows:
        match key, value:
            case {}, {} if name in {"flows", "kept_flows"}:
                yield _flow(name, key, value)
            case {}, _ if name != "flow_reports":
                first, second = _ends(key)
                kind = "proxy" if name == "inbound_flows" else ""  # it is there because the proxy has a socket
                yield TrackedConnection(
                    source=first, destination=second, is_opener_known=False, kind=kind, tables=(name,)
                )
            case _, {}:
                yield _report(name, value, now)
            case _:
                raise AssertionError(f"{name} has a row of another shape")


def _age(row: tuple[object, Any]) -> tuple[bool, int]:
    """The latest one that is open comes last: a port may be used again before the report of its last use is gone."""
    report = row[1]
    return not report["ended"], report["started"]


def _flow(name: str, key: Mapping[str, Any], value: Mapping[str, Any]) -> TrackedConnection:
    first, second = _ends(key)
    opened_by = value["from_second"]
    source, destination = (second, first) if opened_by == 1 else (first, second)
    return TrackedConnection(
        source=source,
        destination=destination,
        is_opener_known=opened_by != _NOT_KNOWN,
        kind=str(value["kind"]),
        generation=value["generation"],
        tables=(name,),
    )


def _report(name: str, value: Mapping[str, Any], now: float) -> TrackedConnection:
    end = value["ended"] / _NANOSECONDS or now
    return TrackedConnection(
        source=join_host_port(value["client"], value["client_port"]),
        destination=join_host_port(value["server"], value["server_port"]),
        is_opener_known=True,
        tables=(name,),
        state=str(value["state"]),
        cookie=value["cookie"],
        netns=value["netns"],
        age_seconds=max(0.0, round(end - value["started"] / _NANOSECONDS, 1)),
        sent_bytes=value["sent"],
        received_bytes=value["received"],
        round_trip_us=value["round_trip_us"],
        retransmissions=value["retransmissions"],
    )


def _ends(key: Mapping[str, Any]) -> tuple[str, str]:
    first, second = (join_host_port(key[end], key[f"{end}_port"]) for end in ("first", "second"))
    return first, second


def _merged(former: TrackedConnection | None, one: TrackedConnection) -> TrackedConnection:
    """What the flow says stays, but who opened it is best known by the report, which comes last."""
    if former is None:
        return one
    tables = (*former.tables, *(name for name in one.tables if name not in former.tables))
    if "flow_reports" in one.tables:
        return replace(one, kind=former.kind, generation=former.generation, tables=tables)
    return replace(former, tables=tables)
