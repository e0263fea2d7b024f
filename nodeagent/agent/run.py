# SPDX-License-Identifier: Apache-2.0
"""`nodeagent agent`: builds the parts, runs them in one TaskGroup, leaves in order.

Leaving (SIGTERM, SIGINT, a crash alike) takes nothing away: workers, proxy namespace, programs and pins stay for the
next agent. `nodeagent cleanup` is what removes them.
"""

import asyncio
import contextlib
import functools
import logging
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nodeagent.admin.compatible import CompatibleServer
from nodeagent.admin.hops import Names
from nodeagent.admin.http import HttpServer
from nodeagent.admin.page.server import PageServer
from nodeagent.admin.probes import ReadyServer, StatsServer
from nodeagent.admin.routes import make_lasting, make_orders, make_routes
from nodeagent.admin.server import AdminServer, Route
from nodeagent.admin.state import ReplacedWorker
from nodeagent.agent.capture import Capture, KernelTables
from nodeagent.agent.enrolment import read_pods
from nodeagent.agent.fleet import WorkerFleet
from nodeagent.agent.flow_reports import FlowReports
from nodeagent.agent.instance import only_instance
from nodeagent.agent.kill import Killer
from nodeagent.agent.kubernetes_pods import KubernetesPods
from nodeagent.agent.log_levels import AgentLogLevels
from nodeagent.agent.own_process import forbid_dumps, hoard_no_memory, take_all_descriptors
from nodeagent.agent.peer_probe import PeerProbe
from nodeagent.agent.picture import Picture
from nodeagent.agent.revocations import RevocationFile
from nodeagent.agent.service_connect import ServiceConnect
from nodeagent.agent.service_names import ServiceNames
from nodeagent.agent.spare_memory import SpareMemory
from nodeagent.agent.state import NodeState
from nodeagent.agent.tracer import Tracer
from nodeagent.agent.verdicts import NodeVerdicts
from nodeagent.certs.bundle import CertificateBundle
from nodeagent.certs.client import CaClient
from nodeagent.certs.keeper import CertificateKeeper
from nodeagent.config import Config
from nodeagent.dns.keeper import NameKeeper
from nodeagent.dns.memory import FILE_NAME as NAMES
from nodeagent.dns.memory import AnswerFile
from nodeagent.dns.resolver import NodeResolver
from nodeagent.errors import ConfigError, KernelError, NodeagentError
from nodeagent.kernel.passage import Passages
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.watch import watch_network
from nodeagent.logs.levels import LogLevels
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.workload import TunnelProtocol
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.line_writer import LineWriter
from nodeagent.telemetry.metrics import Exposition
from nodeagent.telemetry.open_connections import NoSpans, OpenConnections, Spans
from nodeagent.telemetry.totals import Totals
from nodeagent.telemetry.traffic import TrafficMetrics
from nodeagent.upstream.channel import ca_upstream, xds_upstream
from nodeagent.version import VERSION
from nodeagent.xds.client import XdsClient
from nodeagent.xds.store import Store

log = logging.getLogger(__name__)

OBSERVE_SECONDS = 15.0
"""Between looks at open connections, which bring the bytes of long ones into the metrics: a usual scrape interval."""


def run_agent(config: Config, *, takeover: bool) -> None:
    """Returns after SIGTERM or SIGINT. Raises NodeagentError for what keeps an agent from running here."""
    forbid_dumps()
    take_all_descriptors()
    hoard_no_memory()
    xds_upstream(config), ca_upstream(config)  # what cannot be is told before anything is touched
    read_pods(config.pods_file)
    with only_instance(config.run_dir, takeover=takeover), _access_log_lines(config) as lines, _spans(config) as spans:
        agent = Agent(config, lines, spans)
        with asyncio.Runner() as runner:
            try:
                runner.run(agent.run())
            except BaseExceptionGroup as failures:  # not except*, which would put what it raises into a group again
                errors, bugs = failures.split(NodeagentError)
                if errors is None or bugs is not None:
                    raise
                raise _first(errors) from failures


class Agent:
    def __init__(self, config: Config, lines: LineWriter | None, spans: Spans) -> None:
        self._config, self._lines = config, lines
        self._state = NodeState(config.node, config.network)
        self._steering = Steering(
            bpffs=config.bpffs,
            run_dir=config.run_dir,
            attach=config.attach,
            cgroup=config.cgroup,
            marks=config.marks,
            draws_services=config.draws_services,
        )
        traffic = TrafficMetrics()
        access_log = AccessLog(
            lines.write if lines else lambda _line: None,
            as_json=config.log_format == "json",
            level=LogLevels.parse(config.log_level).access(),
        )
        self._connections, self._totals = OpenConnections(traffic, access_log), Totals()
        self._connections.spans = spans
        self._fleet = WorkerFleet(config, self._steering, self._state, self._connections, self._totals)
        self._log_levels = AgentLogLevels(config.log_level, (access_log.follow, self._fleet.set_log_levels))
        store = Store(config.state_file, cluster=config.cluster, node=config.node)
        self._xds = XdsClient(config, store, self._mesh_changed)
        self._keeper = CertificateKeeper(CaClient(config), self._certificate_came, self._certificate_ended)
        self._passages = Passages()
        self._flows = FlowReports(
            Pins(Path(config.bpffs)).maps,
            config.network,
            self._state,
            self._connections,
            lambda: self._capture.namespaces if self._capture.is_settled else None,
        )
        self._names = NameKeeper(
            NodeResolver(config.resolv_conf),
            self._wanted_names,
            self._names_changed,
            AnswerFile(Path(config.run_dir) / NAMES),
        )
        self._revocations = RevocationFile(config.crl, self._state.apply)
        self._verdicts = NodeVerdicts(config, self._steering, self._state, self._flows.revoked)
        self._state.before_workers_know = self._verdicts.suspend_if_changed
        self._services = ServiceConnect(config, self._steering, self._state)
        self._connections.dialled = ServiceNames(config.network, self._state, self._steering, self._services)
        self._capture = Capture(
            config,
            self._steering,
            self._state,
            self._fleet,
            KernelTables(self._verdicts, self._services),
            self._keeper.wanted,
            lambda: self._xds.is_ready and self._names.is_settled(),
        )
        self._killer = Killer(self._connections, self._fleet, self._flows, lambda: self._capture.namespaces)
        self._peer_probe = PeerProbe(config, self._steering, self._state, self._capture)
        self._kubernetes = KubernetesPods(config, self._capture) if config.kubernetes == "on" else None
        self._picture = Picture(
            config=config,
            state=self._state,
            steering=self._steering,
            fleet=self._fleet,
            capture=self._capture,
            verdicts=self._verdicts,
            passages=self._passages,
            flows=self._flows,
            services=self._services,
            xds=self._xds,
            keeper=self._keeper,
            revocations=self._revocations,
            names=self._names,
            kubernetes=self._kubernetes,
            open_connections=self._connections,
            totals=self._totals,
            log_levels=self._log_levels,
            lines=lines,
            bugs=lambda: self._bugs + sum(server.bugs for server in self._servers),
        )
        self._spare_memory = SpareMemory(lambda: self._capture.is_settled)
        self._bugs = 0
        self._servers: list[AdminServer | HttpServer] = []
        self._exposition = Exposition(traffic, self._picture.readings)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._callback_failed)
        main = asyncio.current_task()
        assert main is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, main, number)
        if self._lines is not None:
            loop.add_signal_handler(signal.SIGHUP, self._lines.reopen)
        try:
            await self._run_parts()
        except asyncio.CancelledError:
            log.info("stopped; workers, programs and pins stay for the next agent")

    async def _run_parts(self) -> None:
        self._servers = list(self._make_servers())
        for server in self._servers:
            server.listen()  # what may be refused comes first: a port in use must not leave half an agent
        async with asyncio.TaskGroup() as parts:
            for server in self._servers:
                parts.create_task(server.run(), name=type(server).__name__)
            try:
                await asyncio.to_thread(self._steering.start)  # may compile for seconds; who asks is answered meanwhile
            except asyncio.CancelledError:  # another part has failed: its thread is waited for at the very end
                self._steering.give_up_loading()
                raise
            parts.create_task(self._fleet.run(), name="workers")
            parts.create_task(self._xds.run(), name="xds")
            parts.create_task(self._keeper.run(), name="certificates")
            parts.create_task(self._names.run(), name="names")
            if self._kubernetes is None:
                parts.create_task(self._capture.watch_pods_file(), name="pods file")
            else:
                parts.create_task(self._kubernetes.run(), name="kubernetes")
            parts.create_task(self._revocations.run(), name="revocations")
            parts.create_task(self._capture.run(), name="capture")
            parts.create_task(self._flows.run(), name="connections in the kernel")
            parts.create_task(watch_network(self._network_changed), name="netlink")
            parts.create_task(self._observe(), name="observe")
            parts.create_task(self._spare_memory.run(), name="spare memory")
            log.info("agent of node %s started", self._config.node)

    def _make_servers(self) -> Iterator[AdminServer | HttpServer]:
        config, picture = self._config, self._picture
        routes = make_routes(picture.agent_state, picture.connections, self._connections.history)
        tracer = Tracer(self._steering, self._connections, picture.agent_state, self._names_now)
        orders = make_orders(
            self._keeper.renew,
            self._replace_workers,
            self._killer.kill,
            self._log_levels,
            self._peer_probe.probe,
            tracer.end,
            self._kubernetes.starts.start if self._kubernetes is not None else None,
        )
        yield AdminServer(config.admin_socket, routes, orders, make_lasting(tracer))
        if config.stats_address:
            yield StatsServer(config.stats_address, self._exposition.render)
        if config.page:
            yield PageServer(config.page, {config.node: functools.partial(_ask, routes)})
        if config.ready_address:
            yield ReadyServer(config.ready_address, picture.obstacles)
        if config.admin_address:
            yield CompatibleServer(config.admin_address, self._log_levels, picture.dump_subject)

    async def _replace_workers(self, slot: int | None, wait_seconds: float) -> list[ReplacedWorker]:
        slots = range(self._fleet.slots) if slot is None else (slot,)
        return [await self._replace_worker(number, wait_seconds) for number in slots]

    async def _replace_worker(self, slot: int, wait_seconds: float) -> ReplacedWorker:
        began = time.monotonic()
        replacement = await self._fleet.replace(slot)
        with contextlib.suppress(TimeoutError):  # what is left is told
            async with asyncio.timeout(wait_seconds):
                await replacement.ended.wait()
        return ReplacedWorker(
            slot=slot,
            former_pid=replacement.former,
            pid=replacement.pid,
            handed_over=replacement.handed_over,
            drained=replacement.drained,
            cut=replacement.cut,
            left=self._connections.count(replacement.former),
            seconds=round(time.monotonic() - began, 3),
        )

    def _mesh_changed(self, changes: Changes) -> None:
        self._state.apply(changes)
        self._names.look_again()
        self._capture.look_again()
        self._spare_memory.changed(changes.values)

    def _names_now(self) -> Names:
        return Names(self._state.mesh, self._config.network)

    def _wanted_names(self) -> Collection[str]:
        """None on a node without clients that could want to go there."""
        here = self._state.mesh.workloads_on(self._config.node)
        is_needed = any(workload.protocol is TunnelProtocol.HBONE for workload in here)
        return self._state.mesh.names() if is_needed else ()

    def _names_changed(self, changes: Changes) -> None:
        self._state.apply(changes)
        self._capture.look_again()

    def _network_changed(self) -> None:
        self._capture.look_at_kernel()
        if self._kubernetes is not None:
            self._kubernetes.look_again()

    def _certificate_came(self, identity: Identity, bundle: CertificateBundle) -> None:
        had_ended = identity in self._state.lapsed
        self._revocations.trust(bundle)  # before: whom these roots vouch for, their lists may take it back from
        self._state.set_certificate(identity, bundle)
        if had_ended:
            self._capture.look_again()

    def _certificate_ended(self, identity: Identity) -> None:
        self._state.forget_certificate(identity)
        self._capture.look_again()

    async def _observe(self) -> None:
        while True:
            await asyncio.sleep(OBSERVE_SECONDS)
            await self._fleet.observe()
            with contextlib.suppress(KernelError):  # `status` says it: the counters are the kernel's too
                self._passages.looked(self._steering.counters())

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that no task carries: nobody else would count it. The loop goes on."""
        self._bugs += 1
        loop.default_exception_handler(context)

    def _told_to_stop(self, main: "asyncio.Task[None]", number: int) -> None:
        log.info("told to stop by %s", signal.Signals(number).name)
        self._steering.give_up_loading()  # the thread that waits for it is waited for at the very end
        main.cancel()


async def _ask(routes: Mapping[str, Route], route: str, query: Mapping[str, str]) -> Mapping[str, Any]:
    """As the demo's page asks by the admin socket."""
    return await routes[route](query)


@contextlib.contextmanager
def _access_log_lines(config: Config) -> Iterator[LineWriter | None]:
    if not config.access_log:
        yield None
        return
    with LineWriter(config.access_log) as lines:
        yield lines


@contextlib.contextmanager
def _spans(config: Config) -> Iterator[Spans]:
    """Raises ConfigError when the extra is not installed."""
    if not config.trace_endpoint:
        yield NoSpans()
        return
    try:
        from nodeagent.telemetry.spans import ConnectionSpans
    except ImportError as error:
        raise ConfigError(
            f"--trace-endpoint: {error.name} is not installed",
            check="Install the extra: pip install 'nodeagent[otel]'.",
        ) from error
    with ConnectionSpans.to(
        config.trace_endpoint, node=config.node, version=VERSION, share=config.trace_sampling
    ) as spans:
        yield spans


def _first(failures: BaseExceptionGroup[NodeagentError]) -> NodeagentError:
    """The first one says it: the others are of parts that failed for the same cause or were stopped by it."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    assert isinstance(failure, NodeagentError)
    return failure
