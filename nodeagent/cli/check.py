# SPDX-License-Identifier: Apache-2.0
"""`nodeagent check`: whether this machine can run the agent, with evidence for each answer."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.command import command
from nodeagent.cli.output import Output, Table, has_colour, shows
from nodeagent.config import Config
from nodeagent.errors import ProblemFound
from nodeagent.logs.escape import one_line
from nodeagent.model.mark import Marks, find_fault

if TYPE_CHECKING:
    from nodeagent.kernel.probe import Probe


CHECKS = Table("checks", (), name=lambda row: row["name"])
"""For rows and names; people get lines of advice, which are no table."""


def _bits(text: str) -> int:
    return int(text, 0)


@command(examples=("sudo nodeagent check", "sudo nodeagent check -o json | jq '.checks[] | select(.ok | not)'"))
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
@shows
def check(output: Output, *, bpffs: str, cgroup: str, mark: int, mark_mask: int) -> None:
    """Checks whether this machine can run the agent.

    Each check tries the thing itself where that can be done aside; nothing of the machine is changed. The exit status
    is 1 when something that is needed is missing. Options are the agent's settings: give those that it is given.
    """
    marks = Marks(mark, mark_mask)
    fault = find_fault(marks)
    if fault:
        raise click.UsageError(f"--mark and --mark-mask: {fault}")
    # Here, because they load pyroute2.
    from nodeagent.agent.tls_probe import kernel_tls
    from nodeagent.kernel.survey import probe_all

    probes = [*probe_all(bpffs, marks, cgroup=cgroup), kernel_tls()]
    is_able = all(probe.ok or not probe.is_needed for probe in probes)
    if output.is_table:
        tell(probes)
    else:
        checks = [dataclasses.asdict(probe) for probe in probes]
        output.show({"schema": SCHEMA, "ok": is_able, "checks": checks}, CHECKS)
    if not is_able:
        click.get_current_context().exit(ProblemFound.exit_code)


def tell(probes: "Sequence[Probe]") -> None:
    """Lines for people."""
    for probe in probes:
        _tell(probe)
    is_able = all(probe.ok or not probe.is_needed for probe in probes)
    click.echo("this machine can run the agent" if is_able else "this machine cannot run the agent as it is")


def _tell(probe: "Probe") -> None:
    sign, colour = ("✓", "green") if probe.ok else ("✗", "red") if probe.is_needed else ("!", "yellow")
    shown = click.style(sign, fg=colour) if has_colour() else sign
    click.echo(f"{shown} {probe.name:<14} {one_line(probe.evidence)}")
    if not probe.ok and probe.advice:
        click.echo(f"{'':<16} {one_line(probe.advice)}")
