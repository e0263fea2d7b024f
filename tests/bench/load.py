# SPDX-License-Identifier: Apache-2.0
"""The load generator (load/*.c): compiled here, run in pods, its JSON read. Client and server have a core each."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from nodeagent.errors import NotPossible
from nodeagent.lab.namespaces import Host
from nodeagent.lab.ready import readable
from nodeagent.model.address import Ip

PORT = 7000
Told: TypeAlias = Mapping[str, float]
"""The generator's JSON."""
_SOURCES = Path(__file__).with_name("load")
_PATIENCE_SECONDS = 20.0
"""Beyond the length of the work: a client that waits longer has lost a byte."""


@dataclass(frozen=True)
class Measure:
    key: str
    """In the generator's JSON."""
    unit: str
    factor: float = 1.0


class Cost(NamedTuple):
    """CPU seconds of the proxies on the way, by what they carried for them."""

    name: str
    """Of the measure."""
    key: str
    """In the generator's JSON: what was carried."""
    amount: float
    """Of it, for which the seconds are told; a thousand times that for milliseconds."""
    unit: str


@dataclass(frozen=True)
class Work:
    kind: str
    """A word of load/main.c."""
    connections: int
    measures: Mapping[str, Measure]
    """By the name that rows are given."""
    cost: Cost

    def values(self, told: Told) -> dict[str, float]:
        """Pure. By the names of the measures."""
        return {name: told[measure.key] * measure.factor for name, measure in self.measures.items()}


def exchange(connections: int = 1, *, with_rate: bool = False) -> Work:
    many = "" if connections == 1 else f", {connections} connections"
    name = f"1 KiB request/response{many}"
    measures = {f"{name}, p50": Measure("p50_us", "us"), f"{name}, p99": Measure("p99_us", "us")}
    if with_rate:
        measures[f"{name}, rate"] = Measure("rate", "1/s")
    return Work("exchange", connections, measures, Cost(f"{name}, CPU", "count", 1e6, "ms/1000"))


def bulk(kind: str, connections: int = 1) -> Work:
    """`upload` or `download`."""
    many = "1 connection" if connections == 1 else f"{connections} connections"
    name = f"bulk {'up' if kind == 'upload' else 'down'}, {many}"
    return Work(kind, connections, {name: Measure("rate", "MB/s", 1e-6)}, Cost(f"{name}, CPU", "bytes", 1e9, "s/GB"))


def churn(at_a_time: int, *, with_p99: bool = False, how: str = "") -> Work:
    """`how`: in what these connections differ from others, for their name."""
    name = f"new connections{how}, {at_a_time} at a time"
    measures = {name: Measure("rate", "1/s")}
    if with_p99:
        measures[f"{name}, p99"] = Measure("p99_us", "us")
    return Work("churn", at_a_time, measures, Cost(f"{name}, CPU", "count", 1e6, "ms/1000"))


class Generator:
    def __init__(self, directory: Path) -> None:
        self._binary = _compile(directory)
        cores = sorted(os.sched_getaffinity(0))
        self._client_core, self._server_core = cores[0], cores[-1]
        self._servers: dict[tuple[Path, int], subprocess.Popen[bytes]] = {}

    def serve(self, place: Host, port: int = PORT) -> None:
        """From now on, until the lab ends. Idempotent. Raises NotPossible."""
        known = self._servers.get((place.netns, port))
        if known is not None and known.poll() is None:
            return
        process = place.spawn(
            ["taskset", "-c", str(self._server_core), self._binary, "serve", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        if _first_line(process) != b"ready\n":
            raise NotPossible(f"the load server in {place.name} did not start")
        self._servers[place.netns, port] = process

    def run(
        self, place: Host, work: Work, ip: Ip, port: int, seconds: float, begun: Callable[[], None] = lambda: None
    ) -> Told:
        """Calls `begun` when what is to be reused is there. Raises NotPossible when a connection or a byte was lost."""
        words: list[str] = [work.kind, ip, str(port), str(work.connections), f"{seconds:g}"]
        command: list[str | Path] = ["taskset", "-c", str(self._client_core), self._binary, *words]
        pipe = subprocess.PIPE
        with place.spawn(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
            try:
                if _first_line(process) == b"begun\n":
                    begun()
                out, err = process.communicate(timeout=seconds + _PATIENCE_SECONDS)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise NotPossible(f"{' '.join(words)} in {place.name}: {err.decode().strip()}")
        told: Told = json.loads(out)
        if told.get("failed"):
            raise NotPossible(f"{' '.join(words)} in {place.name}: {told['failed']} connections failed")
        return told

    @contextlib.contextmanager
    def beside(self, place: Host, work: Work, ip: Ip, port: int) -> Iterator[None]:
        """Goes on until the block ends; nothing is told of it. Raises NotPossible."""
        words = [work.kind, ip, str(port), str(work.connections), "600"]
        command: list[str | Path] = ["taskset", "-c", str(self._client_core), self._binary, *words]
        with place.spawn(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            try:
                if _first_line(process) != b"begun\n":
                    raise NotPossible(f"{' '.join(words)} in {place.name} did not begin")
                yield
            finally:
                process.kill()

    @contextlib.contextmanager
    def held(self, place: Host, connections: int, ip: Ip, port: int) -> Iterator[None]:
        """As many are open and idle until the block ends; each has carried a byte both ways. Raises NotPossible."""
        words = ["hold", ip, str(port), str(connections), "0"]
        with place.spawn([self._binary, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                if _first_line(process) != b"ready\n":
                    raise NotPossible(f"{' '.join(words)} in {place.name}: not all of them could be opened")
                yield
            finally:
                process.kill()


def _first_line(process: "subprocess.Popen[bytes]") -> bytes:
    """Empty when it ends, or says nothing for too long."""
    assert process.stdout is not None
    return process.stdout.readline() if readable([process.stdout], _PATIENCE_SECONDS) else b""


def _compile(directory: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise NotPossible("the load generator cannot be compiled: no C compiler", check="apt-get install clang")
    binary = directory / "load"
    sources = sorted(_SOURCES.glob("*.c"))
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", binary, *sources], check=True)
    return binary
