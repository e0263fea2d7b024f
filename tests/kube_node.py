# SPDX-License-Identifier: Apache-2.0
"""A node for enrolment in Kubernetes: namespaces and a capture that are made up, beside an API server, real or not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Generic, TypeVar, cast

import pytest

from nodeagent.agent import kubernetes_pods as module
from nodeagent.agent.capture import Capture
from nodeagent.agent.enrolment import LocalPods
from nodeagent.agent.kubernetes_pods import KubernetesPods
from nodeagent.config import Config
from nodeagent.errors import KernelError
from nodeagent.kernel.pod_namespaces import Claim as NamespaceClaim
from nodeagent.kernel.pod_namespaces import Evidence, Namespace
from nodeagent.kubernetes import follow
from nodeagent.kubernetes.api import ApiServer
from nodeagent.model.address import Ip
from nodeagent.model.pod import LocalPod

Kube = TypeVar("Kube")


class Node(Generic[Kube]):
    """Namespaces, a capture that captures what it is told at once, and the API."""

    def __init__(self, kube: Kube, api: ApiServer, run_dir: Path) -> None:
        self.kube, self.api = kube, api
        self.config = Config(
            node="node-a", run_dir=str(run_dir), kubernetes="on", kubernetes_host=api.host, drain_seconds=0.2
        )
        self.namespaces: dict[Namespace, tuple[Ip, ...]] = {}
        self.told: list[LocalPods] = []
        self.is_settled = self.is_capturing = True
        self.let_go: set[str] = set()
        """Names of pods that the mesh does not want any more."""
        self.error = ""
        self.looks = 0
        self.settled: Callable[[], None] = lambda: None
        self.pods: KubernetesPods

    def sandbox(self, name: str, inode: int, *ips: str) -> Namespace:
        made = Namespace(f"/run/netns/{name}", inode)
        self.namespaces[made] = tuple(map(Ip, ips or ("10.0.0.1",)))
        return made

    # ---- kernel

    def look(self, directory: str, addresses: frozenset[Ip], taken: frozenset[Namespace]) -> Evidence:
        assert directory == "/run/netns"
        self.looks += 1
        if self.error:
            raise KernelError(self.error)
        rows = ((one, addresses.intersection(ips)) for one, ips in self.namespaces.items() if one not in taken)
        return Evidence(tuple(NamespaceClaim(one, ips) for one, ips in rows if ips), {})

    def namespace_at(self, path: str) -> Namespace | None:
        return next((one for one in self.namespaces if one.path == path), None)

    # ---- capture

    def local_pods_changed(self, local: LocalPods) -> None:
        self.told.append(local)
        self.settled()

    @property
    def held(self) -> frozenset[LocalPod]:
        return frozenset(one for one in self.told[-1].pods if one.name not in self.let_go) if self.told else frozenset()

    def captured(self) -> frozenset[LocalPod]:
        return self.held if self.is_capturing else frozenset()

    # ---- what the test sees

    def names(self) -> dict[str, str]:
        """Last named to the capture: names and paths."""
        return {one.name: one.netns for one in self.told[-1].pods} if self.told else {}

    def reason(self, name: str) -> str:
        return self.told[-1].left_out.get(("shop", name), "") if self.told else ""

    def take_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of the kernel; and nothing is waited for as long as in a cluster."""
        monkeypatch.setattr(module, "look", self.look)
        monkeypatch.setattr(module, "namespace_at", self.namespace_at)
        for place, name in ((module, "FIRST_PATCH_SECONDS"), (module, "FIRST_LOOK_SECONDS")):
            monkeypatch.setattr(place, name, 0.01)
        for place, name in ((module, "LONGEST_PATCH_SECONDS"), (module, "LONGEST_LOOK_SECONDS")):
            monkeypatch.setattr(place, name, 0.05)
        monkeypatch.setattr(follow, "FIRST_DELAY_SECONDS", 0.01)
        monkeypatch.setattr(follow, "LONGEST_DELAY_SECONDS", 0.05)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.pods = KubernetesPods(self.config, cast("Capture", self), self.api)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.pods.run())
            yield
            task.cancel()


def run(node: Node[Kube], scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with node.running():
            await scenario()

    asyncio.run(whole())
