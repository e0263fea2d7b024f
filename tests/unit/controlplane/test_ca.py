# SPDX-License-Identifier: Apache-2.0
"""The authority: leaves as a real istiod signs them, and every request that it refuses."""

import dataclasses
import datetime as dt
import json
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from nodeagent.controlplane.authority import open_authority
from nodeagent.controlplane.authorize import Refusal, Why, decide
from nodeagent.controlplane.ca import (
    MAX_CSR_CHARACTERS,
    MAX_SECONDS,
    MIN_SECONDS,
    AuthorityNotValid,
    CertificateAuthority,
    UnusableRequest,
)
from nodeagent.controlplane.objects import DEFAULT_MESH
from nodeagent.controlplane.state import StateDirectory
from nodeagent.controlplane.translate import Translation
from nodeagent.model.identity import Identity

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
WEB = Identity("cluster.local", "shop", "web")
RECORDING = Path(__file__).parents[2] / "data" / "istiod" / "ca" / "self-signed.json"


@pytest.fixture
def authority(state: StateDirectory) -> CertificateAuthority:
    return open_authority(state, "cluster.local", NOW)


def signed(authority: CertificateAuthority, csr: str, seconds: int = 60) -> tuple[x509.Certificate, tuple[str, ...]]:
    chain = authority.sign(csr, WEB, seconds=seconds, now=NOW).chain
    return x509.load_pem_x509_certificate(chain[0].encode()), chain


def shape(certificate: x509.Certificate) -> dict[str, object]:
    """What a peer sees of a certificate, without keys, names of issuers, times and serials."""
    found: dict[str, object] = {"subject": certificate.subject.rfc4514_string()}
    for extension in certificate.extensions:
        if extension.oid not in {ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.SUBJECT_KEY_IDENTIFIER}:
            found[extension.oid._name] = (extension.critical, extension.value)
    return found


def test_a_leaf_has_the_shape_of_istiods(authority: CertificateAuthority, csr: str) -> None:
    recorded = json.loads(RECORDING.read_text())["cert_chain"]
    leaf, chain = signed(authority, csr)
    assert len(chain) == len(recorded) + 1, "ours has an intermediate"
    assert shape(leaf) == shape(x509.load_pem_x509_certificate(recorded[0].encode()))
    root, theirs = (x509.load_pem_x509_certificate(pem.encode()) for pem in (chain[-1], recorded[-1]))
    assert shape(root) == shape(theirs)


def test_a_leaf_leads_to_the_root_and_is_of_the_key_that_asked(authority: CertificateAuthority, csr: str) -> None:
    leaf, chain = signed(authority, csr)
    intermediate, root = (x509.load_pem_x509_certificate(pem.encode()) for pem in chain[1:])
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    assert leaf.public_key() == x509.load_pem_x509_csr(csr.encode()).public_key()


@pytest.mark.parametrize(
    ("asked", "seconds", "backdated"),
    [
        pytest.param(3600, 3600, 120, id="as asked"),
        pytest.param(0, 86400, 120, id="0: a day"),
        pytest.param(-5, 86400, 120, id="less: a day"),
        pytest.param(MAX_SECONDS, MAX_SECONDS, 120, id="the longest"),
        pytest.param(60, 60, 15, id="short: dated back by a quarter"),
        pytest.param(MIN_SECONDS, MIN_SECONDS, 2.5, id="the shortest"),
    ],
)
def test_lifetimes(authority: CertificateAuthority, csr: str, asked: int, seconds: int, backdated: float) -> None:
    issued = authority.sign(csr, WEB, seconds=asked, now=NOW)
    whole = NOW - dt.timedelta(seconds=int(backdated + 0.5))
    assert NOW - issued.not_before == pytest.approx(dt.timedelta(seconds=backdated), abs=dt.timedelta(seconds=1))
    assert whole <= issued.not_before
    assert issued.not_after == NOW + dt.timedelta(seconds=seconds)


@pytest.mark.parametrize("seconds", [MIN_SECONDS, 20, 60, 240, 3600])
def test_half_of_a_leafs_time_is_ahead_when_it_comes(authority: CertificateAuthority, csr: str, seconds: int) -> None:
    """A ztunnel renews then, however much has passed: it must not ask in a loop."""
    issued = authority.sign(csr, WEB, seconds=seconds, now=NOW)
    half = issued.not_before + (issued.not_after - issued.not_before) / 2
    assert half - NOW >= dt.timedelta(seconds=seconds) / 4


def test_no_leaf_outlives_the_authority(authority: CertificateAuthority, csr: str) -> None:
    late = authority.not_after - dt.timedelta(seconds=10)
    issued = authority.sign(csr, WEB, seconds=3600, now=late)
    assert issued.not_after == authority.not_after


@pytest.mark.parametrize(
    ("now", "words"),
    [
        pytest.param(NOW - dt.timedelta(hours=1, seconds=1), "valid from", id="our clock is far behind"),
        pytest.param(NOW + dt.timedelta(days=365), "has expired", id="the authority has expired"),
    ],
)
def test_outside_the_authoritys_time_nothing_is_signed(
    authority: CertificateAuthority, csr: str, now: dt.datetime, words: str
) -> None:
    with pytest.raises(AuthorityNotValid, match=words):
        authority.sign(csr, WEB, seconds=60, now=now)
    with pytest.raises(AuthorityNotValid, match=words):
        authority.serving_certificate(["localhost"], now)


def test_a_leaf_is_dated_back_for_clocks_that_are_behind_but_not_before_its_authority(
    authority: CertificateAuthority, csr: str
) -> None:
    early = NOW - dt.timedelta(hours=1)
    assert authority.sign(csr, WEB, seconds=3600, now=early).not_before == early == authority.not_before
    assert authority.sign(csr, WEB, seconds=3600, now=NOW).not_before == NOW - dt.timedelta(minutes=2)


def test_what_was_issued_says_what_the_leaf_says(authority: CertificateAuthority, csr: str) -> None:
    issued = authority.sign(csr, WEB, seconds=60, now=NOW)
    leaf = x509.load_pem_x509_certificate(issued.chain[0].encode())
    told = (issued.serial, issued.not_before, issued.not_after, issued.key)
    assert told == (leaf.serial_number, leaf.not_valid_before_utc, leaf.not_valid_after_utc, "EC 256")


def test_neither_the_authority_nor_what_it_issued_shows_a_key(authority: CertificateAuthority, csr: str) -> None:
    shown = f"{authority!r} {authority.sign(csr, WEB, seconds=60, now=NOW)!r}"
    assert "PRIVATE" not in shown
    assert not hasattr(authority, "key")


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    claimed = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://cluster.local/ns/admin/sa/root")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    )
    return (
        builder.add_extension(claimed, critical=False)
        .sign(key, algorithm)
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


def tampered(csr: str) -> str:
    lines = csr.splitlines()
    der = bytearray(x509.load_pem_x509_csr(csr.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    try:
        return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    except ValueError:
        return "\n".join(lines[:1] + lines[2:])


def test_what_a_csr_says_of_itself_is_ignored(authority: CertificateAuthority) -> None:
    leaf, _ = signed(authority, request(ec.generate_private_key(ec.SECP384R1())))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]
    assert leaf.subject.rfc4514_string() == ""


@pytest.mark.parametrize(
    "csr",
    [
        pytest.param("", id="nothing"),
        pytest.param("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", id="garbage"),
        pytest.param(request(ed25519.Ed25519PrivateKey.generate()), id="Ed25519"),
        pytest.param(request(ec.generate_private_key(ec.SECP521R1())), id="P-521"),
        pytest.param(request(rsa.generate_private_key(65537, 1024)), id="short RSA"),  # noqa: S505 - refused for it
        pytest.param(tampered(request(ec.generate_private_key(ec.SECP256R1()))), id="signature broken"),
        pytest.param("é", id="not ASCII"),
        pytest.param("x" * (MAX_CSR_CHARACTERS + 1), id="too long"),
    ],
)
def test_requests_that_cannot_be_served(authority: CertificateAuthority, csr: str) -> None:
    with pytest.raises(UnusableRequest):
        authority.sign(csr, WEB, seconds=60, now=NOW)


@pytest.mark.parametrize("seconds", [MAX_SECONDS + 1, MIN_SECONDS - 1, 1])
def test_a_lifetime_outside_the_limits_is_refused(authority: CertificateAuthority, csr: str, seconds: int) -> None:
    with pytest.raises(UnusableRequest, match="lifetime"):
        authority.sign(csr, WEB, seconds=seconds, now=NOW)


def test_the_serving_certificate_has_names_and_addresses(authority: CertificateAuthority) -> None:
    key, chain = authority.serving_certificate(["localhost", "127.0.0.1", "::1"], NOW)
    leaf, intermediate = x509.load_pem_x509_certificates(chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    leaf.verify_directly_issued_by(intermediate)
    loaded = serialization.load_pem_private_key(key, None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    assert loaded.public_key() == leaf.public_key()


PLACED = Translation(
    identities={"node-a": frozenset({WEB}), "node-b": frozenset({Identity("cluster.local", "shop", "db")})}
)


@pytest.mark.parametrize(
    ("node", "cluster", "wanted", "why"),
    [
        pytest.param("node-a", "Kubernetes", str(WEB), None, id="its own pod's"),
        pytest.param("node-a", "", str(WEB), None, id="no cluster named"),
        pytest.param("node-b", "Kubernetes", str(WEB), Why.PLACED_ELSEWHERE, id="a pod of another node"),
        pytest.param("node-c", "Kubernetes", str(WEB), Why.UNKNOWN_NODE, id="an unknown node"),
        pytest.param("node-a", "other", str(WEB), Why.OTHER_CLUSTER, id="another cluster"),
        pytest.param("node-a", "Kubernetes", "", Why.NOTHING_ASKED, id="no identity asked"),
        pytest.param("node-a", "Kubernetes", "cluster.local/ns/shop/sa/web", Why.NO_IDENTITY, id="no SPIFFE id"),
        pytest.param("node-a", "Kubernetes", "spiffe://cluster.local/ns/shop/sa/", Why.NO_IDENTITY, id="no account"),
        pytest.param("node-a", "Kubernetes", str(WEB) + "/x", Why.NO_IDENTITY, id="six parts"),
        pytest.param("node-a", "", "spiffe://other.example/ns/shop/sa/web", Why.OTHER_TRUST_DOMAIN, id="trust domain"),
        pytest.param("node-a", "", "spiffe://cluster.local/ns/x/sa/web", Why.NOT_PLACED, id="another namespace"),
        pytest.param("node-a", "", "spiffe://cluster.local/ns/shop/sa/WEB", Why.NOT_PLACED, id="another case"),
    ],
)
def test_a_node_may_have_the_identities_of_its_own_pods(node: str, cluster: str, wanted: str, why: Why | None) -> None:
    verdict = decide(node, cluster, wanted, PLACED)
    if why is None:
        assert verdict == WEB
    else:
        assert isinstance(verdict, Refusal)
        assert verdict.why is why
        assert node in verdict.reason


def test_a_refusal_says_where_the_pod_is() -> None:
    verdict = decide("node-b", "", str(WEB), PLACED)
    assert isinstance(verdict, Refusal)
    assert verdict.reason.endswith("there is on node-a")


def test_an_alias_of_the_trust_domain_is_as_good_for_the_same_pods() -> None:
    """By which an agent still asks that has not heard of the change."""
    mesh = msgspec.structs.replace(DEFAULT_MESH, trust_domain_aliases=("old",))
    placed = dataclasses.replace(PLACED, mesh=mesh)
    alias = msgspec.structs.replace(WEB, trust_domain="old")
    assert decide("node-a", "", str(alias), placed) == alias
    assert decide("node-a", "", str(WEB), placed) == WEB
    for node, wanted, why in (
        ("node-b", alias, Why.PLACED_ELSEWHERE),
        ("node-a", msgspec.structs.replace(alias, service_account="db"), Why.PLACED_ELSEWHERE),
        ("node-a", msgspec.structs.replace(alias, trust_domain="other"), Why.OTHER_TRUST_DOMAIN),
    ):
        verdict = decide(node, "", str(wanted), placed)
        assert isinstance(verdict, Refusal)
        assert verdict.why is why
