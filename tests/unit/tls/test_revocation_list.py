# SPDX-License-Identifier: Apache-2.0
"""Lists of revoked certificates: what they name, and what is no list that one could go by."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from nodeagent.tls import revocation_list
from nodeagent.tls.certificate_name import certificate_name
from nodeagent.tls.revocation_list import read_lists

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def issuer(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])


def crl(
    *serials: int, signer: str = "a", days: int = 1, extension: x509.ExtensionType | None = None
) -> x509.CertificateRevocationList:
    builder = x509.CertificateRevocationListBuilder(issuer(signer), NOW, NOW + days * DAY)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
        builder = builder.add_revoked_certificate(entry)
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(KEY, hashes.SHA256())


def names(*pairs: tuple[str, int]) -> frozenset[bytes]:
    return frozenset(certificate_name(issuer(name).public_bytes(), serial) for name, serial in pairs)


def test_every_list_of_a_file_holds() -> None:
    text = b"# of both\n" + crl(1, 2).public_bytes(Encoding.PEM) + crl(1, signer="b", days=3).public_bytes(Encoding.PEM)
    found = read_lists(text)
    assert found.certificates == names(("a", 1), ("a", 2), ("b", 1))
    assert found.next_update == NOW + DAY


def test_one_list_may_be_der() -> None:
    assert read_lists(crl(7).public_bytes(Encoding.DER)).certificates == names(("a", 7))


def test_a_list_may_list_nothing() -> None:
    assert read_lists(crl().public_bytes(Encoding.PEM)).certificates == frozenset()


INDIRECT = x509.IssuingDistributionPoint(
    full_name=None,
    relative_name=None,
    only_contains_user_certs=False,
    only_contains_ca_certs=False,
    only_some_reasons=None,
    indirect_crl=True,
    only_contains_attribute_certs=False,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(b"", "error parsing", id="nothing"),
        pytest.param(b"no list", "error parsing", id="a text"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\n", "no revocation list", id="something else as PEM"),
        pytest.param(crl(1).public_bytes(Encoding.PEM)[:-20], "cut short", id="half a list"),
        pytest.param(crl(1).public_bytes(Encoding.PEM).replace(b"MI", b"XX", 1), "error parsing", id="a damaged list"),
        pytest.param(crl(1).public_bytes(Encoding.DER)[:-1], "error parsing", id="half a list, DER"),
        pytest.param(
            crl(1, extension=x509.DeltaCRLIndicator(1)).public_bytes(Encoding.PEM), "changes only", id="a delta"
        ),
        pytest.param(crl(1, extension=INDIRECT).public_bytes(Encoding.PEM), "of others", id="indirect"),
    ],
)
def test_what_is_no_list_to_go_by_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_lists(text)


def test_one_bad_list_refuses_the_file() -> None:
    good = crl(1).public_bytes(Encoding.PEM)
    with pytest.raises(ValueError, match="cut short"):
        read_lists(good + good[:60])


def test_a_list_without_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_list, "MOST_REVOKED", 2)
    with pytest.raises(ValueError, match="more than 2"):
        read_lists(crl(1, 2, 3).public_bytes(Encoding.PEM))
