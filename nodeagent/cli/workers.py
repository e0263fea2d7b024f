# SPDX-License-Identifier: Apache-2.0
"""`nodeagent workers`: what can be ordered of this node's tunnel workers. `nodeagent status` shows them."""

from collections.abc import Mapping
from typing import Any

import click

from nodeagent.admin.client import AdminClient
from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.command import Command
from nodeagent.cli.output import Output, Table, orders_agent, shows
from nodeagent.errors import NodeagentError, ProblemFound

WAIT_SECONDS = 60.0
_START_SECONDS = 65.0
"""A successor has 60 to start on a busy machine (agent/fleet.py), on top of what is waited for the former worker."""

REPLACED = Table(
    "replaced",
    (
        ("WORKER", lambda row: row["slot"]),
        ("FORMER PID", lambda row: row["former_pid"]),
        ("PID", lambda row: row["pid"]),
        ("HANDED OVER", lambda row: row["handed_over"]),
        ("DRAINED", lambda row: row["drained"]),
        ("CUT", lambda row: row["cut"]),
        ("LEFT", lambda row: row["left"]),
        ("TIME", lambda row: f"{row['seconds']:.1f}s"),
    ),
)


@click.group()
def workers() -> None:
    """Replaces this node's tunnel workers without cutting a connection."""


@workers.command(
    "replace",
    cls=Command,
    examples=(
        "nodeagent workers replace",
        "nodeagent workers replace --worker 0 --wait 300",
        "nodeagent workers replace -o json | jq '.replaced[].handed_over'",
    ),
)
@click.option(
    "--worker", type=click.IntRange(min=0), metavar="NUMBER", help="This one alone, as `status` numbers them."
)
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0, max=86400),
    default=WAIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for each former worker to end.",
)
@shows
@orders_agent
def replace(agent: AdminClient, output: Output, *, worker: int | None, wait_seconds: float) -> None:
    """Replaces each worker by a successor, one after the other.

    The successor takes new connections first, then those that are open: neither end of them notices. What cannot be
    handed over, or everything when the two workers do not speak the same version, drains. The exit status is 1 when a
    connection was cut, or is left at a former worker in the end; then the workers that would follow stay as they are.
    """
    slots = [worker] if worker is not None else [int(row["slot"]) for row in agent.fetch("/status")["workers"]]
    rows: list[Mapping[str, Any]] = []
    try:
        for slot in slots:
            answer = agent.order(
                "/workers/replace",
                takes_seconds=_START_SECONDS + wait_seconds,
                slot=str(slot),
                wait=f"{wait_seconds:g}",
            )
            rows += answer["replaced"]
            if any(row["cut"] or row["left"] for row in rows):
                break
    except NodeagentError:
        if rows:  # what was done before it is told all the same
            output.show({"schema": SCHEMA, "replaced": rows}, REPLACED)
        raise
    output.show({"schema": SCHEMA, "replaced": rows}, REPLACED)
    if any(row["cut"] or row["left"] for row in rows):
        click.get_current_context().exit(ProblemFound.exit_code)
