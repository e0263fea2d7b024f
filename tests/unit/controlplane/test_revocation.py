# SPDX-License-Identifier: Apache-2.0
"""The list of revoked certificates: OpenSSL believes it, and it stays true."""

import datetime as dt
import logging
import ssl
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.controlplane import revocation
from nodeagent.controlplane.authority import open_authority
from nodeagent.controlplane.ca import CRL_LIFE, CertificateAuthority, make_root, root_name
from nodeagent.controlplane.revocation import CRL, REVOKED, RevocationList, revoke
from nodeagent.controlplane.rotation import add_root, drop_roots, use_root
from nodeagent.controlplane.state import StateDirectory
from nodeagent.errors import ConfigError
from nodeagent.model.identity import Identity
from nodeagent.tls import revocation_list
from nodeagent.tls.certificate_name import name_of
from nodeagent.tls.revocation_list import ListSigners, read_lists

WEB = Identity("cluster.local", "shop", "web")
NOW = dt.datetime.now(dt.UTC)
"""OpenSSL has no other."""
DAY = dt.timedelta(days=1)


@pytest.fixture
def authority(state: StateDirectory) -> CertificateAuthority:
    return open_authority(state, "cluster.local", NOW)


def lists(state: StateDirectory) -> list[x509.CertificateRevocationList]:
    return [one.crl for one in read_lists((state.path / CRL).read_bytes()).lists]


def refusals(state: StateDirectory, authority: CertificateAuthority) -> list[str]:
    """What an agent would say of each list that knows the roots alone."""
    found = read_lists((state.path / CRL).read_bytes())
    signers = ListSigners(authority.roots, found.beside)
    return [signers.refusal(one) for one in found.lists]


def serials(state: StateDirectory) -> list[set[str]]:
    return [{f"{entry.serial_number:x}" for entry in crl} for crl in lists(state)]


class Peer:
    """Somebody with a certificate of this authority, in files."""

    def __init__(self, authority: CertificateAuthority, directory: Path, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        csr = request.public_bytes(serialization.Encoding.PEM).decode()
        issued = authority.sign(csr, WEB, seconds=3600, now=NOW)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.serial = f"{issued.serial:x}"
        self.file = directory / f"{name}.pem"
        self.file.write_text(private.decode() + "".join(issued.chain[:-1]))
        self.roots = issued.chain[-1]
        leaf = x509.load_pem_x509_certificate(issued.chain[0].encode())
        self.name = name_of(leaf.public_bytes(serialization.Encoding.DER))


def is_believed(client: Peer, server: Peer, crl: Path) -> bool:
    """By a server that checks the list, as OpenSSL does it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near, far = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    near.check_hostname = False
    far.verify_mode = ssl.CERT_REQUIRED
    far.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    far.load_verify_locations(crl)
    for context, peer in ((near, client), (far, server)):
        context.load_cert_chain(peer.file)
        context.load_verify_locations(cadata=peer.roots)
    ends = near.wrap_bio(to_client, to_server, server_side=False), far.wrap_bio(to_server, to_client, server_side=True)
    is_done = [False, False]
    for _ in range(10):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
                is_done[number] = True
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                if "certificate revoked" not in str(error):
                    raise
                return False
    return all(is_done)


def test_who_is_revoked_is_not_believed_and_others_are(
    state: StateDirectory, authority: CertificateAuthority, tmp_path: Path
) -> None:
    web, other, server = (Peer(authority, tmp_path, name) for name in ("web", "other", "server"))
    noted = RevocationList(state)
    noted.refresh(authority, NOW)
    assert is_believed(web, server, state.path / CRL)
    assert revoke(state, web.serial.upper(), NOW)
    noted.refresh(authority, NOW)
    assert not is_believed(web, server, state.path / CRL)
    assert is_believed(other, server, state.path / CRL)


def test_the_list_is_made_again_when_something_changed_or_it_is_a_day_old(
    state: StateDirectory, authority: CertificateAuthority
) -> None:
    noted = RevocationList(state)
    noted.refresh(authority, NOW)
    (first,) = lists(state)
    noted.refresh(authority, NOW + DAY / 2)
    assert lists(state) == [first]
    noted.refresh(authority, NOW + DAY)
    (second,) = lists(state)
    numbers = [crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for crl in (first, second)]
    assert numbers[0] < numbers[1]
    revoke(state, "abc", NOW)
    noted.refresh(authority, NOW + DAY)
    assert serials(state) == [{"abc"}]
    assert (state.path / CRL).stat().st_mode & 0o777 == 0o644


def test_the_list_of_a_former_intermediate_stays_as_long_as_its_leaves_may_live(
    state: StateDirectory, authority: CertificateAuthority
) -> None:
    revoke(state, "abc", NOW)
    noted = RevocationList(state)
    noted.refresh(authority, NOW)
    add_root(state, NOW)
    use_root(state, NOW)
    later = open_authority(state, "cluster.local", NOW)
    revoke(state, "def", NOW)
    noted.refresh(later, NOW + DAY)
    mine, former = lists(state)
    assert mine.is_signature_valid(later.public_key)
    assert former.is_signature_valid(authority.public_key)
    assert serials(state) == [{"abc", "def"}, {"abc"}]
    assert refusals(state, later) == ["", ""], "both signers stand beside them"
    noted.refresh(later, NOW + CRL_LIFE + DAY)
    assert serials(state) == [set()], "neither the list nor what was revoked is of any use any more"


def test_the_list_of_a_root_that_is_dropped_goes_with_it(
    state: StateDirectory, authority: CertificateAuthority
) -> None:
    noted = RevocationList(state)
    noted.refresh(authority, NOW)
    add_root(state, NOW)
    use_root(state, NOW)
    noted.refresh(open_authority(state, "cluster.local", NOW), NOW)
    assert len(lists(state)) == 2
    drop_roots(state, NOW)
    later = open_authority(state, "cluster.local", NOW)
    noted.refresh(later, NOW)
    assert (len(lists(state)), refusals(state, later)) == (1, [""]), "none of its leaves is believed by anybody"
    assert len(read_lists((state.path / CRL).read_bytes()).beside) == 1


def test_a_list_from_before_signers_stood_beside_it_stays(
    state: StateDirectory, authority: CertificateAuthority
) -> None:
    former = authority.sign_crl({7: NOW}, NOW).public_bytes(serialization.Encoding.PEM)
    (state.path / CRL).write_bytes(former)
    add_root(state, NOW)
    use_root(state, NOW)
    RevocationList(state).refresh(open_authority(state, "cluster.local", NOW), NOW)
    assert serials(state) == [set(), {"7"}]


def test_agents_are_told_the_names_of_the_listed_certificates(
    state: StateDirectory, authority: CertificateAuthority, tmp_path: Path
) -> None:
    web, other = (Peer(authority, tmp_path, name) for name in ("web", "other"))
    noted = RevocationList(state)
    noted.refresh(authority, NOW)
    assert noted.certificates == frozenset()
    revoke(state, web.serial, NOW)
    noted.refresh(authority, NOW)
    assert noted.certificates == {web.name}
    assert other.name not in noted.certificates
    add_root(state, NOW)
    use_root(state, NOW)
    noted.refresh(open_authority(state, "cluster.local", NOW), NOW + DAY)
    assert web.name in noted.certificates, "its own intermediate's list is in the file still"


@pytest.mark.parametrize("serial", ["", "xyz", "0", "-1", "f" * 41, "the web pod's"])
def test_what_is_no_serial_is_refused(state: StateDirectory, serial: str) -> None:
    with pytest.raises(ConfigError, match="is not a serial number"):
        revoke(state, serial, NOW)
    assert not (state.path / REVOKED).exists()


def test_a_damaged_note_changes_nothing_and_is_told_once(
    state: StateDirectory, authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    revoke(state, "abc", NOW)
    noted = RevocationList(state)
    noted.refresh(authority, NOW)
    (state.path / REVOKED).write_text("nonsense")
    with caplog.at_level(logging.WARNING):
        noted.refresh(authority, NOW)
        noted.refresh(authority, NOW)
    assert serials(state) == [{"abc"}]
    assert caplog.text.count("revoked.json is damaged") == 1
    with pytest.raises(ConfigError, match="is damaged"):
        revoke(state, "def", NOW)


def test_a_damaged_list_is_made_again(state: StateDirectory, authority: CertificateAuthority) -> None:
    (state.path / CRL).write_text(
        "-----BEGIN X509 CRL-----\nnonsense\n-----END X509 CRL-----\n-----BEGIN CERTIFICATE-----\n"
    )
    RevocationList(state).refresh(authority, NOW)
    assert serials(state) == [set()]


def test_an_authority_that_may_not_sign_lists_has_none(state: StateDirectory, caplog: pytest.LogCaptureFixture) -> None:
    key, root = make_root(root_name("Corporation"), NOW)
    RevocationList(state).refresh(CertificateAuthority(key, [root], [root]), NOW)
    assert not (state.path / CRL).exists()
    assert "no key usage cRLSign" in caplog.text


def test_more_than_agents_believe_are_not_taken(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "MOST_REVOKED", 2)
    revoke(state, "abc", NOW)
    revoke(state, "def", NOW)
    with pytest.raises(ConfigError, match="more than 2 certificates are revoked") as refused:
        revoke(state, "123", NOW)
    assert "ca --help" in refused.value.check
    assert not revoke(state, "abc", NOW), "as before, it is noted already"
    assert revoke(state, "123", NOW + CRL_LIFE), "the others are of no use any more"


@pytest.mark.parametrize("place", [revocation, revocation_list], ids=["noted", "with a former signer's"])
def test_a_list_of_too_many_is_not_made_and_the_former_stays(
    state: StateDirectory,
    authority: CertificateAuthority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: ModuleType,
) -> None:
    noted = RevocationList(state)
    revoke(state, "abc", NOW)
    noted.refresh(authority, NOW)
    told = noted.certificates
    revoke(state, "def", NOW)
    monkeypatch.setattr(place, "MOST_REVOKED", 1)
    with caplog.at_level(logging.WARNING):
        noted.refresh(authority, NOW)
        with monkeypatch.context() as once:
            once.setattr(authority, "sign_crl", None)  # it takes seconds: not again until something changes
            noted.refresh(authority, NOW)
    assert (serials(state), noted.certificates) == ([{"abc"}], told)
    assert caplog.text.count("more than 1 certificates are revoked") == 1
    monkeypatch.undo()
    revoke(state, "123", NOW)
    noted.refresh(authority, NOW)
    assert serials(state) == [{"abc", "def", "123"}]
