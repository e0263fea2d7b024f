# SPDX-License-Identifier: Apache-2.0
"""Keys and requests: a new P-256 key each time, and nothing said but the identity."""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nodeagent.certs.csr import make_request, spki
from nodeagent.model.identity import Identity

WEB = Identity("cluster.local", "shop", "web")


def test_the_request_says_the_identity_and_nothing_else() -> None:
    csr = x509.load_pem_x509_csr(make_request(WEB).csr_pem)

    assert csr.is_signature_valid
    assert list(csr.subject) == []
    (extension,) = csr.extensions
    assert isinstance(extension.value, x509.SubjectAlternativeName)
    assert list(extension.value) == [x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/web")]


def test_the_key_is_p256_and_the_one_the_request_is_for() -> None:
    request = make_request(WEB)
    key = load_pem_private_key(request.key_pem, password=None)

    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert spki(key.public_key()) == request.public_key


def test_no_key_is_used_twice() -> None:
    assert make_request(WEB).public_key != make_request(WEB).public_key


def test_the_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(make_request(WEB))
