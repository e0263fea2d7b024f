# SPDX-License-Identifier: Apache-2.0
"""The container's first process: when it ends, when it starts the agent again, and what becomes of workers."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

PATIENCE_SECONDS = 60.0

WORKER = "trap 'echo worker $$ told >>log; exit' TERM; echo worker $$ >>log; while :; do sleep 0.02; done"
AGENT = "echo agent $$ $* >>log; {act}"
LEAVE = f'setsid sh -c "{WORKER.replace("$", chr(92) + "$")}" & while ! grep -q worker log; do sleep 0.01; done; '


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Container:
    def __init__(self, process: "subprocess.Popen[str]", directory: Path) -> None:
        self.process, self._log = process, directory / "log"

    def lines(self, first: str) -> list[str]:
        text = self._log.read_text() if self._log.exists() else ""
        return [line for line in text.splitlines() if line.startswith(first)]

    def pid(self, first: str, number: int = -1) -> int:
        return int(self.lines(first)[number].split()[1])


def _processes_in(directory: Path) -> list[int]:
    """Whose working directory it is: the agents, workers and sleepers of one test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink() == directory:
                found.append(int(entry.name))
    return found


Run = Callable[..., AbstractContextManager[Container]]


@pytest.fixture
def run(supervise: Path, tmp_path: Path) -> Run:
    @contextmanager
    def started(act: str, *options: str) -> Iterator[Container]:
        words = [str(supervise), *options, "sh", "-c", AGENT.format(act=act), "sh", "agent"]
        with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            container = Container(process, tmp_path)
            try:
                yield container
            finally:
                process.kill()
                while pids := _processes_in(tmp_path):  # nobody ends them with the first process, as a container does
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    time.sleep(0.01)

    return started


def test_an_agent_that_cannot_run_ends_the_container_with_its_status(run: Run) -> None:
    with run("exit 5") as container:
        assert container.process.wait(PATIENCE_SECONDS) == 5
    with run("kill -9 $$") as container:
        assert container.process.wait(PATIENCE_SECONDS) == 128 + 9


def test_an_agent_that_left_workers_is_started_again_and_they_go_on(run: Run) -> None:
    with run(LEAVE + "sleep 600 & wait; exit 1", "--takeover") as container:
        eventually(lambda: bool(container.lines("worker")))
        worker = container.pid("worker")
        os.kill(container.pid("agent"), signal.SIGKILL)
        eventually(lambda: len(container.lines("agent")) == 2)
        os.kill(worker, 0)
        assert container.process.poll() is None
        first, second = container.lines("agent")
        assert first.endswith("agent --takeover")
        assert second.endswith("agent"), "who is started again takes nothing from a successor"


def test_told_to_stop_it_tells_the_agent_then_the_workers_and_waits(run: Run) -> None:
    act = "trap 'echo stopped $$ >>log; exit 0' TERM; " + LEAVE + "echo ready >>log; while :; do sleep 0.02; done"
    with run(act) as container:
        eventually(lambda: bool(container.lines("ready")))
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(PATIENCE_SECONDS) == 0
        assert [line.split()[0] for line in container.lines("")][-2:] == ["stopped", "worker"]
        assert container.lines("worker")[-1].endswith("told")


def test_after_a_takeover_it_waits_and_holds_the_workers(run: Run) -> None:
    with run(LEAVE + "exit 0") as container:
        assert container.process.stderr is not None
        assert "successor" in container.process.stderr.readline()
        os.kill(container.pid("worker"), 0)
        assert container.process.poll() is None
        assert len(container.lines("agent")) == 1
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(PATIENCE_SECONDS) == 0
        assert container.lines("worker")[-1].endswith("told")


def test_told_to_stop_during_a_pause_it_does_not_wait(run: Run) -> None:
    with run(LEAVE + "exit 1") as container:
        assert container.process.stderr is not None
        assert "left workers" in container.process.stderr.readline()
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(PATIENCE_SECONDS) == 1
        assert container.lines("worker")[-1].endswith("told")


def test_a_hangup_is_passed_on(run: Run) -> None:
    with run("trap 'echo reopened >>log' HUP; echo ready >>log; while :; do sleep 0.02; done") as container:
        eventually(lambda: bool(container.lines("ready")))
        container.process.send_signal(signal.SIGHUP)
        eventually(lambda: bool(container.lines("reopened")))


@pytest.fixture
def ignoring() -> Iterator[None]:
    """As nohup does, and some who start containers: what is ignored here is so in the processes that start here."""
    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    former = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("ignoring")
def test_what_it_was_born_to_ignore_it_hears(run: Run) -> None:
    act = "trap 'echo reopened >>log' HUP; trap 'exit 7' TERM; echo ready >>log; while :; do sleep 0.02; done"
    with run(act) as container:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # from here on it is this process that would not hear
        eventually(lambda: bool(container.lines("ready")))
        container.process.send_signal(signal.SIGHUP)
        eventually(lambda: bool(container.lines("reopened")))
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(PATIENCE_SECONDS) == 7


def test_wrong_use_and_a_program_that_is_not_there(supervise: Path) -> None:
    assert subprocess.run([supervise, "--takeover"], capture_output=True, check=False).returncode == 2
    missing = subprocess.run([supervise, "/nowhere"], capture_output=True, text=True, check=False)
    assert missing.returncode == 127
    assert "/nowhere" in missing.stderr
