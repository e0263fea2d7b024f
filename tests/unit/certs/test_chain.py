# SPDX-License-Identifier: Apache-2.0
"""The CA's answer is judged before it is used: for whom, by which root, until when."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from nodeagent.certs.chain import BadCertificate, is_trusted, read_answer
from nodeagent.certs.csr import SigningRequest, make_request
from nodeagent.model.identity import Identity

if TYPE_CHECKING:
    from tests.unit.conftest import TinyCa

WEB = Identity("cluster.local", "shop", "web")
DATA = Path(__file__).parents[2] / "data" / "istiod" / "ca"


def now() -> datetime:
    return datetime.now(UTC)


def names(pem: bytes) -> list[str]:
    return [one.subject.rfc4514_string() for one in x509.load_pem_x509_certificates(pem)]


# ---- what a real istiod answered ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "chain", "roots"),
    [
        ("self-signed.json", [""], ["O=cluster.local"]),
        ("intermediate-two-roots.json", ["", "CN=Intermediate,O=Istio"], ["O=Test Root 1", "O=Test Root 2"]),
    ],
)
def test_istiods_answers_are_read(file: str, chain: list[str], roots: list[str]) -> None:
    recorded = json.loads((DATA / file).read_text(encoding="utf-8"))
    csr = x509.load_pem_x509_csr(recorded["request"]["csr"].encode())
    public_key = csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    leaf = x509.load_pem_x509_certificate(recorded["cert_chain"][0].encode())

    bundle = read_answer(
        SigningRequest(WEB, b"", public_key, b"the key"),
        recorded["cert_chain"],
        leaf.not_valid_before_utc + timedelta(hours=1),
    )

    assert names(bundle.chain_pem) == chain  # without the root that istiod puts before the bundle
    assert sorted(names(bundle.roots_pem)) == roots
    assert bundle.key_pem == b"the key"
    assert bundle.serial == f"{leaf.serial_number:x}"
    assert (bundle.not_before, bundle.not_after) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)


# ---- good answers -------------------------------------------------------------------------------------------------


def test_through_intermediates_in_any_order(make_ca: "type[TinyCa]") -> None:
    root = make_ca()
    upper = root.intermediate("Upper")
    lower = upper.intermediate("Lower")
    request = make_request(WEB)
    leaf = lower.sign_request(request.csr_pem.decode(), str(WEB))

    bundle = read_answer(request, [leaf, upper.pem, lower.pem, root.pem], now())

    assert names(bundle.chain_pem) == ["", "O=Upper", "O=Lower"]
    assert names(bundle.roots_pem) == ["O=Test Root"]


def test_equal_trust_bundles_are_equal_bytes(make_ca: "type[TinyCa]") -> None:
    ours, other = make_ca("Ours"), make_ca("Other")
    bundles = []
    for roots in (ours.pem + other.pem, other.pem + ours.pem + other.pem):
        request = make_request(WEB)
        bundles.append(read_answer(request, [ours.sign_request(request.csr_pem.decode(), str(WEB)), roots], now()))

    assert bundles[0].roots_pem == bundles[1].roots_pem
    assert len(names(bundles[0].roots_pem)) == 2


def test_whether_a_chain_leads_to_other_roots(make_ca: "type[TinyCa]") -> None:
    ours, other = make_ca("Ours"), make_ca("Other")
    request = make_request(WEB)
    bundle = read_answer(request, [ours.sign_request(request.csr_pem.decode(), str(WEB)), ours.pem], now())

    assert is_trusted(bundle, (other.pem + ours.pem).encode(), now())
    assert not is_trusted(bundle, other.pem.encode(), now())


# ---- bad answers --------------------------------------------------------------------------------------------------

Answer = Callable[["TinyCa", str], list[str]]
EVE = "spiffe://cluster.local/ns/shop/sa/eve"


def _key_of(csr: str) -> "x509.CertificateSigningRequest":
    return x509.load_pem_x509_csr(csr.encode())


def _two_names(ca: "TinyCa", csr: str) -> list[str]:
    key = load_pem_public_key(_key_of(csr).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    both = [x509.UniformResourceIdentifier(str(WEB)), x509.UniformResourceIdentifier(EVE)]
    return [ca.sign(key, both), ca.pem]  # type: ignore[arg-type]  # it is the P-256 key of make_request


def _other_key(ca: "TinyCa", _: str) -> list[str]:
    return [ca.sign_request(make_request(WEB).csr_pem.decode(), str(WEB)), ca.pem]


def _other_ca(ca: "TinyCa", csr: str) -> list[str]:
    return [ca.sign_request(csr, str(WEB)), type(ca)("Test Root").pem]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(lambda _ca, _csr: [], "0 elements", id="nothing"),
        pytest.param(lambda ca, csr: [ca.sign_request(csr, str(WEB))], "1 elements", id="no roots"),
        pytest.param(lambda ca, _csr: ["nonsense", ca.pem], "no certificate", id="leaf is nonsense"),
        pytest.param(lambda ca, csr: [ca.sign_request(csr, str(WEB)), ""], "no certificate", id="roots are empty"),
        pytest.param(lambda ca, csr: [ca.sign_request(csr, EVE), ca.pem], f"is for {EVE}", id="somebody else's"),
        pytest.param(
            lambda ca, csr: [ca.sign_request(csr, "spiffe://other/ns/shop/sa/web"), ca.pem],
            "is for spiffe://other",
            id="another trust domain",
        ),
        pytest.param(_two_names, f"is for {WEB}, {EVE}", id="two names"),
        pytest.param(lambda ca, _csr: [ca.pem, ca.pem], "is for nobody", id="a CA's certificate"),
        pytest.param(_other_key, "another key", id="another key"),
        pytest.param(
            lambda ca, csr: [ca.sign_request(csr, str(WEB), not_before=now() + timedelta(hours=1)), ca.pem],
            "is valid from",
            id="not yet valid",
        ),
        pytest.param(
            lambda ca, csr: [ca.sign_request(csr, str(WEB), not_after=now() - timedelta(seconds=1)), ca.pem],
            "has expired",
            id="expired",
        ),
        pytest.param(_other_ca, "does not lead to any root", id="a root of the same name"),
        pytest.param(
            lambda ca, csr: [ca.intermediate().sign_request(csr, str(WEB)), ca.pem],
            "does not lead to any root",
            id="intermediate left out",
        ),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for(tiny_ca: "TinyCa", answer: Answer, why: str) -> None:
    request = make_request(WEB)

    with pytest.raises(BadCertificate) as caught:
        read_answer(request, answer(tiny_ca, request.csr_pem.decode()), now())

    assert str(caught.value).startswith(f"{WEB}: ")
    assert why in str(caught.value)
    assert caught.value.check


def test_a_root_that_has_expired_is_no_root(tiny_ca: "TinyCa") -> None:
    request = make_request(WEB)
    later = now() + timedelta(days=4000)
    leaf = tiny_ca.sign_request(request.csr_pem.decode(), str(WEB), not_after=later + timedelta(days=1))

    with pytest.raises(BadCertificate, match="does not lead to any root"):
        read_answer(request, [leaf, tiny_ca.pem], later)
