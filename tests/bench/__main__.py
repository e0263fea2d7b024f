# SPDX-License-Identifier: Apache-2.0
"""`make bench`: on each of two lab nodes a pod in the mesh and one outside; the same work over both pairs in turn.

The baseline is the same pair of programs without a mesh, in the same run, so what the table shows is a ratio. Client
and server are Python on both sides, which flatters nobody: read the ratios, not the absolute figures.
"""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from nodeagent.lab.demo.client import Echo, ask, download, upload
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running
from nodeagent.lab.namespaces import Pod

ROUNDS = 5
BULK_BYTES = 128 << 20
REQUESTS = 2000
CONNECTIONS = 300
RESULTS = Path("build/bench.json")

Work = Callable[[Pod, Pod], float]


def bulk_up(source: Pod, target: Pod) -> float:
    sent, received, seconds = upload(source, target.ipv4, PORT, BULK_BYTES)
    assert sent == received
    return BULK_BYTES / seconds / 1e6


def bulk_down(source: Pod, target: Pod) -> float:
    sent, received, seconds = download(source, target.ipv4, PORT, BULK_BYTES)
    assert sent == received
    return BULK_BYTES / seconds / 1e6


def latency(source: Pod, target: Pod) -> float:
    """Median of a 1 KiB exchange in microseconds."""
    echo, word, times = Echo(source, target.ipv4, PORT), os.urandom(1024), []
    with contextlib.closing(echo):
        for _ in range(REQUESTS):
            began = time.perf_counter()
            echo.exchange(word)
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def connections(source: Pod, target: Pod) -> float:
    """New connections a second, one after the other, each with an answer."""
    began = time.perf_counter()
    for _ in range(CONNECTIONS):
        assert ask(source, target.ipv4, PORT, "WHO")
    return CONNECTIONS / (time.perf_counter() - began)


WORK: dict[str, tuple[Work, str]] = {
    "bulk up, 1 connection": (bulk_up, "MB/s"),
    "bulk down, 1 connection": (bulk_down, "MB/s"),
    "1 KiB request/response, p50": (latency, "us"),
    "new connections, sequential": (connections, "1/s"),
}


def compare(stage: Stage) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, (work, unit) in WORK.items():
        mesh, direct = [], []
        for _ in range(ROUNDS):  # in turn, so that drift hits both
            mesh.append(work(stage.pod("web"), stage.pod("db")))
            direct.append(work(stage.pod("legacy2"), stage.pod("legacy")))
        value, baseline = statistics.median(mesh), statistics.median(direct)
        rows.append(_row(name, value, unit, baseline))
        spread = f"{min(mesh):.0f} to {max(mesh):.0f}"
        print(f"{name:32} {value:8.0f} {unit:5} ({spread})  no mesh {baseline:8.0f}  ratio {value / baseline:.2f}")
    return rows


def memory(stage: Stage) -> list[dict[str, object]]:
    rows = []
    for node in NODES:
        pids = {"agent": stage.agents[node].pid, "worker": stage.worker_pids(node)[0]}
        for part, pid in pids.items():
            value = _resident_mib(pid)
            rows.append(_row(f"memory of {part}, {node}", value, "MiB", None))
            print(f"{f'memory of {part}, {node}':32} {value:8.1f} MiB")
    return rows


def _row(name: str, value: float, unit: str, baseline: float | None) -> dict[str, object]:
    ratio = value / baseline if baseline else None
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio, "goal": None, "met": None}


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no resident memory: it ended")


def main() -> None:
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node)
        rows = compare(stage) + memory(stage)
    RESULTS.parent.mkdir(exist_ok=True)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    names = {row["name"] for row in rows}
    rows = [row for row in kept if row["name"] not in names] + rows
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
