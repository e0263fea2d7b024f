# SPDX-License-Identifier: Apache-2.0
"""Where the authority comes from: made, found again, renewed, given as files; and every file that cannot be used."""

import datetime as dt
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from nodeagent.controlplane.authority import (
    INTERMEDIATE,
    INTERMEDIATE_KEY,
    ROOT_KEY,
    ROOTS,
    AuthoritySource,
    describe,
    files_of,
    open_authority,
    open_given,
)
from nodeagent.controlplane.ca import (
    INTERMEDIATE_LIFE,
    CertificateAuthority,
    key_pem,
    make_intermediate,
    make_root,
    pem,
    root_name,
)
from nodeagent.controlplane.state import StateDirectory
from nodeagent.errors import ConfigError
from nodeagent.model.identity import Identity

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
WEB = Identity("cluster.local", "shop", "web")
LEAF_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def authority(state: StateDirectory) -> CertificateAuthority:
    return open_authority(state, "cluster.local", NOW)


def test_a_root_and_an_intermediate_are_made_and_found_again(
    state: StateDirectory, authority: CertificateAuthority
) -> None:
    again = open_authority(state, "cluster.local", NOW)
    assert (again.chain, again.root_pem) == (authority.chain, authority.root_pem)
    assert len(authority.chain) == 2
    modes = {path.name: path.stat().st_mode & 0o777 for path in state.path.iterdir()}
    assert modes == {ROOT_KEY: 0o600, ROOTS: 0o644, INTERMEDIATE_KEY: 0o600, INTERMEDIATE: 0o644}


def test_an_intermediate_is_made_again_at_half_of_its_life(
    state: StateDirectory, authority: CertificateAuthority
) -> None:
    before, after = NOW + INTERMEDIATE_LIFE / 2 - DAY, NOW + INTERMEDIATE_LIFE / 2 + DAY
    assert open_authority(state, "cluster.local", before).chain == authority.chain
    renewed = open_authority(state, "cluster.local", after)
    assert renewed.chain[0] != authority.chain[0]
    assert renewed.chain[1] == authority.chain[1]


def test_no_intermediate_outlives_its_root(state: StateDirectory, authority: CertificateAuthority) -> None:
    root = authority.chain[1]
    late = open_authority(state, "cluster.local", root.not_valid_after_utc - DAY)
    assert late.chain[0].not_valid_after_utc == root.not_valid_after_utc
    assert open_authority(state, "cluster.local", root.not_valid_after_utc - DAY / 2).chain == late.chain


def test_a_state_directory_without_an_intermediate_keeps_its_root(state: StateDirectory) -> None:
    """As releases before had it: the root signed leaves itself."""
    key, root = make_root(root_name("cluster.local"), NOW)
    state.write(ROOT_KEY, key_pem(key), 0o600)
    state.write(ROOTS, pem(root).encode(), 0o644)
    assert open_authority(state, "cluster.local", NOW).roots == (root,)


def test_the_roots_key_may_be_elsewhere_while_the_intermediate_lives(
    state: StateDirectory, authority: CertificateAuthority, csr: str
) -> None:
    (state.path / ROOT_KEY).unlink()
    alone = open_authority(state, "cluster.local", NOW + INTERMEDIATE_LIFE - DAY)
    assert alone.chain == authority.chain
    assert alone.sign(csr, WEB, seconds=60, now=NOW).chain[2] == authority.root_pem
    with pytest.raises(ConfigError, match=r"root-key.pem is missing"):
        open_authority(state, "cluster.local", NOW + INTERMEDIATE_LIFE)


Damage = Callable[[Path], object]


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(lambda path: (path / ROOTS).unlink(), "root-cert.pem is missing", id="no certificate"),
        pytest.param(lambda path: (path / ROOTS).write_text("x"), "root-cert.pem: damaged", id="damaged certificate"),
        pytest.param(lambda path: (path / ROOT_KEY).write_text("x"), "root-key.pem: damaged", id="damaged key"),
        pytest.param(lambda path: (path / ROOT_KEY).chmod(0o644), "others", id="key for everybody"),
        pytest.param(lambda path: (path / INTERMEDIATE).write_text("x"), "intermediate-cert.pem: damaged", id="below"),
        pytest.param(lambda path: (path / INTERMEDIATE_KEY).write_text("x"), "intermediate-key", id="key below"),
        pytest.param(lambda path: (path / INTERMEDIATE_KEY).chmod(0o640), "others", id="key below for everybody"),
    ],
)
def test_what_cannot_be_used(state: StateDirectory, damage: Damage, words: str) -> None:
    damage(state.path)
    with pytest.raises(ConfigError, match=words) as raised:
        open_authority(state, "cluster.local", NOW)
    assert raised.value.check


@pytest.mark.parametrize("name", [INTERMEDIATE, INTERMEDIATE_KEY])
def test_half_an_intermediate_is_made_again(state: StateDirectory, authority: CertificateAuthority, name: str) -> None:
    """What a crash between the two files leaves, if it is not the old one."""
    (state.path / name).unlink()
    assert open_authority(state, "cluster.local", NOW).roots == authority.roots


def test_another_roots_key_and_an_old_root_are_refused(
    state: StateDirectory, authority: CertificateAuthority, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="expired"):
        open_authority(state, "cluster.local", NOW + dt.timedelta(days=4000))
    other = StateDirectory(tmp_path / "other")
    open_authority(other, "cluster.local", NOW)
    (state.path / ROOT_KEY).write_bytes((other.path / ROOT_KEY).read_bytes())
    with pytest.raises(ConfigError, match="is not the key of"):
        open_authority(state, "cluster.local", NOW)
    assert authority.root_pem


# ---- given as files ----------------------------------------------------------------------------------------------


class Given:
    """The four files of Istio's Secret, as a person makes them with openssl: a root, an RSA or EC intermediate."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path = directory
        self.root_key, self.root = make_root(root_name("Corporation"), NOW)
        self.key, self.intermediate = make_intermediate(self.root_key, self.root, NOW)
        self.write(ca_cert=pem(self.intermediate), ca_key=key_pem(self.key), root_cert=pem(self.root))
        self.write(cert_chain=pem(self.intermediate) + pem(self.root))

    def write(self, **texts: str | bytes) -> None:
        for name, text in texts.items():
            path = self.path / f"{name.replace('_', '-')}.pem"
            path.write_bytes(text.encode() if isinstance(text, str) else text)
            path.chmod(0o600)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path / "cacerts")


def test_a_given_authority_signs_and_its_chain_leaves_the_root_to_the_bundle(given: Given, csr: str) -> None:
    chain = open_given(given.path, NOW).sign(csr, WEB, seconds=60, now=NOW).chain
    assert chain[1:] == (pem(given.intermediate), pem(given.root))
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    leaf.verify_directly_issued_by(given.intermediate)


def test_a_given_chain_may_be_left_out_or_longer(given: Given, csr: str) -> None:
    (given.path / "cert-chain.pem").unlink()
    assert len(open_given(given.path, NOW).sign(csr, WEB, seconds=60, now=NOW).chain) == 3
    upper_key, upper = make_root(root_name("Upper"), NOW)
    cross = (
        x509.CertificateBuilder()
        .subject_name(given.root.subject)
        .issuer_name(upper.subject)
        .public_key(given.root.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + 300 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(upper_key, hashes.SHA256())
    )
    given.write(cert_chain=pem(cross), root_cert=pem(upper))
    opened = open_given(given.path, NOW)
    assert opened.sign(csr, WEB, seconds=60, now=NOW).chain[1:] == (pem(given.intermediate), pem(cross), pem(upper))
    assert opened.not_after == NOW + 300 * DAY, "that of the weakest link"


def test_a_root_that_signs_itself_has_no_intermediate(given: Given, csr: str) -> None:
    given.write(ca_cert=pem(given.root), ca_key=key_pem(given.root_key), cert_chain="")
    (given.path / "cert-chain.pem").unlink()
    assert open_given(given.path, NOW).sign(csr, WEB, seconds=60, now=NOW).chain[1:] == (pem(given.root),)


def test_an_rsa_authority_signs_p256_leaves(given: Given, csr: str) -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = (
        x509.CertificateBuilder()
        .subject_name(given.root.subject)
        .issuer_name(given.root.subject)
        .public_key(key.public_key())
        .serial_number(8)
        .not_valid_before(NOW)
        .not_valid_after(NOW + 300 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    given.write(ca_cert=pem(root), ca_key=key_pem(key), root_cert=pem(root), cert_chain=pem(root))
    leaf = x509.load_pem_x509_certificate(
        open_given(given.path, NOW).sign(csr, WEB, seconds=60, now=NOW).chain[0].encode()
    )
    leaf.verify_directly_issued_by(root)


def ed25519_key() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(lambda given: (given.path / "ca-key.pem").unlink(), "ca-key.pem is missing", id="no key"),
        pytest.param(
            lambda given: (given.path / "ca-cert.pem").unlink(), "ca-cert.pem is missing", id="no certificate"
        ),
        pytest.param(lambda given: (given.path / "ca-key.pem").chmod(0o644), "others", id="key for everybody"),
        pytest.param(lambda given: given.write(ca_key="x"), "ca-key.pem: damaged", id="damaged key"),
        pytest.param(lambda given: given.write(ca_key=ed25519_key()), "kind is not supported", id="Ed25519"),
        pytest.param(lambda given: given.write(cert_chain="x"), "cert-chain.pem: damaged", id="damaged chain"),
        pytest.param(lambda given: given.write(ca_key=key_pem(given.root_key)), "is not the key", id="another key"),
        pytest.param(
            lambda given: given.write(root_cert=pem(make_root(root_name("Corporation"), NOW)[1])),
            "does not lead to any root",
            id="another root of the same name",
        ),
        pytest.param(
            lambda given: given.write(ca_cert=leaf_of(given), ca_key=key_pem(LEAF_KEY)), "not a CA", id="a leaf"
        ),
    ],
)
def test_given_files_that_cannot_be_used(given: Given, damage: Callable[[Given], object], words: str) -> None:
    damage(given)
    with pytest.raises(ConfigError, match=words) as raised:
        open_given(given.path, NOW)
    assert raised.value.check
    assert "BEGIN" not in str(raised.value)


def leaf_of(given: Given) -> str:
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(given.root.subject)
        .public_key(LEAF_KEY.public_key())
        .serial_number(9)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(given.root_key, hashes.SHA256())
    )
    return pem(leaf)


@pytest.mark.parametrize("when", [NOW - DAY, NOW + 400 * DAY])
def test_given_files_outside_of_their_time_are_refused(given: Given, when: dt.datetime) -> None:
    with pytest.raises(ConfigError, match="are valid from 2025-12-31 to 2027-01-01"):
        open_given(given.path, when)


# ---- while the control plane runs --------------------------------------------------------------------------------


def test_changed_files_are_taken_up_and_bad_ones_are_reported_once(
    given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    source = AuthoritySource(lambda now: open_given(given.path, now), files_of(given.path, is_given=True), NOW)
    former = source.current
    source.refresh(NOW)
    assert source.current is former
    given.write(ca_key="nonsense")
    with caplog.at_level(logging.INFO):
        source.refresh(NOW)
        source.refresh(NOW)
    assert source.current is former
    assert caplog.text.count("The former authority signs on") == 1
    key, intermediate = make_intermediate(given.root_key, given.root, NOW)
    given.write(ca_cert=pem(intermediate), ca_key=key_pem(key), cert_chain=pem(intermediate))
    with caplog.at_level(logging.INFO):
        source.refresh(NOW)
    assert source.current.chain == (intermediate, given.root)
    assert "signing by another authority" in caplog.text


def test_an_intermediate_is_renewed_while_it_runs(state: StateDirectory) -> None:
    source = AuthoritySource(
        lambda now: open_authority(state, "cluster.local", now), files_of(state.path, is_given=False), NOW
    )
    former = source.current
    source.refresh(NOW + INTERMEDIATE_LIFE / 2 + DAY)
    assert source.current.chain[0] != former.chain[0]
    assert source.current.roots == former.roots


def test_what_cannot_be_renewed_here_is_not_read_again_all_the_time(given: Given) -> None:
    opened: list[dt.datetime] = []

    def open_now(now: dt.datetime) -> CertificateAuthority:
        opened.append(now)
        return open_given(given.path, now)

    late = NOW + 300 * DAY
    source = AuthoritySource(open_now, files_of(given.path, is_given=True), late)
    for minutes in (1, 59, 61, 62, 119, 122):
        source.refresh(late + dt.timedelta(minutes=minutes))
    assert [(when - late).total_seconds() // 60 for when in opened] == [0, 61, 122]


def test_it_is_described_for_the_log(authority: CertificateAuthority) -> None:
    assert describe(authority) == "CN=Intermediate,O=cluster.local until 2027-01-01, 1 root trusted"
