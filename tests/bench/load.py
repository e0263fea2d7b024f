# SPDX-License-Identifier: Apache-2.0
"""The load generator (load/*.c): compiled here, run in pods, its JSON read. Client and server have a core each."""

import json
import os
import select
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nodeagent.errors import NotPossible
from nodeagent.lab.namespaces import Host
from nodeagent.model.address import Ip

PORT = 7000
_SOURCES = Path(__file__).with_name("load")
_START_SECONDS = 10.0
_PATIENCE_SECONDS = 20.0
"""Beyond the length of the work: a client that waits longer has lost a byte."""


@dataclass(frozen=True)
class Measure:
    key: str
    """In the generator's JSON."""
    unit: str
    factor: float = 1.0


@dataclass(frozen=True)
class Work:
    kind: str
    """A word of load/main.c."""
    connections: int
    measures: Mapping[str, Measure]
    """By the name that rows are given."""


def exchange(connections: int = 1) -> Work:
    many = "" if connections == 1 else f", {connections} connections"
    name = f"1 KiB request/response{many}"
    measures = {f"{name}, p50": Measure("p50_us", "us"), f"{name}, p99": Measure("p99_us", "us")}
    return Work("exchange", connections, measures)


def bulk(kind: str, connections: int = 1) -> Work:
    """`upload` or `download`."""
    many = "1 connection" if connections == 1 else f"{connections} connections"
    way = "up" if kind == "upload" else "down"
    return Work(kind, connections, {f"bulk {way}, {many}": Measure("rate", "MB/s", 1e-6)})


def churn(at_a_time: int) -> Work:
    return Work("churn", at_a_time, {f"new connections, {at_a_time} at a time": Measure("rate", "1/s")})


class Generator:
    def __init__(self, directory: Path) -> None:
        self._binary = _compile(directory)
        cores = sorted(os.sched_getaffinity(0))
        self._client_core, self._server_core = cores[0], cores[-1]

    def serve(self, place: Host) -> None:
        """From now on, until the lab ends. Raises NotPossible."""
        process = place.spawn(
            ["taskset", "-c", str(self._server_core), self._binary, "serve", str(PORT)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], _START_SECONDS)[0] or process.stdout.readline() != b"ready\n":
            raise NotPossible(f"the load server in {place.name} did not start")

    def run(self, place: Host, work: Work, ip: Ip, port: int, seconds: float) -> dict[str, float]:
        """The values of the work's measures. Raises NotPossible when a connection or a byte was lost."""
        words: list[str] = [work.kind, ip, str(port), str(work.connections), f"{seconds:g}"]
        command: list[str | Path] = ["taskset", "-c", str(self._client_core), self._binary, *words]
        done = place.run(command, seconds=seconds + _PATIENCE_SECONDS)
        if done.returncode != 0:
            raise NotPossible(f"{' '.join(words)} in {place.name}: {done.stderr.strip()}")
        told = json.loads(done.stdout)
        if told.get("failed"):
            raise NotPossible(f"{' '.join(words)} in {place.name}: {told['failed']} connections failed")
        return {name: told[measure.key] * measure.factor for name, measure in work.measures.items()}


def _compile(directory: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise NotPossible("the load generator cannot be compiled: no C compiler", check="apt-get install clang")
    binary = directory / "load"
    sources = sorted(_SOURCES.glob("*.c"))
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", binary, *sources], check=True)
    return binary
