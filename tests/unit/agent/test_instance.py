# SPDX-License-Identifier: Apache-2.0
"""One agent per run directory: the second is refused, a successor asks the first to leave."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodeagent.agent import instance
from nodeagent.agent.instance import only_instance, running_agent
from nodeagent.errors import AlreadyRunning, NotPossible

_HOLD = """
import signal, sys, time
from nodeagent.agent.instance import only_instance
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[2] == "deaf" else lambda *_: sys.exit(0))
with only_instance(sys.argv[1], takeover=False):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(run_dir: Path, manners: str = "polite") -> Iterator["subprocess.Popen[str]"]:
    words = [sys.executable, "-c", _HOLD, str(run_dir), manners]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_second_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        assert running_agent(str(tmp_path)) == first.pid
        with (
            pytest.raises(AlreadyRunning, match=f"pid {first.pid}") as caught,
            only_instance(str(tmp_path), takeover=False),
        ):
            pytest.fail("there were two")
        assert "--takeover" in caught.value.check
        assert first.poll() is None


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        first.kill()
    assert running_agent(str(tmp_path)) is None
    with only_instance(str(tmp_path), takeover=False):
        assert running_agent(str(tmp_path)) is not None


def test_a_takeover_asks_the_first_to_leave(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        with only_instance(str(tmp_path), takeover=True):
            assert first.wait(60) == 0
        assert (tmp_path / "agent.lock").read_text() == ""  # nobody is there, so no pid is


def test_one_that_does_not_leave_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "TAKEOVER_SECONDS", 0.1)
    with holder(tmp_path, "deaf") as first:
        with pytest.raises(AlreadyRunning, match=f"pid {first.pid}"), only_instance(str(tmp_path), takeover=True):
            pytest.fail("there were two")
        assert first.poll() is None


def test_a_lock_that_was_cleaned_away_meanwhile_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two agents would hold two files of one name."""
    lock = instance._lock

    def lock_late(descriptor: int) -> bool:
        (tmp_path / "agent.lock").unlink()
        return lock(descriptor)

    monkeypatch.setattr(instance, "_lock", lock_late)
    with pytest.raises(AlreadyRunning, match="cleaned up"), only_instance(str(tmp_path), takeover=False):
        pytest.fail("it holds a file that is gone")


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotPossible, match="file") as caught, only_instance(str(tmp_path / "file"), takeover=False):
        pytest.fail("there is no directory")
    assert "--run-dir" in caught.value.check


def test_workers_may_pass_through_the_run_directory(tmp_path: Path) -> None:
    with only_instance(str(tmp_path / "run"), takeover=False):
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o711
        assert (tmp_path / "run/agent.lock").stat().st_mode & 0o777 == 0o600


def test_nobody_runs_where_nothing_is(tmp_path: Path) -> None:
    assert running_agent(str(tmp_path)) is None
