# SPDX-License-Identifier: Apache-2.0
"""Lines arrive in order; a rotation loses none; a reader that is stuck stops nobody."""

import os
import time
from pathlib import Path

import pytest

from nodeagent.errors import ConfigError
from nodeagent.telemetry import line_writer
from nodeagent.telemetry.line_writer import LineWriter
from tests.logged import logged

SECONDS = 60.0
"""What the writing thread gets, on a machine however busy."""


def test_lines_arrive_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    writer = LineWriter(str(path))
    for number in range(1000):
        writer.write(f"{number}\n")
    writer.close(SECONDS)
    assert path.read_text() == "before\n" + "".join(f"{number}\n" for number in range(1000))
    assert writer.lost == 0


def test_lines_are_gathered_and_a_whole_batch_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "_GATHER_SECONDS", 3600)
    path = tmp_path / "access.log"
    writer = LineWriter(str(path))
    for _ in range(64):
        writer.write("line\n")
    deadline = time.monotonic() + SECONDS
    while path.stat().st_size < 64 * 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert path.read_text() == "line\n" * 64
    writer.write("last\n")
    assert path.read_text() == "line\n" * 64
    writer.close(SECONDS)
    assert path.read_text() == "line\n" * 64 + "last\n"


def test_reopen_follows_a_rotation(tmp_path: Path) -> None:
    path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    writer = LineWriter(str(path))
    path.rename(rotated)
    writer.reopen()
    writer.write("after\n")
    writer.close(SECONDS)
    assert rotated.read_text() == ""
    assert path.read_text() == "after\n"


def test_a_rotation_that_fails_keeps_the_old_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    writer = LineWriter(str(folder / "access.log"))
    folder.rename(tmp_path / "moved")
    writer.reopen()
    writer.write("still\n")
    writer.close(SECONDS)
    assert (tmp_path / "moved" / "access.log").read_text() == "still\n"
    assert "go on to the old file" in caplog.text


def test_a_stuck_reader_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = LineWriter(str(pipe), max_lines=10)
    for _ in range(1000):
        writer.write("x" * 1000 + "\n")  # far more than the pipe and the queue hold; returns nevertheless
    assert writer.lost > 0
    os.close(reader)
    writer.close(SECONDS)


def test_a_failing_write_is_told_once_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = LineWriter(str(pipe))
    os.close(reader)
    for _ in range(200):
        writer.write("line\n")
    writer.close(SECONDS)
    assert writer.lost == 200
    assert [record.getMessage() for record in logged(caplog)] == [
        f"access log {pipe}: [Errno 32] Broken pipe; lines are dropped until it works again"
    ]


def test_a_file_that_cannot_be_opened_is_the_operators_to_correct(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory") as caught:
        LineWriter(str(tmp_path / "missing" / "access.log"))
    assert "directory exist" in caught.value.check


def test_after_close_lines_are_counted_not_written(tmp_path: Path) -> None:
    writer = LineWriter(str(tmp_path / "access.log"))
    writer.close()
    writer.close()
    writer.write("late\n")
    assert writer.lost == 1
