# SPDX-License-Identifier: Apache-2.0
"""What `nodeagent bpf` makes of what the kernel has; that it has it, tests/e2e/test_cli.py says."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.cli.bpf import words
from nodeagent.errors import ConfigError, MissingPrivilege
from nodeagent.kernel import pinned
from nodeagent.kernel.pinned import Comparison, PinnedMap, PinnedProgram, Place
from nodeagent.kernel.pins import Pins
from nodeagent.model.mark import Marks
from tests.unit.cli.test_forms import validate

Call = Callable[..., tuple[int, str, str]]

_FOUND: dict[str, list[Any]] = {
    "programs": [
        PinnedProgram(
            *("from_pod", "sched_cls", 7, "a1b2", 4969),
            is_current=True,
            pin="/sys/fs/bpf/nodeagent/x",
            runs=12,
            average_nanoseconds=250,
        )
    ],
    "maps": [PinnedMap("pods", 9, "hash", 16, 20, 6, 1024, is_current=True, pin="/sys/fs/bpf/nodeagent/y")],
    "rows": [("10.0.0.1", {"device": "veth3 (7)", "number": 2}), ({"port": 80}, [1, 2])],
    "attachments": [Place("node veth3 (7)", "ingress", 1, "from_pod", 7, "tcx", is_ours=True)],
    "verify": [Comparison("program from_pod", is_same=True, wanted="source abc", found="id 7")],
}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each function of pinned.py was called with."""
    calls: dict[str, list[Any]] = {}
    for name, found in _FOUND.items():
        monkeypatch.setattr(
            pinned, name, lambda *arguments, name=name, found=found: (calls.update({name: list(arguments)}), found)[1]
        )
    return calls


@pytest.mark.parametrize(
    ("arguments", "answer", "cells"),
    [
        (
            ("progs",),
            "BpfPrograms",
            ["from_pod", "sched_cls", "7", "a1b2", "4969", "yes", "1", "/sys/fs/bpf/nodeagent/x"],
        ),
        (
            ("progs", "--measure", "0.5"),
            "BpfPrograms",
            ["from_pod", "sched_cls", "7", "a1b2", "4969", "yes", "1", "/sys/fs/bpf/nodeagent/x", "12", "250"],
        ),
        (("maps",), "BpfMaps", ["pods", "9", "hash", "16", "20", "6", "1024", "yes"]),
        (("maps", "pods"), "BpfRows", ["10.0.0.1", "device veth3 (7), number 2"]),
        (("attach",), "BpfPlaces", ["node veth3 (7)", "ingress", "1", "from_pod", "7", "tcx", "nodeagent"]),
        (("verify",), "BpfComparisons", ["program from_pod", "yes", "id 7", "source abc"]),
    ],
)
def test_tables_and_documents(
    kernel: dict[str, list[Any]], call: Call, arguments: tuple[str, ...], answer: str, cells: list[str]
) -> None:
    status, out, err = call("bpf", *arguments)
    assert (status, err) == (0, "")
    assert [cell.strip() for cell in out.splitlines()[1].split("  ") if cell.strip()] == cells
    validate(json.loads(call("bpf", *arguments, "-o", "json")[1]), answer)


def test_settings_of_the_agent_say_where(kernel: dict[str, list[Any]], call: Call) -> None:
    call("bpf", "attach", "--bpffs", "/b", "--run-dir", "/r", "--mark", "0x2000", "--mark-mask", "0x200f")
    pins, run_dir = kernel["attachments"]
    assert isinstance(pins, Pins)
    assert (str(pins.bpffs), pins.marks, run_dir) == ("/b", Marks(0x2000, 0x200F), "/r")


@pytest.mark.usefixtures("kernel")
def test_a_difference_is_a_problem(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [*_FOUND["verify"], Comparison("map pods", is_same=False, wanted="hash of 1024", found="not pinned")]
    monkeypatch.setattr(pinned, "verify", lambda *_: found)
    status, out, _ = call("bpf", "verify")
    assert status == 1
    assert out.splitlines()[2].split()[:3] == ["map", "pods", "no"]


@pytest.mark.parametrize(("error", "status"), [(ConfigError("no map"), 2), (MissingPrivilege("not yours"), 4)])
def test_what_cannot_be_read(call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(pinned, "rows", fail)
    found, out, err = call("bpf", "maps", "x")
    assert (found, out) == (status, "")
    assert str(error) in err


def test_words() -> None:
    assert words({"a": {"b": "c"}, "d": [1, 2]}) == "a b c, d [1 2]"
