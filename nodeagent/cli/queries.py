# SPDX-License-Identifier: Apache-2.0
"""The commands that show what the agent knows."""

import dataclasses
import json
from collections.abc import Iterator

import click

from nodeagent.admin.client import AdminClient
from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.columns import (
    CERTIFICATES,
    CONNECTIONS,
    KERNEL,
    LOGS,
    MISSING,
    PODS,
    POLICIES,
    SERVICES,
    STATUS,
    WORKERS,
    WORKLOADS,
)
from nodeagent.cli.command import command
from nodeagent.cli.completion import CONNECTIONS as CONNECTION_IDS
from nodeagent.cli.completion import POLICIES as POLICY_NAMES
from nodeagent.cli.flow_filter import parse_duration
from nodeagent.cli.output import Output, Row, asks_agent, orders_agent, shows
from nodeagent.errors import AgentUnreachable, MissingPrivilege, ProblemFound
from nodeagent.logs.escape import one_line

BPFFS = "/sys/fs/bpf"
"""As Config.bpffs, whose module is slow to import."""
KILL_SECONDS = 10.0
"""The agent tries for five."""


@command(
    examples=(
        "nodeagent status",
        'nodeagent status --brief || echo "this node needs a look"',
        "nodeagent status -o json | jq .kernel",
        "nodeagent status --node node-a",
    )
)
@click.option("--brief", is_flag=True, help="One line, as for a probe.")
@shows
@asks_agent
def status(agent: AdminClient, output: Output, *, brief: bool) -> None:
    """Tells whether this node's agent is well.

    Components, workers, and what the kernel programs decided. The exit status is 1 when a component is degraded or
    failed.
    """
    answer = agent.fetch("/status")
    if brief and output.is_table:
        ill = [f"{row['component']}: {row['detail']}" for row in answer["components"] if row["state"] != "ok"]
        click.echo(one_line("; ".join([f"{answer['state']} {answer['node']}: {answer['summary']}", *ill])))
    else:
        output.show(answer, STATUS, WORKERS, KERNEL)
    if answer["state"] != "ok":
        click.get_current_context().exit(ProblemFound.exit_code)


@command(examples=("nodeagent pods", "nodeagent pods -o json | jq '.pods[] | select(.captured != \"yes\")'"))
@shows
@asks_agent
def pods(agent: AdminClient, output: Output) -> None:
    """Lists this node's pods: which are captured, and why the others are not.

    MODE says who carries what a pod has with others of this node: the `kernel`, as far as policies allow it, and the
    proxy the rest; the `proxy` alone, since the table of verdicts has no room; or a `tunnel`, as the agent is set. HITS
    are connections that were steered to the proxy, DIRECT those that the kernel carried past it, since the agent's
    start.
    """
    output.show(agent.fetch("/pods"), PODS)


@command(examples=("nodeagent workloads", "nodeagent workloads --no-headers | grep HBONE"))
@shows
@asks_agent
def workloads(agent: AdminClient, output: Output) -> None:
    """Lists the workloads that this node knows."""
    output.show(agent.fetch("/workloads"), WORKLOADS)


@command(examples=("nodeagent services", "nodeagent services -o yaml"))
@shows
@asks_agent
def services(agent: AdminClient, output: Output) -> None:
    """Lists the Services that this node knows."""
    output.show(agent.fetch("/services"), SERVICES)


@command(
    examples=(
        "nodeagent policies",
        "nodeagent policies show shop/db-allow",
        "nodeagent policies -o wide | grep -v ' 0 '",
    )
)
@click.argument("name", nargs=-1, metavar="[[show] NAMESPACE/NAME]", shell_complete=POLICY_NAMES)
@shows
@asks_agent
def policies(agent: AdminClient, output: Output, *, name: tuple[str, ...]) -> None:
    """Lists the authorization policies, or reads one back in words.

    HITS are connections that a policy decided and that are over, since the agent's start. SYNCED says how long ago the
    agent has learnt what is in force, from the control plane or from its own disk.
    """
    match name:
        case ():
            output.show(agent.fetch("/policies"), POLICIES, MISSING)
            return
        case ("show", asked) | (asked,) if asked != "show":
            answer = agent.fetch("/policies", name=asked)
        case _:
            raise click.UsageError("One policy is shown: nodeagent policies show NAMESPACE/NAME.")
    if output.is_table:
        click.echo(_policy_in_words(answer["policy"]), nl=False)
    else:
        output.show_whole(answer)


def _hits(policy: Row) -> Iterator[str]:
    if "hits" in policy:  # an agent of an earlier release says nothing of it
        last = f", the last at {policy['last_hit']}" if policy["hits"] else ""
        yield f"  decided {policy['hits']} connections that are over{last}"


def _policy_in_words(policy: Row) -> str:
    lines = [
        f"{policy['namespace']}/{policy['name']}  {policy['action']}  {policy['scope']}  from {policy['origin']}",
        f"  {policy['headline']}",
        *(f"  rule {number}: {words}" for number, words in enumerate(policy["rules_in_words"], 1)),
        *(f"  caution: {words}" for words in policy["cautions"]),
        f"  attached to {', '.join(policy['attached_to']) or 'no workload'}",
        *_hits(policy),
    ]
    return "".join(f"{one_line(line)}\n" for line in lines)


@command(
    examples=("nodeagent certs", "nodeagent certs -o json | jq '.certificates[].not_after'", "nodeagent certs --renew")
)
@click.option("--renew", is_flag=True, help="Have the agent ask the CA for new ones now; open connections go on.")
@shows
@asks_agent
def certs(agent: AdminClient, output: Output, *, renew: bool) -> None:
    """Lists the certificates of this node's identities.

    The agent renews each by itself at half of its life. What --renew asks for is there a moment later; until then, and
    when the CA refuses, what is in use stays.
    """
    if renew:
        agent.order("/certs/renew")
    output.show(agent.fetch("/certs"), CERTIFICATES)


@command(
    examples=(
        "nodeagent connections",
        "nodeagent connections -o json | jq '.connections[].tls_peer'",
        "nodeagent connections --kill 4711-42",
        "sudo nodeagent connections --kernel -o wide",
    )
)
@click.option(
    "--kill",
    "killed",
    metavar="ID",
    shell_complete=CONNECTION_IDS,
    help="End this one, at both of its ends, and show how it ended.",
)
@click.option(
    "--kernel", "is_kernel", is_flag=True, help="The ends as the kernel's tables have them; no agent is asked."
)
@click.option(
    "--bpffs",
    envvar="NODEAGENT_BPFFS",
    default=BPFFS,
    show_default=True,
    metavar="PATH",
    help="Where these tables are pinned.",
)
@shows
@asks_agent
def connections(agent: AdminClient, output: Output, *, killed: str | None, is_kernel: bool, bpffs: str) -> None:
    """Lists the open connections of this node's pods.

    PATH says who carries their bytes on this node: a `tunnel`, the `proxy` in plain TCP, or the `kernel` alone. What is
    killed ends for the reason operator_killed; nothing keeps its client from connecting again.

    With --kernel a row is a pair of ends that our programs have noted, with the tables that have it. KIND says by what
    it passes: a verdict has `allowed` it, its port or block is `excluded`, it was open before the pod was captured and
    so `adopted`, or the `proxy` has it. STATE and COOKIE are told by its client's socket, of what the kernel carries
    alone. A note stays until it is pushed out, also of what is over; `SRC ?`: who opened it is not known.
    """
    if is_kernel:
        if killed is not None or not agent.is_live:
            raise click.UsageError("--kernel excludes --kill and --file: it asks the kernel.")
        from nodeagent.cli import tracked

        tracked.show(output, bpffs)
        return
    if killed is None:
        output.show(agent.fetch("/connections"), CONNECTIONS)
        return
    from nodeagent.cli.flows import FLOWS

    answer = agent.order("/connections/kill", takes_seconds=KILL_SECONDS, id=killed)
    output.show(answer, dataclasses.replace(FLOWS, member="killed"))


@command(
    examples=(
        "nodeagent log",
        "nodeagent log debug --for 2h",
        "nodeagent log info,xds:debug,access:off",
        "nodeagent log --reset",
    )
)
@click.argument("level", required=False)
@click.option(
    "--for", "duration", default="10m", show_default=True, metavar="DURATION", help="0s: until further notice."
)
@click.option("--reset", "is_reset", is_flag=True, help="Go back to what the agent was started with.")
@shows
@asks_agent
def log(agent: AdminClient, output: Output, *, level: str | None, duration: str, is_reset: bool) -> None:
    """Tells the log level of the agent and its workers, or changes it while they run.

    LEVEL is trace, debug, info, warn, error or off; for a part of it scope:level, with commas. Scopes are what log
    lines name, and `access` is the access log, which at debug has a line for each opening, too. After the time it is
    what it was at the agent's start.
    """
    if level is not None and is_reset:
        raise click.UsageError("A level and --reset exclude each other.")
    if level is not None:
        from nodeagent.logs.levels import LogLevels

        LogLevels.parse(level)
        agent.order("/log", level=level, seconds=f"{parse_duration(duration):g}")
    elif is_reset:
        agent.order("/log")
    output.show(agent.fetch("/log"), LOGS)


@command(examples=("nodeagent dump > dump.json", "nodeagent pods -f dump.json"))
@orders_agent
def dump(agent: AdminClient) -> None:
    """Writes all that the agent knows at this moment as JSON, for -f of the commands that only look.

    No key and no token is in it; names, addresses and identities of the mesh are.
    """
    click.echo(json.dumps(agent.fetch("/dump"), indent=1))


@command(examples=("nodeagent version", "nodeagent version -o json"))
@shows
@asks_agent
def version(agent: AdminClient, output: Output) -> None:
    """Tells the versions of this command and of the agent, of the kernel programs in each, and of the JSON.

    That no agent answers is no error here; that it is of another version is a warning.
    """
    from nodeagent.kernel.sources import programs_hash
    from nodeagent.version import VERSION

    found: Row = {}
    why = ""
    try:
        found = agent.fetch("/version")
    except (AgentUnreachable, MissingPrivilege) as error:
        why = str(error)
    running, programs, running_programs = str(found.get("version", "")), programs_hash(), str(found.get("programs", ""))
    if not output.is_table:
        output.show_whole(
            {
                "schema": SCHEMA,
                "command": VERSION,
                "agent": running,
                "programs": programs,
                "agent_programs": running_programs,
            }
        )
        return
    click.echo(f"command  {VERSION}  programs {programs}  {SCHEMA}")
    told = f"{one_line(running)}  programs {one_line(running_programs) or 'unknown'}" if running else f"unknown: {why}"
    click.echo(f"agent    {told}")
    if running and (running, running_programs or programs) != (VERSION, programs):
        click.echo("warning: the agent is of another version than this command", err=True)
