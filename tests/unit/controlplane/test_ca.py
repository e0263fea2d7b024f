# SPDX-License-Identifier: Apache-2.0
"""The authority: leaves as a real istiod signs them, and every request that it refuses."""

import datetime as dt
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from nodeagent.controlplane.authorize import Refusal, decide
from nodeagent.controlplane.ca import MAX_SECONDS, CertificateAuthority, UnusableRequest, open_authority
from nodeagent.controlplane.state import StateDirectory
from nodeagent.controlplane.translate import Translation
from nodeagent.errors import ConfigError
from nodeagent.model.identity import Identity

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
WEB = Identity("cluster.local", "shop", "web")
RECORDING = Path(__file__).parents[2] / "data" / "istiod" / "ca" / "self-signed.json"


@pytest.fixture
def authority(state: StateDirectory) -> CertificateAuthority:
    return open_authority(state, "cluster.local", NOW)


def signed(authority: CertificateAuthority, csr: str, seconds: int = 60) -> tuple[x509.Certificate, list[str]]:
    chain = authority.sign(csr, WEB, seconds=seconds, now=NOW)
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
    assert len(chain) == len(recorded)
    assert shape(leaf) == shape(x509.load_pem_x509_certificate(recorded[0].encode()))
    root, theirs = (x509.load_pem_x509_certificate(pem.encode()) for pem in (chain[-1], recorded[-1]))
    assert shape(root) == shape(theirs)


def test_a_leaf_is_of_the_root_and_of_the_key_that_asked(authority: CertificateAuthority, csr: str) -> None:
    leaf, chain = signed(authority, csr)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(chain[-1].encode()))
    assert leaf.public_key() == x509.load_pem_x509_csr(csr.encode()).public_key()


@pytest.mark.parametrize(("asked", "seconds"), [(60, 60), (0, 86400), (-5, 86400), (MAX_SECONDS, MAX_SECONDS)])
def test_lifetimes(authority: CertificateAuthority, csr: str, asked: int, seconds: int) -> None:
    leaf, _ = signed(authority, csr, asked)
    assert leaf.not_valid_before_utc == NOW - dt.timedelta(minutes=2)
    assert leaf.not_valid_after_utc == NOW + dt.timedelta(seconds=seconds)


def test_no_leaf_outlives_the_root(authority: CertificateAuthority, csr: str) -> None:
    root = x509.load_pem_x509_certificate(authority.root_pem.encode())
    late = root.not_valid_after_utc - dt.timedelta(seconds=10)
    leaf = x509.load_pem_x509_certificate(authority.sign(csr, WEB, seconds=3600, now=late)[0].encode())
    assert leaf.not_valid_after_utc == root.not_valid_after_utc


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
    ],
)
def test_requests_that_cannot_be_served(authority: CertificateAuthority, csr: str) -> None:
    with pytest.raises(UnusableRequest):
        authority.sign(csr, WEB, seconds=60, now=NOW)


def test_a_lifetime_above_ninety_days_is_refused(authority: CertificateAuthority, csr: str) -> None:
    with pytest.raises(UnusableRequest, match="lifetime"):
        authority.sign(csr, WEB, seconds=MAX_SECONDS + 1, now=NOW)


def test_the_serving_certificate_has_names_and_addresses(authority: CertificateAuthority) -> None:
    key, chain = authority.serving_certificate(["localhost", "127.0.0.1", "::1"], NOW)
    leaf, root = x509.load_pem_x509_certificates(chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    leaf.verify_directly_issued_by(root)
    loaded = serialization.load_pem_private_key(key, None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    assert loaded.public_key() == leaf.public_key()


def test_a_restart_has_the_same_root(state: StateDirectory, authority: CertificateAuthority) -> None:
    assert open_authority(state, "cluster.local", NOW).root_pem == authority.root_pem
    modes = {path.name: path.stat().st_mode & 0o777 for path in state.path.iterdir()}
    assert modes == {"root-key.pem": 0o600, "root-cert.pem": 0o644}


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(lambda path: (path / "root-key.pem").unlink(), "root-key.pem is missing", id="no key"),
        pytest.param(lambda path: (path / "root-cert.pem").unlink(), "root-cert.pem is missing", id="no certificate"),
        pytest.param(lambda path: (path / "root-cert.pem").write_text("x"), "damaged", id="damaged certificate"),
        pytest.param(lambda path: (path / "root-key.pem").write_text("x"), "damaged", id="damaged key"),
        pytest.param(lambda path: (path / "root-key.pem").chmod(0o644), "others", id="key for everybody"),
    ],
)
def test_a_root_that_cannot_be_used(state: StateDirectory, damage: object, words: str) -> None:
    assert callable(damage)
    damage(state.path)
    with pytest.raises(ConfigError, match=words) as raised:
        open_authority(state, "cluster.local", NOW)
    assert raised.value.check


def test_another_roots_key_and_an_old_root_are_refused(
    state: StateDirectory, authority: CertificateAuthority, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="expired"):
        open_authority(state, "cluster.local", NOW + dt.timedelta(days=4000))
    other = StateDirectory(tmp_path / "other")
    open_authority(other, "cluster.local", NOW)
    (state.path / "root-key.pem").write_bytes((other.path / "root-key.pem").read_bytes())
    with pytest.raises(ConfigError, match="is not the key of"):
        open_authority(state, "cluster.local", NOW)
    assert authority.root_pem


PLACED = Translation(
    identities={"node-a": frozenset({WEB}), "node-b": frozenset({Identity("cluster.local", "shop", "db")})}
)


@pytest.mark.parametrize(
    ("node", "cluster", "wanted", "reason"),
    [
        pytest.param("node-a", "Kubernetes", str(WEB), "", id="its own pod's"),
        pytest.param("node-a", "", str(WEB), "", id="no cluster named"),
        pytest.param("node-b", "Kubernetes", str(WEB), "no running pod", id="a pod of another node"),
        pytest.param("node-c", "Kubernetes", str(WEB), "no running pod", id="an unknown node"),
        pytest.param("node-a", "other", str(WEB), "of cluster other", id="another cluster"),
        pytest.param("node-a", "Kubernetes", "", "no ImpersonatedIdentity", id="no identity asked"),
        pytest.param("node-a", "Kubernetes", "cluster.local/ns/shop/sa/web", "is not spiffe://", id="no SPIFFE id"),
        pytest.param("node-a", "Kubernetes", "spiffe://cluster.local/ns/shop/sa/", "is not spiffe://", id="no account"),
        pytest.param("node-a", "Kubernetes", str(WEB) + "/x", "is not spiffe://", id="six parts"),
        pytest.param("node-a", "Kubernetes", "spiffe://other.example/ns/shop/sa/web", "trust domain", id="domain"),
        pytest.param("node-a", "Kubernetes", "spiffe://cluster.local/ns/x/sa/web", "no running pod", id="namespace"),
        pytest.param("node-a", "Kubernetes", "spiffe://cluster.local/ns/shop/sa/WEB", "no running pod", id="case"),
    ],
)
def test_a_node_may_have_the_identities_of_its_own_pods(node: str, cluster: str, wanted: str, reason: str) -> None:
    verdict = decide(node, cluster, wanted, PLACED)
    if reason:
        assert isinstance(verdict, Refusal)
        assert reason in verdict.reason
    else:
        assert verdict == WEB
