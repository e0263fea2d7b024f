# SPDX-License-Identifier: Apache-2.0
"""Two ztunnels, each beside a pod in the pod's own namespace ("dedicated" mode), if ZTUNNEL names a binary.

It must be built with `--features testing`, whose fake CA both trust. The client's connections are redirected by nft, as
ztunnel's own tests do it; a mark tells ztunnel's apart. One worker thread each. The mesh is a file.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from nodeagent.errors import NotPossible
from nodeagent.lab.demo.stage import NODES
from nodeagent.lab.namespaces import Pod
from nodeagent.lab.topology import PodSpec
from nodeagent.model.address import Ip
from tests.bench.ground import Ground, await_listener

_OUTBOUND, _HBONE = 15001, 15008
_MARK = 1337
_LOOPBACK = Ip("127.0.0.1")
_NAMESPACE = "legacy"
"""Of Kubernetes: not in our mesh, so that our agents leave the two pods alone."""


@dataclass(frozen=True)
class ZtunnelPair:
    client: Pod
    server: Pod
    pids: tuple[int, int]


def binary() -> Path | None:
    """None when there is none to compare with. Raises NotPossible when what is named is no program."""
    named = os.environ.get("ZTUNNEL", "")
    if not named:
        return None
    path = Path(named).resolve()
    if not os.access(path, os.X_OK) or path.is_dir():
        raise NotPossible(
            f"ZTUNNEL={named} is no program", check="Name the binary of `cargo build --release --features testing`."
        )
    return path


@contextlib.contextmanager
def running(program: Path, ground: Ground, cores: tuple[int, int]) -> Iterator[ZtunnelPair]:
    """Both processes and their pods, until the block ends. Raises NotPossible."""
    names = ("zt-client", "zt-server")
    specs = [
        PodSpec(name=name, node=node, namespace=_NAMESPACE, service_account=name)
        for name, node in zip(names, NODES, strict=True)
    ]
    client, server = (ground.stage.lab.add_pod(spec) for spec in specs)
    try:
        yield _start_both(program, ground.stage.directory, client, server, cores)
    finally:
        for pod in (client, server):
            ground.stage.lab.remove_pod(pod)


def _start_both(program: Path, directory: Path, client: Pod, server: Pod, cores: tuple[int, int]) -> ZtunnelPair:
    path = directory / "ztunnel.yaml"
    path.write_text(yaml.safe_dump(mesh_file((client, server))), encoding="utf-8")
    _redirect(client)
    near, far = (_start(program, pod, path, core) for pod, core in zip((client, server), cores, strict=True))
    await_listener(client, _LOOPBACK, _OUTBOUND, "ztunnel")
    await_listener(server, server.ipv4, _HBONE, "ztunnel")
    return ZtunnelPair(client, server, (near, far))


def mesh_file(pods: tuple[Pod, ...]) -> dict[str, object]:
    """Pure. A ztunnel waits for its own workload, so NODE_NAME must be that of its `node`; `services` must be there."""
    return {
        "workloads": [
            {
                "uid": f"Kubernetes//Pod/{pod.namespace}/{pod.name}",
                "name": pod.name,
                "namespace": pod.namespace,
                "serviceAccount": pod.service_account,
                "workloadIps": [str(ip) for ip in pod.ips],
                "protocol": "HBONE",
                "node": pod.node,
                "network": "",
                "services": {},
            }
            for pod in pods
        ],
        "services": [],
        "policies": [],
    }


def environment(pod: Pod, mesh: Path) -> Mapping[str, str]:
    """Pure."""
    return {
        "RUST_LOG": "error",
        "FAKE_CA": "true",
        "XDS_ADDRESS": "",
        "LOCAL_XDS_PATH": str(mesh),
        "PROXY_MODE": "dedicated",
        "PROXY_WORKLOAD_INFO": f"{pod.namespace}/{pod.name}/{pod.service_account}",
        "NODE_NAME": pod.node,
        "ZTUNNEL_WORKER_THREADS": "1",
        "PACKET_MARK": str(_MARK),
        "ENABLE_ORIG_SRC": "false",  # true needs routes for its mark
    }


def _redirect(client: Pod) -> None:
    rules = (
        "add table ip ztunnel",
        "add chain ip ztunnel output { type nat hook output priority -100; }",
        f'add rule ip ztunnel output meta l4proto tcp oifname != "lo" meta mark != {_MARK} redirect to :{_OUTBOUND}',
    )
    done = client.run(["nft", "; ".join(rules)])
    if done.returncode:
        raise NotPossible(f"nft in {client.name}: {done.stderr.strip()}", check="Has this kernel nf_tables with NAT?")


def _start(program: Path, pod: Pod, mesh: Path, core: int) -> int:
    words: list[str | Path] = ["taskset", "-c", str(core), program]
    return pod.spawn(words, env={**os.environ, **environment(pod, mesh)}, stdin=subprocess.DEVNULL).pid
