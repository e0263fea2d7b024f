# SPDX-License-Identifier: Apache-2.0
"""What surrounds the show. That the show itself is true is proven by tests/e2e/test_tour.py."""

import json
import os
import types
from collections.abc import Callable, Generator

import pytest

from nodeagent.cli import demo
from nodeagent.lab import machine
from nodeagent.lab.demo.claims import Outcome
from nodeagent.lab.demo.tour import LAST
from nodeagent.lab.lab import Lab
from nodeagent.lab.machine import Fact, State

Call = Callable[..., tuple[int, str, str]]
_LEFT = Fact("directory", "", "/run/nodeagent-lab")


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[Fact]:
    """What a killed run left on the machine; a show of one true claim."""
    facts = [_LEFT]

    def clean_all() -> types.SimpleNamespace:
        removed = tuple(facts)
        facts.clear()
        return types.SimpleNamespace(removed=removed, alive=())

    def state() -> State:
        return frozenset(facts)

    def perform(**_: object) -> Generator[Outcome, None, None]:
        facts.clear()  # as the lab's start does
        yield Outcome("it works", ok=True, evidence="seen", seconds=0.1)

    monkeypatch.setattr(Lab, "clean_all", staticmethod(clean_all))
    monkeypatch.setattr(machine, "machine_state", state)
    monkeypatch.setattr(demo, "_perform", perform)
    return facts


def test_the_machine_is_compared_with_what_it_is_without_the_leavings_of_a_killed_run(
    call: Call, left: list[Fact]
) -> None:
    status, out, err = call("demo", "--script", "--json")
    assert (status, err, left) == (0, "", [])
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["claim"], row["ok"]) for row in rows] == [("it works", True), (LAST, True)]


@pytest.mark.usefixtures("left")
def test_a_person_is_told_of_the_leavings(call: Call) -> None:
    assert "earlier run" in call("demo", "--script")[1]
    assert "earlier run" not in call("demo", "--script")[1]


def test_without_root_it_says_so(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status, out, err = call("demo", "--script")
    assert (status, out) == (4, "")
    assert "root" in err
