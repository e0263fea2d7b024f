# SPDX-License-Identifier: Apache-2.0
"""From a guest's report to one line and one object, also when the guest died in the middle."""

import json

import pytest

from vagrant.results import Outcome, as_json, closing_line, outcome, read_lines, row

REPORT = """\
{"kernel": "6.1.0-50-amd64"}
{"features": {"checks": [{"name": "tcx", "ok": false, "evidence": "EINVAL"}, {"name": "bcc", "ok": true}]}}
{"begins": "a::one"}
{"test": "a::one", "phase": "call", "outcome": "passed", "why": ""}
{"property": "verified", "value": {"to_pod": 5, "from_pod": 7}}
{"property": "something", "value": 1}
{"begins": "a::two"}
{"test": "a::two", "phase": "setup", "outcome": "skipped", "why": "Skipped: no TCX"}
"""
END = '{"ended": 0}\n'


def test_a_whole_report() -> None:
    found = outcome("6.1", read_lines(REPORT + END))
    assert found == Outcome(
        "6.1",
        "6.1.0-50-amd64",
        1,
        (),
        (("a::two", "no TCX"),),
        {"to_pod": 5, "from_pod": 7},
        {"tcx": "no: EINVAL", "bcc": "yes: "},
    )
    assert found.is_green


def test_a_sample_is_told() -> None:
    words = {"sampled": "a::many", "ran": 60, "of": 700}
    found = outcome("6.1", [*read_lines(REPORT), words, {"ended": 0}])
    assert found.sampled == ("60 of 700 cases of a::many",)
    assert "; 60 of 700 cases of a::many" in row(found)


def test_noise_is_no_line() -> None:
    assert read_lines('\0\0{"kernel": "5"}\r\nnoise\n[1]\n{"half": ') == [{"kernel": "5"}]


def test_a_failure_keeps_its_name_and_its_words() -> None:
    line = json.dumps({"test": "a::three", "phase": "call", "outcome": "failed", "why": "assert 1 == 2"})
    found = outcome("6.1", read_lines(REPORT + line + "\n" + '{"ended": 1}\n'))
    assert found.failed == ("a::three",)
    assert found.details == ("a::three\nassert 1 == 2",)
    assert not found.is_green


def test_a_test_that_fails_after_it_passed_has_failed_and_stays_so() -> None:
    words = [{"test": "t", "outcome": verdict, "why": verdict} for verdict in ("passed", "failed", "passed")]
    found = outcome("6.1", [*words, {"ended": 1}])
    assert (found.passed, found.failed, found.details) == (0, ("t",), ("t\nfailed",))


@pytest.mark.parametrize(
    ("report", "place"),
    [
        pytest.param("", "at boot", id="nothing came"),
        pytest.param(REPORT, "after a::two", id="between tests"),
        pytest.param(REPORT + '{"begins": "a::last"}\n', "in a::last", id="in a test"),
    ],
)
def test_a_machine_that_is_lost_is_a_failure_of_where_it_was(report: str, place: str) -> None:
    found = outcome("6.1", read_lines(report), lost="it was not done after 5 s")
    assert found.failed == (f"the machine ended {place}: it was not done after 5 s",)
    assert not found.is_green


@pytest.mark.parametrize("status", [2, 3, 4, 5])
def test_a_status_of_pytest_without_a_failed_test_is_a_failure(status: int) -> None:
    found = outcome("6.1", [*read_lines(REPORT), {"ended": status}])
    assert found.failed == (f"pytest ended with status {status}",)


def test_no_test_at_all_is_not_green() -> None:
    assert not outcome("6.1", [{"ended": 0}]).is_green


def test_a_check_that_did_not_answer_is_told() -> None:
    assert outcome("6.1", [{"features": {"check": "Traceback"}}]).features == {"check": "Traceback"}


def test_the_line_of_a_kernel() -> None:
    assert row(outcome("6.1", read_lines(REPORT + END))) == (
        "6.1    6.1.0-50-amd64          1 passed, 0 failed, 1 skipped;"
        " verified instructions: from_pod 7, to_pod 5; 1 x no TCX"
    )
    many = Outcome("5.10", failed=tuple("abcde"), skipped=(("x", "why"), ("y", "why")))
    assert (
        row(many) == "5.10   no kernel               0 passed, 5 failed, 2 skipped; 2 x why; a; b; c; 2 more failures"
    )


def test_the_file_has_an_object_for_each_kernel() -> None:
    lost = outcome("5.10", [], lost="panic")
    first, second = json.loads(as_json([outcome("6.1", read_lines(REPORT + END)), lost]))
    assert {name: first[name] for name in ("kernel", "passed", "failed", "skipped")} == {
        "kernel": "6.1.0-50-amd64",
        "passed": 1,
        "failed": 0,
        "skipped": 1,
    }
    assert first["instructions"] == {"to_pod": 5, "from_pod": 7}
    assert first["skips"] == [{"test": "a::two", "why": "no TCX"}]
    assert (second["kernel"], second["failed"], second["failures"]) == (
        "5.10",
        1,
        ["the machine ended at boot: panic"],
    )


def test_the_closing_line_adds_up() -> None:
    one = outcome("6.1", read_lines(REPORT + END))
    assert closing_line([one, one]) == "2 passed, 0 failed, 2 skipped"
