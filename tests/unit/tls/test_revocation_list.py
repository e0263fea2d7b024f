# SPDX-License-Identifier: Apache-2.0
"""Lists of revoked certificates: what they name, and what is no list that one could go by."""

import datetime as dt
from typing import TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from nodeagent.tls import revocation_list
from nodeagent.tls.certificate_name import certificate_name
from nodeagent.tls.revocation_list import ListSigners, read_lists

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
Key: TypeAlias = ec.EllipticCurvePrivateKey
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def issuer(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])


def crl(
    *serials: int, signer: str = "a", days: int = 1, extension: x509.ExtensionType | None = None, key: Key = KEY
) -> x509.CertificateRevocationList:
    builder = x509.CertificateRevocationListBuilder(issuer(signer), NOW, NOW + days * DAY)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
        builder = builder.add_revoked_certificate(entry)
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256())


def certificate(  # each is one of the things that a signer may be wrong in
    name: str,
    *,
    by: str = "root",
    key: Key = KEY,
    signed_with: Key = OTHER_KEY,
    is_authority: bool = True,
    signs_lists: bool | None = None,
) -> x509.Certificate:
    """`signs_lists` None: without key usages."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(issuer(name))
        .issuer_name(issuer(by))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if signs_lists is not None:
        usages = dict.fromkeys(USAGES, False) | {"crl_sign": signs_lists, "key_cert_sign": True}
        builder = builder.add_extension(x509.KeyUsage(**usages), critical=True)
    return builder.sign(signed_with, hashes.SHA256())


ROOT = certificate("root", key=OTHER_KEY)


def names(*pairs: tuple[str, int]) -> frozenset[bytes]:
    return frozenset(certificate_name(issuer(name).public_bytes(), serial) for name, serial in pairs)


def test_every_list_of_a_file_holds() -> None:
    text = b"# of both\n" + crl(1, 2).public_bytes(Encoding.PEM) + crl(1, signer="b", days=3).public_bytes(Encoding.PEM)
    found = read_lists(text)
    assert found.certificates == names(("a", 1), ("a", 2), ("b", 1))
    assert [one.next_update for one in found.lists] == [NOW + DAY, NOW + 3 * DAY]


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


def test_certificates_may_stand_beside_lists() -> None:
    beside = certificate("a")
    found = read_lists(beside.public_bytes(Encoding.PEM) + crl(1).public_bytes(Encoding.PEM))
    assert (found.beside, found.certificates) == ((beside,), names(("a", 1)))


def test_certificates_without_bounds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_list, "_MOST_BESIDE", 1)
    with pytest.raises(ValueError, match="more than 1 certificates stand beside"):
        read_lists(2 * ROOT.public_bytes(Encoding.PEM) + crl(1).public_bytes(Encoding.PEM))


UNKNOWN = "is not known, or does not lead to a root"
BETWEEN = certificate("between")


@pytest.mark.parametrize(
    ("signers", "words"),
    [
        pytest.param([certificate("a")], "", id="one below the root"),
        pytest.param([certificate("a", signs_lists=True)], "", id="one that says that it may sign lists"),
        pytest.param([certificate("a", by="between", signed_with=KEY), BETWEEN], "", id="two below the root"),
        pytest.param([certificate("a", key=OTHER_KEY), certificate("a")], "", id="another of the same name"),
        pytest.param([], UNKNOWN, id="nobody"),
        pytest.param([certificate("b")], UNKNOWN, id="another's name"),
        pytest.param([certificate("a", by="between", signed_with=KEY)], UNKNOWN, id="what is between is missing"),
        pytest.param([certificate("a", by="a", signed_with=KEY)], UNKNOWN, id="another root"),
        pytest.param([certificate("a", signed_with=KEY)], UNKNOWN, id="forged with the root's name"),
        pytest.param([certificate("a", is_authority=False)], UNKNOWN, id="a workload"),
        pytest.param([certificate("a", signs_lists=False)], "cRLSign", id="one that may not sign lists"),
        pytest.param([certificate("a", key=OTHER_KEY)], "signature is wrong", id="another's key"),
    ],
)
def test_a_list_is_believed_if_its_signer_leads_to_a_root(signers: list[x509.Certificate], words: str) -> None:
    (one,) = read_lists(crl(1).public_bytes(Encoding.PEM)).lists
    refusal = ListSigners([ROOT], signers).refusal(one)
    assert (refusal == "") is (words == "")
    assert words in refusal


def test_a_root_may_sign_lists() -> None:
    (one,) = read_lists(crl(1, signer="root", key=OTHER_KEY).public_bytes(Encoding.PEM)).lists
    assert ListSigners([ROOT]).refusal(one) == ""


def test_a_list_that_was_changed_is_refused() -> None:
    serial = 0x5566778899AABBCC
    text = crl(serial).public_bytes(Encoding.DER)
    changed = text.replace(serial.to_bytes(8, "big"), (serial + 1).to_bytes(8, "big"))
    (one,) = read_lists(changed).lists
    assert one.certificates == names(("a", serial + 1))
    assert ListSigners([ROOT], [certificate("a")]).refusal(one) == "its signature is wrong"


def test_former_authorities_are_forgotten_with_their_root() -> None:
    signers = ListSigners([ROOT], [certificate("a")])
    assert ListSigners([certificate("new", by="new", signed_with=KEY)], signers.known).known[1:] == ()
