# SPDX-License-Identifier: Apache-2.0
"""20,000 random cases of each part without a difference, and that a difference would be found, made small and kept."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeagent.policy import evaluate as evaluator
from tests.differential import __main__ as program
from tests.differential.campaign import PARTS, run
from tests.differential.comparison import Plain

CASES = 20_000
KINDS = {
    "wire": {"allowed", "denied", "not allowed", "pending"},
    "mesh": {"allowed", "denied", "not allowed"},
}


def _quietly(_done: int) -> None:
    """No progress is shown."""


@pytest.mark.parametrize("name", sorted(PARTS))
def test_twenty_thousand_random_cases_get_the_naive_verdict(name: str) -> None:
    """The seed is that of the test run, which pytest prints."""
    seed = random.randrange(1 << 31)
    outcome = run(PARTS[name], seed, CASES, _quietly)
    assert outcome.difference is None, f"seed {seed}: {outcome.difference}\n{json.dumps(outcome.difference.case)}"
    assert outcome.cases >= CASES
    assert set(outcome.kinds) == KINDS[name]
    assert min(outcome.kinds.values()) > CASES / 50, outcome.kinds


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine may be slow
@given(rng=st.randoms(use_true_random=False))
def test_hypothesis_finds_no_mesh_that_differs(rng: random.Random) -> None:
    for comparison in PARTS["mesh"].compare(rng):
        assert comparison.agrees, f"{comparison}\n{json.dumps(comparison.case)}"


@pytest.fixture
def without_service_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect: the evaluator does not look at service accounts any more."""
    tests = [
        (lambda _values, _facts: True) if "service_accounts" in name else test
        for name, test in evaluator.FIELDS.items()
    ]
    monkeypatch.setattr(evaluator, "_TESTS", tuple(tests))


@pytest.mark.usefixtures("without_service_accounts")
@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_defect_is_found_made_small_and_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert program.main(["--cases", str(CASES), "--seed", "1", "--part", name]) == 1
    told = capsys.readouterr().out
    assert "this case differs" in told
    assert "naive: " in told
    (kept,) = (tmp_path / program.KEPT).iterdir()
    assert f"--replay {kept.relative_to(tmp_path)}" in told

    written: Plain = json.loads(kept.read_text())["case"]
    pieces = written["policies"] if name == "wire" else written["objects"]
    policies = [one for one in pieces if one.get("kind", "AuthorizationPolicy") == "AuthorizationPolicy"]
    assert len(policies) <= 2

    assert program.main(["--replay", str(kept)]) == 1
    monkeypatch.undo()
    assert program.main(["--replay", str(kept)]) == 0
    assert "does not differ any more" in capsys.readouterr().out


def test_a_clean_run_says_how_much_it_has_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "_TOLD_EVERY_SECONDS", 0.0)
    assert program.main(["--cases", "200", "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert "200 cases for each of mesh, wire; seed 3" in told
    assert "mesh: 0 differences" in told
    assert "wire: 0 differences" in told
    assert "of 200," in told
