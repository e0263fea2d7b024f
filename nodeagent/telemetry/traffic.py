# SPDX-License-Identifier: Apache-2.0
"""Counters of connections and bytes, by Istio's labels and by our own reasons.

`sent` and `received` are swapped against intuition, for Istio's dashboards read them so (istio/istio#32399): both
reporters count as *sent* what the application answered and as *received* what the client said. The access log tells
the same bytes as each end sees them.

A connection that stays on this node without a tunnel has one record and two reporters, as a ztunnel tells of both its
ends: graphs look at a namespace from the side of either.
"""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from nodeagent.model.record import OPEN_FLAG, ConnectionRecord, Direction, reason_of
from nodeagent.telemetry.labels import (
    DESTINATION,
    UNKNOWN,
    TrafficLabels,
    anonymous,
    labels_of,
)

MAX_SERIES = 20_000
"""Label sets kept apart; beyond them connections are counted without names. About 2 KiB each, 5 samples a scrape."""
MAX_DRY_RUNS = 1_000
"""Verdicts of dry runs by policy kept apart; beyond them they are counted without the policy's name."""


class _Counts:
    __slots__ = ("closed", "failed", "opened", "received", "sent")

    def __init__(self) -> None:
        self.opened = self.closed = self.failed = self.sent = self.received = 0


_FAMILIES = (
    ("istio_tcp_connections_opened", "opened", "Total number of TCP connections opened"),
    ("istio_tcp_connections_closed", "closed", "Total number of TCP connections closed"),
    ("istio_tcp_sent_bytes", "sent", "Bytes sent during response in case of a TCP connection"),
    ("istio_tcp_received_bytes", "received", "Bytes received during request in case of a TCP connection"),
    ("istio_tcp_connections_failed", "failed", "Total number of TCP connections that were refused or broke"),
)


class TrafficMetrics(Collector):
    """Events are written and scrapes read in the agent's one thread, so nothing is locked."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._series: dict[TrafficLabels, _Counts] = {}
        self._endings: Counter[tuple[str, str, str]] = Counter()
        self._dry_runs: Counter[tuple[str, str, str]] = Counter()
        self._round_trips = 0
        self._round_trip_seconds = 0.0
        self._retransmissions = 0
        self._open: Counter[str] = Counter()
        self._nameless = 0

    def opened(self, record: ConnectionRecord) -> None:
        for counts in self._counts(record):
            counts.opened += 1
        if record.dry_run:
            labels = (record.dry_run, record.dry_run_policy, "yes" if record.is_dry_run_other else "no")
            if len(self._dry_runs) >= MAX_DRY_RUNS and labels not in self._dry_runs:
                labels = (record.dry_run, UNKNOWN, labels[2])
            self._dry_runs[labels] += 1
        self._add_open(record, 1)

    def progressed(self, record: ConnectionRecord, sent_bytes: int, received_bytes: int) -> None:
        """Bytes of an open connection since they were last counted, in the record's sense of sent and received."""
        for counts in self._counts(record):
            counts.sent += received_bytes
            counts.received += sent_bytes

    def closed(self, record: ConnectionRecord) -> None:
        """Of a connection that was opened before; its last bytes come through `progressed`."""
        reason = reason_of(record)
        has_failed = reason is not None and reason.flag != OPEN_FLAG
        for counts in self._counts(record):
            counts.closed += 1
            counts.failed += has_failed
        if reason is not None:
            self._endings[reason.value, record.direction, record.path] += 1
        if record.round_trip_us:
            self._round_trips += 1
            self._round_trip_seconds += record.round_trip_us / 1e6
        self._retransmissions += record.retransmissions
        self._add_open(record, -1)

    def collect(self) -> Iterator[Metric]:
        for name, field, words in _FAMILIES:
            family = Metric(name, words, "counter")
            for labels, counts in self._series.items():
                # A counter that exists from the first connection on lets rate() see the first failure too.
                family.add_sample(f"{name}_total", labels.pairs(), getattr(counts, field))
            yield family
        sockets = GaugeMetricFamily(
            "istio_tcp_sockets_open", "Connections of this node's pods that are open", labels=["reporter"]
        )
        sockets.add_metric(["source"], self._open[Direction.OUTBOUND])
        sockets.add_metric(["destination"], self._open[Direction.INBOUND])
        yield sockets
        yield self._collect_endings()
        yield self._collect_dry_runs()
        yield SummaryMetricFamily(
            "nodeagent_kernel_round_trip_seconds",
            "Smoothed round-trip time at the end of connections that the kernel carried alone",
            count_value=self._round_trips,
            sum_value=self._round_trip_seconds,
        )
        yield CounterMetricFamily(
            "nodeagent_kernel_retransmissions",
            "Segments sent again by clients, of connections that the kernel carried alone and that ended",
            value=self._retransmissions,
        )
        yield CounterMetricFamily(
            "nodeagent_nameless_connections",
            f"Connection events counted without names, because there were {self._max_series} label sets already",
            value=self._nameless,
        )

    def _collect_endings(self) -> Metric:
        endings = CounterMetricFamily(
            "nodeagent_connections",
            "Connections that ended, by why they did and by who carried them",
            labels=["reason", "direction", "path"],
        )
        for labels, count in self._endings.items():
            endings.add_metric(list(labels), count)
        return endings

    def _collect_dry_runs(self) -> Metric:
        dry_runs = CounterMetricFamily(
            "nodeagent_dry_run_connections",
            "Connections that dry runs are about, by what would have become of them, and whether that did not",
            labels=["verdict", "policy", "differs"],
        )
        for labels, count in self._dry_runs.items():
            dry_runs.add_metric(list(labels), count)
        return dry_runs

    def _add_open(self, record: ConnectionRecord, number: int) -> None:
        self._open[record.direction] += number
        if record.has_both_ends:
            self._open[Direction.INBOUND] += number

    def _counts(self, record: ConnectionRecord) -> tuple[_Counts, ...]:
        """Of each side that this node tells about."""
        if record.has_both_ends:
            return self._series_of(labels_of(record)), self._series_of(labels_of(record, DESTINATION))
        return (self._series_of(labels_of(record)),)

    def _series_of(self, labels: TrafficLabels) -> _Counts:
        counts = self._series.get(labels)
        if counts is None:
            if len(self._series) >= self._max_series:
                self._nameless += 1
                labels = anonymous(labels)
            counts = self._series.setdefault(labels, _Counts())
        return counts
