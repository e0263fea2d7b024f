# SPDX-License-Identifier: Apache-2.0
"""The demo as a person runs it: every claim true, and nothing left, also after it was killed in its middle."""

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

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

COMMAND = [sys.executable, "-m", "nodeagent.cli.main", "demo", "--script", "--json"]
CLAIMS = [*(claim.words for claim in TOUR), LAST]


@pytest.fixture(scope="module")
def tour() -> dict[str, dict[str, Any]]:
    """The claims of one whole tour, by their words."""
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=380, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["claim"] for row in told] == CLAIMS, done.stderr
    assert (done.returncode == 0) == all(row["ok"] for row in told), done.stderr
    return {row["claim"]: row for row in told}


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_claim_is_true(tour: dict[str, dict[str, Any]], claim: str) -> None:
    row = tour[claim]
    assert row["ok"], row["evidence"]
    assert row["evidence"]
    assert row["seconds"] >= 0


def test_a_tour_that_is_killed_in_its_middle_leaves_nothing_behind_the_next_start(tmp_path: Path) -> None:
    before = machine_state()
    output = tmp_path / "claims"
    with output.open("wb") as claims, subprocess.Popen(COMMAND, stdout=claims) as killed:
        deadline = time.monotonic() + 120
        while output.read_bytes().count(b"\n") < 3:
            assert killed.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "no three claims in two minutes"
            time.sleep(0.05)
        killed.kill()
    assert difference(before, machine_state()), "a killed tour cannot have cleaned up"

    cleaned = Lab.clean_all()

    assert cleaned.removed
    assert difference(before, machine_state()) == []
