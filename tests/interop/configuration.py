# SPDX-License-Identifier: Apache-2.0
"""What one Envoy is told: `Way`s, where it is an HBONE client, and `Gate`s, where it is an HBONE server.

Pure: values in, Envoy's bootstrap as JSON out. All ways and gates of a test run live in one Envoy process; what differs
between them (windows, certificates, limits) is a field here and a name in the tests.
"""

import json
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nodeagent.model.address import Ip, is_ipv6, join_host_port
from nodeagent.model.identity import Identity

Json: TypeAlias = dict[str, Any]

HBONE = 15008
LOOPBACK = Ip("127.0.0.1")
_EXTENSIONS = "type.googleapis.com/envoy.extensions."

WIDE: Json = {"initial_stream_window_size": 4 << 20, "initial_connection_window_size": 16 << 20}
"""ztunnel's windows, and ours."""
NARROW: Json = {"initial_stream_window_size": 65535, "initial_connection_window_size": 200_000}
"""A stream has the least that HTTP/2 knows. The connection's is no multiple of it, so that each of them is the first to
end somewhere, and more than twice as much: Envoy tells a window's credit in halves, so that one stream that held more
than a half would stop all others."""
_UNLIMITED = 1 << 20
"""Connections of a cluster. Envoy's own limit is 1,024, which the benchmark's are more than."""
LARGE_FRAMES: Json = {"custom_settings_parameters": [{"identifier": 5, "value": 1 << 20}]}
"""SETTINGS_MAX_FRAME_SIZE as ztunnel's; Envoy's own is the protocol's default, 16 KiB."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    pem: bytes
    """Private key and chain."""
    roots: bytes


@dataclass(frozen=True, kw_only=True)
class Way:
    """Plain TCP to `listen`:`port` is carried through a tunnel to `target`, an application beside a worker."""

    name: str
    port: int
    target: Ip
    target_port: int
    own_ip: Ip
    """From which the tunnel comes: goes into `forwarded`."""
    credentials: Credentials
    expects: Identity
    http2: Json = field(default_factory=lambda: WIDE)
    streams_per_tunnel: int = 0
    """After so many Envoy begins another tunnel; 0: never."""
    listen: Ip = LOOPBACK


@dataclass(frozen=True, kw_only=True)
class Gate:
    """HBONE to one of `addresses` is terminated, and its streams go to the application at `beside`:`application`."""

    name: str
    addresses: tuple[Ip, ...]
    application: int
    credentials: Credentials
    admits: Identity
    http2: Json = field(default_factory=lambda: WIDE)
    streams_per_tunnel: int = 0
    """After so many Envoy sends GOAWAY; 0: never."""
    answer: int = 0
    """This status for every CONNECT, instead of the application."""
    beside: Ip = LOOPBACK


def bootstrap(ways: list[Way], gates: list[Gate], admin: str, access_log: str) -> bytes:
    """`admin`: path of the Unix socket to make; `access_log`: path of a file that gets a JSON object per CONNECT."""
    listeners = [_way_listener(way) for way in ways] + ([_gate_listener(gates, access_log)] if gates else [])
    clusters = [_way_cluster(way) for way in ways] + [_application(gate) for gate in gates]
    return json.dumps(
        {
            "node": {"id": "interop", "cluster": "interop"},
            "admin": {"address": {"pipe": {"path": admin}}},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        }
    ).encode()


def _way_listener(way: Way) -> Json:
    forwarded = f'for="{join_host_port(way.own_ip, 0).removesuffix("0")}%DOWNSTREAM_REMOTE_PORT%"'
    proxy = {
        "@type": f"{_EXTENSIONS}filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": way.name,
        "cluster": f"way.{way.name}",
        "tunneling_config": {
            "hostname": join_host_port(way.target, way.target_port),
            "headers_to_add": [
                {"header": {"key": "forwarded", "value": forwarded}},
                {"header": {"key": "baggage", "value": "k8s.namespace.name=apps,k8s.deployment.name=envoy"}},
            ],
        },
    }
    return {
        "name": way.name,
        "address": _address(way.listen, way.port),
        "filter_chains": [{"filters": [{"name": "tcp_proxy", "typed_config": proxy}]}],
    }


def _way_cluster(way: Way) -> Json:
    limits = {"max_requests_per_connection": way.streams_per_tunnel} if way.streams_per_tunnel else {}
    protocol = {
        "@type": f"{_EXTENSIONS}upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": limits,
        "explicit_http_config": {"http2_protocol_options": {"allow_connect": True, **way.http2}},
    }
    tls = {
        "@type": f"{_EXTENSIONS}transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": _tls(way.credentials, way.expects),
    }
    return {
        **_cluster(f"way.{way.name}", way.target, HBONE),
        "typed_extension_protocol_options": {f"{_EXTENSIONS[20:]}upstreams.http.v3.HttpProtocolOptions": protocol},
        "transport_socket": {"name": "tls", "typed_config": tls},
    }


def _gate_listener(gates: list[Gate], access_log: str) -> Json:
    return {
        "name": "gates",
        "address": _address(Ip("::"), HBONE),
        "filter_chains": [_gate_chain(gate, access_log) for gate in gates],
    }


def _gate_chain(gate: Gate, access_log: str) -> Json:
    limits = {"max_requests_per_connection": gate.streams_per_tunnel} if gate.streams_per_tunnel else {}
    manager = {
        "@type": f"{_EXTENSIONS}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": gate.name,
        "codec_type": "HTTP2",
        "common_http_protocol_options": limits,
        "http2_protocol_options": {"allow_connect": True, **gate.http2},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_gate_route(gate)]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_EXTENSIONS}filters.http.router.v3.Router"}},
        ],
        "access_log": [{"name": "file", "typed_config": _access_log(access_log)}],
    }
    tls = {
        "@type": f"{_EXTENSIONS}transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": _tls(gate.credentials, gate.admits),
        "require_client_certificate": True,
    }
    return {
        "filter_chain_match": {
            "prefix_ranges": [{"address_prefix": ip, "prefix_len": 128 if is_ipv6(ip) else 32} for ip in gate.addresses]
        },
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": {"name": "tls", "typed_config": tls},
    }


def _gate_route(gate: Gate) -> Json:
    match: Json = {"match": {"connect_matcher": {}}}
    if gate.answer:
        return match | {"direct_response": {"status": gate.answer}}
    terminate = {"upgrade_type": "CONNECT", "connect_config": {}}
    return match | {"route": {"cluster": f"gate.{gate.name}", "timeout": "0s", "upgrade_configs": [terminate]}}


def _access_log(path: str) -> Json:
    return {
        "@type": f"{_EXTENSIONS}access_loggers.file.v3.FileAccessLog",
        "path": path,
        "log_format": {
            "json_format": {
                "peer": "%DOWNSTREAM_PEER_URI_SAN%",
                "tls": "%DOWNSTREAM_TLS_VERSION%",
                "method": "%REQ(:METHOD)%",
                "authority": "%REQ(:AUTHORITY)%",
                "forwarded": "%REQ(FORWARDED)%",
                "baggage": "%REQ(BAGGAGE)%",
            }
        },
    }


def _application(gate: Gate) -> Json:
    return _cluster(f"gate.{gate.name}", gate.beside, gate.application)


def _cluster(name: str, ip: Ip, port: int) -> Json:
    endpoint = {"endpoint": {"address": _address(ip, port)}}
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), _UNLIMITED)
    return {
        "name": name,
        "connect_timeout": "3s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _tls(credentials: Credentials, peer: Identity) -> Json:
    pem, roots = ({"inline_string": one.decode()} for one in (credentials.pem, credentials.roots))
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [{"certificate_chain": pem, "private_key": pem}],
        "validation_context": {
            "trusted_ca": roots,
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": str(peer)}}],
        },
    }


def _address(ip: Ip, port: int) -> Json:
    return {"socket_address": {"address": ip, "port_value": port, "ipv4_compat": is_ipv6(ip)}}
