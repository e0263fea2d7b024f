# SPDX-License-Identifier: Apache-2.0
"""Keeps what connect(2) draws from true: which Services, with which endpoints, for the sockets of which pods.

Only what changed since the last time is computed again, a Service at a time, since the mesh belongs to the agent's one
thread; it is written in another one. A pod's sockets are told by the cookie of its network namespace, which is asked
for each time: a path may come to name another namespace, and asking takes microseconds.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from nodeagent.agent.enrolment import EnrolledPod, Enrolment
from nodeagent.agent.state import NodeState
from nodeagent.config import Config
from nodeagent.kernel.netns import netns_cookie
from nodeagent.kernel.reconcile import Owner
from nodeagent.kernel.steering import Steering
from nodeagent.model.address import Ip
from nodeagent.model.mesh import Mesh
from nodeagent.model.workload import Workload
from nodeagent.routing.draws import Lots, basis_of, is_here, lots_of, services_here
from nodeagent.routing.route import Target

log = logging.getLogger(__name__)

FULL = "the map of known addresses is full: to an endpoint that is not there nobody could connect"
NO_COOKIES = "this kernel does not tell a network namespace's cookie (Linux 5.14)"


class ServiceConnect:
    """`update` is called by one task."""

    def __init__(self, config: Config, steering: Steering, state: NodeState) -> None:
        self.is_on = config.draws_services
        self.drawn: frozenset[Target] = frozenset()
        """Addresses and ports of the Services whose endpoint is drawn in connect(2)."""
        self.refused = 0
        """Services and pods that did not fit into the kernel's tables: the proxy draws."""
        self.fault = ""
        """Why nothing is drawn, although it should be."""
        self.cookies: Mapping[Ip, int] | None = None
        """Of the network namespaces of captured pods, by their addresses; None until the kernel does what is set here.

        Asked for when it is off, too: a predecessor may have had it on, and its connections keep their Services.
        """
        self.has_notes = True
        """The kernel may know of a connection which Service its client has dialled.

        It notes that while this is on, and may have with a predecessor; the end of a connection takes its note away.
        """
        self._excluded = config.exclusions
        self._steering, self._state = steering, state
        self._known: dict[str, tuple[object, tuple[Lots, ...]]] = {}
        """By Service: what its lots were made from, and they."""

    async def update(self, enrolment: Enrolment, is_steered: Callable[[Ip], bool]) -> None:
        """What is drawn as the mesh is at this moment, for the pods that are captured. Raises KernelError.

        `is_steered`: whether the kernel knows an address. Endpoints that it does not know yet are not drawn yet.
        """
        captured = list(find_captured(self._state.mesh, enrolment.enrolled, self._steering.numbers()))
        cookies = await asyncio.to_thread(_ask, captured)
        self._find_fault(has_pods=bool(captured), has_cookies=bool(cookies))
        self.cookies = cookies
        sources = [workload for _, workload in captured] if self.is_on and not self.fault else []
        local = frozenset(ip for source in sources for ip in source.addresses)
        wanted = {}
        for lots in await self._lots(sources):
            endpoints = tuple(endpoint for endpoint in lots.endpoints if is_steered(endpoint.ip))
            if is_here(lots, local) and endpoints and not self._leaves_alone(lots):
                wanted[lots.target] = endpoints
        namespaces = frozenset(cookies.values()) if wanted else frozenset()
        refused = await asyncio.to_thread(self._steering.put_services, wanted, namespaces)
        if wanted.keys() != self.drawn:
            log.info("kernel: %d Service addresses are drawn in connect(2)", len(wanted))
        if self.has_notes and not self.is_on:
            self.has_notes = await asyncio.to_thread(self._steering.has_dialled)
        self.drawn, self.refused = frozenset(wanted), sum(refused.values())

    async def _lots(self, sources: Sequence[Workload]) -> list[Lots]:
        known, self._known = self._known, {}
        for key in services_here(sources):
            mesh = self._state.mesh
            basis = basis_of(key, mesh, sources)
            if key in known and known[key][0] == basis:
                self._known[key] = known[key]
            else:
                self._known[key] = basis, lots_of(key, mesh, sources)
                await asyncio.sleep(0)  # milliseconds, of a Service with many endpoints
        return [one for _, lots in self._known.values() for one in lots]

    def _leaves_alone(self, lots: Lots) -> bool:
        """An address that is left alone must not take the place of one that is not, nor the other way round."""
        return any(
            excluded.port in {0, end.port} and excluded.block.contains(end.ip)
            for excluded in self._excluded
            for end in (lots.target, *lots.endpoints)
        )

    def _find_fault(self, *, has_pods: bool, has_cookies: bool) -> None:
        fault = ""
        if self.is_on:
            fault = self._steering.services_fault or (NO_COOKIES if has_pods and not has_cookies else "")
        if self.is_on and self._steering.overflow().get("known"):
            fault = FULL
        if fault != self.fault and fault:
            log.warning("Services are not drawn in the kernel: %s", fault)
        self.fault = fault


def find_captured(
    mesh: Mesh, enrolled: Iterable[EnrolledPod], numbers: Mapping[Owner, int]
) -> Iterator[tuple[str, Workload]]:
    """Pure. Captured pods by the paths of their network namespaces, as the mesh of this moment has them."""
    for pod in enrolled:
        workload = mesh.workloads.get(pod.workload.uid)  # enrolment may have been decided before the last change
        if workload is not None and (pod.pod.namespace, pod.pod.name, pod.pod.netns) in numbers:
            yield pod.pod.netns, workload


def _ask(captured: Sequence[tuple[str, Workload]]) -> dict[Ip, int]:
    """In a thread. A namespace that has just gone has none."""
    found = {}
    for path, workload in captured:
        try:
            cookie = netns_cookie(path)
        except OSError:
            continue
        if cookie:
            found.update(dict.fromkeys(workload.addresses, cookie))
    return found
