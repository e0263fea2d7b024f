# SPDX-License-Identifier: Apache-2.0
"""`nodeagent connections --kernel`; that the kernel has it, tests/e2e/test_cli.py says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodeagent.cli.queries import BPFFS
from nodeagent.config import Config
from nodeagent.errors import MissingPrivilege
from nodeagent.kernel import tracked
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.tracked import TrackedConnection
from tests.unit.cli.test_forms import DUMP, validate

Call = Callable[..., tuple[int, str, str]]

OPEN = TrackedConnection(
    source="10.0.0.2:4000",
    destination="10.0.0.3:80",
    is_opener_known=True,
    kind="allowed",
    generation=3,
    tables=("flows", "flow_reports"),
    state="open",
    cookie=77,
    age_seconds=10.0,
    sent_bytes=2048,
    round_trip_us=240,
)
NOTE = TrackedConnection(
    source="[fd00::1]:1", destination="[fd00::2]:2", is_opener_known=False, kind="adopted", tables=("kept_flows",)
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Pins]:
    pins: list[Pins] = []

    def connections(where: Pins) -> list[TrackedConnection]:
        pins.append(where)
        return [OPEN, NOTE]

    monkeypatch.setattr(tracked, "connections", connections)
    return pins


def test_a_row_is_a_pair_of_ends(call: Call, asked: list[Pins]) -> None:
    status, out, err = call("connections", "--kernel", "--bpffs", "/x")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["PROTO", "SRC", "DST", "KIND", "STATE", "GENERATION", "COOKIE", "TABLES"],
        ["TCP", "10.0.0.2:4000", "10.0.0.3:80", "allowed", "open", "3", "77", "flows,flow_reports"],
        ["TCP", "[fd00::1]:1", "?", "[fd00::2]:2", "adopted", "-", "0", "-", "kept_flows"],
    ]
    assert [pins.bpffs for pins in asked] == [Path("/x")]


@pytest.mark.usefixtures("asked")
def test_other_forms(call: Call) -> None:
    document = json.loads(call("connections", "--kernel", "-o", "json")[1])
    validate(document, "TrackedConnections")
    rows = [json.loads(line) for line in call("connections", "--kernel", "-o", "jsonl")[1].splitlines()]
    assert [row["kind"] for row in rows] == ["allowed", "adopted"]
    assert call("connections", "--kernel", "-o", "name")[1].splitlines()[0] == "10.0.0.2:4000-10.0.0.3:80"
    (_, first, second) = (line.split() for line in call("connections", "--kernel", "-o", "wide")[1].splitlines())
    assert first[-8:] == ["10s", "2.0", "KiB", "0", "B", "0.2ms", "0", "-"]
    assert second[-6:] == ["-"] * 6


@pytest.mark.parametrize("words", [("--kill", "1-2"), ("--file", DUMP)])
def test_it_is_the_kernel_that_is_asked(call: Call, asked: list[Pins], words: tuple[str, ...]) -> None:
    status, _, err = call("connections", "--kernel", *words)
    assert (status, asked) == (2, [])
    assert "it asks the kernel" in err


def test_where_its_tables_are() -> None:
    assert Config.bpffs == BPFFS


def test_only_root_sees_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pins: Pins) -> Any:
        raise MissingPrivilege("the pins cannot be read", check="Run it as root.")

    monkeypatch.setattr(tracked, "connections", refuse)
    assert call("connections", "--kernel")[0] == 4
