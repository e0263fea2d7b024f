# SPDX-License-Identifier: Apache-2.0
"""`nodeagent top` and `nodeagent edges`: who is busy, and who talks to whom."""

import datetime as dt
import time
from typing import Any

import click

from nodeagent.admin.client import AdminClient
from nodeagent.cli import output as outputs
from nodeagent.cli.columns import byte_count
from nodeagent.cli.command import command
from nodeagent.cli.flow_filter import parse_duration
from nodeagent.cli.output import Listing, Output, Table, asks_agent, orders_agent, shows
from nodeagent.cli.rates import Keys, Look, of_edges, of_services, of_workloads, rates
from nodeagent.errors import ConfigError

_KINDS: dict[str, Keys] = {"workloads": of_workloads, "services": of_services, "edges": of_edges}
_CLEAR = "\x1b[H\x1b[2J"
_LEAST_SECONDS = 0.1

_SECURED = {"mtls": "√ mutual TLS", "node": "√ within the node", "plain": "plain", "none": ""}
EDGES = Table(
    "edges",
    (
        ("SRC", lambda row: row["source"]),
        ("DST", lambda row: row["destination"]),
        ("SRC-ID", lambda row: row["source_identity"].removeprefix("spiffe://")),
        ("DST-ID", lambda row: row["destination_identity"].removeprefix("spiffe://")),
        ("CONNS", lambda row: row["connections"]),
        ("ENDED", lambda row: row["ended"]),
        ("DENIED", lambda row: row["denied"]),
        ("SECURED", lambda row: _SECURED.get(row["secured"], row["secured"])),
    ),
    more=(
        ("FAILED", lambda row: row["failed"]),
        ("TX", lambda row: byte_count(row["sent_bytes"])),
        ("RX", lambda row: byte_count(row["received_bytes"])),
    ),
    name=lambda row: f"{row['source']} -> {row['destination']}",
)
TOP = Table(
    "rates",
    (
        ("TIME", lambda row: row["time"].partition("T")[2].removesuffix("Z")),
        ("NAME", lambda row: row["name"]),
        ("OPEN", lambda row: row["open"]),
        ("CONN/s", lambda row: f"{row['connections_per_second']:.1f}"),
        ("DENY/s", lambda row: f"{row['denied_per_second']:.1f}"),
        ("TX/s", lambda row: byte_count(row["sent_per_second"])),
        ("RX/s", lambda row: byte_count(row["received_per_second"])),
        ("RTT-p50", lambda row: _milliseconds(row["round_trip_p50_us"])),
        ("RTT-p99", lambda row: _milliseconds(row["round_trip_p99_us"])),
        ("%mTLS", lambda row: row["mtls_percent"]),
    ),
    name=lambda row: row["name"],
)


def _milliseconds(microseconds: int) -> str:
    return f"{microseconds / 1000:.2f}ms" if microseconds else ""


@command(examples=("nodeagent edges", "nodeagent edges -o json | jq '.edges[] | select(.secured == \"plain\")'"))
@shows
@asks_agent
def edges(agent: AdminClient, output: Output) -> None:
    """Lists who talks to whom on this node, and how that is secured.

    CONNS are open, ENDED those of the last 4096 connections that were allowed, DENIED those that a policy refused.
    SECURED is that of the least secure of them: by mutual TLS, within this node between pods that it vouches for, or
    plain text.
    """
    output.show(agent.fetch("/edges"), EDGES)


@command(examples=("nodeagent top", "nodeagent top edges --every 5s", "nodeagent top services --times 1 -o jsonl"))
@click.argument("kind", type=click.Choice(list(_KINDS)), default="workloads")
@click.option("--every", default="2s", show_default=True, metavar="DURATION", help="How long to count each time.")
@click.option("--times", type=click.IntRange(min=1), metavar="COUNT", help="So many times. [default: until Ctrl-C]")
@shows
@orders_agent
def top(agent: AdminClient, output: Output, *, kind: str, every: str, times: int | None) -> None:
    """Tells who is busy: rates by workload, Service or edge, the busiest first.

    TX is what a workload has sent, of an edge its client. RTT is known of connections that stay in the kernel only. On
    a terminal the table is drawn anew each time; elsewhere lines follow each other.
    """
    seconds = parse_duration(every)
    if seconds < _LEAST_SECONDS:
        raise ConfigError(f"--every {every}: too short", check="At least 1s.")
    listing, is_drawn = Listing(output, TOP), output.is_table and outputs.is_terminal()
    before, cursor = _look(agent), str(agent.fetch("/flows", last="0")["cursor"])
    while times is None or times > 0:
        time.sleep(seconds)
        ended, cursor = _ended(agent, cursor)
        now = _look(agent)
        rows = rates(_KINDS[kind], before, now, ended)
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = [{"time": stamp, **row} for row in rows]
        if is_drawn:
            click.echo(_CLEAR + f"{kind} of this node, every {every}; Ctrl-C ends\n", color=True)
            output.show({"rates": told}, TOP)
        else:
            listing.show(told)
        before = now
        times = None if times is None else times - 1


def _look(agent: AdminClient) -> Look:
    return Look(time.monotonic(), agent.fetch("/connections")["connections"])


def _ended(agent: AdminClient, cursor: str) -> tuple[list[dict[str, Any]], str]:
    page = agent.fetch("/flows", after=cursor)
    found = list(page["flows"])
    while page["has_more"]:
        page = agent.fetch("/flows", after=page["cursor"])
        found += page["flows"]
    return found, str(page["cursor"])
