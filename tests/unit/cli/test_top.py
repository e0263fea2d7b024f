# SPDX-License-Identifier: Apache-2.0
"""`nodeagent top` between looks: lines for a pipe, a fresh screen for a terminal."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.cli import output, top
from tests.unit.cli.test_forms import validate
from tests.unit.cli.test_rates import row

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """An agent with one connection, which has carried a thousand bytes more at each look; time passes by itself."""
    seconds: list[float] = []
    looks = 0

    def fetch(_self: AdminClient, route: str, **query: str) -> Any:
        nonlocal looks
        if route == "/connections":
            looks += 1
            return {"connections": [row("7-1", 1000 * looks)]}
        assert route == "/flows"
        flows = [row("7-2", 1, verdict="denied")] if query == {"after": "run-0"} else []
        page = {"run-0": "run-1", "run-1": "run-2"}.get(query.get("after", ""), "run-0" if "last" in query else "run-2")
        return {"flows": flows, "cursor": page, "has_more": page == "run-1", "lost": 0}

    monkeypatch.setattr(AdminClient, "fetch", fetch)
    monkeypatch.setattr(time, "sleep", seconds.append)
    monkeypatch.setattr(time, "monotonic", lambda: 10.0 + 2.0 * len(seconds))
    return seconds


def test_lines_for_a_pipe(call: Call, waited: list[float]) -> None:
    status, out, err = call("top", "edges", "--times", "2")
    assert (status, err, waited) == (0, "", [2.0, 2.0])
    header, *lines = out.splitlines()
    assert header.split() == [name for name, _ in top.TOP.columns]
    assert [line.split()[1:] for line in lines] == [
        ["shop/web", "->", "shop/db", "1", "0.5", "0.5", "500", "B", "0", "B", "-", "-", "100"],
        ["shop/web", "->", "shop/db", "1", "0.0", "0.0", "500", "B", "0", "B", "-", "-", "100"],
    ]


def test_rows_are_of_the_schema(call: Call, waited: list[float]) -> None:
    status, out, _ = call("top", "--times", "1", "--every", "5s", "-o", "jsonl")
    assert (status, waited) == (0, [5.0])
    rows = [json.loads(line) for line in out.splitlines()]
    assert [one["name"] for one in rows] == ["shop/db", "shop/web"]
    for one in rows:
        assert (one.pop("schema"), one.pop("kind")) == ("nodeagent/v1", "rates")
        validate(one, "Rate")


@pytest.mark.usefixtures("waited")
def test_a_terminal_is_drawn_anew(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    out = call("top", "services", "--times", "2")[1]
    assert out.count("\x1b[H\x1b[2J") == 2
    assert out.count("OPEN") == 2


@pytest.mark.parametrize("arguments", [("pods",), ("--every", "0s"), ("--every", "soon"), ("--times", "0")])
def test_wrong_use(call: Call, waited: list[float], arguments: tuple[str, ...]) -> None:
    assert call("top", *arguments)[0] == 2
    assert waited == []
