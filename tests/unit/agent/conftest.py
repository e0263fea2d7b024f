# SPDX-License-Identifier: Apache-2.0
"""An agent's surroundings without a kernel: a steering that takes notes, and worker processes that serve nobody."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from nodeagent.agent import fleet as fleet_module
from nodeagent.agent import launch as launch_module
from nodeagent.agent.fleet import WorkerFleet
from nodeagent.agent.launch import Launched, launch
from nodeagent.agent.state import NodeState
from nodeagent.config import Config
from nodeagent.errors import KernelError
from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.pod_states import PodState
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.wanted import Wanted
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.open_connections import OpenConnections
from nodeagent.telemetry.totals import Totals
from nodeagent.telemetry.traffic import TrafficMetrics

PATIENCE_SECONDS = 60.0
"""Only for what fails: processes that start on a busy machine take their time."""


class FakeSteering:
    """What the fleet and the capture do to the kernel, in order."""

    def __init__(self) -> None:
        self.steps: list[object] = []
        self.table: dict[tuple[ListenerKind, int], socket.socket] = {}
        self.is_refusing = False
        self.refused = 0
        """Calls so far; it is called from threads, and written by them alone."""
        self.netns = "/proc/self/ns/net"
        self.made: list[socket.socket] = []

    def netns_path(self) -> str:
        return self.netns

    def make_listeners(self) -> dict[ListenerKind, socket.socket]:
        made = {kind: socket.create_server(("127.0.0.1", 0)) for kind in ListenerKind}
        self.made += made.values()
        return made

    def put_listener(self, kind: ListenerKind, slot: int, sock: socket.socket | None) -> None:
        self._refuse()
        self.steps.append(("put", kind.name, slot, sock is not None))
        if sock is None:
            self.table.pop((kind, slot), None)
        else:
            self.table[kind, slot] = sock

    def reconcile(self, wanted: Wanted) -> list[str]:
        self._refuse()
        self.steps.append(wanted)
        return []

    def pods(self) -> list[PodState]:
        self._refuse()
        return []

    def counters(self) -> dict[str, int]:
        self._refuse()
        return {"STEERED": 3, "NOT_TCP": 0}

    def _refuse(self) -> None:
        if self.is_refusing:
            self.refused += 1
            raise KernelError("map listeners: no")


class Surroundings:
    """One node. `fleet()` is what each of its agents has, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = Config(node="node-a", run_dir=str(directory), worker_uid=os.getuid(), drain_seconds=1.0)
        self.steering = FakeSteering()
        self.launched: list[Launched] = []
        self.lines: list[str] = []

    def agent(self, workers: int = 1) -> "FakeAgent":
        return FakeAgent(self, workers)

    def journal(self, pid: int) -> list[dict[str, Any]]:
        """Whole lines; a line may be half there while it is written."""
        path = self.directory / f"{pid}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def told(self, pid: int) -> list[str]:
        """Names of the messages that it got, without what is asked or said at any time."""
        words = [row["what"] for row in self.journal(pid)]
        return [word for word in words if word[0].isupper() and word not in {"ListConnections", "Ping", "SetLogLevels"}]

    def launch(self, slot: int, *, netns: str, uid: int, rendezvous: Path) -> Launched:
        self.launched.append(launch(slot, netns=netns, uid=uid, rendezvous=rendezvous))
        return self.launched[-1]

    def end(self) -> None:
        for launched in self.launched:
            launched.child.kill()
            launched.child.wait()
        for sock in self.steering.made:
            sock.close()


class FakeAgent:
    """The parts around a fleet."""

    def __init__(self, surroundings: Surroundings, workers: int) -> None:
        config = surroundings.config
        self.state = NodeState()
        self.metrics = TrafficMetrics()
        self.connections = OpenConnections(self.metrics, AccessLog(surroundings.lines.append))
        self.totals = Totals()
        config = Config(**{**vars(config), "workers": workers})
        steering = cast("Steering", surroundings.steering)
        self.fleet = WorkerFleet(config, steering, self.state, self.connections, self.totals)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[WorkerFleet]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.fleet.run())
            yield self.fleet
            task.cancel()

    def pid(self, slot: int = 0) -> int:
        return self.fleet.workers[slot].pid

    async def kill(self, slot: int = 0, number: int = signal.SIGKILL) -> int:
        """Returns the pid of what takes its place."""
        worker = self.fleet.workers[slot]
        os.kill(worker.pid, number)
        await eventually(lambda: self.fleet.workers.get(slot) not in {None, worker})
        await eventually(lambda: self.fleet.is_ready)
        return self.pid(slot)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is often in another process
            await asyncio.sleep(0.005)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[[Callable[[], bool]], Any]:
    return eventually


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short path: the name of a Unix socket has 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="na-") as directory:
        yield Path(directory)


@pytest.fixture
def node(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    surroundings = Surroundings(run_dir)
    script = str(Path(__file__).with_name("fake_worker.py"))
    monkeypatch.setattr(launch_module, "PROGRAM", (sys.executable, script, str(run_dir)))
    monkeypatch.setattr(fleet_module, "launch", surroundings.launch)
    for name in ("ADOPTION_SECONDS", "SUCCESSOR_SECONDS", "LAST_SECONDS"):  # a busy machine is no worker that hangs
        monkeypatch.setattr(fleet_module, name, PATIENCE_SECONDS)
    yield surroundings
    surroundings.end()
