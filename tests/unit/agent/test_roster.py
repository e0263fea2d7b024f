# SPDX-License-Identifier: Apache-2.0
"""Whom an agent left behind: told by pid and start time, and nobody else's process is ever meant."""

import json
import os
from pathlib import Path

import pytest

from nodeagent.agent.roster import FILE_NAME, living_workers, start_time, write_roster


def test_a_process_that_lives_is_found_again(tmp_path: Path) -> None:
    write_roster(str(tmp_path), [(1, os.getpid())])
    assert living_workers(str(tmp_path)) == [(1, os.getpid())]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_another_process_with_the_same_number_is_not_meant(tmp_path: Path) -> None:
    own = os.getpid()
    (tmp_path / FILE_NAME).write_text(json.dumps([[0, own, start_time(own) - 1]]))
    assert living_workers(str(tmp_path)) == []


def test_a_process_that_has_ended_is_not_found(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert start_time(child) == 0
    write_roster(str(tmp_path), [(0, child)])
    assert living_workers(str(tmp_path)) == []


@pytest.mark.parametrize("content", ["", "[[0, 1", "{}", "[1]", "[[0]]", '"x"'])
def test_a_roster_that_cannot_be_read_names_nobody(tmp_path: Path, content: str) -> None:
    assert living_workers(str(tmp_path)) == []
    (tmp_path / FILE_NAME).write_text(content)
    assert living_workers(str(tmp_path)) == []
