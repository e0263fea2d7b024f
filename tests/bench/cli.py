# SPDX-License-Identifier: Apache-2.0
"""What a person waits for: the installed program from its start to its end, interpreter included.

`--help` is what shell completion costs, too; `status` asks a running agent, as an exec probe does.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nodeagent.errors import NotPossible
from nodeagent.lab.demo.stage import NODES
from tests.bench.ground import Condition, Ground
from tests.bench.report import Goal, Row, at_most
from tests.bench.rounds import Harness, Settings

HELP_GOAL, STATUS_GOAL = at_most(150), at_most(300)
_TIMES = 3
"""Of each round, in turn; a round counts by its median."""


def run(ground: Ground, harness: Harness, settings: Settings) -> list[Row]:
    program = Path(sys.executable).with_name("nodeagent")
    node = ground.stage.lab.nodes[NODES[0]]
    ground.become(NODES[0], Condition.KERNEL)

    def help_page() -> "subprocess.CompletedProcess[str]":
        return subprocess.run([program, "--help"], capture_output=True, text=True, check=False)

    def status() -> "subprocess.CompletedProcess[str]":
        return node.run([program, "status"])

    return harness.undisturbed(
        lambda: [
            _row("nodeagent --help", help_page, settings.rounds, HELP_GOAL),
            _row("nodeagent status", status, settings.rounds, STATUS_GOAL),
        ]
    )


def _row(name: str, command: Callable[[], "subprocess.CompletedProcess[str]"], rounds: int, goal: Goal) -> Row:
    made = [statistics.median(_milliseconds(command) for _ in range(_TIMES)) for _ in range(rounds)]
    return Row(f"cli: {name}", statistics.median(made), "ms", goal=goal, lowest=min(made), highest=max(made))


def _milliseconds(command: Callable[[], "subprocess.CompletedProcess[str]"]) -> float:
    began = time.perf_counter()
    done = command()
    taken = (time.perf_counter() - began) * 1000
    if done.returncode not in {0, 1} or not done.stdout:
        raise NotPossible(f"the command ended with status {done.returncode}: {done.stderr.strip()}")
    return taken
