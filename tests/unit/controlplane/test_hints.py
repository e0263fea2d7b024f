# SPDX-License-Identifier: Apache-2.0
"""Protocol hints: by appProtocol, by name, by number."""

import pytest

from nodeagent.controlplane.hints import AppProtocol, of_protocol, of_service_port


@pytest.mark.parametrize(
    ("name", "app_protocol", "port", "expected"),
    [
        ("http", "", 80, AppProtocol.HTTP11),
        ("http-admin", "", 80, AppProtocol.HTTP11),
        ("http2", "", 80, AppProtocol.HTTP2),
        ("grpc", "", 80, AppProtocol.GRPC),
        ("grpc-web", "", 80, AppProtocol.UNKNOWN),
        ("grpc-web-x", "", 80, AppProtocol.UNKNOWN),
        ("GRPC-x", "", 80, AppProtocol.GRPC),
        ("mysql", "", 3306, AppProtocol.UNKNOWN),
        ("redis-1", "", 6379, AppProtocol.UNKNOWN),
        ("https", "", 443, AppProtocol.TLS),
        ("tls-x", "", 443, AppProtocol.TLS),
        ("tcp-x", "", 80, AppProtocol.TCP),
        ("db", "", 5432, AppProtocol.UNKNOWN),
        ("db", "", 3306, AppProtocol.TCP),
        ("x", "kubernetes.io/h2c", 80, AppProtocol.HTTP2),
        ("x", "kubernetes.io/wss", 80, AppProtocol.TLS),
        ("tcp", "http", 80, AppProtocol.HTTP11),
    ],
)
def test_the_hint_of_a_service_port(name: str, app_protocol: str, port: int, expected: AppProtocol) -> None:
    assert of_service_port(name, app_protocol, port) is expected


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("HTTP", AppProtocol.HTTP11),
        ("http2", AppProtocol.HTTP2),
        ("GRPC", AppProtocol.GRPC),
        ("HTTPS", AppProtocol.TLS),
        ("TLS", AppProtocol.TLS),
        ("TCP", AppProtocol.TCP),
        ("MONGO", AppProtocol.UNKNOWN),
        ("", AppProtocol.UNKNOWN),
    ],
)
def test_the_hint_of_a_service_entrys_port(protocol: str, expected: AppProtocol) -> None:
    assert of_protocol(protocol) is expected
