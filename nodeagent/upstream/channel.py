# SPDX-License-Identifier: Apache-2.0
"""The gRPC channel to the control plane: where it is, how it proves who it is, how we prove who we are.

gRPC's exceptions are mapped here, once, for both clients. Token and root certificate are read from their files at each
use, because both are replaced under a running agent (kubelet rotates the token, a CA change the roots). The token is
never sent in plain text, never logged and never part of an error.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from cryptography import x509
from grpc import aio

from nodeagent.config import Config
from nodeagent.errors import ConfigError, ControlPlaneError
from nodeagent.model.address import join_host_port

MAX_MESSAGE_BYTES = 200 << 20
"""The first answer carries the whole mesh in one message; ztunnel's limit."""
MAX_ERROR_TEXT = 300
"""Characters of a foreign error message that are kept: it goes to a log line."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # istiod punishes pings that come closer than 15 s; without data in between gRPC would stop after two.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The name of the option misleads: it is also the time that one connect may take. The default is 20 s.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # A channel of its own connection: with the shared pool a new channel would inherit an old one's roots and backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # HTTPS_PROXY is for the world outside, and would see who talks to the control plane.
    ("grpc.enable_http_proxy", 0),
    # One layer retries, and it is ours.
    ("grpc.enable_retries", 0),
)

_CHECKS = {
    grpc.StatusCode.UNAUTHENTICATED: "Is the token file current and made for this control plane? Is --cluster right?",
    grpc.StatusCode.PERMISSION_DENIED: "Do node, namespace and service account agree with the token?",
    grpc.StatusCode.UNAVAILABLE: (
        "Is the control plane running at this address? Does its certificate carry the server name, "
        "and is the root certificate file that of its CA?"
    ),
    grpc.StatusCode.UNIMPLEMENTED: "Is this the port of a control plane? istiod's CA is on 15012 only.",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "A message was larger than a limit; for istiod see ISTIO_GPRC_MAXRECVMSGSIZE.",
}


class CallFailed(ControlPlaneError):
    """A call ended with this gRPC status."""

    def __init__(self, message: str, *, code: grpc.StatusCode, check: str = "") -> None:
        super().__init__(message, check=check)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One service of the control plane."""

    target: str
    """`host:port`."""
    is_tls: bool
    server_name: str
    """What the certificate must carry; empty: the host of `target`."""
    root_file: str
    token_file: str
    cluster: str

    @property
    def url(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.target}"


def xds_upstream(config: Config) -> Upstream:
    """Raises ConfigError for an address that is none."""
    return _parse("--xds-address", config.xds_address, config)


def ca_upstream(config: Config) -> Upstream:
    """Raises ConfigError for an address that is none, and for plain text, where anybody could give us roots."""
    upstream = _parse("--ca-address", config.ca_address or config.xds_address, config)
    if not upstream.is_tls:
        raise ConfigError(
            f"--ca-address: {upstream.url} is plain text", check="Certificates are fetched over https:// only."
        )
    return upstream


def _parse(flag: str, address: str, config: Config) -> Upstream:
    """Without a scheme https is meant, as in ztunnel."""
    try:
        parts = urlsplit(address if "://" in address else f"https://{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{flag}: {address!r}: {error}", check="Expected: https://host:port.") from error
    if parts.scheme not in {"https", "http"} or not host or not port or parts.path.strip("/") or parts.username:
        raise ConfigError(f"{flag}: {address!r} is not https://host:port", check="Expected: https://host:port.")
    return Upstream(
        target=join_host_port(host, port),
        is_tls=parts.scheme == "https",
        server_name=config.server_name,
        root_file=config.root_certificate,
        token_file=config.token,
        cluster=config.cluster,
    )


def read_roots(upstream: Upstream) -> bytes:
    """The PEM text of the root file; empty for plain text. Raises ControlPlaneError when it holds no certificate."""
    if not upstream.is_tls:
        return b""
    pem = _read(upstream.root_file, "root certificate")
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ControlPlaneError(
            f"root certificate file {upstream.root_file}: not a certificate in PEM",
            check="It should hold the roots of the control plane's CA (ConfigMap istio-ca-root-cert).",
        ) from error
    return pem


def read_metadata(upstream: Upstream) -> tuple[tuple[str, str], ...]:
    """The headers of a call. Raises ControlPlaneError when there is no usable token.

    Over plain text (istiod's 15010, which asks for none) the token stays at home.
    """
    cluster = ("clusterid", upstream.cluster)
    if not upstream.is_tls:
        return (cluster,)
    token = _read(upstream.token_file, "token").strip()
    if not token or not token.isascii() or not token.decode("ascii").isprintable() or b" " in token:
        raise ControlPlaneError(
            f"token file {upstream.token_file}: not a token", check="It should hold one bearer token and nothing else."
        )
    return (("authorization", f"Bearer {token.decode('ascii')}"), cluster)


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ControlPlaneError(
            f"{what} file {path}: {error.strerror}",
            check="Is the volume mounted, or the path right? It is tried again.",
        ) from error


def open_channel(upstream: Upstream, roots: bytes) -> aio.Channel:
    """Connects when it is first used. `roots` comes from `read_roots`."""
    options: list[tuple[str, int | str]] = list(_OPTIONS)
    if not upstream.is_tls:
        return aio.insecure_channel(upstream.target, options=options)
    if upstream.server_name:
        options.append(("grpc.ssl_target_name_override", upstream.server_name))
    return aio.secure_channel(upstream.target, grpc.ssl_channel_credentials(roots), options=options)


def failure(upstream: Upstream, code: grpc.StatusCode, details: str | None) -> CallFailed:
    """One line, bounded and printable, because the other end wrote it."""
    text = "".join(character if character.isprintable() else " " for character in (details or "").strip())
    if len(text) > MAX_ERROR_TEXT:
        text = text[:MAX_ERROR_TEXT] + "..."
    return CallFailed(
        f"{upstream.url}: {code.name}{': ' if text else ''}{text}", code=code, check=_CHECKS.get(code, "")
    )
