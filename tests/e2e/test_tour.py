# SPDX-License-Identifier: Apache-2.0
"""The demo as a person runs it: every claim true, and nothing left, also after one that was killed in its middle."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nodeagent.lab.demo.tour import LAST, TOUR
from nodeagent.lab.lab import Lab
from nodeagent.lab.machine import difference, machine_state

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

COMMAND = [sys.executable, "-m", "nodeagent.cli.main", "demo", "--script", "--json"]
CLAIMS = [*(claim.words for claim in TOUR), LAST]


@dataclasses.dataclass(frozen=True)
class Performance:
    """One whole tour, after another one was killed in its middle."""

    rows: dict[str, dict[str, Any]]
    """By the words of the claim."""
    left_by_killed: list[str]
    left: list[str]


@pytest.fixture(scope="module")
def performance(tmp_path_factory: pytest.TempPathFactory) -> Performance:
    Lab.clean_all()
    before = machine_state()
    _kill_in_its_middle(tmp_path_factory.mktemp("killed") / "claims")
    left_by_killed = difference(before, machine_state())
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=1200, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["claim"] for row in told] == CLAIMS, done.stderr
    assert done.returncode == (0 if all(row["ok"] for row in told) else 1), done.stderr
    assert "Traceback" not in done.stderr
    return Performance({row["claim"]: row for row in told}, left_by_killed, difference(before, machine_state()))


def _kill_in_its_middle(output: Path) -> None:
    with output.open("wb") as claims, subprocess.Popen(COMMAND, stdout=claims) as killed:
        deadline = time.monotonic() + 600
        while output.read_bytes().count(b"\n") < 3:
            assert killed.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "no three claims in ten minutes"
            time.sleep(0.05)
        killed.kill()


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_claim_is_true(performance: Performance, claim: str) -> None:
    row = performance.rows[claim]
    assert set(row) == {"claim", "ok", "evidence", "seconds"}
    assert row["ok"], row["evidence"]
    assert row["evidence"]
    assert row["seconds"] >= 0


def test_a_tour_that_was_killed_leaves_nothing_behind_the_next_one(performance: Performance) -> None:
    assert performance.left_by_killed, "a killed tour cannot have cleaned up"
    assert performance.left == []
