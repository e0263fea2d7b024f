# SPDX-License-Identifier: Apache-2.0
"""`nodeagent probe`: whether the tunnels of this node reach the other nodes, tried with some that carry nothing."""

import click

from nodeagent.admin.client import AdminClient
from nodeagent.cli.command import command
from nodeagent.cli.output import Output, Row, Table, orders_agent, shows
from nodeagent.errors import ProblemFound
from nodeagent.logs.escape import one_line

SECONDS = 5.0
PATIENCE_SECONDS = 120.0
"""The agent does not begin what could take longer."""


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}ms" if seconds else "-"


PROBES = Table(
    "probes",
    (
        ("FROM", lambda row: row["from_node"]),
        ("TO", lambda row: row["to_node"]),
        ("PATH", lambda row: row["path"]),
        ("ADDRESS", lambda row: row["address"]),
        ("OK", lambda row: "yes" if row["ok"] else f"no ({row['reason']})"),
        ("CONNECT", lambda row: _milliseconds(row["connect_seconds"])),
        ("HANDSHAKE", lambda row: _milliseconds(row["handshake_seconds"])),
        ("RTT", lambda row: _milliseconds(row["round_trip_seconds"])),
    ),
    (
        ("SOURCE", lambda row: row["source"]),
        ("DESTINATION", lambda row: row["destination"]),
        ("ERROR", lambda row: row["error"]),
    ),
    name=lambda row: row["to_node"],
)


@command(examples=("nodeagent probe", "nodeagent probe --to node-b", "nodeagent probe -o name"))
@click.option(
    "--to", "nodes", multiple=True, metavar="NODE", help="This node; may be given several times. [default: all]"
)
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(min=0.1, max=30),
    default=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="For each tunnel.",
)
@shows
@orders_agent
def probe(agent: AdminClient, output: Output, *, nodes: tuple[str, ...], seconds: float) -> None:
    """Tries whether this node's tunnels reach the other nodes, and how fast.

    A tunnel from a captured pod of this node to one of each other: TCP to port 15008, mutual TLS, the round trip of an
    HTTP/2 PING. It carries no connection, so no application notices, and no policy is asked (`explain` tells of those).
    The exit status is 1 when one does not come about.
    """
    named = {"to": ",".join(nodes)} if nodes else {}
    answer = agent.order("/probe", takes_seconds=PATIENCE_SECONDS, seconds=f"{seconds:g}", **named)
    output.show(answer, PROBES)
    rows = answer["probes"]
    if not rows and output.is_table:
        click.echo("no other node has a captured pod of this network", err=True)
    failed = [row for row in rows if not row["ok"]]
    if output.is_table:
        for words in dict.fromkeys(map(_advice, failed)):
            click.echo(words, err=True)
    if failed:
        click.get_current_context().exit(ProblemFound.exit_code)


def _advice(row: Row) -> str:
    return one_line(f"{row['to_node']}: {row['error']}. {row['check']}")
