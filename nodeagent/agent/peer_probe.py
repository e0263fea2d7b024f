# SPDX-License-Identifier: Apache-2.0
"""Whether this node's tunnels reach the other nodes, tried: one to a pod of each, which carries nothing.

Which pods is decided here; how one is opened is in empty_tunnel.py. One answer for each node and address family.
"""

import asyncio
import functools
import math
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from nodeagent.admin.state import ProbedNode
from nodeagent.agent.capture import Capture
from nodeagent.agent.empty_tunnel import Attempt, result, try_tunnel
from nodeagent.agent.state import NodeState
from nodeagent.config import Config
from nodeagent.errors import ConfigError, NotPossible
from nodeagent.kernel.steering import Steering
from nodeagent.model.address import Ip, is_ipv6
from nodeagent.model.mesh import Mesh
from nodeagent.model.pod import LocalPod
from nodeagent.model.reason import Reason
from nodeagent.model.workload import TunnelProtocol, Workload

AT_ONCE = 32
MOST = 512
"""Tunnels of one order: of a larger mesh the operator says which nodes."""
ORDER_SECONDS = 120.0
"""For all of one order: as many as there may be, with the usual patience and not one answer, take 80."""


class PeerProbe:
    def __init__(self, config: Config, steering: Steering, state: NodeState, capture: Capture) -> None:
        self._node, self._network = config.node, config.network
        self._steering, self._state, self._capture = steering, state, capture
        self._is_under_way = False

    async def probe(self, nodes: Collection[str], seconds: float) -> list[ProbedNode]:
        """Of these nodes, or of all; each attempt takes so long at most. Raises ConfigError and NotPossible."""
        if self._is_under_way:
            raise NotPossible(
                "another probe is under way on this node",
                check=f"There is one at a time; each ends with who asked for it, and within {ORDER_SECONDS:g} s.",
            )
        attempts = plan(self._state.mesh, self._node, self._network, self._sources(), nodes)
        _require_in_time(len(attempts), seconds)
        turns, stop = asyncio.Semaphore(AT_ONCE), threading.Event()
        # Threads of its own: each is in another namespace for a moment, and the agent needs its few for itself.
        threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="probe")

        async def try_one(attempt: Attempt) -> ProbedNode:
            async with turns:
                return await self._try(attempt, threads, seconds, stop)

        self._is_under_way = True
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(try_one(attempt)) for attempt in attempts]
        finally:  # perhaps cancelled, in the midst of them
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            self._is_under_way = False
        return [task.result() for task in tasks]

    async def _try(
        self, attempt: Attempt, threads: ThreadPoolExecutor, seconds: float, stop: threading.Event
    ) -> ProbedNode:
        """With what holds when its turn comes: meanwhile pods may have gone, or certificates been revoked."""
        if attempt.source_ip not in self._addresses(attempt.source.uid):
            return result(attempt, {}, Reason.POD_REMOVED, "not tried: the pod that it would begin at has gone")
        bundle = self._state.certificates.get(attempt.source.identity)
        if bundle is None:
            return result(attempt, {}, Reason.CERTIFICATE_MISSING, "not tried: the pod's certificate has ended")
        security, netns = self._state.mesh.security, self._steering.netns_path()
        order = functools.partial(try_tunnel, attempt, bundle, security, netns=netns, seconds=seconds, stop=stop)
        return await asyncio.get_running_loop().run_in_executor(threads, order)

    def _addresses(self, uid: str) -> Collection[Ip]:
        """Of this pod, while the kernel is told to capture it."""
        return [ip for one in self._enrolled(self._capture.held) if one.uid == uid for ip in one.addresses]

    def _enrolled(self, pods: Collection[LocalPod]) -> Iterator[Workload]:
        return (enrolled.workload for enrolled in self._capture.enrolment.enrolled if enrolled.pod in pods)

    def _sources(self) -> list[Workload]:
        captured, certificates = self._capture.captured(), self._state.certificates
        found = [workload for workload in self._enrolled(captured) if workload.identity in certificates]
        if not found:
            raise NotPossible(
                "no pod of this node is captured and has a certificate, and a tunnel begins at one",
                check="See `nodeagent pods` and `nodeagent certs`.",
            )
        return found


def _require_in_time(attempts: int, seconds: float) -> None:
    """Raises ConfigError when an order could take too long, with patience of so many seconds for each attempt."""
    longest = math.ceil(attempts / AT_ONCE) * seconds
    if longest > ORDER_SECONDS:
        raise ConfigError(
            f"{attempts} tunnels of {seconds:g} s may take {longest:g} s, and {ORDER_SECONDS:g} s is the most",
            check="Name fewer nodes (--to), or be less patient with each (--timeout).",
        )


def plan(
    mesh: Mesh, node: str, network: str, sources: Sequence[Workload], wanted: Collection[str] = ()
) -> list[Attempt]:
    """A pod of each other node, a ready one if there is one, by each family that it and one of `sources` have. Pure.

    Raises ConfigError for a wanted node without such a pod, and for more nodes than are tried at once.
    """
    pods: dict[str, list[Workload]] = {}
    for workload in mesh.workloads.values():
        if workload.node not in {"", node} and workload.network == network and _is_guarded(workload):
            pods.setdefault(workload.node, []).append(workload)
    for name in wanted:
        if name not in pods:
            known = ", ".join(sorted(pods)[:5]) or "none"
            words = "this node's own tunnels" if name == node else "no captured pod of such a node is known"
            raise ConfigError(f"node {name!r}: {words}", check=f"Nodes with captured pods: {known}.")
    attempts = [
        Attempt(source, source_ip, chosen, ip)
        for name in sorted(set(wanted or pods))
        for chosen in [min(pods[name], key=lambda pod: (not pod.is_healthy, pod.namespace, pod.name))]
        for ip in _one_of_each_family(chosen)
        for source, source_ip in _first(sources, ip)
    ]
    if len(attempts) > MOST:
        raise ConfigError(
            f"{len(attempts)} tunnels to {len(pods)} nodes are too many at once", check="Name some: --to."
        )
    return attempts


def _is_guarded(workload: Workload) -> bool:
    """An agent of its node answers at its port 15008; one with a tunnel of its own, as a waypoint, does so itself."""
    return (
        workload.protocol is TunnelProtocol.HBONE
        and not workload.native_tunnel
        and not workload.is_host_network
        and bool(workload.addresses)
    )


def _one_of_each_family(workload: Workload) -> Iterator[Ip]:
    families: dict[bool, Ip] = {}
    for ip in workload.addresses:
        families.setdefault(is_ipv6(ip), ip)
    yield from families.values()


def _first(sources: Sequence[Workload], ip: Ip) -> Iterator[tuple[Workload, Ip]]:
    """At most one that has an address of this family."""
    for source in sources:
        for own in source.addresses:
            if is_ipv6(own) == is_ipv6(ip):
                yield source, own
                return
