# SPDX-License-Identifier: Apache-2.0
"""A tunnel that carries nothing, against a peer on loopback that does each thing that a peer may do."""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import UniformResourceIdentifier

from nodeagent.admin.state import ProbedNode
from nodeagent.agent import empty_tunnel as module
from nodeagent.agent.empty_tunnel import Attempt, try_tunnel
from nodeagent.certs.bundle import CertificateBundle
from nodeagent.hbone.connection import Connection
from nodeagent.hbone.limits import Role
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.security import Security
from nodeagent.model.workload import Workload
from nodeagent.proxy.tls import make_context
from tests.unit.conftest import TinyCa

LOOPBACK = Ip("127.0.0.1")
WEB = Workload(uid="web", name="web", namespace="shop", node="node-a", service_account="web")
DB = Workload(uid="db", name="db", namespace="shop", node="node-b", service_account="db")
Behave = Callable[[socket.socket], None]


def bundle(ca: TinyCa, identity: Identity, trusted: TinyCa | None = None) -> CertificateBundle:
    key = ec.generate_private_key(ec.SECP256R1())
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = ca.sign(key.public_key(), [UniformResourceIdentifier(str(identity))])
    now = datetime.now(UTC)
    return CertificateBundle(encoded, chain.encode(), (trusted or ca).pem.encode(), "1f", now, now)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the tester's own network namespace, which takes no privilege."""
    monkeypatch.setattr(module, "enter_netns", lambda _path: contextlib.nullcontext())


class Peer:
    """Serves connections with `behave`, one after the other, until it is closed."""

    def __init__(self, behave: Behave) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._behave, self.ends = behave, list[str]()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client:
                    try:
                        self._behave(client)
                        self.ends.append("clean")
                    except OSError as error:
                        self.ends.append(type(error).__name__)

    def close(self) -> None:
        """Twice is once."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Behave], Peer]]:
    with contextlib.ExitStack() as stack:

        def make(behave: Behave) -> Peer:
            made = Peer(behave)
            stack.callback(made.close)
            monkeypatch.setattr(module, "HBONE_PORT", made.port)
            return made

        yield make


def shake_hands(tls: ssl.SSLSocket) -> None:
    """One that refuses still reads: what is unread at a close is answered by a reset, which overtakes the alert."""
    try:
        tls.do_handshake()
    except ssl.SSLError:
        socket.socket.shutdown(tls, socket.SHUT_WR)
        while socket.socket.recv(tls, 65536):
            pass
        raise


def hbone(ca: TinyCa, identity: Identity = DB.identity, trusted: TinyCa | None = None) -> Behave:
    """Answers PINGs until the client says close_notify; anything else that ends it is an OSError."""

    def behave(client: socket.socket) -> None:
        own = bundle(ca, identity, trusted)
        with contextlib.ExitStack() as stack:
            paths = []
            for content in (own.key_pem + own.chain_pem, own.roots_pem):
                descriptor = os.memfd_create("pem")
                stack.callback(os.close, descriptor)
                os.write(descriptor, content)
                paths.append(f"/proc/self/fd/{descriptor}")
            context = make_context(paths[0], paths[1], is_server=True)
        with context.wrap_socket(client, server_side=True, do_handshake_on_connect=False) as tls:
            shake_hands(tls)
            connection = Connection(Role.SERVER)
            while True:
                while connection.has_pending:
                    connection.taken(tls.send(connection.pending()))
                plain = tls.recv(65536)
                if not plain:
                    if not connection.is_draining:
                        raise ConnectionError("it ended without GOAWAY")
                    return
                connection.received(memoryview(plain))

    return behave


def attempt(
    ca: TinyCa, *, seconds: float = 20.0, security: Security | None = None, stop: threading.Event | None = None
) -> ProbedNode:
    return try_tunnel(
        Attempt(WEB, LOOPBACK, DB, LOOPBACK),
        bundle(ca, WEB.identity),
        security or Security(),
        netns="/netns/proxy",
        seconds=seconds,
        stop=stop or threading.Event(),
    )


def test_a_tunnel(tiny_ca: TinyCa, peer: Callable[[Behave], Peer]) -> None:
    other = peer(hbone(tiny_ca))
    found = attempt(tiny_ca)
    assert (found.reason, found.error) == (None, "")
    assert (found.here, found.node, found.source, found.destination) == ("node-a", "node-b", "shop/web", "shop/db")
    assert 0 < found.round_trip_seconds < found.handshake_seconds
    assert found.connect_seconds > 0
    other.close()
    assert other.ends == ["clean"], "it ended with GOAWAY and close_notify, and no reset"


def closes(client: socket.socket) -> None:
    client.recv(1)


def speaks_no_tls(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client.recv(65536)


def without_h2(ca: TinyCa) -> Behave:
    def behave(client: socket.socket) -> None:
        own = bundle(ca, DB.identity)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        descriptor = os.memfd_create("pem")
        os.write(descriptor, own.key_pem + own.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        os.close(descriptor)
        with context.wrap_socket(client, server_side=True) as tls:
            tls.recv(65536)

    return behave


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(lambda _ca: closes, Reason.PEER_LOST, id="closes"),
        pytest.param(lambda _ca: speaks_no_tls, Reason.TLS_NOT_TLS, id="no TLS"),
        pytest.param(without_h2, Reason.TLS_FAILED, id="no h2"),
        pytest.param(lambda ca: hbone(ca, WEB.identity), Reason.TLS_WRONG_IDENTITY, id="somebody else"),
        pytest.param(lambda _ca: hbone(TinyCa()), Reason.TLS_UNKNOWN_CA, id="another mesh"),
        pytest.param(lambda ca: hbone(ca, trusted=TinyCa("Other")), Reason.TLS_UNKNOWN_CA, id="does not believe us"),
    ],
)
def test_what_goes_wrong_has_a_reason(
    tiny_ca: TinyCa, peer: Callable[[Behave], Peer], behaviour: Callable[[TinyCa], Behave], reason: Reason
) -> None:
    peer(behaviour(tiny_ca))
    found = attempt(tiny_ca)
    assert (found.reason, bool(found.error)) == (reason, True)
    assert found.connect_seconds > 0
    assert found.round_trip_seconds == 0


def test_nobody_listens(tiny_ca: TinyCa, held_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HBONE_PORT", held_port)
    found = attempt(tiny_ca)
    assert (found.reason, found.connect_seconds) == (Reason.CONNECT_REFUSED, 0)
    assert str(held_port) in found.error


def test_a_peer_that_says_nothing(tiny_ca: TinyCa, peer: Callable[[Behave], Peer]) -> None:
    def silent(client: socket.socket) -> None:
        while client.recv(65536):
            pass

    peer(silent)
    found = attempt(tiny_ca, seconds=1.5)
    assert (found.reason, found.error) == (Reason.TLS_TIMEOUT, "nothing within 1.5 s")


class StoppedSoon(threading.Event):
    """Is set when it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    def is_set(self) -> bool:
        self._looks -= 1
        return self._looks < 0


def test_a_stop_ends_the_wait_for_a_peer_that_says_nothing(
    tiny_ca: TinyCa, peer: Callable[[Behave], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(client: socket.socket) -> None:
        while client.recv(65536):
            pass

    peer(silent)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    found = attempt(tiny_ca, seconds=3600, stop=StoppedSoon(looks=20))
    assert (found.reason, found.handshake_seconds) == (Reason.TLS_TIMEOUT, 0)


def test_a_stop_ends_the_wait_for_a_connection(tiny_ca: TinyCa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    with socket.create_server((LOOPBACK, 0), backlog=0) as full:
        monkeypatch.setattr(module, "HBONE_PORT", full.getsockname()[1])
        with socket.create_connection(full.getsockname()):  # the only place of its queue: further SYNs are dropped
            found = attempt(tiny_ca, seconds=3600, stop=StoppedSoon(looks=20))
    assert (found.reason, found.connect_seconds) == (Reason.CONNECT_TIMEOUT, 0)


def test_who_is_stopped_before_does_not_connect(tiny_ca: TinyCa, peer: Callable[[Behave], Peer]) -> None:
    other, stop = peer(closes), threading.Event()
    stop.set()
    assert attempt(tiny_ca, stop=stop).connect_seconds == 0
    other.close()
    assert other.ends == []
