# SPDX-License-Identifier: Apache-2.0
"""`nodeagent lab`: what demos, tests and benchmarks have on this machine, and a way in."""

import dataclasses
import os

import click

from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.command import Command
from nodeagent.cli.output import Output, Table, shows
from nodeagent.errors import MissingPrivilege

RUNS = Table("runs", (), name=lambda row: row["number"])


@click.group()
def lab() -> None:
    """Lists what demos and tests have on this machine, runs commands in it, removes what they left."""


@lab.command("list", cls=Command, examples=("sudo nodeagent lab list",))
@shows
def list_runs(output: Output) -> None:
    """Lists the runs that are alive now, with what each has made."""
    _require_root()
    from nodeagent.lab.journal import living_runs

    runs = living_runs()
    if not output.is_table:
        output.show({"schema": SCHEMA, "runs": [dataclasses.asdict(run) for run in runs]}, RUNS)
        return
    for run in runs:
        click.echo(f"run {run.number} of process {run.pid}")
        for entry in run.entries:
            click.echo(f"  {entry.kind}  {entry.path}")
    if not runs:
        click.echo("no run is alive")


@lab.command("clean", cls=Command, examples=("sudo nodeagent lab clean",))
def clean() -> None:
    """Removes what runs left that ended without doing so. Runs that are alive are left alone."""
    _require_root()
    from nodeagent.lab.clean import clean_dead

    cleaned = clean_dead()
    for entry in cleaned.removed:
        click.echo(f"removed {entry.kind}  {entry.path}")
    for run in cleaned.alive:
        click.echo(f"left alone: run {run.number} of process {run.pid}, which is alive")
    if not cleaned.removed:
        click.echo("nothing to remove")


@lab.command(
    "exec",
    cls=Command,
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
    examples=("sudo nodeagent lab exec node-a nodeagent status", "sudo nodeagent lab exec web bash"),
)
@click.option(
    "--run",
    "number",
    envvar="NODEAGENT_LAB_RUN",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Of several labs, by `lab list`.",
)
@click.argument("place")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARGS]...")
def exec_inside(*, number: int | None, place: str, words: tuple[str, ...]) -> None:
    """Runs a command in a node or pod of a lab that is running, such as the demo's.

    PLACE is its name: node-a, web. `nodeagent` is this very program there.
    """
    _require_root()
    from nodeagent.lab.enter import become, choose_run, find_place
    from nodeagent.lab.journal import living_runs

    become(find_place(choose_run(living_runs(), number), place), words)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise MissingPrivilege("the lab is made of namespaces, which only root may see and remove", check="Use sudo.")
