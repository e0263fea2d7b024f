# SPDX-License-Identifier: Apache-2.0
"""The plugin's lines, with reports as pytest makes them."""

import io
import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from vagrant import inside
from vagrant.inside import Given, Reporter, given, is_in_sample


def told(*reports: pytest.TestReport) -> list[dict[str, Any]]:
    stream = io.StringIO()
    reporter = Reporter(stream)
    for report in reports:
        reporter.pytest_runtest_logstart(report.nodeid)
        reporter.pytest_runtest_logreport(report)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def report(when: Any, outcome: Any, longrepr: Any = None, properties: Any = ()) -> pytest.TestReport:
    return pytest.TestReport("t", ("f", 1, "t"), {}, outcome, longrepr, when, user_properties=properties)


def test_a_call_is_told_with_its_properties() -> None:
    assert told(report("call", "passed", properties=[("verified", {"from_pod": 7})])) == [
        {"begins": "t"},
        {"test": "t", "phase": "call", "outcome": "passed", "why": "", "seconds": 0},
        {"property": "verified", "value": {"from_pod": 7}},
    ]


def test_what_surrounds_a_call_is_told_only_when_it_fails_or_skips() -> None:
    assert told(report("setup", "passed")) == [{"begins": "t"}]
    [_, skipped] = told(report("setup", "skipped", ("file", 1, "Skipped: no TCX")))
    assert (skipped["outcome"], skipped["why"]) == ("skipped", "Skipped: no TCX")
    [_, failed] = told(report("teardown", "failed", "x" * 10_000))
    assert (failed["phase"], len(failed["why"])) == ("teardown", 4000)


@pytest.mark.parametrize(
    ("output", "features"),
    [('{"checks": []}', {"checks": []}), ("[]", {"check": []}), ("", {"check": "Traceback"})],
)
def test_what_check_answers(monkeypatch: pytest.MonkeyPatch, output: str, features: dict[str, object]) -> None:
    def run(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, 1, output, "Traceback" if not output else "")

    monkeypatch.setattr(subprocess, "run", run)
    assert inside.features() == features


@pytest.mark.parametrize(("count", "size"), [(700, 60), (61, 60), (7, 7), (100, 1)])
def test_a_sample_is_of_the_size_and_spread_over_all(count: int, size: int) -> None:
    chosen = [number for number in range(count) if is_in_sample(number, count, size)]
    assert len(chosen) == size
    assert chosen[0] == 0
    gaps = [later - earlier for earlier, later in pairwise(chosen)]
    assert max(gaps, default=0) <= count // size + 1


def test_what_is_to_run_is_on_the_kernels_command_line() -> None:
    line = "quiet nodeagent.most_cases=60 panic=-1 nodeagent.tests=tests/a.py,tests/b.py::test_c\n"
    assert given(line) == Given(60, ("tests/a.py", "tests/b.py::test_c"))
    assert given("quiet\n") == Given(0, ())


def test_the_files_of_which_no_sample_is_taken_exist() -> None:
    root = Path(inside.__file__).resolve().parent.parent
    assert all((root / name).is_file() for name in inside.WHOLE)


def test_only_large_tables_are_sampled() -> None:
    class Item:
        def __init__(self, nodeid: str) -> None:
            self.nodeid = nodeid

    class Config:
        class hook:  # noqa: N801 - pytest's name
            @staticmethod
            def pytest_deselected(items: list[Item]) -> None:
                left.extend(items)

    left: list[Item] = []
    whole = [Item(f"{min(inside.WHOLE)}::large[{number}]") for number in range(10)]
    items: Any = [Item(f"a::large[{number}]") for number in range(10)] + [Item("a::small[1]"), Item("a::one"), *whole]
    stream = io.StringIO()
    config: Any = Config()
    Reporter(stream, most_cases=2).pytest_collection_modifyitems(config, items)
    chosen = [item.nodeid for item in items if item not in whole]
    assert chosen == ["a::large[0]", "a::large[5]", "a::small[1]", "a::one"]
    assert set(whole) <= set(items)
    assert len(left) == 8
    assert json.loads(stream.getvalue()) == {"sampled": "a::large", "ran": 2, "of": 10}
