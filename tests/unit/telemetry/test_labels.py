# SPDX-License-Identifier: Apache-2.0
"""The label set is Istio's, whole and in every case."""

from collections.abc import Callable

import pytest

from nodeagent.model.record import ConnectionRecord, Direction, Party, Transport
from nodeagent.telemetry.labels import LOCALITY_LABELS, TRAFFIC_LABELS, anonymous, labels_of

RecordOf = Callable[..., ConnectionRecord]


def test_everything_known(record_of: RecordOf) -> None:
    assert labels_of(record_of()).pairs() == {
        "reporter": "source",
        "source_workload": "client",
        "source_canonical_service": "client",
        "source_canonical_revision": "v1",
        "source_workload_namespace": "default",
        "source_principal": "spiffe://cluster.local/ns/default/sa/client",
        "source_app": "client",
        "source_version": "v1",
        "source_cluster": "Kubernetes",
        "destination_service": "server.default.svc.cluster.local",
        "destination_service_namespace": "default",
        "destination_service_name": "server",
        "destination_workload": "server",
        "destination_canonical_service": "server-app",
        "destination_canonical_revision": "v2",
        "destination_workload_namespace": "shop",
        "destination_principal": "spiffe://cluster.local/ns/shop/sa/server",
        "destination_app": "server-app",
        "destination_version": "v2",
        "destination_cluster": "Kubernetes",
        "request_protocol": "tcp",
        "response_flags": "-",
        "connection_security_policy": "mutual_tls",
    }


def test_nothing_known_is_unknown(record_of: RecordOf) -> None:
    record = record_of(
        direction=Direction.INBOUND,
        service="",
        source=Party(),
        destination=Party(),
        source_identity=None,
        destination_identity=None,
        transport=Transport.TCP,
        reason="policy_not_allowed",
    )
    pairs = labels_of(record).pairs()
    known = {"reporter": "destination", "request_protocol": "tcp", "response_flags": "DENY"}
    assert pairs == {name: known.get(name, "unknown") for name in TRAFFIC_LABELS}


def test_places_come_all_or_not_at_all(record_of: RecordOf) -> None:
    pairs = labels_of(record_of(source=Party(region="eu", zone="eu-1"))).pairs()
    assert [pairs[name] for name in LOCALITY_LABELS] == ["eu", "eu-1", "unknown", "unknown"]


@pytest.mark.parametrize(
    ("key", "hostname", "namespace", "name"),
    [
        ("shop/pg.shop.svc.cluster.local", "pg.shop.svc.cluster.local", "shop", "pg"),
        ("shop/api.example.com", "api.example.com", "shop", "api.example.com"),
        ("", "unknown", "unknown", "unknown"),
    ],
)
def test_service(record_of: RecordOf, key: str, hostname: str, namespace: str, name: str) -> None:
    pairs = labels_of(record_of(service=key)).pairs()
    service = ("destination_service", "destination_service_namespace", "destination_service_name")
    assert tuple(pairs[label] for label in service) == (hostname, namespace, name)


def test_anonymous_keeps_only_closed_sets(record_of: RecordOf) -> None:
    pairs = anonymous(labels_of(record_of(reason="connect_refused"))).pairs()
    assert {name: value for name, value in pairs.items() if value != "unknown"} == {
        "reporter": "source",
        "request_protocol": "tcp",
        "response_flags": "CONNECT",
        "connection_security_policy": "mutual_tls",
    }


def test_values_are_bounded(record_of: RecordOf) -> None:
    assert all(len(value) <= 512 for value in labels_of(record_of(source=Party("", "n" * 9999))).values)
