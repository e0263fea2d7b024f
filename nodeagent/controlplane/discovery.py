# SPDX-License-Identifier: Apache-2.0
"""The xDS service: one delta stream per agent, over grpc.aio. What a stream is sent is decided in `delta.py`.

A refused caller learns the words that istiod uses; the reason goes to the log.
"""

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
import grpc.aio

from nodeagent.controlplane.clients import Client, Clients, TooManyClients
from nodeagent.controlplane.delta import Accepted, Asked, DeltaStream, Event, OutOfTurn, Refused, Subscribed
from nodeagent.controlplane.gate import Gate
from nodeagent.controlplane.publisher import Publisher
from nodeagent.controlplane.subscription import TooMuchAsked
from nodeagent.controlplane.token import TokenRefused
from nodeagent.logs.escape import bounded
from nodeagent.proto import xds_pb2, xds_pb2_grpc

_log = logging.getLogger(__name__)
_Request: TypeAlias = xds_pb2.DeltaDiscoveryRequest
_Response: TypeAlias = xds_pb2.DeltaDiscoveryResponse
FIRST_REQUEST_SECONDS = 10.0
"""A stream without a request is of no use, and takes the place of one."""
_LAST_WRITE_SECONDS = 1.0
"""For the message on its way when a stream ends: a client that reads no more does not keep its place for longer."""
_MAX_ID_CHARACTERS = 256
"""Of what a client calls itself that goes to logs and tables."""


class DiscoveryService(xds_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, gate: Gate, publisher: Publisher, clients: Clients) -> None:
        self._gate = gate
        self._publisher = publisher
        self._clients = clients

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
        conversation = _Conversation(DeltaStream(node), self._publisher, context)
        client = Client(conversation.stream, peer, dt.datetime.now(dt.UTC), conversation.end)
        try:
            with self._clients.admitted(client):
                ended = await conversation.hold(aiter(request_iterator), client.node_ids)
        except TooManyClients as error:
            ended = _Ended(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        if ended is not None:
            # UNAVAILABLE is our own affair: a stop, a stream that was replaced.
            level = logging.INFO if ended.code is grpc.StatusCode.UNAVAILABLE else logging.WARNING
            _log.log(level, "stream of node %s from %s ended: %s", node, peer, ended.reason)
            await context.abort(ended.code, str(ended))


class _Ended(Exception):
    """The stream is over from our side. Its text is for the client, `reason` for the log."""

    def __init__(self, code: grpc.StatusCode, details: str, reason: str = "") -> None:
        super().__init__(details)
        self.code, self.reason = code, reason or details


class _Conversation:
    """One stream: a task reads, another writes what is due whenever the reader or the publisher wakes it.

    A client that reads slowly holds up its own writer and nobody else's: what is due is computed when it can be sent.
    """

    def __init__(
        self, stream: DeltaStream, publisher: Publisher, context: "grpc.aio.ServicerContext[_Request, _Response]"
    ) -> None:
        self.stream = stream
        self._publisher, self._context = publisher, context
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._is_over = False
        self._written = asyncio.Event()
        """No message is on its way."""
        self._written.set()

    def end(self, words: str) -> None:
        if not self._end.done():
            self._end.set_result(words)

    async def hold(self, requests: AsyncIterator[_Request], node_ids: list[str]) -> "_Ended | None":
        """Until the client has ended it; or why we have."""
        try:
            async with asyncio.TaskGroup() as tasks:
                ending = tasks.create_task(self._wait_for_end())
                first = await self._first(requests)
                if first is not None:
                    node_ids.append(first.node.id[:_MAX_ID_CHARACTERS])
                    await self._talk(first, requests, tasks)
                ending.cancel()
        except* _Ended as group:
            ended = group.exceptions[0]
            assert isinstance(ended, _Ended)  # ours has no group inside
        else:
            return None
        return ended

    async def _first(self, requests: AsyncIterator[_Request]) -> _Request | None:
        try:
            async with asyncio.timeout(FIRST_REQUEST_SECONDS):
                first = await anext(requests, None)
        except TimeoutError:
            raise _Ended(grpc.StatusCode.DEADLINE_EXCEEDED, "no request came") from None
        if first is not None:
            _judge_node(first, self.stream.node)
        return first

    async def _talk(self, first: _Request, requests: AsyncIterator[_Request], tasks: asyncio.TaskGroup) -> None:
        _log.info("node %s connected from %s", self.stream.node, self._context.peer())
        try:
            with self._publisher.listening(self.stream.node) as woken:
                self._hear(first)
                woken.set()
                pushing = tasks.create_task(self._push(woken))
                try:
                    async for request in requests:
                        self._hear(request)
                        woken.set()
                finally:
                    await self._stop_writing()
                pushing.cancel()
        finally:
            _log.info("node %s disconnected", self.stream.node)

    def _hear(self, request: _Request) -> None:
        try:
            event = self.stream.received(request)
        except TooMuchAsked as error:
            raise _Ended(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from error
        _tell(self.stream.node, event)

    async def _push(self, woken: asyncio.Event) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.stream.wait_seconds(clock())):
                    await woken.wait()
            woken.clear()
            for response in self.stream.due(self._publisher.snapshot, clock()):
                if self._is_over:
                    return
                await self._write(response)
            self._publisher.served(woken)

    async def _write(self, response: _Response) -> None:
        self._written.clear()
        try:
            await self._context.write(response)
        finally:
            self._written.set()

    async def _stop_writing(self) -> None:
        """Before the stream is ended: gRPC cannot send a status beside a message that is on its way."""
        self._is_over = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WRITE_SECONDS):
                await self._written.wait()

    async def _wait_for_end(self) -> None:
        words = await self._end
        await self._stop_writing()
        raise _Ended(grpc.StatusCode.UNAVAILABLE, words)


def _judge_node(request: _Request, node: str) -> None:
    """Raises _Ended for a stream with this first request that is to be refused."""
    if not request.node.id:
        raise _Ended(grpc.StatusCode.INVALID_ARGUMENT, "missing node information")
    if request.node.id.count("~") != 3:
        raise _Ended(
            grpc.StatusCode.INVALID_ARGUMENT, f"node id {request.node.id[:_MAX_ID_CHARACTERS]!r} has not four parts"
        )
    metadata = request.node.metadata.fields
    claimed = metadata["NODE_NAME"].string_value if "NODE_NAME" in metadata else ""
    if claimed and claimed != node:
        reason = f"the token is for node {node}, the client says it is {claimed[:_MAX_ID_CHARACTERS]}"
        raise _Ended(grpc.StatusCode.UNAUTHENTICATED, "authentication failure", reason)


def _tell(node: str, event: Event) -> None:
    match event:
        case Subscribed(type_url, held):
            _log.info("node %s subscribes to %s, holding %d", node, _short(type_url), held)
        case Asked(type_url, names):
            _log.debug("node %s asks for or gives back %d names of %s", node, names, _short(type_url))
        case Accepted(type_url, nonce):
            _log.debug("node %s accepts %s of %s", node, nonce, _short(type_url))
        case Refused(type_url, nonce, message):
            _log.warning("node %s refuses resources of %s (%s): %s", node, nonce, _short(type_url), bounded(message))
        case OutOfTurn(type_url, nonce):
            _log.debug("node %s answers %s of %s, which is not awaited", node, nonce, _short(type_url))


def _short(type_url: str) -> str:
    return type_url.rpartition("/")[2][:_MAX_ID_CHARACTERS]
