# SPDX-License-Identifier: Apache-2.0
"""Everything that /metrics shows: Istio's names where dashboards expect them, `nodeagent_` for our own.

The agent is one process that knows all, so prometheus-client's multiprocess mode has no place here. Values that others
own are not copied on every change: the agent gives one callable that reads them at scrape.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from nodeagent.model.set_up import SetUp
from nodeagent.telemetry.traffic import TrafficMetrics


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What the agent's parts know at this moment. Counters never fall while the agent lives."""

    version: str
    kernel_packets: Mapping[str, int] = field(default_factory=dict)
    """By the kernel's reason."""
    kernel_drops: frozenset[str] = frozenset()
    """Those of these reasons that drop, or answer with a reset."""
    xds_terminations: Mapping[str, int] = field(default_factory=dict)
    """By ConnectionError, Error, Reconnect or Complete."""
    xds_messages: Mapping[str, int] = field(default_factory=dict)
    """Responses by type URL."""
    xds_message_bytes: Mapping[str, int] = field(default_factory=dict)
    worker_totals: Mapping[str, int] = field(default_factory=dict)
    """What workers count, summed by Totals."""
    worker_restarts: int = 0
    """Workers that were replaced because they died."""
    reports_lost: int = 0
    flow_events_late: int = 0
    """Events of connections in the kernel that did not fit into the ring; their ends were fetched later."""
    flows_lost: int = 0
    """Connections in the kernel that nothing could be noted of."""
    flows_disowned: int = 0
    """Reports from another network namespace than that of the pod whose address they named."""
    access_log_lines_lost: int = 0
    bugs: int = 0
    """Exceptions that nothing expected, in the agent."""
    pods_captured: int = 0
    pods_pending: int = 0
    """Pods that shall be captured and are not yet."""
    mesh_resources: Mapping[str, int] = field(default_factory=dict)
    """By kind: workload, service, policy."""
    mesh_generation: int = 0
    certificate_expiry: Mapping[str, float] = field(default_factory=dict)
    """Unix time by identity, of the certificates in use."""
    certificate_issued: Mapping[str, float] = field(default_factory=dict)
    """From when on they are valid."""
    certificate_failures: int = 0
    """Certificate requests that the CA refused or did not answer."""
    names: int = 0
    """By which alone some endpoint is known."""
    names_failing: int = 0
    """Of them those whose last question was not answered, or by no address."""
    dns_lookups: int = 0
    dns_failures: int = 0
    """Of them those that the node's resolver could not answer."""
    set_up: Mapping[str, SetUp] = field(default_factory=dict)
    """By phase."""
    workers: Mapping[str, int] = field(default_factory=dict)
    """By state."""
    is_ready: bool = False
    verdict_generation: int = 0
    """Of the table that decides between pods of this node; 0: none yet."""
    verdict_rows: int = 0
    verdict_swapped: float = 0.0
    """Unix time, as are the next two; 0: never."""
    xds_connected_since: float = 0.0
    xds_last_change: float = 0.0
    flows_kept: int = 0
    spans: Mapping[str, int] = field(default_factory=dict)
    """By what became of them; empty where nobody collects."""


class AgentMetrics(Collector):
    def __init__(self, read: Callable[[], Readings]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        now = self._read()
        yield from _istio(now)
        yield from _ours(now)


class Exposition:
    """The registry behind /metrics."""

    def __init__(self, traffic: TrafficMetrics, read: Callable[[], Readings]) -> None:
        # Not described: that would read the agent's parts when this is made, which is before they run.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(traffic)
        self._registry.register(AgentMetrics(read))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and Content-Type in the format that the request's Accept header prefers."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


def _istio(now: Readings) -> Iterator[Metric]:
    yield _counters("istio_xds_connection_terminations", "xDS streams that ended", "reason", now.xds_terminations)
    yield _counters("istio_xds_message", "xDS responses received", "url", now.xds_messages)
    yield _counters("istio_xds_message_bytes", "Bytes of xDS responses received", "url", now.xds_message_bytes)
    # Istio's dashboards select this component; the tag says who it really is.
    build = GaugeMetricFamily("istio_build", "Component and version", labels=["component", "tag"])
    build.add_metric(["ztunnel", f"nodeagent-{now.version}"], 1)
    yield build
    yield GaugeMetricFamily("workload_manager_active_proxy_count", "Pods that are captured", value=now.pods_captured)
    yield GaugeMetricFamily(
        "workload_manager_pending_proxy_count", "Pods that are to be captured and are not yet", value=now.pods_pending
    )


def _ours(now: Readings) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        "nodeagent_kernel_packets", "Packets by what the programs decided", labels=["reason", "verdict"]
    )
    for reason, number in now.kernel_packets.items():
        packets.add_metric([reason, "drop" if reason in now.kernel_drops else "pass"], number)
    yield packets
    yield _counters("nodeagent_spans", "Spans that were made, sent, and refused by the collector", "event", now.spans)
    yield _counters("nodeagent_worker_events", "What the tunnel workers count", "event", now.worker_totals)
    for name, words, value in (
        ("nodeagent_worker_restarts", "Tunnel workers that died and were replaced", now.worker_restarts),
        ("nodeagent_reports_lost", "Reports that a worker dropped because the agent was too slow", now.reports_lost),
        (
            "nodeagent_kernel_events_late",
            "Openings and ends of connections in the kernel for which its ring had no room; ends were fetched later",
            now.flow_events_late,
        ),
        (
            "nodeagent_kernel_connections_lost",
            "Connections in the kernel that left no record, because its table of them was full",
            now.flows_lost,
        ),
        (
            "nodeagent_kernel_reports_disowned",
            "Reports that a pod's address was in, and that came from another network namespace than the pod's",
            now.flows_disowned,
        ),
        ("nodeagent_access_log_lines_lost", "Access log lines that were dropped", now.access_log_lines_lost),
        ("nodeagent_bugs", "Exceptions that nothing expected; the log has their tracebacks", now.bugs),
        ("nodeagent_certificate_failures", "Certificate requests that failed", now.certificate_failures),
        ("nodeagent_dns_lookups", "Names of endpoints that the node's resolver was asked for", now.dns_lookups),
        ("nodeagent_dns_failures", "Of them those that it could not answer", now.dns_failures),
    ):
        yield CounterMetricFamily(name, words, value=value)
    resources = GaugeMetricFamily("nodeagent_mesh_resources", "Size of the mesh as known here", labels=["kind"])
    for kind, number in now.mesh_resources.items():
        resources.add_metric([kind], number)
    yield resources
    workers = GaugeMetricFamily("nodeagent_workers", "Tunnel workers by state", labels=["state"])
    for state, number in now.workers.items():
        workers.add_metric([state], number)
    yield workers
    for name, words, gauge in (
        ("nodeagent_dns_names", "Names by which alone endpoints are known", now.names),
        ("nodeagent_dns_names_failing", "Of them those without a good answer", now.names_failing),
        ("nodeagent_mesh_generation", "Changes of the mesh applied", now.mesh_generation),
        ("nodeagent_ready", "Whether /healthz/ready says so", now.is_ready),
        (
            "nodeagent_verdict_table_generation",
            "Of the table that decides between pods of this node; 0 while there is none",
            now.verdict_generation,
        ),
        ("nodeagent_verdict_table_rows", "Rows of that table", now.verdict_rows),
        (
            "nodeagent_verdict_table_timestamp_seconds",
            "When that table came into force; 0 while there is none",
            now.verdict_swapped,
        ),
        (
            "nodeagent_xds_connected_timestamp_seconds",
            "Since when the control plane is followed; 0 while it is not",
            now.xds_connected_since,
        ),
        (
            "nodeagent_xds_change_timestamp_seconds",
            "When the control plane last changed something here; 0 while it has not",
            now.xds_last_change,
        ),
        ("nodeagent_flows_kept", "Records of the flow history", now.flows_kept),
    ):
        yield GaugeMetricFamily(name, words, value=gauge)
    for name, words, moments in (
        ("expiry", "When the certificate in use ends", now.certificate_expiry),
        ("issued", "When the certificate in use begins", now.certificate_issued),
    ):
        family = GaugeMetricFamily(f"nodeagent_certificate_{name}_timestamp_seconds", words, labels=["identity"])
        for identity, moment in moments.items():
            family.add_metric([identity], moment)
        yield family
    yield _set_up(now.set_up)


def _set_up(phases: Mapping[str, SetUp]) -> Metric:
    family = HistogramMetricFamily(
        "nodeagent_set_up_seconds",
        "How long phases of a connection's set-up took, as far as workers' loops see it",
        labels=["phase"],
    )
    for phase, found in phases.items():
        buckets = [("+Inf" if bound == math.inf else str(bound), number) for bound, number in found.counts]
        family.add_metric([phase], buckets, found.sum_seconds)
    return family


def _counters(name: str, words: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, words, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
