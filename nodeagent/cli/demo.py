# SPDX-License-Identifier: Apache-2.0
"""`nodeagent demo`: shows the outcome of the tour; the tour itself is lab/demo."""

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Generator, Sequence
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
    followed by a live view that reacts to edits of the mesh's files, until Ctrl-C. A web page at the machine's own
    loopback shows both nodes meanwhile; its address is told.
    """
    # The lab's modules take half a second to load, which no other command should pay for.
    from nodeagent.lab.demo.claims import Outcome
    from nodeagent.lab.demo.tour import LAST, TOUR
    from nodeagent.lab.lab import Lab
    from nodeagent.lab.machine import difference, machine_state

    # First of all: what a killed run left is not how the machine should be found again.
    if Lab.clean_all().removed and not as_json:
        click.echo(" · removed what an earlier run had left, which was killed")
    stays = only_live or (sys.stdout.isatty() and not script and not as_json)
    show = _show_json if as_json else _show_words
    began, before = time.monotonic(), machine_state()
    outcomes: list[Outcome] = []
    performance = _perform(tours=not only_live, stays=stays, is_talking=not as_json)
    is_interrupted = False
    try:
        for outcome in performance:
            outcomes.append(outcome)
            show(outcome)
    except KeyboardInterrupt:
        is_interrupted = not stays or not (only_live or len(outcomes) == len(TOUR))
    finally:
        performance.close()
    ended = time.monotonic()
    left = difference(before, machine_state())
    outcomes.append(Outcome(LAST, not left, "; ".join(left) or "no difference", time.monotonic() - ended))
    show(outcomes[-1])
    if is_interrupted:
        raise click.Abort
    _judge(outcomes, time.monotonic() - began, is_talking=not as_json)


def _judge(outcomes: "Sequence[Outcome]", seconds: float, *, is_talking: bool) -> None:
    false = [outcome.claim for outcome in outcomes if not outcome.ok]
    if false:
        raise ProblemFound(
            f"{len(false)} of {len(outcomes)} claims are false: {'; '.join(false)}",
            check="The evidence stands with each claim.",
        )
    if is_talking:
        click.echo(f"{len(outcomes)} claims, all true, in {seconds:.0f} s")


def _perform(*, tours: bool, stays: bool, is_talking: bool) -> "Generator[Outcome, None, None]":
    """The show itself; everything is gone when it ends, however it ends."""
    from nodeagent.lab.demo.claims import run_claims
    from nodeagent.lab.demo.live import guide, watch
    from nodeagent.lab.demo.page import shown
    from nodeagent.lab.demo.stage import NODES, running
    from nodeagent.lab.demo.tour import TOUR

    begins, tell = (_begins, _told) if is_talking else (_silent, _silent)
    with running() as stage, contextlib.ExitStack() as until_end:
        steps: list[tuple[str, Callable[[], None]]] = [
            ("two nodes and six pods, all named na-*, with an application in each pod", stage.prepare),
            (f"control plane reads {stage.mesh_directory}", stage.start_control_plane),
            *((f"agent and tunnel worker of {name}", functools.partial(stage.start_agent, name)) for name in NODES),
        ]
        for words, take in steps:
            began = time.monotonic()
            begins(words)
            take()
            tell(f" · {words}  {click.style(f'{time.monotonic() - began:.1f}s', dim=True)}")
        page = ""
        if is_talking:  # of a page that nobody is told of, nobody has anything
            page = until_end.enter_context(shown(stage))
            tell(f" · a page of both nodes, for a browser on this machine: {page}")
        if tours:
            yield from run_claims(TOUR, stage, begins)
        if stays:
            stage.invite()
            tell(guide(stage, page))
            watch(stage, tell)


_CLEAR_LINE = "\r\033[K"


def _begins(words: str) -> None:
    """What is being tried, until its outcome takes the line's place; only where a person looks."""
    if sys.stdout.isatty():
        click.echo(f" … {words}", nl=False)


def _told(line: str) -> None:
    click.echo(f"{_CLEAR_LINE}{line}" if sys.stdout.isatty() else line)


def _show_json(outcome: "Outcome") -> None:
    print(json.dumps(outcome.as_object()), flush=True)


def _show_words(outcome: "Outcome") -> None:
    sign = click.style("✓", fg="green") if outcome.ok else click.style("✗", fg="red")
    _told(f" {sign} {outcome.claim}  {click.style(f'{outcome.seconds:.1f}s', dim=True)}")
    click.echo(f"     {click.style(outcome.evidence, dim=True)}")


def _silent(_words: str) -> None:
    """JSON is all that a program wants to read."""
