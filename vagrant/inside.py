# SPDX-License-Identifier: Apache-2.0
"""`python -m vagrant.inside`: runs the kernel's tests on the kernel that is running, and reports them line by line.

In a guest of the matrix the report goes to the second serial port, test by test, so that it is known where a guest that
hangs or dies was. In a machine of the Vagrantfile, and by hand, to a file. Needs root.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import IO, Any, NamedTuple  # Any: what JSON holds

import pytest

from vagrant.results import outcome, read_lines, row

FOLDERS = ("tests/kernel", "tests/e2e", "tests/interop", "tests/unit/proxy")
SELECTION = (*FOLDERS, "-m", "(kernel or vm) and not any_kernel")
MOST_CASES, TESTS = "nodeagent.most_cases", "nodeagent.tests"
"""On the kernel's command line."""
WHOLE = frozenset(
    f"tests/kernel/test_{name}.py" for name in ("truth_tables", "from_pod", "to_pod", "from_proxy", "at_proxy")
)
"""Where a case is one packet: no sample is taken of these."""
TEST_SECONDS = 900
"""A guest without KVM is some twenty times slower than what pyproject.toml thinks of."""


class Reporter:
    """A plugin of pytest: one JSON object a line. Of a test with more than `most_cases` cases it runs a sample."""

    def __init__(self, report: IO[str], most_cases: int = 0) -> None:
        self._report, self._most_cases = report, most_cases

    def say(self, **words: object) -> None:
        self._report.write(json.dumps(words) + "\n")
        self._report.flush()

    @pytest.hookimpl(trylast=True)  # when marks have chosen
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        cases = Counter(_function(item) for item in items)
        large = {
            name: count
            for name, count in cases.items()
            if 0 < self._most_cases < count and name.partition("::")[0] not in WHOLE
        }
        seen: Counter[str] = Counter()
        kept: list[pytest.Item] = []
        left: list[pytest.Item] = []
        for item in items:
            name = _function(item)
            is_kept = name not in large or is_in_sample(seen[name], large[name], self._most_cases)
            seen[name] += 1
            (kept if is_kept else left).append(item)
        items[:] = kept
        if left:
            config.hook.pytest_deselected(items=left)
        for name, count in large.items():
            self.say(sampled=name, ran=self._most_cases, of=count)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.say(begins=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            why = ""
            if isinstance(report.longrepr, tuple):
                why = str(report.longrepr[2])
            elif report.longrepr is not None:
                why = str(report.longrepr)[-4000:]
            seconds = round(report.duration, 1)  # of the guest; where it is emulated they are its instructions
            self.say(test=report.nodeid, phase=report.when, outcome=report.outcome, why=why, seconds=seconds)
        for name, value in report.user_properties if report.when == "call" else ():
            self.say(property=name, value=value)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.say(test=report.nodeid, phase="collect", outcome="failed", why=str(report.longrepr)[-4000:])


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def is_in_sample(number: int, count: int, size: int) -> bool:
    """Whether case `number` of `count` is one of `size` that are spread evenly."""
    return number * size // count != (number - 1) * size // count


class Given(NamedTuple):
    """What the kernel was started with."""

    most_cases: int
    """0: all of them."""
    tests: tuple[str, ...]
    """Empty: the usual selection."""


def given(command_line: str) -> Given:
    words = dict(word.partition("=")[::2] for word in command_line.split())
    return Given(int(words.get(MOST_CASES, 0)), tuple(filter(None, words.get(TESTS, "").split(","))))


def features() -> dict[str, Any]:
    """What `nodeagent check` finds here, by name: a word whether it is there, and the evidence."""
    command = [sys.executable, "-m", "nodeagent.cli.main", "check", "-o", "json"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=TEST_SECONDS, check=False)
    try:
        answer = json.loads(asked.stdout)
    except ValueError:
        return {"check": (asked.stderr or asked.stdout)[-1000:]}
    return answer if isinstance(answer, dict) else {"check": answer}


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the kernel's tests here and reports them.")
    parser.add_argument("--report", type=Path, default=Path("build/inside.jsonl"), help="where the report goes")
    parser.add_argument("selection", nargs="*", help="what pytest is given in place of the usual tests")
    arguments = parser.parse_args()
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    records = tempfile.mkdtemp(prefix="nodeagent-records-")
    os.environ |= {"REQUIRE": "kernel,e2e", "NODEAGENT_COMPILE_ONCE": records}
    with arguments.report.open("w", encoding="utf-8") as report:
        asked = given(Path("/proc/cmdline").read_text(encoding="ascii"))
        reporter = Reporter(report, asked.most_cases)
        reporter.say(kernel=os.uname().release)
        reporter.say(features=features())
        options = ("-p", "no:cacheprovider", "-p", "no:randomly", f"--timeout={TEST_SECONDS}", "-q", "--durations=20")
        status = int(pytest.main([*options, *(arguments.selection or asked.tests or SELECTION)], plugins=[reporter]))
        reporter.say(ended=status)
    if arguments.report.is_file():
        print(row(outcome("this", read_lines(arguments.report.read_text(encoding="utf-8")))))
    return status


if __name__ == "__main__":
    sys.exit(main())
