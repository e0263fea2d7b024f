# SPDX-License-Identifier: Apache-2.0
"""Contexts by identity: the newest that can be used, never an expired one."""

import os
from collections.abc import Callable

import pytest

from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy.certificates import CertificateMissing, Certificates
from nodeagent.proxy.messages import Certificate

WEB = Identity("cluster.local", "apps", "web")


class Wall:
    def __init__(self) -> None:
        self.seconds = 1000.0


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def certificates(wall: Wall) -> Certificates:
    return Certificates(lambda: wall.seconds)


@pytest.fixture
def pair(authority: Callable[[], Callable[..., tuple[str, str]]]) -> tuple[int, int]:
    chain, roots = authority()(str(WEB))
    return int(chain.rpartition("/")[2]), int(roots.rpartition("/")[2])


def test_a_certificate_makes_both_contexts(certificates: Certificates, pair: tuple[int, int]) -> None:
    certificates.add(Certificate(WEB, "1", 2000), *pair)
    assert certificates.client_context(WEB) is not certificates.server_context(WEB)
    assert certificates.client_context(WEB) is certificates.client_context(WEB)


def test_trust_is_that_of_the_roots_and_not_of_the_certificate(
    certificates: Certificates, pair: tuple[int, int], authority: Callable[[], Callable[..., tuple[str, str]]]
) -> None:
    assert certificates.trust(WEB) == b""
    certificates.add(Certificate(WEB, "1", 2000), *pair)
    former = certificates.trust(WEB)
    certificates.add(Certificate(WEB, "2", 3000), *pair)
    assert certificates.trust(WEB) == former != b""
    certificates.add(Certificate(WEB, "3", 3000), pair[0], int(authority()(str(WEB))[1].rpartition("/")[2]))
    assert certificates.trust(WEB) != former


def test_none_and_expired(certificates: Certificates, wall: Wall, pair: tuple[int, int]) -> None:
    with pytest.raises(CertificateMissing, match="no certificate"):
        certificates.client_context(WEB)
    certificates.add(Certificate(WEB, "1", 2000), *pair)
    wall.seconds = 2000
    with pytest.raises(CertificateMissing, match="expired") as caught:
        certificates.server_context(WEB)
    assert caught.value.reason is Reason.CERTIFICATE_MISSING


def test_one_that_cannot_be_loaded_leaves_the_former_in_force(
    certificates: Certificates, pair: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    certificates.add(Certificate(WEB, "1", 2000), *pair)
    former = certificates.client_context(WEB)
    empty = os.memfd_create("empty")
    certificates.add(Certificate(WEB, "2", 3000), empty, pair[1])
    os.close(empty)
    assert certificates.client_context(WEB) is former
    assert certificates.refused == 1
    assert "certificate 2 of spiffe://cluster.local/ns/apps/sa/web refused" in caplog.text


def test_what_is_forgotten_is_missing(certificates: Certificates, pair: tuple[int, int]) -> None:
    certificates.add(Certificate(WEB, "1", 2000), *pair)
    certificates.forget(WEB)
    certificates.forget(WEB)
    assert certificates.identities == ()
