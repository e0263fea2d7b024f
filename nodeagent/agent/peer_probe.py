# SPDX-License-Identifier: Apache-2.0
"""Whether this node's tunnels reach the other nodes, tried: one to a pod of each, which carries nothing.

Which pods is decided here; how one is opened is in empty_tunnel.py. One answer for each node and address family.
"""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from nodeagent.admin.state import ProbedNode
from nodeagent.agent.capture import Capture
from nodeagent.agent.empty_tunnel import Attempt, try_tunnel
from nodeagent.agent.state import NodeState
from nodeagent.config import Config
from nodeagent.errors import ConfigError, NotPossible
from nodeagent.kernel.steering import Steering
from nodeagent.model.address import Ip, is_ipv6
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.model.workload import TunnelProtocol, Workload

AT_ONCE = 32
MOST = 512
"""Tunnels of one order: of a larger mesh the operator says which nodes."""


class PeerProbe:
    def __init__(self, config: Config, steering: Steering, state: NodeState, capture: Capture) -> None:
        self._node, self._network = config.node, config.network
        self._steering, self._state, self._capture = steering, state, capture

    async def probe(self, nodes: Collection[str], seconds: float) -> list[ProbedNode]:
        """Of these nodes, or of all; each attempt takes so long at most. Raises ConfigError and NotPossible."""
        mesh, certificates = self._state.mesh, dict(self._state.certificates)
        sources = self._sources(certificates)
        attempts = plan(mesh, self._node, self._network, sources, nodes)
        netns, security = self._steering.netns_path(), mesh.security

        def try_one(attempt: Attempt) -> ProbedNode:
            bundle = certificates[attempt.source.identity]
            return try_tunnel(attempt, bundle, security, netns=netns, seconds=seconds)

        def try_all() -> list[ProbedNode]:
            with ThreadPoolExecutor(AT_ONCE) as threads:  # of its own: each is in another namespace for a moment
                return list(threads.map(try_one, attempts))

        return await asyncio.to_thread(try_all)

    def _sources(self, certificates: Collection[Identity]) -> list[Workload]:
        captured = self._capture.captured()
        found = [
            enrolled.workload
            for enrolled in self._capture.enrolment.enrolled
            if enrolled.pod in captured and enrolled.workload.identity in certificates
        ]
        if not found:
            raise NotPossible(
                "no pod of this node is captured and has a certificate, and a tunnel begins at one",
                check="See `nodeagent pods` and `nodeagent certs`.",
            )
        return found


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
        for name in sorted(wanted or pods)
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
