# SPDX-License-Identifier: Apache-2.0
"""A server over TLS on loopback that publishes the example mesh, and what a gRPC client in the same process says to it.

The fixture `play` of conftest.py runs a story against it.
"""

import dataclasses
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from nodeagent.controlplane.authority import open_authority
from nodeagent.controlplane.ca import (
    CertificateAuthority,
)
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.gate import Gate
from nodeagent.controlplane.objects import MeshObject
from nodeagent.controlplane.publisher import Publisher
from nodeagent.controlplane.serve import Server
from nodeagent.controlplane.snapshot import ADDRESS, advance
from nodeagent.controlplane.state import StateDirectory
from nodeagent.controlplane.token import make_key, make_token
from nodeagent.controlplane.translate import translate
from nodeagent.proto import ca_pb2, ca_pb2_grpc, xds_pb2, xds_pb2_grpc

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]
KEY = make_key()
WEB = "spiffe://cluster.local/ns/shop/sa/web"
WITHIN_SECONDS = 60
"""Only for what fails."""


def bearer(node: str = "node-a", *, key: bytes = KEY, seconds: int = 86400) -> tuple[tuple[str, str], ...]:
    """Made while tests are collected, so it must outlive the whole run."""
    token = make_token(key, node, now=time.time(), ttl_seconds=seconds)
    return (("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes"))


@dataclasses.dataclass
class Running:
    server: Server
    publisher: Publisher
    address: str
    channel: grpc.aio.Channel
    read: Read
    authorities: list[CertificateAuthority]
    """The last one is in use."""

    def publish(self, text: str) -> None:
        objects, _ = self.read(text)
        snapshot, _ = advance(self.publisher.snapshot, translate(objects))
        self.publisher.publish(snapshot)

    async def certificate(self, csr: str, identity: str, metadata: tuple[tuple[str, str], ...]) -> list[str]:
        request = ca_pb2.IstioCertificateRequest(csr=csr, validity_duration=60)
        if identity:
            request.metadata["ImpersonatedIdentity"] = identity
        stub: Any = ca_pb2_grpc.IstioCertificateServiceStub(self.channel)
        response = await stub.CreateCertificate(request, metadata=metadata)
        return list(response.cert_chain)

    def stream(self, metadata: tuple[tuple[str, str], ...]) -> "grpc.aio.StreamStreamCall[Any, Any]":
        stub: Any = xds_pb2_grpc.AggregatedDiscoveryServiceStub(self.channel)
        call: grpc.aio.StreamStreamCall[Any, Any] = stub.DeltaAggregatedResources(metadata=metadata)
        return call


Story = Callable[[Running], Awaitable[None]]
Play = Callable[[Story], None]


@asynccontextmanager
async def running(state: StateDirectory, read: Read, mesh: str) -> AsyncIterator[Running]:
    authority = open_authority(state, "cluster.local", dt.datetime.now(dt.UTC))
    authorities = [authority]
    publisher = Publisher()
    server = Server(Gate(KEY), publisher, lambda: authorities[-1])
    address = await server.start("127.0.0.1:0", ["localhost"])
    credentials = grpc.ssl_channel_credentials(authority.root_pem.encode())
    try:
        async with grpc.aio.secure_channel(address, credentials) as channel:
            stage = Running(server, publisher, address, channel, read, authorities)
            stage.publish(mesh)
            yield stage
    finally:
        await server.stop()


def first_request(type_url: str = ADDRESS, **metadata: str) -> xds_pb2.DeltaDiscoveryRequest:
    request = xds_pb2.DeltaDiscoveryRequest(type_url=type_url)
    request.node.id = "ztunnel~10.0.0.1~agent.istio-system~istio-system.svc.cluster.local"
    request.node.metadata.update(metadata)
    return request


async def read_response(call: "grpc.aio.StreamStreamCall[Any, Any]") -> xds_pb2.DeltaDiscoveryResponse:
    response = await call.read()
    assert isinstance(response, xds_pb2.DeltaDiscoveryResponse)
    return response


def names(response: xds_pb2.DeltaDiscoveryResponse) -> set[str]:
    return {resource.name for resource in response.resources}


async def refusal(call: "grpc.aio.StreamStreamCall[Any, Any]") -> tuple[grpc.StatusCode, str]:
    """How a stream that the server ends has ended."""
    return await call.code(), await call.details() or ""


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Without what gRPC's poller says of the loop of an earlier test in this process, which is closed."""
    texts = [record.getMessage() for record in caplog.records]
    return [text for text in texts if "PollerCompletionQueue._handle_events" not in text]
