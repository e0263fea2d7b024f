# SPDX-License-Identifier: Apache-2.0
"""A peer of the lab's own on the inter-node link, by plain OpenSSL: who workers prove to be, and whom they believe.

It has the mesh's CA sign whatever name it wants to carry, so it can be the peer that a worker expects, one with another
name, or one of another CA. It speaks TLS only: of HTTP/2 it knows how a client asks for something, and answers nothing.
"""

import contextlib
import datetime as dt
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.controlplane.authority import open_authority
from nodeagent.controlplane.ca import CertificateAuthority
from nodeagent.controlplane.state import StateDirectory
from nodeagent.lab.namespaces import Host
from nodeagent.lab.packets import HBONE_PORT
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity

SECONDS = 30.0
_PREFACE_BYTES = 24
_FRAME_HEADER = struct.Struct("!HBBBI")  # 24 bits of length, type, flags, stream (RFC 9113 §3.4, §4.1)
_HEADERS = 1
TRUST_DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Proof:
    """What the peer's certificate says, which TLS has verified against the mesh's root."""

    identity: str
    serial: str


@dataclass(frozen=True)
class Visit:
    """How a worker's tunnel to the stranger began."""

    client: Proof | None
    """None when it did not even finish the handshake."""
    is_believed: bool
    """It asked for a connection. (That it speaks HTTP/2 is no secret; whom it wants to reach for whom is.)"""


class Stranger:
    def __init__(self, host: Host, control_plane_state: Path, directory: Path) -> None:
        """`directory` gets keys and certificates. The control plane has made the mesh's root already."""
        self._host, self._directory = host, directory
        self._root = control_plane_state / "root-cert.pem"
        self._mesh = open_authority(StateDirectory(control_plane_state), TRUST_DOMAIN, _now())
        self._other = open_authority(StateDirectory(directory / "other-ca"), TRUST_DOMAIN, _now())

    def proof_of(self, ip: Ip) -> Proof:
        """What the worker behind a pod's address shows to any client. Raises OSError."""
        with self._connected(ip, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as tls:
            return _proof(tls)

    def is_turned_away(self, ip: Ip, name: Identity | None, *, is_known_ca: bool = True) -> bool:
        """Whether the worker there ends a connection of a client with this certificate (None: without one)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if name is not None:
            context.load_cert_chain(self._certificate(name, self._mesh if is_known_ca else self._other))
        with self._connected(ip, context) as tls:
            # In TLS 1.3 the client is done before the server has looked at its certificate.
            try:
                return tls.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:  # the alert, or a reset
                return True

    @contextlib.contextmanager
    def listening(self) -> Iterator[socket.socket]:
        with self._host.listen(HBONE_PORT) as listener:
            listener.settimeout(SECONDS)
            yield listener

    def receive(self, listener: socket.socket, name: Identity, *, is_known_ca: bool = True) -> Visit:
        """The next tunnel, by a server with this name. Raises TimeoutError when none comes."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._certificate(name, self._mesh if is_known_ca else self._other))
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(SECONDS)
            try:
                with self._secured(connection, context, is_server=True) as tls:
                    client = _proof(tls)
                    return Visit(client, _asks(tls))
            except OSError:
                return Visit(None, is_believed=False)

    @contextlib.contextmanager
    def _connected(self, ip: Ip, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
        context.check_hostname = False
        with (
            self._host.connect(ip, HBONE_PORT, seconds=SECONDS) as connection,
            self._secured(connection, context, is_server=False) as tls,
        ):
            yield tls

    def _secured(self, connection: socket.socket, context: ssl.SSLContext, *, is_server: bool) -> ssl.SSLSocket:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"])
        context.load_verify_locations(self._root)
        return context.wrap_socket(connection, server_side=is_server)

    def _certificate(self, name: Identity, authority: CertificateAuthority) -> Path:
        """A file with a new key and the chain."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        csr = request.public_bytes(serialization.Encoding.PEM).decode()
        chain = authority.sign(csr, name, seconds=600, now=_now()).chain
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self._directory / "certificate.pem"
        path.touch(mode=0o600)
        path.write_bytes(key_pem + "".join(chain).encode())
        return path


def _asks(tls: ssl.SSLSocket) -> bool:
    """Whether a HEADERS frame comes before the end."""
    received, at = b"", _PREFACE_BYTES
    try:
        while some := tls.recv(65536):
            received += some
            while len(received) >= at + _FRAME_HEADER.size:
                high, low, kind, _, _ = _FRAME_HEADER.unpack_from(received, at)
                if kind == _HEADERS:
                    return True
                at += _FRAME_HEADER.size + (high << 8 | low)
    except OSError:
        pass  # cut short: what came before is all there is
    return False


def _proof(tls: ssl.SSLSocket) -> Proof:
    certificate = tls.getpeercert() or {}
    names = [str(name[1]) for name in certificate.get("subjectAltName", ()) if name[0] == "URI"]
    return Proof(" ".join(names), str(certificate.get("serialNumber", "")))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
