# SPDX-License-Identifier: Apache-2.0
"""Counters as Istio's dashboards read them."""

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nodeagent.model.record import ConnectionRecord, Direction, Party, Transport
from nodeagent.telemetry import traffic
from nodeagent.telemetry.labels import labels_of
from nodeagent.telemetry.traffic import TrafficMetrics

RecordOf = Callable[..., ConnectionRecord]


def _value(metrics: TrafficMetrics, name: str, **labels: str) -> float | None:
    return _registry(metrics).get_sample_value(name, labels)


def _registry(metrics: TrafficMetrics) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(metrics)
    return registry


def _traffic(metrics: TrafficMetrics, name: str, record: ConnectionRecord) -> float | None:
    return _value(metrics, f"istio_tcp_{name}_total", **labels_of(record).pairs())


def test_one_connection_in_every_counter(record_of: RecordOf) -> None:
    metrics = TrafficMetrics()
    record = record_of()
    metrics.opened(record)
    assert _value(metrics, "istio_tcp_sockets_open", reporter="source") == 1
    metrics.progressed(record, sent_bytes=10, received_bytes=200)
    metrics.closed(record_of(reason="closed"))
    names = (
        "connections_opened",
        "connections_closed",
        "sent_bytes",
        "received_bytes",
        "connections_failed",
    )
    assert [_traffic(metrics, name, record) for name in names] == [1, 1, 200, 10, 0]
    assert _value(metrics, "istio_tcp_sockets_open", reporter="source") == 0
    assert _value(metrics, "nodeagent_connections_total", reason="closed", direction="outbound", path="tunnel") == 1


def test_both_reporters_count_the_answer_as_sent(record_of: RecordOf) -> None:
    metrics = TrafficMetrics()
    for direction in Direction:
        record = record_of(direction=direction)
        metrics.progressed(record, sent_bytes=1, received_bytes=50)
        assert _traffic(metrics, "sent_bytes", record) == 50
        assert _traffic(metrics, "received_bytes", record) == 1


def test_a_failure_is_counted_under_its_flag_and_its_reason(record_of: RecordOf) -> None:
    metrics = TrafficMetrics()
    failed = record_of(direction=Direction.INBOUND, reason="tls_unknown_ca")
    metrics.opened(record_of(direction=Direction.INBOUND))
    metrics.closed(failed)
    assert labels_of(failed).pairs()["response_flags"] == "TLS_FAILURE"
    assert _traffic(metrics, "connections_failed", failed) == 1
    assert _traffic(metrics, "connections_closed", failed) == 1
    assert (
        _value(metrics, "nodeagent_connections_total", reason="tls_unknown_ca", direction="inbound", path="tunnel") == 1
    )


def test_an_ending_that_is_no_failure_is_not_counted_as_one(record_of: RecordOf) -> None:
    metrics = TrafficMetrics()
    metrics.closed(record_of(reason="drained"))
    assert _traffic(metrics, "connections_failed", record_of()) == 0


def test_too_many_label_sets_fall_into_one_without_names(record_of: RecordOf) -> None:
    metrics = TrafficMetrics(max_series=2)
    for number in range(5):
        metrics.opened(record_of(service=f"shop/host-{number}.example.com"))
    lines = [
        line
        for line in generate_latest(_registry(metrics)).decode().splitlines()
        if line.startswith("istio_tcp_connections_opened_total{")
    ]
    assert sorted(float(line.rsplit(" ", 1)[1]) for line in lines) == [1, 1, 3]
    assert _value(metrics, "nodeagent_nameless_connections_total") == 3


def test_what_the_kernel_carried_is_measured(record_of: RecordOf) -> None:
    metrics = TrafficMetrics()
    for round_trip_us, retransmissions in ((100, 0), (300, 2), (0, 1)):
        kernel = {"is_in_kernel": True, "transport": Transport.TCP}
        metrics.closed(
            record_of(reason="closed", round_trip_us=round_trip_us, retransmissions=retransmissions, **kernel)
        )
    assert _value(metrics, "nodeagent_connections_total", reason="closed", direction="outbound", path="kernel") == 3
    assert _value(metrics, "nodeagent_kernel_round_trip_seconds_count") == 2
    assert _value(metrics, "nodeagent_kernel_round_trip_seconds_sum") == pytest.approx(0.0004)
    assert _value(metrics, "nodeagent_kernel_retransmissions_total") == 3


def test_dry_runs_are_counted_by_what_they_would_change(record_of: RecordOf) -> None:
    metrics = TrafficMetrics()
    denied = record_of(dry_run="denied", dry_run_policy="shop/try", is_dry_run_other=True)
    metrics.opened(denied)
    metrics.opened(denied)
    metrics.opened(record_of(dry_run="allowed"))
    metrics.opened(record_of())
    name = "nodeagent_dry_run_connections_total"
    assert _value(metrics, name, verdict="denied", policy="shop/try", differs="yes") == 2
    assert _value(metrics, name, verdict="allowed", policy="", differs="no") == 1


def test_dry_runs_of_many_policies_fall_into_one_without_a_name(
    record_of: RecordOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "MAX_DRY_RUNS", 2)
    metrics = TrafficMetrics()
    for number in (0, 1, 2, 3, 1):
        metrics.opened(record_of(dry_run="denied", dry_run_policy=f"shop/try-{number}"))
    name = "nodeagent_dry_run_connections_total"
    assert _value(metrics, name, verdict="denied", policy="shop/try-1", differs="no") == 2
    assert _value(metrics, name, verdict="denied", policy="unknown", differs="no") == 2


_KERNEL = {"is_in_kernel": True, "transport": Transport.TCP, "hop": ""}
_STAYS_HERE = {"transport": Transport.TCP, "hop": ""}
_PLAIN = {"transport": Transport.TCP, "hop": "", "source_identity": None}
_PASSES = _PLAIN | {"destination_identity": None, "destination": Party()}


@pytest.mark.parametrize(
    ("changes", "reporters", "security", "flag"),
    [
        pytest.param({}, {"source"}, "mutual_tls", "-", id="tunnel, at the client"),
        pytest.param({"direction": Direction.INBOUND}, {"destination"}, "mutual_tls", "-", id="tunnel, at the server"),
        pytest.param(_KERNEL, {"source", "destination"}, "unknown", "-", id="fast path"),
        pytest.param(_STAYS_HERE, {"source", "destination"}, "unknown", "-", id="by the proxy of one node"),
        pytest.param(_PLAIN | {"direction": Direction.INBOUND}, {"destination"}, "unknown", "-", id="plain text"),
        pytest.param(_PASSES, {"source"}, "unknown", "-", id="passthrough"),
        pytest.param(
            {"direction": Direction.INBOUND, "reason": "policy_denied"},
            {"destination"},
            "mutual_tls",
            "DENY",
            id="denied by the server's node",
        ),
        pytest.param({"reason": "hbone_denied"}, {"source"}, "mutual_tls", "DENY", id="denied, at the client"),
        pytest.param(
            _STAYS_HERE | {"reason": "policy_not_allowed"},
            {"source", "destination"},
            "unknown",
            "DENY",
            id="denied on one node",
        ),
        pytest.param(
            _PASSES | {"reason": "unknown_destination"}, {"source"}, "unknown", "CONNECT", id="refused, nobody is there"
        ),
    ],
)
def test_every_path_has_istios_labels(
    record_of: RecordOf, changes: dict[str, Any], reporters: set[str], security: str, flag: str
) -> None:
    metrics = TrafficMetrics()
    record = record_of(**changes)
    metrics.opened(record)
    assert {name for name in ("source", "destination") if _value(metrics, "istio_tcp_sockets_open", reporter=name)} == (
        reporters
    )
    metrics.progressed(record, sent_bytes=3, received_bytes=5)
    metrics.closed(record)
    series = [
        (sample.labels["reporter"], sample.labels["connection_security_policy"], sample.labels["response_flags"])
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == "istio_tcp_connections_closed_total" and sample.value == 1
    ]
    assert series == [(reporter, security, flag) for reporter in sorted(reporters, reverse=True)]
    for reporter in reporters:
        labels = labels_of(record, reporter).pairs()
        assert _value(metrics, "istio_tcp_sent_bytes_total", **labels) == 5
        assert _value(metrics, "istio_tcp_connections_failed_total", **labels) == (flag != "-")
        assert _value(metrics, "istio_tcp_sockets_open", reporter=reporter) == 0
