# SPDX-License-Identifier: Apache-2.0
"""The agent seen from outside: what its parts know at this moment, for the admin socket, /metrics and readiness.

Only reads; nothing here decides. Made anew for each question, so there is no second copy to fall behind.
"""

import dataclasses
import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from nodeagent.admin.config_dump import Subject
from nodeagent.admin.state import (
    AgentState,
    Captured,
    CertificateState,
    CertificateView,
    ComponentState,
    Health,
    KernelCount,
    LogView,
    OpenConnection,
    PodView,
    WorkerView,
)
from nodeagent.agent.capture import Capture
from nodeagent.agent.fleet import WorkerFleet
from nodeagent.agent.flow_reports import FlowReports
from nodeagent.agent.kubernetes_pods import KubernetesPods
from nodeagent.agent.log_levels import AgentLogLevels
from nodeagent.agent.revocations import RevocationFile
from nodeagent.agent.service_connect import ServiceConnect
from nodeagent.agent.state import NodeState
from nodeagent.agent.verdicts import NodeVerdicts
from nodeagent.certs.keeper import CertificateKeeper
from nodeagent.config import Config
from nodeagent.dns.keeper import NameKeeper, describe
from nodeagent.errors import KernelError
from nodeagent.kernel.codings import NO_NUMBER
from nodeagent.kernel.passage import Passages
from nodeagent.kernel.pod_states import PodState
from nodeagent.kernel.reasons import reasons
from nodeagent.kernel.sources import programs_hash
from nodeagent.kernel.steering import Steering
from nodeagent.model.opt_in import Standing
from nodeagent.model.pod import CaptureReason
from nodeagent.model.set_up import split_totals
from nodeagent.telemetry.line_writer import LineWriter
from nodeagent.telemetry.metrics import Readings
from nodeagent.telemetry.open_connections import KERNEL, OpenConnections
from nodeagent.telemetry.totals import Totals
from nodeagent.version import VERSION
from nodeagent.xds.client import XdsClient, XdsStatus

_NOTHING: Mapping[str, int] = MappingProxyType({})
_MOST_NAMES_TOLD = 3
_NEVER_CAPTURED = frozenset({CaptureReason.NOT_IN_MESH, CaptureReason.HOST_NETWORK, CaptureReason.ENDED, *Standing}) - {
    Standing.OPTED_IN
}
"""Why a local pod is rightly left alone; every other reason is one that should go away."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    config: Config
    state: NodeState
    steering: Steering
    fleet: WorkerFleet
    capture: Capture
    verdicts: NodeVerdicts
    passages: Passages
    flows: FlowReports
    services: ServiceConnect
    xds: XdsClient
    keeper: CertificateKeeper
    revocations: RevocationFile
    names: NameKeeper
    open_connections: OpenConnections
    totals: Totals
    log_levels: AgentLogLevels
    lines: LineWriter | None
    bugs: Callable[[], int]
    kubernetes: KubernetesPods | None = None
    """None where pods come from a file."""
    started: float = dataclasses.field(default_factory=time.time)

    def obstacles(self) -> list[str]:
        """Why new connections of this node's pods could suffer; empty when the agent is ready."""
        found = []
        if not self.fleet.is_ready:
            found.append("not every tunnel worker is running")
        for slot, seconds in sorted(self.fleet.silent.items()):
            found.append(f"worker {slot} has not answered for {seconds:.0f} s: it is stopped or overloaded")
        if not self.xds.is_ready:
            found.append("the mesh is not known: no answer from the control plane yet, and no saved state")
        if not self.capture.is_settled:
            found.append("the kernel does not have yet what is wanted" + _because(self.capture.kernel_error))
        without = self.capture.enrolment.identities - self.state.certificates.keys()
        if without:
            found.append(f"no certificate yet for {', '.join(sorted(map(str, without)))}")
        return found

    def agent_state(self) -> AgentState:
        return AgentState(
            version=VERSION,
            programs=programs_hash(),
            node=self.config.node,
            network=self.config.network,
            started=self.started,
            now=time.time(),
            mesh=self.state.mesh,
            same_node=self.config.same_node,
            drawn=self.services.drawn,
            components=tuple(self._components()),
            pods=tuple(self._pods()),
            certificates=tuple(self._certificates()),
            workers=tuple(self._workers()),
            kernel=tuple(self._kernel()),
            in_kernel=self.open_connections.count(KERNEL),
            rejected=tuple(kind.last_refusal for kind in self.xds.status.kinds.values() if kind.last_refusal),
            logs=tuple(self._logs()),
            policy_hits=self.open_connections.history.policy_hits,
            policy_since=dict(self.state.policy_since),
        )

    async def dump_subject(self) -> Subject:
        """For /config_dump."""
        connections = await self.connections()
        return Subject.of(self.agent_state(), connections, self.config)

    def _logs(self) -> Iterator[LogView]:
        until = self.log_levels.until
        yield LogView("agent", str(self.log_levels.current), until)
        for slot, worker in sorted(self.fleet.workers.items()):
            yield LogView(f"worker {slot}", worker.log_levels, until if worker.log_levels else 0.0)

    async def connections(self) -> list[OpenConnection]:
        carried = [OpenConnection(slot, record) for slot, record in await self.fleet.connections()]
        return carried + [OpenConnection(None, record) for record in await self.flows.connections()]

    def readings(self) -> Readings:
        xds, pods, losses = self.xds.status, list(self._pods()), self.flows.losses()
        events, set_up = split_totals(self.totals.sums())
        bundles = {str(identity): bundle for identity, bundle in self.state.certificates.items()}
        return Readings(
            version=VERSION,
            kernel_packets=self._counters(),
            kernel_drops=frozenset(row.name for row in reasons() if row.is_drop),
            verdict_generation=self.verdicts.generation,
            verdict_rows=self.verdicts.rows,
            verdict_swapped=self.verdicts.since,
            xds_connected_since=xds.connected_since,
            xds_last_change=xds.last_change,
            xds_terminations=xds.terminations,
            xds_messages={kind.value: counts.messages for kind, counts in xds.kinds.items()},
            xds_message_bytes={kind.value: counts.message_bytes for kind, counts in xds.kinds.items()},
            worker_totals=events,
            set_up=set_up,
            workers=Counter(worker.state for worker in self._workers()),
            is_ready=not self.obstacles(),
            worker_restarts=self.fleet.restarts.total(),
            reports_lost=self.fleet.reports_lost,
            bugs=self.bugs(),
            flow_events_late=losses.late,
            flows_lost=losses.unseen,
            flows_disowned=self.flows.disowned,
            access_log_lines_lost=self.lines.lost if self.lines else 0,
            pods_captured=sum(pod.captured is Captured.YES for pod in pods),
            pods_pending=sum(pod.captured is Captured.PENDING for pod in pods),
            mesh_resources={
                "workload": len(self.state.mesh.workloads),
                "service": len(self.state.mesh.services),
                "policy": len(self.state.mesh.policies),
            },
            mesh_generation=self.state.mesh.generation,
            certificate_expiry={name: bundle.not_after.timestamp() for name, bundle in bundles.items()},
            certificate_issued={name: bundle.not_before.timestamp() for name, bundle in bundles.items()},
            flows_kept=len(self.open_connections.history),
            spans=self.open_connections.spans.counts(),
            certificate_failures=self.keeper.failures,
            names=self.names.book.names,
            names_failing=len(self.names.book.failing),
            dns_lookups=self.names.lookups,
            dns_failures=self.names.failures,
        )

    def _components(self) -> Iterator[ComponentState]:
        yield kernel_component(
            self.capture.kernel_error,
            is_settled=self.capture.is_settled,
            started=self.started,
            full=self.steering.overflow(),
        )
        yield same_node_component(self.config.same_node, self.verdicts, self.started)
        for passage in self.passages.lost:
            yield ComponentState(passage.name, Health.DEGRADED, self.started, passage.words)
        if self.config.same_node == "kernel":
            yield self._flows_component()
        yield self._services_component()
        yield self._kernel_tls_component()
        yield self._compiled_component()
        if self.capture.pods_error:
            yield ComponentState("pods-file", Health.DEGRADED, self.started, self.capture.pods_error)
        if self.kubernetes is not None:
            yield kubernetes_component(self.kubernetes)
        xds = self.xds.status
        yield xds_component(xds, self.started)
        refused = [row for row in self.keeper.status() if row.last_error]
        told = refused[0].last_error if refused else "every request was answered"
        yield ComponentState("ca", Health.DEGRADED if refused else Health.OK, self.started, told)
        yield from self._revocations_component()
        yield from self._names_component()
        if xds.state_error:
            yield ComponentState("state-file", Health.DEGRADED, self.started, xds.state_error)

    def _revocations_component(self) -> Iterator[ComponentState]:
        """Nothing where nobody has a list."""
        count, fault = len(self.state.mesh.security.revoked), self.revocations.fault(dt.datetime.now(dt.UTC))
        if count or fault:
            words = f"{count} certificate{'' if count == 1 else 's'} revoked" + _because(fault)
            yield ComponentState("revocations", Health.DEGRADED if fault else Health.OK, self.started, words)

    def _names_component(self) -> Iterator[ComponentState]:
        """Nothing where no endpoint is known by its name alone."""
        count, failing = self.names.book.names, self.names.book.failing
        if count:
            words = f"{count} name{'' if count == 1 else 's'} of endpoints{'' if failing else ' resolved'}"
            words += "".join(f"; {found.hostname}: {describe(found)}" for found in failing[:_MOST_NAMES_TOLD])
            if self.capture.unsteered:
                words += f"; {self.capture.unsteered} of their addresses and ports are too many to be steered"
            words += f"; and {len(failing) - _MOST_NAMES_TOLD} more" if len(failing) > _MOST_NAMES_TOLD else ""
            words += f"; not on disk: {self.names.file_error}" if self.names.file_error else ""
            health = Health.DEGRADED if failing or self.names.file_error else Health.OK
            yield ComponentState("dns", health, self.started, words)

    def _flows_component(self) -> ComponentState:
        cgroup, losses = self.steering.pods_cgroup, self.flows.losses()
        words = (
            self.flows.error
            or cgroup.reason
            or f"seen in {cgroup.path}, {self.open_connections.count(KERNEL)} connections"
        )
        if losses.unseen:
            words += f"; {losses.unseen} left no record, the kernel's table was full"
        is_whole = not (self.flows.error or cgroup.reason)
        return ComponentState("flows", Health.OK if is_whole else Health.DEGRADED, self.started, words)

    def _services_component(self) -> ComponentState:
        services, health = self.services, Health.OK
        if services.cookies is None:
            words = "the kernel has not been told yet; what a predecessor has set there holds"
        elif not services.is_on:
            words = f"off: the proxy draws the endpoints of Services{_because(self._why_off())}"
        elif services.fault:
            health, words = Health.DEGRADED, f"the proxy draws the endpoints of Services: {services.fault}"
        else:
            words = f"{len(services.drawn)} Service addresses are drawn in connect(2)"
        if services.refused:
            health, words = Health.DEGRADED, f"{words}; {services.refused} rows did not fit, there the proxy draws"
        return ComponentState("services", health, self.started, words)

    def _kernel_tls_component(self) -> ComponentState:
        """Where the records of tunnels are made. What was asked for and is not had is told, never silent."""
        workers = self.fleet.workers.values()
        if self.config.kernel_tls == "off":
            words = "off: the workers make the records of tunnels"
            others = sum(worker.has_kernel_tls for worker in workers)
            words += f", but for {others} workers of an agent that had said otherwise" if others else ""
            return ComponentState("kernel-tls", Health.OK, self.started, words)
        without = [worker for worker in workers if not worker.has_kernel_tls]
        found = sorted({worker.kernel_tls_found for worker in without or workers if worker.kernel_tls_found})
        words = "; ".join(found) or "not known yet"
        totals = self.totals.sums()
        counts = [f"{totals[name]} {said}" for name, said in _KERNEL_TLS_COUNTS.items() if totals.get(name)]
        health = Health.DEGRADED if found and without else Health.OK
        told = (
            f"the workers make the records of tunnels, the kernel's TLS {words}" if health is not Health.OK else words
        )
        return ComponentState("kernel-tls", health, self.started, ", ".join([told, *counts]))

    def _compiled_component(self) -> ComponentState:
        """What carries payload. Without compiled code everything works, and is slower."""
        workers = [worker for worker in self.fleet.workers.values() if worker.is_ready]
        without = sum(not worker.is_compiled for worker in workers)
        if self.config.compiled == "off":
            others = len(workers) - without
            words = "off: Python carries payload"
            words += f", but for {others} workers of an agent that had said otherwise" if others else ""
            return ComponentState("compiled", Health.OK, self.started, words)
        if without:
            words = (
                f"{without} of {len(workers)} workers carry payload in Python: built without a C compiler, or told to"
            )
            return ComponentState("compiled", Health.DEGRADED, self.started, words)
        return ComponentState("compiled", Health.OK, self.started, "compiled code carries payload")

    def _why_off(self) -> str:
        return "same_node is tunnel" if self.config.service_connect == "on" else ""

    def _pods(self) -> Iterator[PodView]:
        known = {(pod.namespace, pod.name): pod for pod in self._pods_in_kernel()}
        for enrolled in self.capture.enrolment.enrolled:
            pod, workload = enrolled.pod, enrolled.workload
            seen = known.get((pod.namespace, pod.name))
            reason = seen.reason if seen else CaptureReason.PENDING
            yield PodView(
                namespace=pod.namespace,
                pod=pod.name,
                ips=workload.addresses,
                netns=pod.netns,
                captured=Captured.PENDING if reason else Captured.YES,
                reason=reason,
                identity=workload.identity,
                mode="" if reason or seen is None else capture_mode(self.config.same_node, seen.number),
                device=f"{seen.device} ({seen.ifindex})" if seen and seen.device else "",
                hits=seen.hits if seen else 0,
                direct=self.open_connections.direct(pod.namespace, pod.name),
                dropped=seen.counts.dropped if seen else 0,
            )
        for other in self.capture.enrolment.others:
            captured = Captured.NO if other.reason in _NEVER_CAPTURED else Captured.PENDING
            yield PodView(namespace=other.namespace, pod=other.name, captured=captured, reason=other.reason)

    def _pods_in_kernel(self) -> list[PodState]:
        try:
            return self.steering.pods()
        except KernelError:
            return []  # as in _counters

    def _certificates(self) -> Iterator[CertificateView]:
        for row in self.keeper.status():
            bundle = self.state.certificates.get(row.identity)
            yield CertificateView(
                identity=row.identity,
                state=CertificateState(row.state.value),
                serial=row.serial,
                not_before=row.not_before or 0.0,
                not_after=row.not_after or 0.0,
                rotates=row.next_try or 0.0,
                last_error=row.last_error,
                chain_pem=bundle.chain_pem if bundle is not None else b"",
                roots_pem=bundle.roots_pem if bundle is not None else b"",
            )

    def _workers(self) -> Iterator[WorkerView]:
        silent = self.fleet.silent
        for slot in range(self.fleet.slots):
            worker = self.fleet.workers.get(slot)
            if worker is None:
                yield WorkerView(slot=slot, pid=0, state="gone", since=0.0)
                continue
            yield WorkerView(
                slot=slot,
                pid=worker.pid,
                state="starting" if not worker.is_ready else "silent" if slot in silent else "ready",
                since=worker.started,
                restarts=self.fleet.restarts[slot],
                connections=self.open_connections.count(worker.pid),
                generation=worker.generation,
            )

    def _kernel(self) -> Iterator[KernelCount]:
        words = {row.name: row for row in reasons()}
        for name, packets in self._counters().items():
            if packets:
                yield KernelCount(name, packets, words[name].words, is_drop=words[name].is_drop)

    def _counters(self) -> dict[str, int]:
        try:
            return self.steering.counters()
        except KernelError:
            return {}  # the pins are not there yet, or somebody took them: `kernel` above says so


_KERNEL_TLS_COUNTS = {
    "kernel_tls_tunnels": "tunnels so far",
    "kernel_tls_declined": "stayed in the workers, since their keys may change",
    "kernel_tls_failed": "stayed in the workers by an error",
}


def _because(error: str) -> str:
    return f": {error}" if error else ""


def capture_mode(same_node: str, number: int) -> str:
    """One of MODES; `number` in the table of verdicts."""
    if same_node == "tunnel":
        return "tunnel"
    return "proxy" if number == NO_NUMBER else "kernel"


def same_node_component(setting: str, verdicts: NodeVerdicts, started: float) -> ComponentState:
    if setting == "tunnel":
        return ComponentState("same-node", Health.OK, started, "every connection is tunnelled")
    if not verdicts.generation:
        return ComponentState("same-node", Health.OK, started, "the table of verdicts is not made yet")
    told = f"verdicts of generation {verdicts.generation} for {verdicts.judged} pods, {verdicts.rows} rows"
    return ComponentState("same-node", Health.OK, verdicts.since, told)


def kernel_component(
    error: str, *, is_settled: bool, started: float, full: Mapping[str, int] = _NOTHING
) -> ComponentState:
    if error:
        return ComponentState("kernel", Health.FAILED, started, error)
    if not is_settled:
        return ComponentState("kernel", Health.DEGRADED, started, "programs and maps are not as wanted yet")
    if full:
        rows = ", ".join(f"{table} is full, {count} rows do not fit" for table, count in sorted(full.items()))
        return ComponentState("kernel", Health.DEGRADED, started, f"{rows}; what they are about fails closed")
    return ComponentState("kernel", Health.OK, started, "programs and maps as wanted")


def kubernetes_component(pods: KubernetesPods) -> ComponentState:
    words = f"{pods.error}; what is known stays in force" if pods.error else pods.described()
    return ComponentState("kubernetes", Health.DEGRADED if pods.error else Health.OK, pods.since, words)


def xds_component(xds: XdsStatus, started: float) -> ComponentState:
    if xds.connected_since:
        return ComponentState("xds", Health.OK, xds.connected_since, f"following {xds.address}")
    trouble = xds.last_error or f"connecting to {xds.address}"
    meanwhile = "the last good state stays in force" if xds.is_ready else "the mesh is not known yet"
    return ComponentState("xds", Health.DEGRADED, xds.last_change or started, f"{trouble}; {meanwhile}")
