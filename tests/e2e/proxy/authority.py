# SPDX-License-Identifier: Apache-2.0
"""A certificate authority of a test, and files for worker and peer that no disk sees."""

import datetime as dt
import os
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.tls.certificate_name import name_of


class Authority:
    """A certificate authority; its keys live as long as the test."""

    def __init__(self, name: str = "root") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.issued: list[bytes] = []
        """Names of all certificates so far, as lists of revoked ones have them."""
        self._certificate = (
            self._builder(self._name, self._key.public_key(), 3600)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def roots(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str, seconds: int = 3600) -> bytes:
        """Key and chain, PEM, with these URI names."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(x509.Name([]), key.public_key(), seconds)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names]), critical=True
            )
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.issued.append(name_of(certificate.public_bytes(serialization.Encoding.DER)))
        return private + certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def own_name(self) -> bytes:
        return name_of(self._certificate.public_bytes(serialization.Encoding.DER))

    def _builder(self, subject: x509.Name, key: Any, seconds: int) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(seconds=60))
            .not_valid_after(now + dt.timedelta(seconds=seconds))
        )


def memfd(contents: bytes) -> int:
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    os.write(fd, contents)
    return fd
