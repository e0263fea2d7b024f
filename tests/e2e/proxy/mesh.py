# SPDX-License-Identifier: Apache-2.0
"""The wires with a real worker at each side."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from nodeagent.lab.demo.versions import THIS_VERSION, Version
from nodeagent.model.address import Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.workload import Service, ServicePort, TunnelProtocol, Vip, Workload
from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.proxy.messages import HandOver, LocalPods, TakeOver, WorkerConfig
from tests.e2e.proxy.authority import Authority
from tests.e2e.proxy.running import Running
from tests.e2e.proxy.wires import HBONE, PATIENCE_SECONDS, PORT, Pod, Proxy, Wires

CLIENT, SERVER = Identity("cluster.local", "apps", "client"), Identity("cluster.local", "apps", "server")
CONFIG = WorkerConfig(
    node="node",
    cluster="Kubernetes",
    network="",
    trust_domain="cluster.local",
    drain_seconds=PATIENCE_SECONDS,
    policy_wait_seconds=1,
    pool_idle_seconds=300,
    pool_streams=100,
    connect_seconds=PATIENCE_SECONDS,
    handshake_seconds=PATIENCE_SECONDS,
    max_connections=50_000,
)


def workload(name: str, pod: Pod, identity: Identity, **more: Any) -> Workload:
    return msgspec.structs.replace(
        Workload(
            uid=f"Kubernetes//Pod/{identity.namespace}/{name}",
            name=name,
            namespace=identity.namespace,
            addresses=pod.addresses,
            protocol=TunnelProtocol.HBONE,
            trust_domain=identity.trust_domain,
            service_account=identity.service_account,
            workload_name=name,
        ),
        **more,
    )


class Mesh:
    """The wires with a worker at each side, both knowing client and server."""

    def __init__(
        self, wires: Wires, config: WorkerConfig, directory: Path, kernel_tls: KernelTls | None = None
    ) -> None:
        self.wires, self.config, self._directory = wires, config, directory
        self._kernel_tls = kernel_tls
        self.authority = Authority()
        self.client, self.server = workload("client", wires.client, CLIENT), workload("server", wires.server, SERVER)
        self.vip = Ip("10.9.0.1")
        self.web = Service(
            name="web",
            namespace="apps",
            hostname="web.apps.svc.cluster.local",
            vips=(Vip("", self.vip),),
            ports=(ServicePort(Port(PORT), PORT),),
        )
        self.listeners = {
            wires.near: [wires.near.listener(PORT), wires.near.listener(HBONE), wires.near.listener(81)],
            wires.far: [wires.far.listener(82), wires.far.listener(HBONE), wires.far.listener(PORT)],
        }
        self.workers: list[Running] = []
        self.near = self.start(wires.near, wires.client, CLIENT)
        self.far = self.start(wires.far, wires.server, SERVER)

    def start(
        self, proxy: Proxy, pod: Pod, identity: Identity, *, certified: bool = True, version: Version = THIS_VERSION
    ) -> Running:
        rendezvous = str(self._directory / f"workers-{len(self.workers)}.sock")
        worker = Running(proxy, self.listeners[proxy], self.config, rendezvous, version, self._kernel_tls)
        self.workers.append(worker)
        if certified:
            worker.certify(identity, self.authority)
        worker.send(LocalPods(frozenset(pod.addresses)))
        worker.apply(workloads=(self.client, self.server))  # and all that was sent before
        return worker

    def replace(self, former: Running, tell: Callable[[Running], None] = Running.apply) -> Running:
        """A successor at the same listeners, to which `former` hands over what it has open.

        `tell` gives it the rest of what it has to know, and returns when it does.
        """
        is_near = former is self.near
        place = (self.wires.near, self.wires.client, CLIENT) if is_near else (self.wires.far, self.wires.server, SERVER)
        successor = self.start(*place)
        tell(successor)  # behind the pods: now it serves
        self.hand_over(former, successor)
        if is_near:
            self.near = successor
        else:
            self.far = successor
        return successor

    def hand_over(self, former: Running, successor: Running) -> None:
        one, other = socket.socketpair()
        with one, other:
            successor.send(TakeOver(), other.fileno())
            former.send(HandOver(self.config.drain_seconds), one.fileno())

    def publish_service(self) -> None:
        """`web` at its address, with the server as its endpoint."""
        endpoint = msgspec.structs.replace(self.server, services={self.web.key: self.web.ports})
        for worker in (self.near, self.far):
            worker.apply(services=(self.web,), workloads=(endpoint,))

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        for listeners in self.listeners.values():
            for listener in listeners:
                listener.close()
