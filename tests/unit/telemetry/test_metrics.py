# SPDX-License-Identifier: Apache-2.0
"""/metrics has the names that dashboards ask for, in both formats."""

from collections.abc import Callable

import pytest

from nodeagent.model.record import ConnectionRecord
from nodeagent.model.set_up import split_totals
from nodeagent.telemetry.metrics import Exposition, Readings
from nodeagent.telemetry.traffic import TrafficMetrics

RecordOf = Callable[..., ConnectionRecord]

_READINGS = Readings(
    version="1.2.3",
    kernel_packets={"STEERED": 12, "SPOOFED_SOURCE": 1},
    xds_terminations={"Reconnect": 2},
    xds_messages={"type.googleapis.com/istio.workload.Address": 5},
    xds_message_bytes={"type.googleapis.com/istio.workload.Address": 500},
    worker_totals={"tunnels_opened": 4},
    worker_restarts=1,
    reports_lost=3,
    access_log_lines_lost=6,
    pods_captured=2,
    pods_pending=1,
    mesh_resources={"workload": 4},
    mesh_generation=9,
    names=5,
    names_failing=2,
    dns_lookups=70,
    dns_failures=3,
    kernel_drops=frozenset({"SPOOFED_SOURCE", "CUT_SHORT"}),
    workers={"ready": 1, "silent": 1},
    is_ready=True,
    spans={"made": 6, "sent": 5},
    verdict_generation=7,
    verdict_swapped=1.7e9,
    set_up=split_totals(
        {"set_up/request/1000": 2, "set_up/request/inf": 1, "set_up/request/sum": 20_001_500, "tunnels_opened": 4}
    )[1],
    certificate_issued={"spiffe://cluster.local/ns/shop/sa/web": 1.7e9},
    certificate_expiry={"spiffe://cluster.local/ns/shop/sa/web": 1_800_000_000.0},
)


@pytest.mark.parametrize(
    "line",
    [
        'istio_build{component="ztunnel",tag="nodeagent-1.2.3"} 1.0',
        'istio_xds_connection_terminations_total{reason="Reconnect"} 2.0',
        'istio_xds_message_total{url="type.googleapis.com/istio.workload.Address"} 5.0',
        'istio_xds_message_bytes_total{url="type.googleapis.com/istio.workload.Address"} 500.0',
        "workload_manager_active_proxy_count 2.0",
        "workload_manager_pending_proxy_count 1.0",
        'nodeagent_kernel_packets_total{reason="SPOOFED_SOURCE",verdict="drop"} 1.0',
        'nodeagent_kernel_packets_total{reason="STEERED",verdict="pass"} 12.0',
        'nodeagent_workers{state="silent"} 1.0',
        "nodeagent_ready 1.0",
        'nodeagent_spans_total{event="sent"} 5.0',
        "nodeagent_verdict_table_generation 7.0",
        "nodeagent_verdict_table_timestamp_seconds 1.7e+09",
        'nodeagent_certificate_issued_timestamp_seconds{identity="spiffe://cluster.local/ns/shop/sa/web"} 1.7e+09',
        'nodeagent_set_up_seconds_bucket{le="0.001",phase="request"} 2.0',
        'nodeagent_set_up_seconds_bucket{le="10.0",phase="request"} 2.0',
        'nodeagent_set_up_seconds_bucket{le="+Inf",phase="request"} 3.0',
        'nodeagent_set_up_seconds_sum{phase="request"} 20.0015',
        'nodeagent_set_up_seconds_count{phase="outbound"} 0.0',
        'nodeagent_worker_events_total{event="tunnels_opened"} 4.0',
        "nodeagent_worker_restarts_total 1.0",
        "nodeagent_reports_lost_total 3.0",
        "nodeagent_access_log_lines_lost_total 6.0",
        "nodeagent_bugs_total 0.0",
        'nodeagent_mesh_resources{kind="workload"} 4.0',
        "nodeagent_mesh_generation 9.0",
        "nodeagent_dns_names 5.0",
        "nodeagent_dns_names_failing 2.0",
        "nodeagent_dns_lookups_total 70.0",
        "nodeagent_dns_failures_total 3.0",
        'nodeagent_certificate_expiry_timestamp_seconds{identity="spiffe://cluster.local/ns/shop/sa/web"} 1.8e+09',
        'istio_tcp_sockets_open{reporter="source"} 1.0',
    ],
)
def test_scrape(line: str, record_of: RecordOf) -> None:
    traffic = TrafficMetrics()
    traffic.opened(record_of())
    body, content_type = Exposition(traffic, lambda: _READINGS).render("")
    assert content_type.startswith("text/plain")
    assert line in body.decode().splitlines()


def test_openmetrics_when_asked_for(record_of: RecordOf) -> None:
    traffic = TrafficMetrics()
    traffic.opened(record_of())
    body, content_type = Exposition(traffic, lambda: _READINGS).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_values_are_read_at_scrape_and_not_before() -> None:
    reads: list[None] = []

    def read() -> Readings:
        reads.append(None)
        return _READINGS

    exposition = Exposition(TrafficMetrics(), read)
    assert reads == []
    exposition.render("")
    assert len(reads) == 1
    assert b"process_open_fds" in exposition.render("")[0]
