# SPDX-License-Identifier: Apache-2.0
"""How property tests draw, and a certificate authority, whose keys live in memory or in a test's tmp_path."""

import itertools
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, settings

from nodeagent.logs.levels import LogLevels, put_in_force

# CI judges a change, so it draws the same cases for the same code; whoever works on the code explores.
# No deadline for an example, and none for drawing it: on a busy machine they would judge the neighbours. The timeout of
# pytest ends what hangs.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("exploring", _UNTIMED)
settings.register_profile("repeatable", _UNTIMED, derandomize=True)
settings.load_profile("repeatable" if os.environ.get("CI") else "exploring")

_serials = itertools.count(1000)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class TinyCa:
    """A root, or an intermediate below `parent`. Signs whatever it is asked for.

    Some Kubernetes distributions' root and leaves have no key identifiers: `has_key_identifiers` is false.
    """

    def __init__(
        self, name: str = "Test Root", parent: "TinyCa | None" = None, *, has_key_identifiers: bool = True
    ) -> None:
        self.parent = parent
        self._has_key_identifiers = has_key_identifiers
        self.name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        signer = parent or self
        now = datetime.now(UTC)
        builder = (
            self._builder(self.name, self._key.public_key(), now - timedelta(days=1), now + timedelta(days=3650))
            .issuer_name(signer.name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )
        if has_key_identifiers:
            builder = builder.add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
        self.certificate = builder.sign(signer._key, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def intermediate(self, name: str = "Test Intermediate") -> "TinyCa":
        return TinyCa(name, parent=self)

    def sign(
        self,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> str:
        """A leaf, PEM."""
        now = datetime.now(UTC)
        builder = self._builder(
            x509.Name([]), key, not_before or now - timedelta(minutes=2), not_after or now + timedelta(days=1)
        ).issuer_name(self.name)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        if self._has_key_identifiers:
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def sign_request(
        self,
        csr_pem: str,
        uri: str,
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> str:
        """What istiod does: the name is what the caller says, the key is the request's."""
        key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return self.sign(key, [x509.UniformResourceIdentifier(uri)], not_before=not_before, not_after=not_after)

    def server(self, *dns_names: str) -> tuple[bytes, bytes]:
        """Key and certificate of a server, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        return _pem_key(key), self.sign(key.public_key(), [x509.DNSName(name) for name in dns_names]).encode()

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, not_before: datetime, not_after: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(key)
            .serial_number(next(_serials))
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a test that sets up this process's logging: what the next one finds is as it was."""
    monkeypatch.setenv("GRPC_VERBOSITY", "INFO")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    put_in_force(LogLevels())
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def held_port() -> Iterator[int]:
    """A port of loopback at which nobody listens, and which nobody is given while the test lasts.

    A port that was only looked up may be another process's a moment later. Whoever sets SO_REUSEADDR or SO_REUSEPORT,
    as servers do, may bind to it and listen.
    """
    with socket.socket() as holder:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            holder.setsockopt(socket.SOL_SOCKET, option, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port


@pytest.fixture
def tiny_ca() -> TinyCa:
    return TinyCa()


@pytest.fixture
def make_ca() -> type[TinyCa]:
    """For tests that need more than one."""
    return TinyCa
