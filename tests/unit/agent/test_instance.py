# SPDX-License-Identifier: Apache-2.0
"""One agent per node: who comes second is refused, or asks the first to leave."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.agent.instance import only_instance, running_agent
from nodeagent.errors import AlreadyRunning, NotPossible

_FIRST = """
import signal, sys
from nodeagent.agent.instance import only_instance
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with only_instance(sys.argv[1], takeover=False):
    print("here", flush=True)
    signal.pause()
"""


@pytest.fixture
def first(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """An agent that has the run directory, as far as its lock goes."""
    command = [sys.executable, "-c", _FIRST, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
        process.kill()


def test_whoever_is_alone_has_it_and_says_who_it_is(tmp_path: Path) -> None:
    assert running_agent(str(tmp_path)) is None
    with only_instance(str(tmp_path / "run"), takeover=False):
        assert (tmp_path / "run/agent.lock").read_text() == f"{os.getpid()}\n"
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o711
    assert running_agent(str(tmp_path / "run")) is None


def test_the_second_is_refused_and_told_who_is_there(tmp_path: Path, first: "subprocess.Popen[str]") -> None:
    assert running_agent(str(tmp_path)) == first.pid
    with pytest.raises(AlreadyRunning, match=str(first.pid)), only_instance(str(tmp_path), takeover=False):
        pytest.fail("two agents")
    assert first.poll() is None


def test_a_successor_asks_it_to_leave(tmp_path: Path, first: "subprocess.Popen[str]") -> None:
    with only_instance(str(tmp_path), takeover=True):
        assert first.wait(5) == 0
        assert (tmp_path / "agent.lock").read_text() == f"{os.getpid()}\n"


def test_one_that_was_killed_is_in_nobodys_way(tmp_path: Path, first: "subprocess.Popen[str]") -> None:
    first.send_signal(signal.SIGKILL)
    first.wait(5)
    with only_instance(str(tmp_path), takeover=False):
        assert (tmp_path / "agent.lock").read_text() == f"{os.getpid()}\n"


def test_one_that_does_not_leave_is_told(
    tmp_path: Path, first: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.agent.instance.TAKEOVER_SECONDS", 0.1)
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(AlreadyRunning, match="did not leave"), only_instance(str(tmp_path), takeover=True):
        pytest.fail("two agents")


def test_a_directory_that_cannot_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotPossible, match="run directory"), only_instance(str(tmp_path / "file/run"), takeover=False):
        pytest.fail("there is no such directory")
