# SPDX-License-Identifier: Apache-2.0
"""Everything that /metrics shows: Istio's names where dashboards expect them, `nodeagent_` for our own.

The agent is one process that knows all, so prometheus-client's multiprocess mode has no place here. Values that others
own are not copied on every change: the agent gives one callable that reads them at scrape.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from nodeagent.telemetry.traffic import TrafficMetrics


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What the agent's parts know at this moment. Counters never fall while the agent lives."""

    version: str
    kernel_packets: Mapping[str, int] = field(default_factory=dict)
    """By the kernel's reason."""
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
    certificate_failures: int = 0
    """Certificate requests that the CA refused or did not answer."""
    names: int = 0
    """By which alone some endpoint is known."""
    names_failing: int = 0
    """Of them those whose last question was not answered, or by no address."""
    dns_lookups: int = 0
    dns_failures: int = 0
    """Of them those that the node's resolver could not answer."""


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
    yield _counters("nodeagent_kernel_packets", "Packets by what the programs decided", "reason", now.kernel_packets)
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
    yield GaugeMetricFamily("nodeagent_dns_names", "Names by which alone endpoints are known", value=now.names)
    yield GaugeMetricFamily(
        "nodeagent_dns_names_failing", "Of them those without a good answer", value=now.names_failing
    )
    yield GaugeMetricFamily("nodeagent_mesh_generation", "Changes of the mesh applied", value=now.mesh_generation)
    expiry = GaugeMetricFamily(
        "nodeagent_certificate_expiry_timestamp_seconds", "When the certificate in use ends", labels=["identity"]
    )
    for identity, moment in now.certificate_expiry.items():
        expiry.add_metric([identity], moment)
    yield expiry


def _counters(name: str, words: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, words, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
