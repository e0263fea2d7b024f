# SPDX-License-Identifier: Apache-2.0
"""One size of mesh in the lab: start, agents, changes."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nodeagent.agent.spare_memory import AFTER_SMALL_SECONDS
from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import Echo, is_served
from nodeagent.lab.demo.stage import PORT, XDS_PORT, Stage
from tests.bench import proxies
from tests.bench.control import large_mesh

NODE = "node-a"
_POLICY = "90-bench.yaml"
_WEB = "cluster.local/ns/shop/sa/web"
_PATIENCE_SECONDS = 60.0
_REST_SECONDS = 0.3
"""After a change: what it still costs when everybody has been told (findings, state on disk)."""
_GIVEN_BACK_SECONDS = AFTER_SMALL_SECONDS + 2
"""What the last changes needed for a moment is not what a workload takes."""


@dataclass(frozen=True)
class Figures:
    """Seconds and bytes."""

    files: int
    start: float
    """Of the control plane, until it accepts connections."""
    start_cpu: float
    memory: int
    """Of the control plane, just started."""
    agent_start: float
    agent_memory: int
    """After all changes, as that of its worker."""
    worker_memory: int
    crowd: float
    """Until the last of 199 agents that come at once has everything."""
    crowd_memory: int
    """Of the control plane, with all of them."""
    enforced: Sequence[float]
    """From the change of a policy's file to the end of an open connection on node-a."""
    told: Sequence[float]
    """From the same to the last of the 199."""
    pod_told: Sequence[float]
    """The same for the change of one pod."""
    pod_cpu: float
    """Of the control plane, of one such change."""
    pod_agent_cpu: float
    """Of the agent of node-a and its worker."""
    pod_bytes: int
    """To one agent."""


def text(objects: Sequence[mesh.Object]) -> str:
    return yaml.dump_all(objects, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)


def measure(stage: Stage, workloads: int, changes: int, progress: Callable[[str], None]) -> Figures:
    """Raises ClaimFalse when something does not happen that should."""
    stage.prepare()
    count = 0
    for name, objects in large_mesh.files(workloads):
        mesh.replace(stage.mesh_directory / name, text(objects))
        count += 1
    began = time.monotonic()
    stage.start_control_plane()
    start, pid = time.monotonic() - began, stage.control_plane.pid
    start_cpu, memory = proxies.spent([pid]), proxies.resident_bytes(pid)
    progress(f"control plane started in {start:.1f} s")
    began = time.monotonic()
    stage.start_agent(NODE)
    agent_start = time.monotonic() - began
    agent, worker = stage.agents[NODE].pid, stage.worker_pids(NODE)[0]
    progress(f"agent started in {agent_start:.1f} s")
    with _crowd(stage) as ask:
        began = time.monotonic()
        crowd = ask("synced")["last"] - began
        crowd_memory = proxies.resident_bytes(pid)
        progress(f"199 agents have everything after {crowd:.1f} s")
        enforced, told = [], []
        for _ in range(changes):
            _rest(ask)
            seconds, at = _deny(stage)
            enforced.append(seconds)
            told.append(ask("told")["last"] - at)
            _rest(ask)
            _allow(stage)
            ask("told")
        _rest(ask)
        progress(f"{changes} policies changed")
        pod_told, before, sizes = list[float](), _spent(pid, agent, worker), 0
        for number in range(changes):
            objects = large_mesh.application(0, workloads // large_mesh.REPLICAS, f"v{number}")
            content, at = text(objects), time.monotonic()
            mesh.replace(stage.mesh_directory / large_mesh.file_of(0), content)
            found = ask("told")
            pod_told.append(found["last"] - at)
            sizes += found["bytes"]
            _rest(ask)
        plane_cpu, agent_cpu = (
            (after - former) / changes for former, after in zip(before, _spent(pid, agent, worker), strict=True)
        )
        progress(f"{changes} pods changed")
        time.sleep(_GIVEN_BACK_SECONDS)
        agent_memory, worker_memory = proxies.resident_bytes(agent), proxies.resident_bytes(worker)
    return Figures(
        files=count,
        start=start,
        start_cpu=start_cpu,
        memory=memory,
        agent_start=agent_start,
        agent_memory=agent_memory,
        worker_memory=worker_memory,
        crowd=crowd,
        crowd_memory=crowd_memory,
        enforced=enforced,
        told=told,
        pod_told=pod_told,
        pod_cpu=plane_cpu,
        pod_agent_cpu=agent_cpu,
        pod_bytes=round(sizes / changes),
    )


def _rest(ask: Callable[[str], dict[str, Any]]) -> None:
    """A change may come in several messages: the last ones must not be taken for the next change's."""
    time.sleep(_REST_SECONDS)
    ask("forget")


def _spent(plane: int, agent: int, worker: int) -> tuple[float, float]:
    """CPU seconds. Finer than clock ticks, since an agent's change costs less than one."""
    return _scheduled(plane), _scheduled(agent) + _scheduled(worker)


def _scheduled(pid: int) -> float:
    """By all threads that are there: the schedulers' count in nanoseconds, its first number."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text(encoding="ascii").split()[0]) for thread in threads) / 1e9


def _deny(stage: Stage) -> tuple[float, float]:
    """Seconds until an open connection between two pods of node-a has ended, and when its policy was changed."""
    web, api = stage.pod("web"), stage.pod("api")
    echo = Echo(web, api.ipv4, PORT)
    echo.exchange()
    deny = mesh.authorization("bench", "shop", "api", "DENY", [mesh.rule(principals=[_WEB])])
    content, at = text([deny]), time.monotonic()
    mesh.replace(stage.mesh_directory / _POLICY, content)
    is_cut = echo.seconds_until_cut(_PATIENCE_SECONDS) is not None
    seconds = time.monotonic() - at
    echo.close()
    demand(is_cut, f"a policy was not in force within {_PATIENCE_SECONDS:g} s")
    return seconds, at


def _allow(stage: Stage) -> None:
    stage.write(_POLICY, [])
    api = stage.pod("api")
    eventually(lambda: is_served(stage.pod("web"), api.ipv4, PORT), _PATIENCE_SECONDS, "without the policy: served")


@contextlib.contextmanager
def _crowd(stage: Stage) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A function that gives the crowd an order and returns its answer, which is waited for."""
    nodes = ["node-b", *large_mesh.far_nodes()]
    address = f"{stage.lab.control.ipv4}:{XDS_PORT}"
    words = [sys.executable, "-m", "tests.bench.control.crowd", address, str(stage.state_directory), *nodes]
    process = stage.lab.control.spawn(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(order: str) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{order}\n".encode())
        process.stdin.flush()
        answer = process.stdout.readline()
        demand(answer, "the crowd of agents has ended; its own words are above")
        found: dict[str, Any] = json.loads(answer)
        return found

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
