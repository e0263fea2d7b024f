# SPDX-License-Identifier: Apache-2.0
"""Recordings of a real istiod, and a control plane whose every move the test decides."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from nodeagent.proto import xds_pb2, xds_pb2_grpc

Recording = list[dict[str, Any]]
DATA = Path(__file__).parents[2] / "data" / "istiod"
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Waits for a condition that other tasks make true; fails after a minute."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - what is awaited has no event, it is a plain attribute
                await asyncio.sleep(0.001)

    return wait


@pytest.fixture(scope="session")
def recording() -> Callable[[str, str], Recording]:
    """`recording("basic", "address")`: the messages of one file, `raw` being the bytes of the message."""

    def read(folder: str, kind: str) -> Recording:
        lines = (DATA / folder / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
        messages: Recording = [json.loads(line) for line in lines]
        for message in messages:
            message["raw"] = base64.b64decode(message["raw_b64"])
        return messages

    return read


Request = xds_pb2.DeltaDiscoveryRequest
Response = xds_pb2.DeltaDiscoveryResponse


class Stream:
    """The server's end of one stream."""

    def __init__(self, context: "aio.ServicerContext[Request, Response]") -> None:
        self._context = context
        self._ended: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()
        self.metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}

    async def request(self) -> Request:
        async with asyncio.timeout(60):
            request = await self._context.read()
        assert isinstance(request, Request), "the client has gone"
        return request

    async def is_left(self) -> bool:
        """Whether the client has ended its direction; what it had said before is read."""
        async with asyncio.timeout(60):
            said: object = await self._context.read()
        return said is aio.EOF

    async def send(self, **fields: Any) -> None:
        await self._context.write(Response(**fields))

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        self._ended.set_result((code, details))

    async def live(self) -> None:
        code, details = await self._ended
        if code is not grpc.StatusCode.OK:
            await self._context.abort(code, details)


class AdsServer(xds_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Streams wait here until the test takes them."""

    def __init__(self) -> None:
        self._streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.port = 0

    async def stream(self) -> Stream:
        async with asyncio.timeout(60):
            return await self._streams.get()

    async def DeltaAggregatedResources(  # type: ignore[override]  # noqa: N802 - the stub's name; streams by context
        self,
        request_iterator: object,  # noqa: ARG002 - requests are read one by one from the context
        context: "aio.ServicerContext[Request, Response]",
    ) -> None:
        stream = Stream(context)
        self._streams.put_nowait(stream)
        await stream.live()


Serve = Callable[..., contextlib.AbstractAsyncContextManager[AdsServer]]


@pytest.fixture
def serve() -> Serve:
    """`async with serve() as server`, or `serve(key, certificate)` for TLS: on a port of this machine's loopback."""

    @contextlib.asynccontextmanager
    async def run(key: bytes = b"", certificate: bytes = b"", port: int = 0) -> AsyncIterator[AdsServer]:
        service, server = AdsServer(), aio.server()
        xds_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(service, server)
        address = f"127.0.0.1:{port}"
        if key:
            credentials = grpc.ssl_server_credentials([(key, certificate)])
            service.port = server.add_secure_port(address, credentials)
        else:
            service.port = server.add_insecure_port(address)
        await server.start()
        try:
            yield service
        finally:
            await server.stop(None)

    return run
