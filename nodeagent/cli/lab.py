# SPDX-License-Identifier: Apache-2.0
"""`nodeagent lab`: what demos, tests and benchmarks have on this machine."""

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
    """Lists and removes what demos and tests left on this machine."""


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


def _require_root() -> None:
    if os.geteuid() != 0:
        raise MissingPrivilege("the lab is made of namespaces, which only root may see and remove", check="Use sudo.")
