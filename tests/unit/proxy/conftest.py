# SPDX-License-Identifier: Apache-2.0
"""A mesh's authority, certificates as memfds, a clock that the test moves, and two tunnels that are joined."""

import datetime as dt
import os
from collections.abc import Callable, Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nodeagent.model.reason import Reason
from nodeagent.proxy import lane
from nodeagent.proxy.messages import WorkerConfig
from nodeagent.proxy.secrets_pipe import SecretsPipe
from tests.unit.proxy.emulated import emulate
from tests.unit.proxy.joined import EMULATED, KERNEL, RECORDS, Issue, Joined, kernel_tls


class Clock:
    """Monotonic time as the test says it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["compiled", "Python"])
def hot_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What carries payload: each is tried, since the second is the reference for the first."""
    if request.param == "compiled":
        assert lane.compiled is not None, "make build/.developer compiles it"
    else:
        monkeypatch.setattr(lane, "compiled", None)
    return str(request.param)


@pytest.fixture
def config() -> WorkerConfig:
    return WorkerConfig(
        node="node",
        cluster="Kubernetes",
        network="",
        trust_domain="cluster.local",
        drain_seconds=5,
        policy_wait_seconds=1,
        pool_idle_seconds=300,
        pool_streams=100,
        connect_seconds=3,
        handshake_seconds=2,
        max_connections=100,
    )


def _build(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
    )


@pytest.fixture
def authority() -> Iterator[Callable[[], Issue]]:
    """Makes authorities; each issues (path of key and chain, path of roots) for URI names, as memfds."""
    fds: list[int] = []

    def memfd(contents: bytes) -> str:
        fds.append(os.memfd_create("pem"))
        os.write(fds[-1], contents)
        return f"/proc/self/fd/{fds[-1]}"

    def make() -> Issue:
        root_key, name = (
            ec.generate_private_key(ec.SECP256R1()),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "r")]),
        )
        root = (
            _build(name, name, root_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(root_key, hashes.SHA256())
        )
        roots = memfd(root.public_bytes(serialization.Encoding.PEM))

        def issue(*names: str) -> tuple[str, str]:
            key = ec.generate_private_key(ec.SECP256R1())
            alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(each) for each in names])
            leaf = (
                _build(x509.Name([]), name, key.public_key())
                .add_extension(alternative, critical=True)
                .sign(root_key, hashes.SHA256())
            )
            private = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            return memfd(private + leaf.public_bytes(serialization.Encoding.PEM)), roots

        return issue

    yield make
    for fd in fds:
        os.close(fd)


@pytest.fixture
def emulation(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """When it is called, tests may use EmulatedSocket."""
    return lambda: emulate(monkeypatch)


@pytest.fixture(params=RECORDS)
def joined(
    request: pytest.FixtureRequest,
    authority: Callable[[], Issue],
    clock: Clock,
    emulation: Callable[[], None],
) -> Iterator[Joined]:
    pipe, found = SecretsPipe(), None
    if request.param == "emulated kernel":
        emulation()
        found = EMULATED
    elif request.param == KERNEL:
        found = kernel_tls()
    made = Joined(authority(), clock, pipe if request.param != "records by OpenSSL" else None, found)
    yield made
    pipe.close()
    assert made.counters["kernel_tls_failed"] == 0
    for tunnel in (made.client, made.server):
        tunnel.fail(Reason.DRAINED, "")
    assert made.client_owner.end is not None
    assert made.server_owner.end is not None
    assert made.loop.watched == 0
