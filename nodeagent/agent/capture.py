# SPDX-License-Identifier: Apache-2.0
"""Keeps the kernel, the workers and the certificates in step with the mesh and the list of local pods.

The order is what makes a change safe. A pod that comes is captured only when the workers know it, so that its first
connection is served; a pod that goes is let go by the kernel first, so that no connection of it meets a worker that has
forgotten it or its certificate. A pod that stays is never let go in between, not even when its addresses change: then
it is captured with those that it keeps, and drops are what it sees meanwhile, not plain text.

Most changes of a mesh are about other nodes. They cost what they are worth: the kernel is asked about the addresses
that have come or gone, and not at all when there are none.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from nodeagent.agent.enrolment import Enrolment, LocalPods, decide_enrolment, read_pods
from nodeagent.agent.fleet import WorkerFleet
from nodeagent.agent.service_connect import ServiceConnect
from nodeagent.agent.state import NodeState
from nodeagent.agent.verdicts import NodeVerdicts
from nodeagent.config import Config
from nodeagent.errors import ConfigError, KernelError
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.wanted import Wanted, WantedPod
from nodeagent.model.address import Cidr, Ip, is_ipv6
from nodeagent.model.exclusion import Exclusion
from nodeagent.model.identity import Identity
from nodeagent.model.pod import LocalPod

log = logging.getLogger(__name__)

FIRST_WORKERS_SECONDS = 15.0
"""Start of a worker on a busy machine; afterwards pods are captured even without one: their SYNs wait, fail closed."""
APPLIED_SECONDS = 2.0
"""A worker applies a change between batches of traffic; one that takes longer is not waited for."""
SAME_RULES_SECONDS = 0.5
"""For workers to know a rule before the kernel does; one that hangs must not keep it from the kernel."""
_MOST_WAITS = 5
"""A mesh that never rests must not keep a rule from the kernel."""
PODS_FILE_SECONDS = 0.2
"""Between looks at the pods file; it lies on a tmpfs, and a stat costs microseconds. And, at the start, between looks
whether the mesh is known: an empty one comes without a change."""
REPAIR_SECONDS = 30.0
"""Even without news the kernel is compared with what is wanted this often: somebody may have removed a filter. Of the
map of known addresses, which nobody else writes, only news are looked at."""
RETRY_SECONDS = 1.0
MOST_NAMED = 512
"""Half of a map that Services' blocks need too; when it is full unknown destinations are dropped."""

Addresses = Mapping[LocalPod, tuple[Ip, ...]]
"""What the kernel must be told of pods. Their policies and services may change as they like."""


class KernelTables(NamedTuple):
    """What the kernel is told that is made from the mesh."""

    verdicts: NodeVerdicts
    services: ServiceConnect


class Capture:
    def __init__(
        self,
        config: Config,
        steering: Steering,
        state: NodeState,
        fleet: WorkerFleet,
        tables: KernelTables,
        want_certificates: Callable[[frozenset[Identity]], None],
        is_mesh_known: Callable[[], bool],
    ) -> None:
        """`is_mesh_known`: xDS has answered, or the last good state was restored."""
        self.enrolment = Enrolment()
        self.namespaces: Mapping[Ip, str] | None = None
        """Paths of the network namespaces of enrolled pods by their addresses; None until that is decided."""
        self.pods_error = ""
        self.kernel_error = ""
        self.is_settled = False
        """The kernel has what is wanted, at least once."""
        self.settled: Callable[[], None] = lambda: None
        """Called each time that it has."""
        self._config, self._steering, self._state, self._fleet = config, steering, state, fleet
        self._verdicts, self._services = tables
        self._want_certificates, self._is_mesh_known = want_certificates, is_mesh_known
        self._local: LocalPods | None = None
        """None until somebody has named them: an agent that knows no pods must not let go those of its predecessor."""
        self._captured: Addresses = {}
        self._unsettled: set[Ip] | None = None
        """Addresses of which the kernel may not know yet whether they are the mesh's; None: any. To one that it does
        not know it would let a pod connect in plain text."""
        self._restricted: frozenset[tuple[Ip, ...]] | None = None
        """Addresses of the pods that may connect to the registry's addresses only, as the kernel was told last."""
        self._blocks: frozenset[Cidr] = frozenset()
        """Of addresses of the mesh, as the kernel was told last."""
        self._named: frozenset[Exclusion] = frozenset()
        """What names of the mesh mean, as the kernel was told last."""
        self.unsteered = 0
        """Addresses and ports of names beyond those that the kernel is told of."""
        self._is_kernel_due = True
        self._wake = asyncio.Event()
        self._wake.set()

    def look_again(self) -> None:
        """The mesh has changed, or who vouches for a pod."""
        self._wake.set()

    def look_at_kernel(self) -> None:
        """The node's devices have changed."""
        self._is_kernel_due = True
        self._wake.set()

    def local_pods_changed(self, local: LocalPods) -> None:
        self._local = local
        self._wake.set()

    @property
    def held(self) -> frozenset[LocalPod]:
        """The pods that the kernel was told of last, whether or not it could do it."""
        return frozenset(self._captured)

    def captured(self) -> frozenset[LocalPod]:
        """The pods whose packets our programs have at this moment."""
        try:
            found = {(state.namespace, state.name) for state in self._steering.pods() if state.is_captured}
        except KernelError:  # nobody can say; `status` tells why
            return frozenset()
        return frozenset(pod for pod in self._captured if (pod.namespace, pod.name) in found)

    async def run(self) -> None:
        await self._fleet.started(FIRST_WORKERS_SECONDS)
        while True:
            if not self._is_mesh_known() or self._local is None:
                await asyncio.sleep(PODS_FILE_SECONDS)  # a predecessor's captures must not be undone for want of news
                continue
            try:
                async with asyncio.timeout(REPAIR_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._is_kernel_due = True
            self._wake.clear()
            try:
                await self._settle()
            except KernelError as error:
                if str(error) != self.kernel_error:
                    log.error("%s; tried again every %g s. %s", error, RETRY_SECONDS, error.check)
                self.kernel_error = str(error)
                await asyncio.sleep(RETRY_SECONDS)
                self.look_at_kernel()
            else:
                self.kernel_error = ""
                self.is_settled = True
                self.settled()

    async def watch_pods_file(self) -> None:
        """Reads the pods file again whenever it changes; a broken one is reported, and the last good list stays."""
        seen: tuple[int, ...] = ()
        while True:
            state = _stamp(self._config.pods_file)
            if state != seen:
                seen = state
                self._read_pods()
            await asyncio.sleep(PODS_FILE_SECONDS)

    def _read_pods(self) -> None:
        try:
            local = LocalPods(read_pods(self._config.pods_file))
        except ConfigError as error:
            self.pods_error = str(error)
            log.error("%s; the last good list stays in force. %s", error, error.check)
        else:
            self.pods_error = ""
            self.local_pods_changed(local)
            self.look_at_kernel()  # the same pods may be named since something else is at their paths

    async def _settle(self) -> None:
        enrolment = decide_enrolment(self._state.mesh, self._config.node, self._local or LocalPods())
        wanted = enrolment.captured
        self._want_certificates(enrolment.identities | self.enrolment.identities)
        if self.is_settled:  # else no pod has a number yet, and a predecessor's table would be emptied
            # The workers first: who is cut by the kernel and dials again is steered, and must not meet a former rule.
            await self._workers_know()
            await self._verdicts.update(enrolment)  # first of all: what a change forbids ends now
            await self._services.update(enrolment, self._is_steered)  # an endpoint that has gone is not drawn any more
        if self._is_kernel_concerned(wanted):
            await self._follow(enrolment, wanted)
        self._want_certificates(enrolment.identities)
        self.enrolment = enrolment

    def _is_kernel_concerned(self, wanted: Addresses) -> bool:
        """Whether it may lack something; verdicts and draws apart, which are kept by others."""
        self._gather_news()
        return (
            self._is_kernel_due
            or self._steering.lacks_pods
            or wanted != self._captured
            or self._unsettled != set()
            or self._restricted_of(wanted) != self._restricted
            or self._blocks != frozenset(self._state.mesh.known_blocks(self._config.network))
            or self._named != self._find_named()
        )

    async def _follow(self, enrolment: Enrolment, wanted: Addresses) -> None:
        """Pods go, then workers learn who is here, then pods come."""
        staying = _staying(self._captured, wanted)
        if staying != self._captured:
            await self._reconcile(staying)
        self.namespaces = {ip: pod.netns for pod, addresses in wanted.items() for ip in addresses}
        if not self.is_settled:  # the table is a predecessor's, and its workers are about to hear what is new
            await self._verdicts.succeed(enrolment)
        generation = self._state.set_local(enrolment.addresses)
        self._fleet.state_is_complete(enrolment.identities)
        if not await self._fleet.applied(generation, APPLIED_SECONDS):
            log.warning("not every worker has applied generation %d within %g s", generation, APPLIED_SECONDS)
        self._is_kernel_due = False  # before it is asked: what comes meanwhile is for the next time
        await self._reconcile(wanted)
        await self._verdicts.update(enrolment)  # pods that came have their numbers now
        await self._services.update(enrolment, self._is_steered)

    async def _workers_know(self) -> None:
        """All that the mesh says at this moment: what comes while they are waited for, they do not know yet."""
        for _ in range(_MOST_WAITS):
            generation = self._state.mesh.generation
            await self._fleet.applied(generation, SAME_RULES_SECONDS)
            if generation == self._state.mesh.generation:
                return

    async def _reconcile(self, pods: Addresses) -> None:
        self._gather_news()
        mesh, network = self._state.mesh, self._config.network
        in_question = None if self._unsettled is None else frozenset(self._unsettled)
        if in_question is None:
            known = frozenset(mesh.known_addresses(network))
        else:
            known = frozenset(ip for ip in in_question if mesh.is_known(network, ip))
        restricted, blocks = self._restricted_of(pods), frozenset(mesh.known_blocks(network))
        named = self._find_named()
        wanted = Wanted(
            pods=tuple(
                WantedPod(pod.namespace, pod.name, pod.netns, addresses, addresses in restricted)
                for pod, addresses in pods.items()
            ),
            known=known,
            adoption_seconds=self._config.adoption_seconds,
            excluded=self._config.exclusions,
            in_question=in_question,
            known_blocks=blocks,
            named=named,
        )
        for step in await asyncio.to_thread(self._steering.reconcile, wanted):
            log.info("kernel: %s", step)
        self._captured, self._unsettled, self._restricted = pods, set(), restricted
        self._blocks, self._named = blocks, named

    def _find_named(self) -> frozenset[Exclusion]:
        places = self._state.mesh.named_places(self._config.network)
        self.unsteered = max(0, len(places) - MOST_NAMED)
        return frozenset(
            Exclusion(Cidr.parse(f"{ip}/{128 if is_ipv6(ip) else 32}"), port) for ip, port in places[:MOST_NAMED]
        )

    def _gather_news(self) -> None:
        """Before the first reconcile that succeeds all addresses are in question; after one that fails its own are."""
        news = self._state.mesh.take_news()
        if self._unsettled is not None and news is not None:
            self._unsettled |= news

    def _is_steered(self, ip: Ip) -> bool:
        """Whether the kernel knows this address to be the mesh's."""
        mesh = self._state.mesh
        is_settled = self._unsettled is not None and ip not in self._unsettled and not mesh.is_news(ip)
        return is_settled and mesh.is_known(self._config.network, ip)

    def _restricted_of(self, pods: Addresses) -> frozenset[tuple[Ip, ...]]:
        return frozenset(addresses for addresses in pods.values() if self._is_restricted(addresses))

    def _is_restricted(self, addresses: tuple[Ip, ...]) -> bool:
        """A pod that is on its way out of the mesh is not any more."""
        mesh, network = self._state.mesh, self._config.network
        workload = next((found for ip in addresses if (found := mesh.workload_at(network, ip)) is not None), None)
        return workload is not None and mesh.is_registry_only(workload)


def _staying(captured: Addresses, wanted: Addresses) -> Addresses:
    """What is captured, without the pods and addresses that go."""
    return {
        pod: tuple(ip for ip in addresses if ip in wanted[pod]) for pod, addresses in captured.items() if pod in wanted
    }


def _stamp(path: str) -> tuple[int, ...]:
    """Changes whenever the file does; empty when it cannot be read."""
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
