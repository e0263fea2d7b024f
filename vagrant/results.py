# SPDX-License-Identifier: Apache-2.0
"""What a guest's report says: one Outcome, from it one line for a person and one object for build/kernels.json.

Pure. A report that stops in its middle is a failure of the test that it stopped in.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any  # what JSON holds

Words = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    line: str
    """The line of kernels: 6.1."""
    kernel: str = ""
    """The release that really ran."""
    passed: int = 0
    failed: tuple[str, ...] = ()
    """Names of tests, and what else went wrong."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Names of tests, and why."""
    verified: Mapping[str, int] = field(default_factory=dict)
    """Instructions that the verifier looked at, by program."""
    features: Mapping[str, str] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    """What pytest says about each failure."""
    sampled: tuple[str, ...] = ()
    """Tests of which not every case ran, in words."""

    @property
    def is_green(self) -> bool:
        return not self.failed and self.passed > 0


def read_lines(report: str) -> list[Words]:
    """A line that is no object is noise, such as the last one of a guest that died."""
    found: list[Words] = []
    for line in report.replace("\0", "").splitlines():
        try:
            words = json.loads(line)
        except ValueError:
            continue
        if isinstance(words, dict):
            found.append(words)
    return found


class _Reading:
    """What the report has said so far."""

    def __init__(self) -> None:
        self.kernel = self.current = ""
        self.status: int | None = None
        self.verdicts: dict[str, str] = {}
        self.why: dict[str, str] = {}
        self.verified: dict[str, int] = {}
        self.features: dict[str, str] = {}
        self.sampled: list[str] = []

    def take(self, words: Words) -> None:
        self.kernel = str(words.get("kernel", self.kernel))
        self.current = str(words.get("begins", self.current))
        self.status = int(words["ended"]) if "ended" in words else self.status
        if "test" in words:
            self._judged(str(words["test"]), str(words["outcome"]), str(words.get("why", "")))
        if words.get("property") == "verified":
            self.verified = {str(program): int(count) for program, count in words["value"].items()}
        if "sampled" in words:
            self.sampled.append(f"{words['ran']} of {words['of']} cases of {words['sampled']}")
        if "features" in words:
            self.features = _features(words["features"])

    def _judged(self, test: str, verdict: str, why: str) -> None:
        """A test that passed can still fail when its fixtures are taken down; nothing follows a failure."""
        if self.verdicts.get(test) != "failed":
            self.verdicts[test], self.why[test] = verdict, why

    def having(self, verdict: str) -> list[str]:
        return [test for test, each in self.verdicts.items() if each == verdict]

    @property
    def place(self) -> str:
        if not self.current:
            return "at boot"
        return f"after {self.current}" if self.current in self.verdicts else f"in {self.current}"


def outcome(line: str, report: Iterable[Words], *, lost: str = "") -> Outcome:
    """`lost`: why the machine ended before it had said that it is done."""
    reading = _Reading()
    for words in report:
        reading.take(words)
    failed = reading.having("failed")
    details = [f"{test}\n{reading.why[test]}" for test in failed]
    if reading.status is None:
        failed.append(f"the machine ended {reading.place}: {lost or 'it said nothing more'}")
    elif reading.status and not failed:
        failed.append(f"pytest ended with status {reading.status}")
    return Outcome(
        line,
        reading.kernel,
        len(reading.having("passed")),
        tuple(failed),
        tuple((test, reading.why[test].removeprefix("Skipped: ")) for test in reading.having("skipped")),
        reading.verified,
        reading.features,
        tuple(details),
        tuple(reading.sampled),
    )


def _features(answer: Words) -> dict[str, str]:
    if "checks" not in answer:
        return {"check": str(answer.get("check", answer))}
    return {str(check["name"]): _feature(check) for check in answer["checks"]}


def _feature(check: Words) -> str:
    return f"{'yes' if check.get('ok') else 'no'}: {check.get('evidence', '')}"


def row(outcome: Outcome) -> str:
    """One line for a person."""
    counted = f"{outcome.passed} passed, {len(outcome.failed)} failed, {len(outcome.skipped)} skipped"
    reasons = Counter(reason for _, reason in outcome.skipped)
    why = [f"{number} x {reason}" for reason, number in sorted(reasons.items())]
    why += [*outcome.sampled, *outcome.failed[:3]]
    if len(outcome.failed) > 3:
        why.append(f"{len(outcome.failed) - 3} more failures")
    instructions = ", ".join(f"{program} {count}" for program, count in sorted(outcome.verified.items()))
    parts = [f"{outcome.line:<7}{outcome.kernel or 'no kernel':<24}{counted}"]
    parts += [f"verified instructions: {instructions}"] if instructions else []
    return "; ".join([*parts, *why])


def as_json(outcomes: Sequence[Outcome]) -> str:
    """build/kernels.json."""
    objects = [
        {
            "kernel": each.kernel or each.line,
            "line": each.line,
            "passed": each.passed,
            "failed": len(each.failed),
            "skipped": len(each.skipped),
            "failures": list(each.failed),
            "skips": [{"test": name, "why": reason} for name, reason in each.skipped],
            "sampled": list(each.sampled),
            "instructions": dict(each.verified),
            "features": dict(each.features),
        }
        for each in outcomes
    ]
    return json.dumps(objects, indent=1) + "\n"


def closing_line(outcomes: Sequence[Outcome]) -> str:
    passed, failed = sum(each.passed for each in outcomes), sum(len(each.failed) for each in outcomes)
    return f"{passed} passed, {failed} failed, {sum(len(each.skipped) for each in outcomes)} skipped"
