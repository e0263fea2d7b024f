# SPDX-License-Identifier: Apache-2.0
"""One worker after the other, and what became of each one's connections; it stops where one was cut."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.errors import NodeagentError, NotPossible

Call = Callable[..., tuple[int, str, str]]


def replaced(slot: int, **more: int) -> dict[str, Any]:
    figures = {"handed_over": 7, "drained": 1, "cut": 0, "left": 0, **more}
    return {"slot": slot, "former_pid": 100 + slot, "pid": 200 + slot, "seconds": 1.25, **figures}


@pytest.fixture
def orders(agent: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """What comes of replacing each worker: members of its row, or an error. There are two of them."""
    agent["/status"] = {"workers": [{"slot": 0}, {"slot": 1}]}
    outcomes: dict[int, Any] = {}

    def order(_self: AdminClient, route: str, *, takes_seconds: float, slot: str, wait: str) -> dict[str, Any]:
        assert (route, takes_seconds > float(wait)) == ("/workers/replace", True)
        outcome = outcomes[int(slot)]
        if isinstance(outcome, NodeagentError):
            raise outcome
        return {"schema": "nodeagent/v1", "replaced": [replaced(int(slot), **outcome)]}

    monkeypatch.setattr(AdminClient, "order", order)
    return outcomes


def test_each_in_turn(orders: dict[int, Any], call: Call) -> None:
    orders.update({0: {}, 1: {"handed_over": 0}})
    status, out, err = call("workers", "replace")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "WORKER  FORMER PID  PID  HANDED OVER  DRAINED  CUT  LEFT  TIME",
        "0       100         200  7            1        0    0     1.2s",
        "1       101         201  0            1        0    0     1.2s",
    ]


def test_one_alone_as_json(orders: dict[int, Any], call: Call) -> None:
    orders[1] = {}
    status, out, _ = call("workers", "replace", "--worker", "1", "--wait", "2", "-o", "json")
    assert (status, json.loads(out)) == (0, {"schema": "nodeagent/v1", "replaced": [replaced(1)]})


@pytest.mark.parametrize("member", ["cut", "left"])
def test_who_does_not_go_on_is_a_problem_and_stops_it(orders: dict[int, Any], call: Call, member: str) -> None:
    orders.update({0: {member: 3}, 1: AssertionError("not reached")})
    status, out, _ = call("workers", "replace", "-o", "json")
    assert (status, [row["slot"] for row in json.loads(out)["replaced"]]) == (1, [0])


def test_what_was_done_before_an_error_is_told(orders: dict[int, Any], call: Call) -> None:
    orders.update({0: {}, 1: NotPossible("worker 1 is not there to be replaced")})
    status, out, err = call("workers", "replace", "--no-headers")
    assert (status, out.split()[:3]) == (5, ["0", "100", "200"])
    assert err.startswith("error: worker 1 is not there to be replaced\n")


def test_without_an_agent(agent: dict[str, Any], call: Call) -> None:
    status, out, err = call("workers", "replace", "-o", "json")
    assert (status, out) == (3, "")
    assert err.startswith("error: no agent answers at ")


@pytest.mark.parametrize("words", [("--worker", "one"), ("--worker", "-1"), ("--wait", "long"), ("--wait", "-1")])
def test_what_is_no_number(agent: dict[str, Any], call: Call, words: tuple[str, str]) -> None:
    assert call("workers", "replace", *words)[0] == 2
