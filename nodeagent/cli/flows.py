# SPDX-License-Identifier: Apache-2.0
"""`nodeagent flows`: the last connections that ended or were refused, filtered, followed, or read from a file."""

import datetime as dt
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import click

from nodeagent.admin.client import AdminClient
from nodeagent.admin.schema import SCHEMA
from nodeagent.cli import completion
from nodeagent.cli.columns import WIDE_CONNECTION, byte_count, end_of
from nodeagent.cli.command import command
from nodeagent.cli.flow_filter import FlowFilter, Row, parse_duration, require_flow
from nodeagent.cli.output import Listing, Output, Table, asks_and_follows, shows
from nodeagent.errors import AgentUnreachable, ConfigError

DEFAULT_LAST = 20
_WAIT_SECONDS = 5.0
"""Of a question that waits for news: below the client's patience."""
_AWAY_SECONDS = 1.0

FLOWS = Table(
    "flows",
    (
        ("TIME", lambda row: row["ended"].partition("T")[2][:12]),
        ("DIR", lambda row: row["direction"]),
        ("SRC", end_of("source")),
        ("DST", end_of("destination")),
        ("SERVICE", lambda row: row["service"].rpartition("/")[2]),
        ("VERDICT", lambda row: row["verdict"]),
        ("REASON", lambda row: row["reason"]),
        ("POLICY", lambda row: row["policy"]),
        ("PATH", lambda row: row["path"]),
        ("TX", lambda row: byte_count(row["sent_bytes"])),
        ("RX", lambda row: byte_count(row["received_bytes"])),
        ("DUR", lambda row: f"{row['seconds']:.3f}s"),
    ),
    more=(*WIDE_CONNECTION, ("ERROR", lambda row: row["error"])),
)


_Command = TypeVar("_Command", bound=Callable[..., Any])


def _patterns(
    name: str, field: str, words: str, metavar: str = "NAME", offer: completion.Offer | None = None
) -> Callable[[_Command], _Command]:
    return click.option(name, field, multiple=True, metavar=metavar, help=words, shell_complete=offer)


@command(
    examples=(
        "nodeagent flows",
        "nodeagent flows -f --verdict denied",
        "nodeagent flows --since 10m --from shop/web --to shop/ --port 5432",
        "nodeagent flows --protocol plain --verdict allowed",
        "nodeagent flows --since 1h -o jsonl > flows.jsonl",
        "nodeagent flows --input flows.jsonl --reason policy_not_allowed",
    )
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what ends from now on, through restarts of the agent.")
@click.option(
    "--last",
    type=click.IntRange(min=0),
    metavar="COUNT",
    help=f"So many of those that match. [default: {DEFAULT_LAST}, or all with --since or --input]",
)
@click.option("--since", metavar="DURATION", help="Those that ended so long ago at most, such as 90s, 5m or 1h30m.")
@_patterns(
    "--from",
    "sources",
    "Whose client this is: namespace/workload, namespace/, a name, address or identity.",
    offer=completion.WORKLOADS,
)
@_patterns("--to", "destinations", "Whose application this is.", offer=completion.WORKLOADS)
@_patterns("--pod", "pods", "With this at either end.", offer=completion.WORKLOADS)
@_patterns(
    "--service",
    "services",
    "By which Service: namespace/hostname, the hostname or its first label.",
    offer=completion.SERVICES,
)
@click.option("--port", "ports", type=click.IntRange(1, 65535), multiple=True, help="To this port.")
@click.option(
    "--verdict",
    "verdicts",
    type=click.Choice(["allowed", "denied", "failed"]),
    multiple=True,
    help="With this outcome.",
)
@_patterns("--reason", "reasons", "Ended by this reason, as in the column.", "REASON")
@_patterns("--policy", "policies", "Decided by this policy.", offer=completion.POLICIES)
@click.option(
    "--path", "paths", type=click.Choice(["tunnel", "proxy", "kernel"]), multiple=True, help="Carried by this."
)
@click.option(
    "--protocol",
    "protocols",
    type=click.Choice(["HBONE", "PLAIN"], case_sensitive=False),
    multiple=True,
    help="By a tunnel with mutual TLS, or without one.",
)
@click.option(
    "--direction",
    "directions",
    type=click.Choice(["inbound", "outbound"]),
    multiple=True,
    help="As this node's pod saw it.",
)
@click.option(
    "--input",
    "source_file",
    type=click.File("r", encoding="utf-8", errors="replace"),
    metavar="FILE",
    help="Read what `-o jsonl` or `-o json` has written instead of asking an agent; - is standard input.",
)
@shows
@asks_and_follows
def flows(
    agent: AdminClient,
    output: Output,
    /,
    *,
    follow: bool,
    last: int | None,
    since: str | None,
    source_file: TextIO | None,
    **wanted: Any,
) -> None:
    """Lists connections that ended or were refused, the latest last; times are UTC.

    The agent keeps the last 4096. A flow between two pods of this node is listed once when the kernel or the proxy
    carries it plainly, and from both ends when it is tunnelled. All options must match; of one that is given several
    times any may. NAME may have * and ?.
    """
    if follow and (source_file is not None or not agent.is_live):
        raise click.UsageError("--follow excludes --input and --file: a file has an end.")
    chosen = FlowFilter(ended_since=_moment_before(since), **wanted)
    if last is None and not since and source_file is None:
        last = DEFAULT_LAST
    if source_file is not None:
        found, cursor = _newest(filter(chosen.matches, _read(source_file)), last), ""
    else:
        found, cursor = _ask(agent, chosen, last)
    if follow:
        listing = Listing(output, FLOWS)
        listing.show(found)
        _follow(agent, listing, chosen, cursor)
    output.show({"schema": SCHEMA, "flows": found}, FLOWS)


def _moment_before(since: str | None) -> str:
    if not since:
        return ""
    seconds = min(parse_duration(since), time.time())
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _newest(rows: Iterable[Row], count: int | None) -> list[Row]:
    return list(rows) if count is None else list(deque(rows, maxlen=count))


def _ask(agent: AdminClient, chosen: FlowFilter, last: int | None) -> tuple[list[Row], str]:
    """What the agent has at this moment, and the cursor for what follows."""
    # With a filter, what matches may be far behind.
    page = agent.fetch("/flows", **({} if last is None or not chosen.is_empty else {"last": str(last)}))
    found = list(filter(chosen.matches, page["flows"]))
    while page["has_more"]:
        page = agent.fetch("/flows", after=page["cursor"])
        found += filter(chosen.matches, page["flows"])
    return _newest(found, last), page["cursor"]


def _follow(agent: AdminClient, listing: Listing, chosen: FlowFilter, cursor: str) -> NoReturn:
    """Until interrupted. An agent that goes away comes back, with a new one's history if it has been replaced."""
    is_away = False
    while True:
        try:
            page = agent.fetch("/flows", after=cursor, wait=f"{_WAIT_SECONDS:g}")
        except AgentUnreachable as error:
            if not is_away:
                click.echo(f"{error}; waiting for it", err=True)
            is_away = True
            time.sleep(_AWAY_SECONDS)
            continue
        is_away, cursor = False, page["cursor"]
        if page["lost"]:
            click.echo(f"{page['lost']} flows were more than the agent keeps, and are not shown", err=True)
        listing.show(list(filter(chosen.matches, page["flows"])))


def _read(file: TextIO) -> Iterator[Row]:
    """Rows of a file. Raises ConfigError, which says where it is no file of flows."""
    name = Path(file.name).name if file.name != "<stdin>" else "standard input"
    start = file.readline()
    if start.strip() == "{":  # -o json, which is indented
        yield from _rows_of("".join([start, *file]), f"--input: {name}")
        return
    for number, line in enumerate(itertools.chain([start], file), 1):
        if line.strip():
            yield from _rows_of(line, f"--input: {name}:{number}")


def _rows_of(text: str, where: str) -> list[Row]:
    try:
        found = json.loads(text)
        rows = found.get("flows", [found])
        for row in rows:
            require_flow(row)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where}: not a flow", check="Was it written by `nodeagent flows -o jsonl`?") from error
    return list(rows)
