# SPDX-License-Identifier: Apache-2.0
"""Names of certificates: the same from a certificate as from a list that names it, and of no two certificates alike."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.tls.certificate_name import certificate_name, name_of

KEY = ec.generate_private_key(ec.SECP256R1())
ISSUER = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cluster.local")])
SERIALS = [1, 127, 128, 255, 256, 2**63, 2**159 - 1]


def certificate(serial: int, issuer: x509.Name = ISSUER) -> x509.Certificate:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(issuer, x509.Name([]), KEY.public_key(), serial, now, now + dt.timedelta(days=1))
    # Long enough for lengths of several bytes.
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://" + "a" * 300)])
    return builder.add_extension(names, critical=True).sign(KEY, hashes.SHA256())


@pytest.mark.parametrize("serial", SERIALS)
def test_a_list_and_a_certificate_give_one_name(serial: int) -> None:
    der = certificate(serial).public_bytes(Encoding.DER)
    assert name_of(der) == certificate_name(ISSUER.public_bytes(), serial)


def test_another_serial_or_issuer_is_another_name() -> None:
    other = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "td2"), x509.NameAttribute(NameOID.COMMON_NAME, "I")]
    )
    made = {certificate_name(name.public_bytes(), serial) for name in (ISSUER, other) for serial in SERIALS}
    assert len(made) == 2 * len(SERIALS)
    assert name_of(certificate(7, other).public_bytes(Encoding.DER)) == certificate_name(other.public_bytes(), 7)


@given(st.binary(max_size=60))
def test_what_is_no_certificate_is_refused(noise: bytes) -> None:
    for text in (noise, b"\x30\x80" + noise, b"\x30\x02\x30\x00" + noise):
        with pytest.raises(ValueError, match=r"no certificate|cut short"):
            name_of(text)


def test_a_certificate_that_was_cut_is_refused() -> None:
    der = certificate(9).public_bytes(Encoding.DER)
    for size in range(0, len(der) - 200, 7):
        with pytest.raises(ValueError, match=r"no certificate|cut short"):
            name_of(der[:size])
