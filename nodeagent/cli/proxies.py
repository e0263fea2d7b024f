# SPDX-License-Identifier: Apache-2.0
"""`nodeagent proxies`: what the control plane has sent to whom, and what they said to it."""

from pathlib import Path

import click

from nodeagent.admin.client import AdminClient
from nodeagent.cli.columns import duration
from nodeagent.cli.command import command
from nodeagent.cli.control_plane import ADMIN_SOCKET, state_dir_option
from nodeagent.cli.output import Output, Row, Table, shows
from nodeagent.errors import ProblemFound

_SYNCED = "SYNCED"


def _error(row: Row) -> str:
    """The latest; JSON has them all."""
    if row["refusals"]:
        return str(row["refusals"][-1]["error"])
    return f"no answer for {duration(row['unanswered_seconds'])}" if row["unanswered"] else ""


PROXIES = Table(
    "proxies",
    (
        ("NODE", lambda row: row["node"]),
        ("ADDRESS", lambda row: row["address"]),
        ("SINCE", lambda row: duration(row["connected_seconds"])),
        ("TYPE", lambda row: row["type"].rpartition(".")[2]),
        ("STATE", lambda row: row["state"]),
        ("RESOURCES", lambda row: row["resources"]),
        ("SENT", lambda row: row["sent"]["nonce"]),
        ("ACKED", lambda row: row["acknowledged"]["nonce"]),
        ("ERROR", _error),
    ),
    name=lambda row: row["node"],
)


@command(
    examples=(
        "nodeagent proxies",
        "nodeagent proxies node-a",
        "nodeagent proxies -o json | jq '.proxies[] | select(.state == \"NACKED\") | .refusals'",
        "until nodeagent proxies > /dev/null; do sleep 1; done  # until everybody has what is in force",
    )
)
@click.argument("node", required=False, metavar="[NODE]")
@state_dir_option
@click.option(
    "--socket", "path", metavar="PATH", help="The control plane's admin socket, if not in its state directory."
)
@shows
def proxies(output: Output, *, node: str | None, state_dir: Path, path: str | None) -> None:
    """Lists who is connected to the control plane of this machine, and whether they have what is in force.

    A row for each client and type: SYNCED, all that was sent is accepted; STALE, something is not answered yet; NACKED,
    something was refused, with the client's words, until a better version of it is accepted. SENT and ACKED are nonces:
    the generation of the mesh, and a number.

    Exit status: 0 all are synced, 1 one is not, or NODE is not connected, 3 no control plane answers.
    """
    answer = AdminClient(path or str(state_dir / ADMIN_SOCKET), whose="control plane").fetch("/proxies")
    if node is not None:
        answer["proxies"] = [row for row in answer["proxies"] if row["node"] == node]
        if not answer["proxies"]:
            raise ProblemFound(
                f"node {node} is not connected", check="Does its agent run, and what does `nodeagent status` say there?"
            )
    output.show(answer, PROXIES)
    if any(row["state"] != _SYNCED for row in answer["proxies"]):
        click.get_current_context().exit(ProblemFound.exit_code)
