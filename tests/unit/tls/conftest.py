# SPDX-License-Identifier: Apache-2.0
"""OpenSSL as the peer: handshakes in memory, of any suite, whose secrets are known."""

import _ssl
import contextlib
import ctypes
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.tls.keylog import TrafficSecrets


def offer(context: ssl.SSLContext, suite: str) -> None:
    """Only this suite of TLS 1.3, for which Python has no call before 3.15.

    The pointer to OpenSSL's SSL_CTX is the first field of the Python object.
    """
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    library = ctypes.CDLL(_ssl.__file__)
    assert library.SSL_CTX_set_ciphersuites(address, suite.encode())


@dataclass
class OpenSsl:
    """One end. `secrets` are those that it logged for this connection; `sent` is what the last step gave."""

    context: ssl.SSLContext
    is_server: bool
    secrets: TrafficSecrets = field(default_factory=TrafficSecrets)

    def __post_init__(self) -> None:
        self.incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.context.wrap_bio(self.incoming, self._outgoing, server_side=self.is_server)
        self.is_done, self.sent = False, b""

    def step(self, ciphertext: bytes = b"") -> bytes:
        """Of the handshake. Returns what is to be sent; raises ssl.SSLError."""
        if self.is_server:
            self.secrets.hello.received(ciphertext)
        self.incoming.write(ciphertext)
        try:
            self.tls.do_handshake()
            self.is_done = True
        except ssl.SSLWantReadError:
            pass
        finally:
            self.sent = self._outgoing.read()
            if not self.is_server:
                self.secrets.hello.received(self.sent)
            self.secrets.logged(Path(self.context.keylog_filename).read_bytes())
        return self.sent

    def seal(self, plain: bytes) -> bytes:
        self.tls.write(plain)
        return self._outgoing.read()

    def open(self, ciphertext: bytes) -> bytes:
        """Empty at a clean close, too."""
        self.incoming.write(ciphertext)
        plain = b""
        try:
            while opened := self.tls.read(1 << 16):
                plain += opened
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return plain

    def close(self) -> bytes:
        """close_notify."""
        with contextlib.suppress(ssl.SSLError):  # it would wait for the other end's
            self.tls.unwrap()
        return self._outgoing.read()

    def take(self) -> bytes:
        return self._outgoing.read()

    @property
    def suite(self) -> str:
        cipher = self.tls.cipher()
        assert cipher is not None
        return cipher[0]


@dataclass
class Contexts:
    client: ssl.SSLContext
    server: ssl.SSLContext

    def ends(self) -> tuple[OpenSsl, OpenSsl]:
        return OpenSsl(self.client, is_server=False), OpenSsl(self.server, is_server=True)

    def shake_hands(self) -> tuple[OpenSsl, OpenSsl, bytes, bytes]:
        """Client, server, and what each has sent that the other has not read."""
        client, server = self.ends()
        to_client = server.step(client.step())
        to_server = client.step(to_client)
        to_client = server.step(to_server)
        assert client.is_done
        assert server.is_done
        return client, server, to_client, b""


MakeContexts = Callable[..., Contexts]


@pytest.fixture
def certificate(make_ca: Callable[[], object], tmp_path: Path) -> Path:
    """Key and certificate of a server, and the root beside it."""
    ca = make_ca()
    key, chain = ca.server("peer.test")  # type: ignore[attr-defined]
    path = tmp_path / "server.pem"
    path.write_bytes(key + chain)
    (tmp_path / "root.pem").write_text(ca.pem)  # type: ignore[attr-defined]
    return path


@pytest.fixture
def contexts(certificate: Path, tmp_path: Path) -> MakeContexts:
    """Contexts that log their secrets, for a suite."""

    def make(suite: str, *, tickets: int = 0) -> Contexts:
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        server.load_cert_chain(certificate)
        server.num_tickets = tickets
        client.load_verify_locations(certificate.with_name("root.pem"))
        client.check_hostname = False
        for name, context in (("server", server), ("client", client)):
            offer(context, suite)
            context.keylog_filename = str(tmp_path / f"{name}.log")
        return Contexts(client, server)

    return make
