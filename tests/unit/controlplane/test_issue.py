# SPDX-License-Identifier: Apache-2.0
"""Certificates: who gets one, and what is said of each request."""

import datetime as dt
import logging

import grpc
import grpc.aio
import pytest
from cryptography import x509

from nodeagent.controlplane.ca import (
    INTERMEDIATE_LIFE,
    CertificateAuthority,
    make_intermediate,
    make_root,
    root_name,
)
from nodeagent.controlplane.token import make_key
from tests.unit.controlplane.served import WEB, Play, Running, bearer


def test_a_node_gets_the_certificates_of_its_pods(play: Play, csr: str) -> None:
    async def story(stage: Running) -> None:
        leaf = x509.load_pem_x509_certificate((await stage.certificate(csr, WEB, bearer()))[0].encode())
        uris = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert uris.get_values_for_type(x509.UniformResourceIdentifier) == [WEB]

    play(story)


def test_each_request_for_a_certificate_is_one_line_that_says_who_asked_for_what(
    play: Play, csr: str, caplog: pytest.LogCaptureFixture
) -> None:
    serials: list[int] = []

    async def story(stage: Running) -> None:
        chain = await stage.certificate(csr, WEB, bearer())
        serials.append(x509.load_pem_x509_certificate(chain[0].encode()).serial_number)
        with pytest.raises(grpc.aio.AioRpcError):
            await stage.certificate(csr, WEB, bearer("node-b"))

    play(story)
    issued, refused = [record.getMessage() for record in caplog.records if record.name.endswith("audit")]
    assert issued.startswith("certificate issued node=node-a peer=ipv4:127.0.0.1:")
    assert f'identity="{WEB}" serial={serials[0]:x} not_before=' in issued
    assert refused.startswith("certificate refused node=node-b peer=ipv4:127.0.0.1:")
    assert 'reason=placed_elsewhere why="node node-b wants' in refused


def test_an_authority_that_has_expired_is_unavailable(play: Play, csr: str) -> None:
    async def story(stage: Running) -> None:
        long_ago = dt.datetime.now(dt.UTC) - INTERMEDIATE_LIFE - dt.timedelta(days=1)
        key, root = make_root(root_name("cluster.local"), long_ago)
        below, certificate = make_intermediate(key, root, long_ago)
        stage.authorities.append(CertificateAuthority(below, [certificate, root], [root]))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stage.certificate(csr, WEB, bearer())
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "has expired" in (raised.value.details() or "")

    play(story)


IMPERSONATION = "request impersonation authentication failure"


@pytest.mark.parametrize(
    ("metadata", "identity", "details", "reason"),
    [
        pytest.param((), WEB, "request authenticate failure", "no token", id="no token"),
        pytest.param(bearer(seconds=-1), WEB, "request authenticate failure", "expired", id="expired"),
        pytest.param(bearer(key=make_key()), WEB, "request authenticate failure", "signature", id="another key"),
        pytest.param(bearer("node-b"), WEB, IMPERSONATION, "no running pod", id="a pod of another node"),
        pytest.param(bearer("node-x"), WEB, IMPERSONATION, "placed on that node", id="a node without pods"),
        pytest.param(bearer(), WEB.replace("cluster.local", "evil"), IMPERSONATION, "trust domain", id="trust domain"),
        pytest.param(bearer(), WEB.replace("sa/web", "sa/db"), IMPERSONATION, "no running pod", id="another account"),
        pytest.param(bearer(), "", IMPERSONATION, "no ImpersonatedIdentity", id="nobody's"),
        pytest.param((bearer()[0], ("clusterid", "c2")), WEB, IMPERSONATION, "of cluster c2", id="another cluster"),
    ],
)
def test_certificates_that_are_refused(  # every argument is a column or a fixture
    play: Play,
    caplog: pytest.LogCaptureFixture,
    csr: str,
    metadata: tuple[tuple[str, str], ...],
    identity: str,
    details: str,
    reason: str,
) -> None:
    async def story(stage: Running) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stage.certificate(csr, identity, metadata)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert raised.value.details() == details

    with caplog.at_level(logging.WARNING):
        play(story)
    assert reason in caplog.text


def test_a_bad_csr_is_an_invalid_argument(play: Play) -> None:
    async def story(stage: Running) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stage.certificate("nonsense", WEB, bearer())
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    play(story)


def test_a_pod_that_has_gone_gets_no_certificate(play: Play, mesh: str, csr: str) -> None:
    async def story(stage: Running) -> None:
        assert await stage.certificate(csr, WEB, bearer())
        stage.publish(mesh.replace("nodeName: node-a", "nodeName: node-b"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stage.certificate(csr, WEB, bearer())
        assert await stage.certificate(csr, WEB, bearer("node-b"))

    play(story)
