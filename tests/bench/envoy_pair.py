# SPDX-License-Identifier: Apache-2.0
"""Two Envoys on one node or on two, as a mesh that has only proxies would: HBONE between them, mutual TLS 1.3.

A pod dials the first (nothing steers, which flatters Envoy); the second reaches the other pod. One thread each.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nodeagent.lab.namespaces import Node, Pod
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from tests.bench import load
from tests.bench.ground import await_listener, envoy_binary
from tests.e2e.proxy.authority import Authority
from tests.interop.configuration import HBONE, Credentials, Gate, Way, bootstrap

PORT = 7002
_CLIENT, _SERVER = (Identity("cluster.local", "shop", name) for name in ("web", "api"))


@dataclass(frozen=True)
class EnvoyPair:
    ip: Ip
    """Where clients dial."""
    port: int
    unpooled_port: int
    """The same way, with a tunnel for each connection."""
    processes: "tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]"

    @property
    def pids(self) -> tuple[int, int]:
        near, far = self.processes
        return near.pid, far.pid


@contextlib.contextmanager
def running(near: Node, far: Node, server: Pod, port: int, cores: tuple[int, int]) -> Iterator[EnvoyPair]:
    """As `start`, until the block ends."""
    pair = start(near, far, server, port, cores)
    try:
        yield pair
    finally:
        for process in pair.processes:
            process.kill()
            process.wait()


def start(near: Node, far: Node, server: Pod, port: int = PORT, cores: tuple[int, int] | None = None) -> EnvoyPair:
    """Both processes, until the lab ends, on a core each if they are named. Raises NotPossible."""
    authority = Authority()
    client, of_server = (
        Credentials(pem=authority.issue(str(who)), roots=authority.roots) for who in (_CLIENT, _SERVER)
    )
    ways = [
        Way(
            name=name,
            port=own_port,
            target=far.ipv4,
            target_port=load.PORT,
            own_ip=near.ipv4,
            credentials=client,
            expects=_SERVER,
            listen=near.ipv4,
            streams_per_tunnel=streams,
        )
        for name, own_port, streams in (("bench", port, 0), ("unpooled", port + 1, 1))
    ]
    gate = Gate(
        name="bench",
        addresses=(far.ipv4,),
        application=load.PORT,
        credentials=of_server,
        admits=_CLIENT,
        beside=server.ipv4,
    )
    near_core, far_core = cores or (None, None)
    processes = (
        _start(near, f"near-{port}", ways, [], near_core),
        _start(far, f"far-{port}", [], [gate], far_core),
    )
    for node, own_port in ((near, port), (near, port + 1), (far, HBONE)):
        await_listener(node, node.ipv4, own_port, "Envoy")
    return EnvoyPair(near.ipv4, port, port + 1, processes)


def _start(node: Node, name: str, ways: list[Way], gates: list[Gate], core: int | None) -> "subprocess.Popen[bytes]":
    directory = Path("/run") / f"envoy-{name}"  # the node's own /run
    settings = bootstrap(ways, gates, str(directory / "admin.sock"), str(directory / "connects.json"))
    configuration = directory / "envoy.json"
    node.call(lambda: directory.mkdir(exist_ok=True))
    node.call(lambda: configuration.write_bytes(settings))
    arguments = ["-c", str(configuration), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    return node.spawn([*pinned, envoy_binary().resolve(), *arguments], stdin=subprocess.DEVNULL)
