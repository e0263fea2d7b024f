# SPDX-License-Identifier: Apache-2.0
"""`nodeagent explain`: asks the agent, and sets out its answer for reading."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from nodeagent.admin.client import AdminClient
from nodeagent.cli.command import command
from nodeagent.cli.completion import DESTINATIONS, WORKLOADS
from nodeagent.cli.output import Output, asks_agent, has_colour, shows
from nodeagent.errors import ProblemFound
from nodeagent.logs.escape import one_line

_FINE = frozenset({"ALLOWED", "PASSES"})
_COLOURS = {"ALLOWED": "green", "PASSES": "green", "PENDING": "yellow", "MIXED": "yellow"}


@command(
    examples=(
        "nodeagent explain shop/web shop/db:5432",
        "nodeagent explain shop/web db.shop.svc.cluster.local:5432",
        "nodeagent explain 10.241.0.12 '[fd00::9]:5432' --plaintext",
        "nodeagent explain web pod/shop/db-0:5432 --identity cluster.local/ns/shop/sa/api",
        "nodeagent explain web shop/db:5432 --policy-dir new.d",
    )
)
@click.argument("source", shell_complete=WORKLOADS)
@click.argument("destination", metavar="DESTINATION:PORT", shell_complete=DESTINATIONS)
@click.option("--identity", default="", metavar="SPIFFE-ID", help="As if the source had this identity.")
@click.option("--plaintext", is_flag=True, help="As if the source were not in the mesh.")
@click.option(
    "--policy-dir",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="As if the policies of this directory were in force, and no others. They are read here, and not applied.",
)
@shows
@asks_agent
def explain(
    agent: AdminClient,
    output: Output,
    *,
    source: str,
    destination: str,
    identity: str,
    plaintext: bool,
    policy_dir: Path | None,
) -> None:
    """Says what would become of a connection, and which policy decides.

    SOURCE is a pod (ns/name, or name) or an address; DESTINATION a Service or pod, a hostname or an address. The answer
    comes from the same evaluation as the proxy's, with the mesh as this node knows it. The exit status is 1 when the
    connection, or one to some of the endpoints, would be refused.

    `files` says where the policies are written, if the control plane is ours (an istiod does not tell). With
    --policy-dir it is the line of the rule, in that directory. Pods of the directory tell which labels they have; of
    others a policy with a selector is about those that it is about in the mesh.
    """
    host, port = _split(destination)
    query = {"source": source, "destination": host, "port": port}
    query |= {"identity": identity} if identity else {}
    query |= {"plaintext": "true"} if plaintext else {}
    if policy_dir is None:
        answer = agent.fetch("/explain", **query)
    else:
        # Reading YAML loads what no other question needs.
        from nodeagent.cli.what_if import what_if

        answer, refused = what_if(agent, policy_dir, query)
        for finding in refused:
            click.echo(finding, err=True)
    if output.is_table:
        for title, words in lines(answer):
            colour = _COLOURS.get(words.partition(" ")[0], "red") if title == "verdict" and has_colour() else None
            text = one_line(words)
            click.echo(f"{title:<13}{click.style(text, fg=colour) if colour else text}".rstrip())
    else:
        output.show_whole(answer)
    if answer["verdict"] not in _FINE:
        click.get_current_context().exit(ProblemFound.exit_code)


def lines(answer: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and words of each line; a title is empty where the one above goes on."""
    source, destination = answer["source"], answer["destination"]
    place = ", ".join([*source["addresses"], *filter(None, [source["node"]])])
    identity = source["identity"].removeprefix("spiffe://") or "none"
    yield "source", f"{source['name']} ({place})  identity {identity}  captured {source['captured']}"
    via = f"  via service {destination['service']}" if destination["service"] else ""
    yield "destination", f"{destination['asked']}{via}"
    for number, route in enumerate(answer["routes"], 1):
        if len(answer["routes"]) > 1:
            yield "", ""
            yield f"answer {number}", f"of {len(answer['routes'])}"
        yield from _route(route)
    if "now" in answer:
        yield "now", f"{answer['now']}  by the policies that are in force"
    yield "last seen", _last_seen(answer.get("last_seen"))
    yield from _titled("warnings", answer["warnings"] or ["none"])


def _last_seen(seen: dict[str, Any] | None) -> str:
    if seen is None:
        return "not among the connections that this node remembers"
    policy = f" by {seen['policy']}" if seen["policy"] else ""
    minutes = seen["recent_seconds"] // 60
    return (
        f"{seen['ended']}  {seen['verdict']}{policy}, ended as {seen['reason']} ({seen['direction']}, by way of the "
        f"{seen['path']}; {seen['recent']} in the last {minutes} minutes)"
    )


def _route(route: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _titled("endpoint", route["endpoints"])
    yield "path", " -> ".join(route["path"])
    if route.get("tunnel"):  # an agent of an earlier release says nothing of it
        yield "tunnel", route["tunnel"]
    count = len(route["policies"])
    yield "policies", f"{count} appl{'ies' if count == 1 else 'y'}" if count else "none applies"
    for line in route["working"]:
        yield "", line
    yield from _titled("files", [f"{policy}  {place}" for policy, place in route.get("files", {}).items()])
    reason = f"  reason={route['reason']}" if route["reason"] else ""
    yield "verdict", f"{route['verdict']}{reason}  {route['words']}"
    if route.get("dry_run"):
        yield "dry run", route["dry_run"]
    yield from _titled("to allow", route["to_allow"])


def _titled(title: str, many: list[str]) -> Iterator[tuple[str, str]]:
    for number, words in enumerate(many):
        yield ("" if number else title), words


def _split(destination: str) -> tuple[str, str]:
    """`host:port`; an IPv6 address in brackets. The agent says whether the host means anything."""
    host, colon, port = destination.rpartition(":")
    if not colon or not host or not port.isdigit() or (":" in host and not host.startswith("[")):
        raise click.BadParameter(
            f"{destination!r} is not NAME:PORT, such as shop/db:5432 or '[fd00::9]:5432'", param_hint="DESTINATION:PORT"
        )
    return host.removeprefix("[").removesuffix("]"), port
