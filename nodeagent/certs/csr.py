# SPDX-License-Identifier: Apache-2.0
"""A fresh key and the request to certify it. One key per request, so that no key outlives its certificate."""

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.model.identity import Identity


@dataclass(frozen=True, slots=True)
class SigningRequest:
    identity: Identity
    csr_pem: bytes
    public_key: bytes
    """DER SubjectPublicKeyInfo: what the certificate must certify."""
    key_pem: bytes = field(repr=False)


def make_request(identity: Identity) -> SigningRequest:
    """A P-256 key; the request says nothing but the SPIFFE id (istiod ignores even that, other CAs do not)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(name, critical=True)  # RFC 5280 §4.2.1.6: with an empty subject
        .sign(key, hashes.SHA256())
    )
    return SigningRequest(
        identity,
        csr_pem=request.public_bytes(serialization.Encoding.PEM),
        public_key=spki(key.public_key()),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
