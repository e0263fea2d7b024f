# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks stand on: the demo's stage, and a node whose agent comes, goes and changes its mind.

A node is `bare` (nothing of ours: as before the agent's first start), or has an agent whose connections between pods
of the node stay in the kernel or go through the tunnel.
"""

import contextlib
import enum
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from nodeagent.errors import NotPossible
from nodeagent.lab import cgroups
from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.stage import Stage, running
from nodeagent.lab.namespaces import Host, Pod
from nodeagent.model.address import Ip
from tests.bench import load

SERVICE_IPS = ("10.96.0.50", "fd00:96::50")
SERVICE_PORT = 7001
_SETTLED_SECONDS = 20.0
_START_SECONDS = 20.0


class Condition(enum.StrEnum):
    BARE = "bare"
    KERNEL = "kernel"
    TUNNEL = "tunnel"


class Ground:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.generator = load.Generator(stage.directory)
        self._conditions: dict[str, Condition] = {}

    def pod(self, name: str) -> Pod:
        return self.stage.pod(name)

    def own_pids(self) -> Collection[int]:
        """Of the lab, and of this process."""
        return {os.getpid(), *cgroups.processes(self.stage.lab.control.cgroup.parent)}

    def become(self, node: str, condition: Condition) -> None:
        """Idempotent. Raises NotPossible."""
        former = self._conditions.get(node, Condition.BARE)
        if former is condition:
            return
        if former is not Condition.BARE:
            self.stage.stop_agent(node)
        if condition is Condition.BARE:
            self.stage.clean(node)
        else:
            self.stage.start_agent(node, same_node=condition.value)
        self._conditions[node] = condition

    def await_reason(self, node: str, reason: str, source: Pod, ip: Ip, port: int) -> None:
        """Until a connection has this outcome: an agent is ready a moment before its table is whole."""
        deadline = time.monotonic() + _SETTLED_SECONDS
        while True:
            before = self.stage.packets(node)[reason]
            with contextlib.suppress(OSError):
                source.connect(ip, port).close()
            if self.stage.packets(node)[reason] > before:
                return
            if time.monotonic() > deadline:
                raise NotPossible(f"no connection from {source.name} to {ip}:{port} was counted as {reason}")

    def packets(self, node: str) -> Mapping[str, int]:
        return self.stage.packets(node)


@contextlib.contextmanager
def prepared() -> Iterator[Ground]:
    """The whole ground, bare, removed at the end of the block."""
    with running() as stage:
        stage.prepare()
        stage.write(
            "25-bench.yaml",
            [mesh.service("bench", "shop", {"app": "api"}, SERVICE_IPS, {SERVICE_PORT: load.PORT})],
        )
        stage.start_control_plane()
        yield Ground(stage)


def await_listener(place: Host, ip: Ip, port: int, who: str) -> None:
    """Of a proxy that was started a moment ago. Raises NotPossible."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            place.connect(ip, port).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise NotPossible(f"no {who} listens on {ip}:{port}", check="Its own words are above.") from error
            time.sleep(0.05)
        else:
            return


def envoy_binary() -> Path:
    """What `make build/envoy/bin/envoy` installs. Raises NotPossible."""
    path = Path(os.environ.get("NODEAGENT_ENVOY", "build/envoy/bin/envoy"))
    if not path.exists():
        raise NotPossible("there is no Envoy to compare with", check="make build/envoy/bin/envoy")
    return path
