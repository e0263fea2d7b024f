# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: delta xDS and the certificate service on one TLS port."""

import datetime as dt
import errno
import logging
import socket
from collections.abc import Callable, Sequence

import grpc
import grpc.aio

from nodeagent.controlplane.ca import SERVING_LIFE, AuthorityNotValid, CertificateAuthority
from nodeagent.controlplane.clients import MAX_CLIENTS, Clients
from nodeagent.controlplane.discovery import DiscoveryService
from nodeagent.controlplane.gate import Gate
from nodeagent.controlplane.issue import CertificateService, NoteIssued
from nodeagent.controlplane.publisher import Publisher
from nodeagent.errors import ConfigError, MissingPrivilege, PortInUse
from nodeagent.model.address import join_host_port, split_host_port
from nodeagent.proto import ca_pb2_grpc, xds_pb2_grpc

_log = logging.getLogger(__name__)

_OPTIONS: Sequence[tuple[str, int]] = (
    # Off, or a second control plane on the same port would quietly get half of the connections.
    ("grpc.so_reuseport", 0),
    # As istiod: a ping every 30 s, answered within 10; agents may ping every 5 s, also without a stream.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # A resume names everything that the client holds: room for 150,000 resources.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # What agents and ztunnels take. delta.py cuts long before.
    ("grpc.max_send_message_length", 200 * 1024 * 1024),
    # An agent has one stream and up to eight requests for certificates on a connection.
    ("grpc.max_concurrent_streams", 64),
    # Who connects and says nothing is let go; the default is two minutes.
    ("grpc.server_handshake_timeout_ms", 10_000),
)
_CALLS_BESIDE_STREAMS = 2_000
"""Requests for certificates at a time, and streams that are about to be refused; more are turned away by gRPC."""
STOP_SECONDS = 0.5
"""For what does not end by itself: a stream whose client reads nothing, a request that is under way."""


class Server:
    """Both services on one port."""

    def __init__(
        self,
        gate: Gate,
        publisher: Publisher,
        authority: Callable[[], CertificateAuthority],
        note_issued: NoteIssued | None = None,
    ) -> None:
        """`authority` gives the one in use: the serving certificate follows it, too."""
        self._authority = authority
        self.clients = Clients()
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CLIENTS + _CALLS_BESIDE_STREAMS)
        xds_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(
            DiscoveryService(gate, publisher, self.clients), self._server
        )
        ca_pb2_grpc.add_IstioCertificateServiceServicer_to_server(
            CertificateService(gate, publisher, authority, note_issued), self._server
        )

    async def start(self, listen: str, names: Sequence[str]) -> str:
        """Returns the address in use, with the port that was chosen for `:0`.

        Raises ConfigError, PortInUse or MissingPrivilege.
        """
        host, port = _check_address(listen)
        credentials = self._credentials([*names, *_addresses(host)])
        try:
            bound = self._server.add_secure_port(join_host_port(host, port), credentials)
        except RuntimeError as error:
            raise PortInUse(f"{listen}: cannot listen: {error}") from error
        await self._server.start()
        return join_host_port(host, bound)

    async def stop(self) -> None:
        # Told, not torn off: clients come back at once, and gRPC has no handler to cancel (it would log a traceback).
        self.clients.end_all("the control plane is stopping")
        await self._server.stop(STOP_SECONDS)

    def _credentials(self, names: Sequence[str]) -> grpc.ServerCredentials:
        """Made again, at the next connection, when half of its life is over or another authority is in use."""
        made, authority = dt.datetime.now(dt.UTC), self._authority()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal made, authority
            now, current = dt.datetime.now(dt.UTC), self._authority()
            if current is authority and now - made < SERVING_LIFE / 2:
                return None
            try:
                configuration = _configuration(current, names, now)
            except AuthorityNotValid as error:
                _log.error("the serving certificate cannot be renewed: %s", error)
                return None
            made, authority = now, current
            return configuration

        # None means to gRPC that the last one stays; its stubs do not know.
        return grpc.dynamic_ssl_server_credentials(_configuration(authority, names, made), fetch)  # type: ignore[arg-type]


def _configuration(
    authority: CertificateAuthority, names: Sequence[str], now: dt.datetime
) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([authority.serving_certificate(names, now)])


def _addresses(host: str) -> list[str]:
    """The host itself, unless it stands for all addresses."""
    return [] if host in {"0.0.0.0", "::", "localhost"} else [host]  # noqa: S104 - compared, not bound


def _check_address(listen: str) -> tuple[str, int]:
    """Binds and lets go: gRPC's own answer does not tell a taken port from a foreign address."""
    host, separator, port_text = listen.rpartition(":")
    try:
        port = 0 if separator and port_text == "0" else split_host_port(listen)[1]
        host = host.removeprefix("[").removesuffix("]")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"--listen {listen}: {error}", check="Expected is HOST:PORT, such as 127.0.0.1:15012."
        ) from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except PermissionError as error:
            raise MissingPrivilege(f"--listen {listen}: {error.strerror}") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(f"--listen {listen}: {error.strerror}") from error
            raise ConfigError(
                f"--listen {listen}: {error.strerror}", check="Is this an address of this host?"
            ) from error
    return host, port
