# SPDX-License-Identifier: Apache-2.0
"""The xDS service: one delta stream per agent, over grpc.aio. What a stream is sent is decided in `delta.py`.

A refused caller learns the words that istiod uses; the reason goes to the log.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

import grpc
import grpc.aio

from nodeagent.controlplane.delta import Accepted, DeltaStream, Refused, Subscribed
from nodeagent.controlplane.gate import Gate
from nodeagent.controlplane.snapshot import Snapshot
from nodeagent.controlplane.token import TokenRefused
from nodeagent.proto import xds_pb2, xds_pb2_grpc

_log = logging.getLogger(__name__)
_Request: TypeAlias = xds_pb2.DeltaDiscoveryRequest
_Response: TypeAlias = xds_pb2.DeltaDiscoveryResponse


class Publisher:
    """Holds the snapshot in force and wakes the streams when it is replaced."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._listeners: set[asyncio.Event] = set()

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        for listener in self._listeners:
            listener.set()

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._listeners.add(changed)
        try:
            yield changed
        finally:
            self._listeners.discard(changed)

    @property
    def streams(self) -> int:
        return len(self._listeners)


class DiscoveryService(xds_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, gate: Gate, publisher: Publisher) -> None:
        self._gate = gate
        self._publisher = publisher

    async def DeltaAggregatedResources(  # type: ignore[override]  # noqa: N802 - gRPC's name; typed for aio
        self,
        request_iterator: AsyncIterator[_Request],
        context: "grpc.aio.ServicerContext[_Request, _Response]",
    ) -> None:
        peer = context.peer()
        try:
            node = self._gate.node_of(context.invocation_metadata())
        except TokenRefused as error:
            _log.warning("xDS refused for %s: %s", peer, error)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")
        first = await anext(aiter(request_iterator), None)
        if first is None:
            return
        code, problem = _judge_node(first, node)
        if code is not None:
            _log.warning("xDS refused for %s: %s", peer, problem)
            await context.abort(code, problem if code is grpc.StatusCode.INVALID_ARGUMENT else "authentication failure")
        _log.info("node %s connected from %s", node, peer)
        try:
            with self._publisher.listening() as woken:
                await self._talk(DeltaStream(node), first, request_iterator, context, woken)
        finally:
            _log.info("node %s disconnected", node)

    async def _talk(
        self,
        stream: DeltaStream,
        first: _Request,
        requests: AsyncIterator[_Request],
        context: "grpc.aio.ServicerContext[_Request, _Response]",
        woken: asyncio.Event,
    ) -> None:
        """One task reads, the other writes what is due whenever the reader or the publisher wakes it."""

        async def push() -> None:
            while True:
                await woken.wait()
                woken.clear()
                for response in stream.due(self._publisher.snapshot):
                    await context.write(response)

        _tell(stream.node, stream.received(first))
        woken.set()
        async with asyncio.TaskGroup() as tasks:
            pushing = tasks.create_task(push())
            async for request in requests:
                _tell(stream.node, stream.received(request))
                woken.set()
            pushing.cancel()


def _judge_node(request: _Request, node: str) -> tuple[grpc.StatusCode | None, str]:
    """Why a stream with this first request is refused, if it is."""
    if not request.node.id:
        return grpc.StatusCode.INVALID_ARGUMENT, "missing node information"
    if request.node.id.count("~") != 3:
        return grpc.StatusCode.INVALID_ARGUMENT, f"node id {request.node.id!r} has not four parts"
    metadata = request.node.metadata.fields
    claimed = metadata["NODE_NAME"].string_value if "NODE_NAME" in metadata else ""
    if claimed and claimed != node:
        return grpc.StatusCode.UNAUTHENTICATED, f"the token is for node {node}, the client says it is {claimed}"
    return None, ""


def _tell(node: str, event: Subscribed | Accepted | Refused) -> None:
    match event:
        case Subscribed(type_url, held):
            _log.info("node %s subscribes to %s, holding %d", node, _short(type_url), held)
        case Accepted(type_url, nonce):
            _log.debug("node %s accepts %s of %s", node, nonce, _short(type_url))
        case Refused(type_url, nonce, message):
            _log.warning("node %s refuses resources of %s (%s): %s", node, nonce, _short(type_url), message)


def _short(type_url: str) -> str:
    return type_url.rpartition("/")[2]
