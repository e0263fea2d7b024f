# SPDX-License-Identifier: Apache-2.0
"""Who is alive is said by pid and start time; whatever else is in the file, nobody is waited for."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from nodeagent.agent.roster import FILE_NAME, LEAVING, living_workers, start_time, write_roster


def test_living_workers_are_found_again(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        rows = [(0, os.getpid()), (LEAVING, other.pid)]
        write_roster(str(tmp_path), rows)
        assert living_workers(str(tmp_path)) == rows
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert start_time(other.pid) == 0, "dead and not reaped yet"
        assert living_workers(str(tmp_path)) == rows[:1]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_pid_that_is_somebody_elses_by_now_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps([[0, os.getpid(), start_time(os.getpid()) + 1]]))
    assert living_workers(str(tmp_path)) == []


@pytest.mark.parametrize(
    "text", ["", "[[0, 1", "{}", "7", "[[0, 1]]", "[7]", '[[0, "x", 5]]', "[[0, 4194305, 0]]", "\xff"]
)
def test_a_roster_that_makes_no_sense_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text, encoding="latin-1")
    assert living_workers(str(tmp_path)) == []


def test_without_a_roster_nobody_is_waited_for(tmp_path: Path) -> None:
    assert living_workers(str(tmp_path)) == []


def test_a_process_has_one_start_time() -> None:
    assert start_time(os.getpid()) == start_time(os.getpid()) > 0
    assert start_time(1 << 30) == 0
