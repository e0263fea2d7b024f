# SPDX-License-Identifier: Apache-2.0
"""The file of revocation lists: followed while it is good, and its last good content held while it is not."""

import asyncio
import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nodeagent.agent.revocations import RevocationFile, read_crl
from nodeagent.certs.bundle import CertificateBundle
from nodeagent.errors import ConfigError
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.security import Revocations
from tests.unit.tls.test_revocation_list import DAY, KEY, NOW, OTHER_KEY, ROOT, certificate, crl, names


class Follower:
    def __init__(self, path: Path) -> None:
        self.mesh, self.changes, self.told = Mesh(), 0, asyncio.Event()
        self.path = path
        self.file = RevocationFile(str(path), self._apply)

    def _apply(self, changes: Changes) -> None:
        self.changes += 1
        self.mesh.apply(changes)
        self.told.set()

    def put(self, contents: bytes) -> None:
        """As a ConfigMap's volume is replaced: another file by the same name."""
        beside = self.path.with_suffix(".new")
        beside.write_bytes(contents)
        beside.replace(self.path)
        self.look()

    def look(self, now: dt.datetime = NOW) -> None:
        asyncio.run(self.file.look(now))

    @property
    def revoked(self) -> frozenset[bytes]:
        return self.mesh.security.revoked


def pem(*serials: int, days: int = 1) -> bytes:
    return crl(*serials, days=days).public_bytes(Encoding.PEM)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ca-crl.pem"


def test_what_it_says_is_told_and_followed(path: Path) -> None:
    path.write_bytes(pem(1))
    follower = Follower(path)
    assert follower.revoked == names(("a", 1))
    follower.put(pem(1, 2))
    assert follower.revoked == names(("a", 1), ("a", 2))
    follower.put(pem(2))
    assert follower.revoked == names(("a", 2)), "a whole list takes an entry back"
    assert follower.changes == 3
    assert follower.mesh.extensions["revocations/file"] == Revocations(source="file", certificates=names(("a", 2)))


def test_a_list_that_was_only_made_again_changes_nothing(path: Path) -> None:
    path.write_bytes(pem(1))
    follower = Follower(path)
    follower.put(pem(1, days=9))
    follower.look()
    assert follower.changes == 1
    assert follower.file.fault(NOW + 8 * DAY) == ""


@pytest.mark.parametrize("bad", [b"", b"no list", pem(1)[:-20]], ids=["empty", "no list", "half"])
def test_the_last_good_list_holds_until_there_is_another(
    path: Path, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(pem(1))
    follower = Follower(path)
    follower.put(bad)
    follower.look()
    assert follower.revoked == names(("a", 1))
    assert "last good list stays in force" in follower.file.fault(NOW)
    assert caplog.text.count("last good list") == 1
    path.unlink()
    follower.look()
    assert follower.revoked == names(("a", 1))
    follower.put(pem())
    assert (follower.revoked, follower.file.fault(NOW)) == (frozenset(), "")


def test_one_that_is_too_old_holds_and_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(pem(1))
    follower = Follower(path)
    follower.look()
    assert (follower.file.fault(NOW), caplog.text) == ("", "")
    follower.look(NOW + DAY)
    follower.look(NOW + 2 * DAY)
    assert "should have been replaced by 2026-01-02T00:00:00Z" in follower.file.fault(NOW + DAY)
    assert caplog.text.count("should have been replaced by 2026-01-02T00:00:00Z") == 1, "once"
    assert follower.revoked == names(("a", 1))
    follower.put(pem(1, days=3))
    assert follower.file.fault(NOW + DAY) == ""
    follower.look(NOW + 3 * DAY)
    assert "should have been replaced by 2026-01-04" in caplog.text


def bundle(*above: x509.Certificate, roots: tuple[x509.Certificate, ...] = (ROOT,)) -> CertificateBundle:
    """As it comes from the CA: a leaf (any certificate will do), what is above it, the roots."""
    chain = b"".join(one.public_bytes(Encoding.PEM) for one in (ROOT, *above))
    return CertificateBundle(b"", chain, b"".join(one.public_bytes(Encoding.PEM) for one in roots), "1", NOW, NOW)


SIGNER = certificate("a")


def test_until_there_are_roots_to_check_it_by_what_is_written_holds(path: Path) -> None:
    path.write_bytes(pem(1))
    follower = Follower(path)
    assert (follower.revoked, follower.file.fault(NOW)) == (names(("a", 1)), "")
    follower.file.trust(bundle(SIGNER))
    assert (follower.revoked, follower.changes, follower.file.fault(NOW)) == (names(("a", 1)), 1, "")


def test_one_that_nobody_vouches_for_ends_with_the_first_certificate(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(pem(1))
    follower = Follower(path)
    follower.file.trust(bundle())
    assert follower.revoked == frozenset()
    assert "a list is not believed" in follower.file.fault(NOW)
    follower.file.trust(bundle())
    assert caplog.text.count("'O=a': its signer's certificate is not known") == 1


def test_the_signer_may_stand_in_the_file(path: Path) -> None:
    path.write_bytes(pem(1) + SIGNER.public_bytes(Encoding.PEM))
    follower = Follower(path)
    follower.file.trust(bundle())
    assert (follower.revoked, follower.file.fault(NOW)) == (names(("a", 1)), "")


def test_a_forged_list_leaves_the_last_good_one_of_its_signer(path: Path) -> None:
    other = certificate("b", key=OTHER_KEY)
    of_other = crl(7, signer="b", key=OTHER_KEY).public_bytes(Encoding.PEM)
    path.write_bytes(pem(1) + of_other)
    follower = Follower(path)
    follower.file.trust(bundle(SIGNER, other))
    forged, more = crl(key=OTHER_KEY).public_bytes(Encoding.PEM), crl(7, 8, signer="b", key=OTHER_KEY)
    follower.put(forged + more.public_bytes(Encoding.PEM))
    assert follower.revoked == names(("a", 1), ("b", 7), ("b", 8)), "and another's good list counts"
    assert "'O=a': its signature is wrong" in follower.file.fault(NOW)
    follower.put(pem(2))
    assert (follower.revoked, follower.file.fault(NOW)) == (names(("a", 2)), "")


def test_an_authority_that_was_exchanged_is_known_as_long_as_it_leads_to_a_root(path: Path) -> None:
    path.write_bytes(pem(1))
    follower = Follower(path)
    follower.file.trust(bundle(SIGNER))
    follower.file.trust(bundle(certificate("next", key=OTHER_KEY)))
    follower.put(pem(1, 2))
    assert (follower.revoked, follower.file.fault(NOW)) == (names(("a", 1), ("a", 2)), "")
    follower.file.trust(bundle(roots=(certificate("new root", by="new root", signed_with=KEY),)))
    assert "its signer's certificate is not known" in follower.file.fault(NOW)
    assert follower.revoked == names(("a", 1), ("a", 2)), "what was believed is not taken back by that"


def test_one_that_is_not_there_yet_may_come(path: Path) -> None:
    follower = Follower(path)
    assert "is not there" in follower.file.fault(NOW)
    follower.put(pem(3))
    assert (follower.revoked, follower.file.fault(NOW)) == (names(("a", 3)), "")


def test_without_the_setting_there_is_nothing_to_do() -> None:
    file = RevocationFile("", lambda _changes: pytest.fail("nothing to tell"))
    asyncio.run(asyncio.wait_for(file.run(), 5))
    file.trust(bundle())
    assert file.fault(dt.datetime.now(dt.UTC)) == ""


def test_a_damaged_file_at_the_start_is_an_error(path: Path) -> None:
    path.write_bytes(b"no list")
    with pytest.raises(ConfigError, match=r"--crl: .*ca-crl\.pem") as refused:
        Follower(path)
    assert "X509 CRL" in refused.value.check


def test_a_path_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        read_crl(str(tmp_path))


def test_run_follows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeagent.agent.revocations.LOOK_SECONDS", 0.01)
    follower = Follower(path)

    async def story() -> None:
        task = asyncio.create_task(follower.file.run())
        await asyncio.to_thread(path.write_bytes, pem(5))
        await asyncio.wait_for(follower.told.wait(), 10)
        task.cancel()

    asyncio.run(story())
    assert follower.revoked == names(("a", 5))
