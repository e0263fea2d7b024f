# SPDX-License-Identifier: Apache-2.0
"""`nodeagent check`: whether this machine can run the agent, and is well with it, with evidence for each answer."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from nodeagent.admin.client import AdminClient
from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.check_pages import PAGES, page, place
from nodeagent.cli.command import command
from nodeagent.cli.output import Output, Row, Table, has_colour, orders_agent, shows
from nodeagent.config import Config
from nodeagent.errors import ConfigError, ControlPlaneError, ProblemFound
from nodeagent.logs.escape import one_line
from nodeagent.model.address import split_host_port
from nodeagent.model.check import PAGE, Check, check_id, component_id
from nodeagent.model.mark import Marks, find_fault

CHECKS = Table("checks", (), name=lambda row: row["name"])
"""For rows and names; people get lines of advice, which are no table."""

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_ADDRESSES = ("stats_address", "ready_address", "admin_address")
_ADVICE = {
    "kernel": "See `nodeagent check --pre` and the agent's log.",
    "redirect": "`nodeagent pods` has a reason for each.",
    "proxy": "`nodeagent status` lists the workers; the agent's log says why.",
    "certificates": "`nodeagent certs` has the last error of each.",
    "xds": ControlPlaneError.check,
    "ca": ControlPlaneError.check,
}
"""By the component of the agent; of the others its log tells."""
ROOT_SECONDS = 60 * 86400
"""An exchange has to wait for certificates that are in use, and for people."""
_WELL, _FAILED = "ok", "failed"


def _explain(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    if value not in PAGES:
        raise ConfigError(f"--explain: there is no check {value!r}", check=f"{PAGE} lists them, as -o wide does.")
    click.echo(page(value), nl=False)
    ctx.exit()


def _bits(text: str) -> int:
    return int(text, 0)


def _setting(setting: str, metavar: str) -> Callable[[_Decorated], _Decorated]:
    """The agent's setting of this name as an option; its default is the agent's."""
    field = next(field for field in dataclasses.fields(Config) if field.name == setting)
    return click.option(
        f"--{setting.replace('_', '-')}",
        envvar=field.metadata["env"],
        default=field.default,
        show_default=True,
        metavar=metavar,
    )


@command(
    examples=(
        "sudo nodeagent check --pre",
        "sudo nodeagent check",
        "sudo nodeagent check --setup --proxy",
        "sudo nodeagent check -o json | jq '.checks[] | select(.ok | not)'",
        "nodeagent check --explain bpffs",
    )
)
@click.option("--pre", "is_pre", is_flag=True, help="Only whether an agent could run here, before there is any.")
@click.option("--setup", "is_setup", is_flag=True, help="Only what is set up on this node, by us and by others.")
@click.option("--proxy", "is_proxy", is_flag=True, help="Only whether this node's agent and its workers are well.")
@click.option(
    "--explain",
    metavar="ID",
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Say what one check means, and what to do; nothing is checked. -o wide and json have the ids.",
)
@click.option("--bpffs", envvar="NODEAGENT_BPFFS", default=Config.bpffs, show_default=True, metavar="PATH")
@click.option(
    "--cgroup",
    envvar="NODEAGENT_CGROUP",
    default="",
    metavar="PATH",
    help="[default: the kubelet's]",
)
@click.option(
    "--mark", envvar="NODEAGENT_MARK", type=_bits, default=hex(Config.mark), show_default=True, metavar="BITS"
)
@click.option(
    "--mark-mask",
    envvar="NODEAGENT_MARK_MASK",
    type=_bits,
    default=hex(Config.mark_mask),
    show_default=True,
    metavar="BITS",
)
@_setting("token", "FILE")
@click.option(
    "--kubernetes",
    envvar="NODEAGENT_KUBERNETES",
    type=click.Choice(["off", "on"]),
    default=Config.kubernetes,
    show_default=True,
    help="On: an agent has its pods from the API, so --netns-dir and --token have to be there.",
)
@_setting("netns_dir", "PATH")
@_setting("stats_address", "ADDRESS")
@_setting("ready_address", "ADDRESS")
@_setting("admin_address", "ADDRESS")
@shows
@orders_agent
def check(
    agent: AdminClient,
    output: Output,
    /,
    *,
    is_pre: bool,
    is_setup: bool,
    is_proxy: bool,
    mark: int,
    mark_mask: int,
    **settings: str,
) -> None:
    """Checks whether this machine can run the agent.

    Without --pre, --setup or --proxy it is the first two; with several it is those. Each check tries the thing itself
    where that can be done aside; nothing of the machine is changed. The exit status is 1 when something that is needed
    is missing, marked with a cross; what only is not as it should be has an exclamation mark. docs/checks.md has a
    page for each. Options are the agent's
    settings: give those that it is given.
    """
    marks = Marks(mark, mark_mask)
    fault = find_fault(marks)
    if fault:
        raise click.UsageError(f"--mark and --mark-mask: {fault}")
    ports = {name.replace("_", "-"): settings[name] for name in _ADDRESSES}
    _validate(ports)
    if not (is_pre or is_setup or is_proxy):
        is_pre = is_setup = True
    checks: list[dict[str, Any]] = []
    if is_pre or is_setup:
        # Here, because they load pyroute2.
        from nodeagent.agent.tls_probe import kernel_tls
        from nodeagent.agent.token_probe import token
        from nodeagent.kernel.survey import probe_all, probe_before, probe_node

        if is_pre:
            every = probe_all if is_setup else probe_before
            is_kubernetes = settings["kubernetes"] == "on"
            netns_dir = settings["netns_dir"] if is_kubernetes else ""
            is_expected = is_kubernetes or settings["token"] != Config.token
            probes = [
                *every(settings["bpffs"], marks, cgroup=settings["cgroup"], netns_dir=netns_dir, ports=ports),
                kernel_tls(),
                token(settings["token"], is_expected=is_expected, now=time.time()),
            ]
        else:
            probes = probe_node(settings["bpffs"], marks)
        checks += [_row(check_id(probe.name), dataclasses.asdict(probe)) for probe in probes]
    if is_proxy:
        checks += _of_agent(agent.fetch("/status"))
        certificates = agent.fetch("/certs")
        checks += [_of_roots(certificates), _of_clock(certificates)]
    is_able = _is_able(checks)
    if output.is_table:
        tell(checks, is_about_machine=is_pre, is_wide=output.form == "wide")
    else:
        output.show({"schema": SCHEMA, "ok": is_able, "checks": checks}, CHECKS)
    if not is_able:
        click.get_current_context().exit(ProblemFound.exit_code)


def _validate(ports: Mapping[str, str]) -> None:
    for name, address in ports.items():
        try:
            if address:
                split_host_port(address)
        except ValueError as error:
            raise ConfigError(f"--{name}: {error}", check="Expected: address:port, or nothing.") from error


def _of_agent(status: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What `nodeagent status` tells, as checks: what has failed is needed, what is degraded is not."""
    for row in status["components"]:
        yield _row(
            component_id(row["component"]),
            {
                "name": row["component"],
                "ok": row["state"] == _WELL,
                "evidence": row["detail"] or row["state"],
                "advice": _ADVICE.get(row["component"], "The agent's log says more."),
                "is_needed": row["state"] == _FAILED,
            },
        )


def _of_roots(certificates: Mapping[str, Any]) -> dict[str, Any]:
    roots = [row for row in certificates["certificates"] if row["type"] == "Root"]
    first = min(roots, key=lambda row: row["expires_in_seconds"], default=None)
    return _row(
        check_id(Check.ROOTS),
        {
            "name": Check.ROOTS,
            "ok": first is None or first["expires_in_seconds"] >= ROOT_SECONDS,
            "evidence": _end_of_root(first) if first else "no identity has one yet",
            "advice": "Exchange it while both are trusted, and then drop it: docs/control-plane.md.",
            "is_needed": False,
        },
    )


def _end_of_root(root: Row) -> str:
    return f"{root['name']} {'ends' if root['expires_in_seconds'] > 0 else 'has ended'} {root['not_after']}"


def _of_clock(certificates: Mapping[str, Any]) -> dict[str, Any]:
    """What begins later than now was made by a clock that is ahead of this node's: in use, or refused for that."""
    from nodeagent.certs.chain import NOT_YET  # loads cryptography

    rows = [row for row in certificates["certificates"] if row["type"] == "Leaf"]  # a root may be staged ahead
    early = [row for row in rows if NOT_YET in row["last_error"] or _begins_later(row)]
    told = [row["last_error"] or f"{row['name']} begins at {row['not_before']}" for row in early]
    return _row(
        check_id(Check.CLOCK),
        {
            "name": Check.CLOCK,
            "ok": not early,
            "evidence": told[0] if told else "no certificate begins later than now",
            "advice": "This node's clock, or the CA's, is wrong: do both follow a time server?",
            "is_needed": any(not row["valid"] for row in early),
        },
    )


def _begins_later(row: Row) -> bool:
    """By the agent's clock, which has judged it."""
    return not row["valid"] and row["expires_in_seconds"] > 0


def _row(number: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": number, **found, "name": str(found["name"]), "docs": place(number)}


def _is_able(checks: Sequence[Row]) -> bool:
    return all(row["ok"] or not row["is_needed"] for row in checks)


def tell(checks: Sequence[Row], *, is_about_machine: bool = True, is_wide: bool = False) -> None:
    """Lines for people; wide, also where each check is explained."""
    for row in checks:
        _tell(row, is_wide=is_wide)
    is_able = _is_able(checks)
    if is_about_machine:
        click.echo("this machine can run the agent" if is_able else "this machine cannot run the agent as it is")
    else:
        click.echo("nothing that is needed is missing" if is_able else "something that is needed is missing")


def _tell(row: Row, *, is_wide: bool) -> None:
    sign, colour = ("✓", "green") if row["ok"] else ("✗", "red") if row["is_needed"] else ("!", "yellow")
    shown = click.style(sign, fg=colour) if has_colour() else sign
    click.echo(f"{shown} {row['name']:<14} {one_line(row['evidence'])}")
    if not row["ok"] and row["advice"]:
        click.echo(f"{'':<16} {one_line(row['advice'])}")
    if is_wide and row["docs"]:
        click.echo(f"{'':<16} {row['docs']}")
