# SPDX-License-Identifier: Apache-2.0
"""`nodeagent demo`: shows the outcome of the tour; the tour itself is lab/demo."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from nodeagent.cli.command import command
from nodeagent.errors import ProblemFound

if TYPE_CHECKING:
    from nodeagent.lab.demo.claims import Outcome


@command(examples=("sudo nodeagent demo", "sudo nodeagent demo --script --json | jq ."))
@click.option("--script", is_flag=True, help="The tour alone, without the live view (as when there is no terminal).")
@click.option("--json", "as_json", is_flag=True, help='One object per claim: {"claim", "ok", "evidence", "seconds"}.')
@click.option("--live", "only_live", is_flag=True, help="The live view alone, without the tour.")
def demo(*, script: bool, as_json: bool, only_live: bool) -> None:
    """Builds a mesh of two nodes on this machine, proves what it promises, and removes everything again.

    Nodes and pods are network namespaces named na-*. Nothing else of this machine is touched. On a terminal the tour is
    followed by a live view that reacts to edits of the mesh's files, until Ctrl-C.
    """
    # The lab's modules take half a second to load, which no other command should pay for.
    from nodeagent.lab.demo.claims import Outcome
    from nodeagent.lab.demo.tour import LAST
    from nodeagent.lab.machine import difference, machine_state

    stays = only_live or (sys.stdout.isatty() and not script and not as_json)
    show = _show_json if as_json else _show_words
    began, before = time.monotonic(), machine_state()
    outcomes: list[Outcome] = []
    with contextlib.suppress(KeyboardInterrupt):
        for outcome in _perform(tours=not only_live, stays=stays, tell=_silent if as_json else click.echo):
            outcomes.append(outcome)
            show(outcome)
    ended = time.monotonic()
    left = difference(before, machine_state())
    outcomes.append(Outcome(LAST, not left, "; ".join(left) or "no difference", time.monotonic() - ended))
    show(outcomes[-1])
    false = [outcome.claim for outcome in outcomes if not outcome.ok]
    if false:
        raise ProblemFound(
            f"{len(false)} of {len(outcomes)} claims are false: {'; '.join(false)}",
            check="The evidence stands below each claim.",
        )
    if not as_json:
        click.echo(f"{len(outcomes)} claims, all true, in {time.monotonic() - began:.0f} s")


def _perform(*, tours: bool, stays: bool, tell: Callable[[str], None]) -> "Iterator[Outcome]":
    """The show itself; everything is gone when it ends, however it ends."""
    from nodeagent.lab.demo.claims import run_claims
    from nodeagent.lab.demo.live import guide, watch
    from nodeagent.lab.demo.stage import NODES, running
    from nodeagent.lab.demo.tour import TOUR

    began = time.monotonic()
    with running() as stage:
        stage.prepare()
        tell(_step("two nodes and six pods, all named na-*, with an application in each pod", began))
        began = time.monotonic()
        stage.start_control_plane()
        tell(_step(f"control plane reads {stage.mesh_directory}", began))
        began = time.monotonic()
        for node in NODES:
            stage.start_agent(node)
        tell(_step("an agent with a tunnel worker on each node, the pods of the mesh captured", began))
        if tours:
            yield from run_claims(TOUR, stage)
        if stays:
            tell(guide(stage))
            watch(stage, tell)


def _step(words: str, began: float) -> str:
    return f" · {words}  {click.style(f'{time.monotonic() - began:.1f}s', dim=True)}"


def _show_json(outcome: "Outcome") -> None:
    print(json.dumps(outcome.as_object()), flush=True)


def _show_words(outcome: "Outcome") -> None:
    sign = click.style("✓", fg="green") if outcome.ok else click.style("✗", fg="red")
    click.echo(f" {sign} {outcome.claim}  {click.style(f'{outcome.seconds:.1f}s', dim=True)}")
    click.echo(f"     {click.style(outcome.evidence, dim=True)}")


def _silent(_words: str) -> None:
    """JSON is all that a program wants to read."""
