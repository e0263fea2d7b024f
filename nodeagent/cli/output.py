# SPDX-License-Identifier: Apache-2.0
"""What every command that asks the agent has in common: where the agent is, and how its answer is shown.

The one place that knows the forms of `-o`. A command gives its answer, which nodeagent/admin/answers.py describes, and
the tables of its lists.
"""

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from nodeagent.admin.client import AdminClient
from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.table import render, widths
from nodeagent.logs.escape import one_line

Row = Mapping[str, Any]
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


FORMS = ("table", "wide", "json", "yaml", "jsonl", "name")

Columns = tuple[tuple[str, Callable[[Row], object]], ...]


@dataclass(frozen=True)
class Table:
    """A list in the answer: its member's name, and for each column the header and the cell of a row."""

    member: str
    columns: Columns
    more: Columns = ()
    """What `-o wide` has besides."""
    name: Callable[[Row], object] | None = None
    """Of a row, as other commands take it; None: rows of this list have none."""


@dataclass(frozen=True)
class Output:
    form: str
    """One of FORMS: a table for people, wider; documents; a row, or its name, a line."""
    with_headers: bool = True

    @property
    def is_table(self) -> bool:
        return self.form in {"table", "wide"}

    def show(self, answer: Mapping[str, Any], *tables: Table) -> None:
        """The whole answer as JSON or YAML, or its named lists as tables; of empty ones only the first is shown.

        Names are of the first list alone: the others are beside it.
        """
        if self.form == "jsonl":
            for table in tables:
                Listing(self, table).show(answer[table.member])
            return
        if self.form == "name":
            Listing(self, tables[0]).show(answer[tables[0].member])
            return
        if not self.is_table:
            self.show_whole(answer)
            return
        shown = [table for table in tables if answer[table.member]] or tables[:1]
        for number, table in enumerate(shown):
            if number:
                click.echo()
            click.echo(self.render(table, answer[table.member], with_headers=self.with_headers), nl=False)

    def show_whole(self, answer: Mapping[str, Any]) -> None:
        """An answer without lists, as a document."""
        if self.form == "name":
            raise click.UsageError("-o name: nothing in this answer has a name.")
        if self.form == "yaml":
            import yaml

            click.echo(yaml.safe_dump(dict(answer), sort_keys=False), nl=False)
        else:
            click.echo(json.dumps(answer, indent=2 if self.form == "json" else None))

    def render(self, table: Table, rows: Sequence[Row], *, with_headers: bool, floor: Sequence[int] = ()) -> str:
        """Lines as they suit where they go; `floor` as in table.py."""
        return render(
            self.headers(table),
            self.cells(table, rows),
            with_headers=with_headers,
            width=shutil.get_terminal_size().columns if is_terminal() else None,
            with_colour=has_colour(),
            floor=floor,
        )

    def headers(self, table: Table) -> list[str]:
        return [header for header, _ in self._columns(table)]

    def cells(self, table: Table, rows: Sequence[Row]) -> list[list[str]]:
        return [[_cell(cell, row) for _, cell in self._columns(table)] for row in rows]

    def _columns(self, table: Table) -> Columns:
        return table.columns + table.more if self.form == "wide" else table.columns


class Listing:
    """A list that is shown bit by bit as it comes: lines of one table, or a document for each row."""

    def __init__(self, output: Output, table: Table) -> None:
        self._output, self._table = output, table
        self._widths: tuple[int, ...] = ()
        """Columns only grow, so that lines stand below each other as long as they can."""

    def show(self, rows: Sequence[Row]) -> None:
        output, table = self._output, self._table
        if output.is_table:
            with_headers = output.with_headers and not self._widths
            self._widths = widths([output.headers(table), *output.cells(table, rows)], self._widths)
            click.echo(output.render(table, rows, with_headers=with_headers, floor=self._widths), nl=False)
        elif output.form == "name":
            if table.name is None:
                raise click.UsageError("-o name: these rows have no names.")
            for row in rows:
                click.echo(one_line(str(table.name(row))))
        elif output.form == "yaml":
            import yaml

            for row in rows:
                click.echo(yaml.safe_dump(dict(row), sort_keys=False, explicit_start=True), nl=False)
        else:
            for row in rows:
                click.echo(json.dumps({"schema": SCHEMA, "kind": table.member, **row}))
        sys.stdout.flush()


def _cell(cell: Callable[[Row], object], row: Row) -> str:
    """Empty where an agent of an earlier release does not tell what this column shows: no reason to show nothing."""
    try:
        return str(cell(row))
    except KeyError:
        return ""


def is_terminal() -> bool:
    return sys.stdout.isatty()


def has_colour() -> bool:
    """On a terminal, unless NO_COLOR (no-color.org) is set to anything."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def default_socket() -> str:
    return f"{os.environ.get('NODEAGENT_RUN_DIR') or '/run/nodeagent'}/admin.sock"


def shows(command: Callable[Concatenate[Output, _Parameters], _Result]) -> Callable[_Parameters, _Result]:
    """Adds -o and --no-headers, and gives the command its `Output` first."""

    @click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(FORMS),
        default="table",
        help="How to show the answer.",
        show_default=True,
    )
    @click.option("--no-headers", is_flag=True, help="Leave out the first line of tables.")
    @functools.wraps(command)
    def with_output(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        form, no_headers = str(options.pop("form")), bool(options.pop("no_headers"))
        return command(Output(form, not no_headers), *arguments, **options)

    return with_output


socket_option = click.option(
    "--socket",
    "socket_path",
    envvar="NODEAGENT_SOCKET",
    default=default_socket,
    metavar="PATH",
    help="The agent's admin socket (default: admin.sock in $NODEAGENT_RUN_DIR or /run/nodeagent).",
)


node_option = click.option(
    "--node",
    metavar="NAME",
    help="Of this node, not the one at hand: of a lab of this machine, else by kubectl in its agent's pod.",
)

_READ_HERE = {"dump_path": "--file", "source_file": "--input", "policy_dir": "--policy-dir"}
"""Options whose files are on the operator's machine."""


def run_elsewhere(options: dict[str, Any]) -> None:
    """Takes `node` out of a command's options. Does not return when it was given: the whole command is run there."""
    node = options.pop("node")
    if node is None:
        return
    for name, flag in _READ_HERE.items():
        if options.get(name):
            hint = "" if name != "policy_dir" else ": `nodeagent dump --node NAME > dump.json`, and -f dump.json for it"
            raise click.UsageError(f"--node and {flag} exclude each other, since its file is here{hint}.")
    from nodeagent.cli.other_node import run_there

    run_there(str(node), click.get_current_context().find_root().obj)


def orders_agent(command: Callable[Concatenate[AdminClient, _Parameters], _Result]) -> Callable[_Parameters, _Result]:
    """Adds --socket and --node, and gives the command its `AdminClient` first."""

    @socket_option
    @node_option
    @functools.wraps(command)
    def with_agent(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        run_elsewhere(options)
        return command(AdminClient(str(options.pop("socket_path"))), *arguments, **options)

    return with_agent


def asks_agent(command: Callable[Concatenate[AdminClient, _Parameters], _Result]) -> Callable[_Parameters, _Result]:
    """As `orders_agent`, for what only looks: what an agent has said before (`nodeagent dump`) will do."""
    return _asks(command, "-f", "--file")


def asks_and_follows(
    command: Callable[Concatenate[AdminClient, _Parameters], _Result],
) -> Callable[_Parameters, _Result]:
    """As `asks_agent`; the command's own -f is --follow."""
    return _asks(command, "--file")


def _asks(
    command: Callable[Concatenate[AdminClient, _Parameters], _Result], *names: str
) -> Callable[_Parameters, _Result]:
    @socket_option
    @node_option
    @click.option(
        *names,
        "dump_path",
        metavar="FILE",
        help="Ask what `nodeagent dump` wrote instead of an agent; - is standard input.",
    )
    @functools.wraps(command)
    def with_agent(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        run_elsewhere(options)
        path, dump = str(options.pop("socket_path")), options.pop("dump_path")
        if dump is None:
            return command(AdminClient(path), *arguments, **options)
        from nodeagent.admin.dump import DumpedAgent

        return command(DumpedAgent(str(dump)), *arguments, **options)

    return with_agent
