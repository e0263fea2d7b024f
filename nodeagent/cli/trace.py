# SPDX-License-Identifier: Apache-2.0
"""`nodeagent trace`: what becomes of a pod's packets, hop by hop, as it happens; perhaps of those of one command."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from nodeagent.admin.client import AdminClient
from nodeagent.admin.schema import SCHEMA
from nodeagent.cli import completion
from nodeagent.cli.columns import end_of
from nodeagent.cli.command import command
from nodeagent.cli.output import Listing, Output, Row, Table, orders_agent, shows
from nodeagent.errors import AgentUnreachable, ConfigError, MissingPrivilege, NotPossible, ProblemFound

START_SECONDS = 240.0
"""For the agent to compile the programs that tell: 1.5 s, and longer on a busy machine (kernel/loader.py)."""
AFTER_SECONDS = 1.0
"""A command's connections are closed when it ends, and their records are on their way."""
_SIGNAL_SECONDS = 2.0
_STANDARD_ERROR = 2
_WHY = {"time": "its time is up", "count": "so many hops were asked for", "asked": "the command has ended"}


def _decision(row: Row) -> object:
    return f"{row['words']}. {row['check']}" if row["check"] else row["words"]


HOPS = Table(
    "hops",
    (
        ("TIME", lambda row: row["time"].partition("T")[2].removesuffix("Z")),
        ("PLACE", lambda row: f"{row['place']} {row['device']}".rstrip()),
        ("WHAT", lambda row: row["what"]),
        ("SRC", end_of("source")),
        ("DST", end_of("destination")),
        ("VERDICT", lambda row: row["verdict"]),
        ("OUTCOME", lambda row: row["outcome"]),
        ("NEXT", lambda row: row["next"]),
        ("MEANING", _decision),
    ),
    more=(
        ("SRC-IP", lambda row: row["source"]["address"]),
        ("DST-IP", lambda row: row["destination"]["address"]),
        ("POLICY", lambda row: row["policy"]),
        ("ID", lambda row: row["id"]),
    ),
)


@command(
    examples=(
        "nodeagent trace --pod shop/web",
        "nodeagent trace --pod shop/web --peer api:80 -- curl -s http://10.96.0.11/",
        "nodeagent trace --pod shop/web --seconds 60 -o jsonl > hops.jsonl",
    )
)
@click.option(
    "--pod",
    required=True,
    metavar="NAME",
    help="Of this node: namespace/name, or a name.",
    shell_complete=completion.PODS,
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME[:PORT]",
    help="Only with this other end: a workload, Service, address, or :PORT of any. The pod's tunnels are shown always.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=600, min_open=True),
    help="For so long. [default: 10, with a command 60]",
)
@click.option(
    "--most", type=click.IntRange(1, 10_000), default=1000, show_default=True, metavar="COUNT", help="So many hops."
)
@click.option(
    "--every",
    is_flag=True,
    help="Each packet, also one that meets the same as one before it, and what is no TCP; else they are counted.",
)
@click.argument("words", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@shows
@orders_agent
def trace(
    agent: AdminClient,
    output: Output,
    /,
    *,
    seconds: float | None,
    words: tuple[str, ...],
    **asked: Any,
) -> None:
    """Follows real packets of a pod through the kernel programs and the proxy, as they come.

    A row is a packet at a program, with what was decided, why, and where it goes next; or what the proxy did about its
    connection, and by which policy. Times are UTC. Without a trace the programs have not one instruction for it; while
    it runs, others that tell take their place, packet by packet and without a gap.

    COMMAND is run in the pod's network namespace, on this node and as root, with the node's files and resolver. It is
    no process of the pod's own, so of a connection that the kernel carries alone packets are shown, and no record. What
    it prints goes to standard error. The trace ends with it, and the exit status is 1 when its own was not 0.
    """
    query = {"seconds": f"{seconds or (60.0 if words else 10.0):g}", **_query(**asked)}
    shown = _Shown(output)
    status: int | None = None
    with contextlib.ExitStack() as stack:
        documents = stack.enter_context(
            contextlib.closing(agent.follow("/trace", takes_seconds=START_SECONDS, **query))
        )
        begun = _next(documents)["begun"]
        program = stack.enter_context(_run(words, begun)) if words else None
        if not program:
            click.echo(f"tracing {begun['namespace']}/{begun['pod']}", err=True)
        over_at = None
        while True:
            document = _next(documents)
            shown.show(document.get("hops", ()))
            if "end" in document:
                break
            if program is not None and status is None:
                status = program.poll()
                over_at = time.monotonic() + AFTER_SECONDS if status is not None else None
            if over_at is not None and time.monotonic() >= over_at:
                over_at = None
                agent.order("/trace/end")
        if program is not None and status is None:
            status = _end(program)
    _conclude(shown, document["end"], words, status)


def _query(*, pod: str, peers: tuple[str, ...], most: int, every: bool) -> dict[str, str]:
    return {"pod": pod, "peers": ",".join(peers), "most": str(most), "every": "true" if every else "false"}


class _Shown:
    """Hops, as they come where the form allows it."""

    def __init__(self, output: Output) -> None:
        if output.form == "name":
            raise click.UsageError("-o name: hops have no names.")
        self.output = output
        self.is_listed = output.is_table or output.form == "jsonl"
        self.rows: list[Row] = []
        self._listing = Listing(output, HOPS)

    def show(self, rows: Sequence[Row]) -> None:
        if not self.is_listed:
            self.rows += rows
        elif rows:
            self._listing.show(rows)


def _next(documents: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Raises AgentUnreachable when the agent goes away."""
    document = next(documents, None)
    if document is None:
        raise AgentUnreachable(
            "the agent has ended the trace, or itself",
            check="Is it being stopped? And it waits 10 s for who takes nothing. The usual programs are put back.",
        )
    return document


@contextlib.contextmanager
def _run(words: Sequence[str], begun: dict[str, str]) -> "Iterator[subprocess.Popen[bytes]]":
    """The command, in the pod's network namespace; it does not outlive the block.

    Raises MissingPrivilege, NotPossible for a namespace that is not here, ConfigError for a command that is none.
    """
    from nodeagent.kernel.netns import enter_netns

    where = f"the network namespace of {begun['namespace']}/{begun['pod']}, {begun['netns']}"
    try:
        with enter_netns(begun["netns"]):
            try:
                program = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=_STANDARD_ERROR)
            except OSError as error:
                raise ConfigError(
                    f"{words[0]} cannot be run: {error.strerror}", check="Is it installed on this node?"
                ) from error
    except PermissionError as error:
        raise MissingPrivilege(f"{where} cannot be entered: {error.strerror}", check="Run it as root.") from error
    except OSError as error:
        raise NotPossible(
            f"{where} cannot be entered: {error.strerror}",
            check="A command is run on the pod's node, where the agent's paths are known; leave it out elsewhere.",
        ) from error
    with program:
        try:
            yield program
        finally:
            _end(program)


def _end(program: "subprocess.Popen[bytes]") -> int:
    """Its exit status, or the negative number of the signal that ended it."""
    if program.poll() is None:
        program.send_signal(signal.SIGTERM)
        try:
            program.wait(_SIGNAL_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
    return program.wait()


def _conclude(shown: _Shown, end: dict[str, Any], words: Sequence[str], status: int | None) -> None:
    if not shown.is_listed:
        answer = {"schema": SCHEMA, "hops": shown.rows, "end": end, "command_status": status}
        shown.output.show(answer, HOPS)
    told = f"the trace has ended: {_WHY[end['why']]}. {end['hops']} hops"
    told += f", and {end['alike']} packets like these" if end["alike"] else ""
    click.echo(f"{told}.", err=True)
    if end["lost"]:
        click.echo(f"{end['lost']} packets were more than there was room for, and are not shown.", err=True)
    if status is not None:
        how = f"ended with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
        click.echo(f"{words[0]} {how}", err=True)
    if status:
        click.get_current_context().exit(ProblemFound.exit_code)
