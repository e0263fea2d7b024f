# SPDX-License-Identifier: Apache-2.0
"""`nodeagent connections --kernel`: the ends of connections as the kernel programs have them, without names."""

import dataclasses
from pathlib import Path

from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.columns import byte_count, duration, round_trip
from nodeagent.cli.output import Output, Row, Table


def _of_report(row: Row, cell: object) -> object:
    """Empty where no socket has told anything."""
    return cell if row["cookie"] else ""


TRACKED = Table(
    "tracked",
    (
        ("PROTO", lambda row: row["protocol"]),
        ("SRC", lambda row: row["source"] + ("" if row["is_opener_known"] else " ?")),
        ("DST", lambda row: row["destination"]),
        ("KIND", lambda row: row["kind"]),
        ("STATE", lambda row: row["state"]),
        ("GENERATION", lambda row: row["generation"] if row["kind"] else ""),
        ("COOKIE", lambda row: row["cookie"] or ""),
        ("TABLES", lambda row: ",".join(row["tables"])),
    ),
    more=(
        ("AGE", lambda row: _of_report(row, duration(row["age_seconds"]))),
        ("TX", lambda row: _of_report(row, byte_count(row["sent_bytes"]))),
        ("RX", lambda row: _of_report(row, byte_count(row["received_bytes"]))),
        ("RTT", round_trip),
        ("RETRANSMITTED", lambda row: _of_report(row, row["retransmissions"])),
        ("NETNS", lambda row: row["netns"] or ""),
    ),
    name=lambda row: f"{row['source']}-{row['destination']}",
)


def show(output: Output, bpffs: str) -> None:
    from nodeagent.kernel import tracked
    from nodeagent.kernel.pins import Pins

    found = tracked.connections(Pins(Path(bpffs)))
    rows = [{"protocol": "TCP", **dataclasses.asdict(one)} for one in found]
    output.show({"schema": SCHEMA, "tracked": rows}, TRACKED)
