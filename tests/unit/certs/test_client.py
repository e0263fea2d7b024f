# SPDX-License-Identifier: Apache-2.0
"""The CA client against a certificate service on loopback."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from grpc import aio

from nodeagent.certs import client as client_module
from nodeagent.certs.bundle import CertificateBundle
from nodeagent.certs.client import CaClient
from nodeagent.config import Config
from nodeagent.errors import ConfigError, ControlPlaneError
from nodeagent.model.identity import Identity
from nodeagent.proto import ca_pb2, ca_pb2_grpc
from nodeagent.upstream.channel import CallFailed

if TYPE_CHECKING:
    from tests.unit.certs.conftest import Until
    from tests.unit.conftest import TinyCa

NAME = "istiod.istio-system.svc"
WEB = Identity("cluster.local", "shop", "web")


class CaServer(ca_pb2_grpc.IstioCertificateServiceServicer):
    """Signs as istiod does, unless `refusal` or `name` say otherwise."""

    def __init__(self, ca: "TinyCa") -> None:
        self.ca = ca
        self.port = 0
        self.refusal: grpc.StatusCode | None = None
        self.name = ""
        self.requests: list[ca_pb2.IstioCertificateRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def CreateCertificate(self, request: ca_pb2.IstioCertificateRequest, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        await self.gate.wait()
        if self.refusal is not None:
            await context.abort(self.refusal, "request impersonation authentication failure")
        name = self.name or str(request.metadata["ImpersonatedIdentity"])
        return ca_pb2.IstioCertificateResponse(cert_chain=[self.ca.sign_request(request.csr, name), self.ca.pem])


@contextlib.asynccontextmanager
async def serve(ca: "TinyCa", server_ca: "TinyCa | None" = None, port: int = 0) -> AsyncIterator[CaServer]:
    service, server = CaServer(ca), aio.server()
    ca_pb2_grpc.add_IstioCertificateServiceServicer_to_server(service, server)
    credentials = grpc.ssl_server_credentials([(server_ca or ca).server(NAME)])
    service.port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    try:
        yield service
    finally:
        await server.stop(None)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CALL_SECONDS", 60.0)  # a busy machine is no CA that hangs


@pytest.fixture
def config(tmp_path: Path, tiny_ca: "TinyCa") -> Config:
    """Without a port: the tests put it in."""
    (tmp_path / "roots").write_text(tiny_ca.pem)
    (tmp_path / "token").write_text("t1")
    return Config(
        node="node-a",
        cluster="c1",
        server_name=NAME,
        root_certificate=str(tmp_path / "roots"),
        token=str(tmp_path / "token"),
        certificate_seconds=3600,
    )


def client_of(config: Config, server: CaServer) -> CaClient:
    return CaClient(dataclasses.replace(config, ca_address=f"https://127.0.0.1:{server.port}"))


def replace(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="ascii")


def play(scene: Any) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(100):
            await scene

    asyncio.run(within_time())


def test_a_certificate_for_the_identity_that_was_asked_for(config: Config, tiny_ca: "TinyCa") -> None:
    async def scene() -> None:
        async with serve(tiny_ca) as server:
            bundle = await client_of(config, server).fetch(WEB)

            leaf = x509.load_pem_x509_certificates(bundle.chain_pem)[0]
            (name,) = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert name.value == str(WEB)
            assert bundle.roots_pem.decode() == tiny_ca.pem
            assert bundle.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
            (request,) = server.requests
            assert request.validity_duration == 3600
            assert dict(request.metadata) == {"ImpersonatedIdentity": str(WEB)}
            assert server.metadata[0]["authorization"] == "Bearer t1"
            assert server.metadata[0]["clusterid"] == "c1"

    play(scene())


def test_each_request_has_a_new_key_and_reads_the_token_again(config: Config, tiny_ca: "TinyCa") -> None:
    async def scene() -> None:
        async with serve(tiny_ca) as server:
            client = client_of(config, server)
            first = await client.fetch(WEB)
            replace(config.token, "t2")
            second = await client.fetch(WEB)

            assert first.key_pem != second.key_pem
            assert [one["authorization"] for one in server.metadata] == ["Bearer t1", "Bearer t2"]

    play(scene())


def test_a_refusal_says_what_to_check(config: Config, tiny_ca: "TinyCa") -> None:
    async def scene() -> None:
        async with serve(tiny_ca) as server:
            server.refusal = grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(CallFailed, match="impersonation") as caught:
                await client_of(config, server).fetch(WEB)
            assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
            assert "token" in caught.value.check

    play(scene())


def test_a_certificate_for_somebody_else_is_not_used(config: Config, tiny_ca: "TinyCa") -> None:
    async def scene() -> None:
        async with serve(tiny_ca) as server:
            server.name = "spiffe://cluster.local/ns/shop/sa/eve"
            with pytest.raises(ControlPlaneError, match=r"is for spiffe://.*/sa/eve"):
                await client_of(config, server).fetch(WEB)

    play(scene())


def test_nobody_there(config: Config, tiny_ca: "TinyCa", held_port: int) -> None:
    async def scene() -> None:
        async with serve(tiny_ca, port=held_port) as server:
            client = client_of(config, server)
        with pytest.raises(CallFailed) as caught:
            await client.fetch(WEB)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE

    play(scene())


def test_a_ca_that_came_back_is_found_at_the_next_try(config: Config, tiny_ca: "TinyCa", held_port: int) -> None:
    async def scene() -> None:
        async with serve(tiny_ca, port=held_port) as server:
            client = client_of(config, server)
            await client.fetch(WEB)
        with pytest.raises(CallFailed):
            await client.fetch(WEB)
        async with serve(tiny_ca, port=held_port):
            await client.fetch(WEB)

    play(scene())


def test_new_roots_are_used_and_calls_over_the_old_channel_are_finished(
    config: Config, tiny_ca: "TinyCa", make_ca: "type[TinyCa]", until: "Until"
) -> None:
    new_ca = make_ca("New Root")

    async def scene() -> None:
        async with serve(tiny_ca) as server, asyncio.TaskGroup() as tasks:
            client = client_of(config, server)
            server.gate.clear()
            waiting: asyncio.Task[CertificateBundle] = tasks.create_task(client.fetch(WEB))
            await until(lambda: bool(server.requests))
            replace(config.root_certificate, new_ca.pem)
            with pytest.raises(CallFailed):  # the server still shows a certificate of the old CA
                await client.fetch(WEB)
            replace(config.root_certificate, tiny_ca.pem + new_ca.pem)
            server.gate.set()
            await client.fetch(WEB)
            assert (await waiting).serial

    play(scene())


def test_without_a_token_there_is_no_request(config: Config, tiny_ca: "TinyCa") -> None:
    async def scene() -> None:
        async with serve(tiny_ca) as server:
            replace(config.token, "")
            with pytest.raises(ControlPlaneError, match="not a token"):
                await client_of(config, server).fetch(WEB)
            assert server.requests == []

    play(scene())


def test_a_ca_in_plain_text_is_the_operators_mistake() -> None:
    with pytest.raises(ConfigError, match="plain text"):
        CaClient(Config(node="a", xds_address="http://127.0.0.1:15010"))
