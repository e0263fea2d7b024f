# SPDX-License-Identifier: Apache-2.0
"""Cleanup ends the workers of the roster, removes the files, and does nothing while an agent runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.agent import cleanup as module
from nodeagent.agent.cleanup import cleanup
from nodeagent.agent.instance import only_instance
from nodeagent.agent.roster import LEAVING, write_roster
from nodeagent.errors import AlreadyRunning

_DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


class NoKernel:
    def __init__(self, *, bpffs: str, run_dir: str) -> None:
        self.places = bpffs, run_dir

    def remove(self) -> list[str]:
        return ["detached nothing"]


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Steering", NoKernel)
    monkeypatch.setattr(module, "DRAIN_SECONDS", 60.0)  # who is slow to end, on a busy machine, is not deaf


def test_everything_of_an_agent_goes(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in (
        "workers.sock",
        "workers.partial",
        "state",
        "state.new",
        "admin.sock",
        "kubernetes-pods.json",
        "names.json",
    ):
        (run_dir / name).touch()
    with subprocess.Popen(["sleep", "60"]) as worker, subprocess.Popen(["sleep", "60"]) as leaving:
        write_roster(str(run_dir), [(0, worker.pid), (LEAVING, leaving.pid)])
        done = cleanup(str(run_dir), str(tmp_path / "bpf"))
        assert (worker.wait(), leaving.wait()) == (-15, -15)

    assert done[:3] == [
        f"worker 0 (pid {worker.pid}) ended",
        f"worker without a slot (pid {leaving.pid}) ended",
        "detached nothing",
    ]
    assert not run_dir.exists()
    assert cleanup(str(run_dir), str(tmp_path / "bpf")) == []


def test_a_worker_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", -0.9)  # of which one second more is given to drain
    with subprocess.Popen([sys.executable, "-c", _DEAF], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        write_roster(str(tmp_path), [(0, worker.pid)])
        cleanup(str(tmp_path), "/nowhere")
        assert worker.wait() == -9


def test_a_pid_that_is_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "workers.json").write_text(f"[[0, {other.pid}, 1]]")
        cleanup(str(tmp_path), "/nowhere")
        assert other.poll() is None
        other.kill()


def test_it_is_refused_while_an_agent_runs(tmp_path: Path) -> None:
    with only_instance(str(tmp_path), takeover=False):
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            cleanup(str(tmp_path), "/nowhere")
        assert (tmp_path / "agent.lock").exists()


def test_what_somebody_else_keeps_there_stays(tmp_path: Path) -> None:
    (tmp_path / "access.log").touch()
    cleanup(str(tmp_path), "/nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["access.log"]
