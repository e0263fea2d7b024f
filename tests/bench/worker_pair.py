# SPDX-License-Identifier: Apache-2.0
"""Two real workers that nothing steers to: their clients dial a listener, as those of Envoy do.

It is the ground of tests/e2e/proxy (processes, messages and certificates are the product's; where a node has our
programs, a proxy namespace has ip rules) with a bridge between the two, so that a packet has as many devices to cross
as between the Envoys on the lab's nodes. No agent listens: what the workers report is read and thrown away. Policy,
records and counters are all there; settings are the product's own.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nodeagent.agent.fleet import worker_config
from nodeagent.config import Config
from nodeagent.lab.namespaces import Host
from nodeagent.model.address import Ip
from nodeagent.proxy.messages import WorkerConfig
from tests.bench import proxies
from tests.e2e.proxy.authority import Authority
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.running import Running
from tests.e2e.proxy.wires import PORT, Namespace, Pod, Proxy, Wires

_MACS = {"far": "02:00:00:00:01:01", "near": "02:00:00:00:01:02"}
"""Of the two devices, by their names: `far` is the near proxy's."""


@dataclass(frozen=True)
class WorkerPair:
    client: Host
    server: Host
    outsider: Host
    """At both workers."""
    authority: Authority
    """Of the mesh."""
    ip: Ip
    """Where clients dial: the application's own address, which the near worker takes for itself."""
    pids: tuple[int, int]
    port: int = PORT


@contextlib.contextmanager
def running(cgroup: Path, cores: tuple[int, int], **settings: float) -> Iterator[WorkerPair]:
    """Until the block ends. `cgroup` is the lab's; `settings` differ from the product's own."""
    config = msgspec.structs.replace(_product_config(), **settings)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)  # the workers pass through it
        mesh = stack.enter_context(contextlib.closing(Mesh(_BridgedWires(), config, directory)))
        client, server, outsider = (
            Host(f"bare-{name}", pod.addresses, Path(pod.path), cgroup)
            for name, pod in (
                ("client", mesh.wires.client),
                ("server", mesh.wires.server),
                ("outsider", mesh.wires.outsider),
            )
        )
        for worker, core in zip((mesh.near, mesh.far), cores, strict=True):
            (cgroup / "cgroup.procs").write_text(str(worker.process.pid))
            proxies.pin(worker.process.pid, core)
            _discard_reports(worker, client)
        yield WorkerPair(
            client, server, outsider, mesh.authority, server.ipv4, (mesh.near.process.pid, mesh.far.process.pid)
        )


def _product_config() -> WorkerConfig:
    return worker_config(Config(node="bench"))


def _discard_reports(worker: Running, place: Host) -> None:
    """Ends with the worker."""
    assert worker.report is not None
    place.spawn(["cat"], stdin=worker.report.fileno(), stdout=subprocess.DEVNULL)


class _BridgedWires(Wires):
    def __init__(self) -> None:
        super().__init__()
        self.near.ip("link", "delete", "far")
        self.bridge = Namespace()
        self.bridge.ip("link", "add", "bridge", "type", "bridge")
        self.bridge.ip("link", "set", "bridge", "up")
        self._plug(self.near, "far", self.server)
        self._plug(self.far, "near", self.client)

    def _plug(self, proxy: Proxy, device: str, beyond: Pod) -> None:
        """`device` leads to the other proxy, and to the pod behind it."""
        other = {"far": "near", "near": "far"}[device]
        words = ["link", "add", device, "address", _MACS[device], "type", "veth", "peer", "name", device]
        proxy.ip(*words, "netns", self.bridge.path)
        proxy.sysctl(f"net/ipv4/conf/{device}/rp_filter", "0")
        proxy.ip("link", "set", device, "up")
        proxy.ip("neighbour", "add", beyond.v4, "lladdr", _MACS[other], "dev", device)
        proxy.ip("route", "add", beyond.v4, "dev", device)
        self.bridge.ip("link", "set", device, "master", "bridge", "up")
