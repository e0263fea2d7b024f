# SPDX-License-Identifier: Apache-2.0
"""Many agents as the control plane sees them: each a channel of its own, a whole subscription, an ACK for each answer.

They decode nothing but the message itself. One process, which is told what to do on standard input and answers each
line with a JSON object on standard output:
    synced   once all of them have had both types
    told     once something has come to all of them since the last order
    forget   at once
with when the last of it came, and how many bytes most of them got since the last order.
Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
from grpc import aio

from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION
from nodeagent.controlplane.token import KEY_FILE, make_token
from nodeagent.proto import xds_pb2
from nodeagent.proto.xds_pb2_grpc import AggregatedDiscoveryServiceStub

TYPES = (ADDRESS, AUTHORIZATION)
_TOKEN_SECONDS = 3600
_AGAIN_SECONDS = 0.2
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
"""A connection for each: channels of one process share them otherwise."""


class Member:
    def __init__(self, node: str, news: asyncio.Event) -> None:
        self.node, self._news = node, news
        self.answered: set[str] = set()
        """Types of which the first answer is here."""
        self.last = 0.0
        self.received_bytes = 0
        """Since they were last taken."""

    async def follow(self, address: str, credentials: grpc.ChannelCredentials, token: str) -> None:
        """Again, when a stream ends: a busy machine may not answer the control plane's pings in time."""
        while True:
            with contextlib.suppress(aio.AioRpcError):
                await self._follow_once(address, credentials, token)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _follow_once(self, address: str, credentials: grpc.ChannelCredentials, token: str) -> None:
        metadata = (("authorization", f"Bearer {token}"),)
        async with aio.secure_channel(address, credentials, options=_OPTIONS) as channel:
            answers: asyncio.Queue[xds_pb2.DeltaDiscoveryRequest] = asyncio.Queue()
            for request in self._subscriptions():
                answers.put_nowait(request)
            stub = AggregatedDiscoveryServiceStub(channel)
            call = stub.DeltaAggregatedResources(_taken_from(answers), metadata=metadata)
            async for response in call:
                self._came(response)
                answers.put_nowait(
                    xds_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                )

    def _subscriptions(self) -> Sequence[xds_pb2.DeltaDiscoveryRequest]:
        requests = [xds_pb2.DeltaDiscoveryRequest(type_url=type_url) for type_url in TYPES]
        requests[0].node.id = f"ztunnel~127.0.0.1~{self.node}.istio-system~istio-system.svc.cluster.local"
        requests[0].node.metadata["NODE_NAME"] = self.node
        return requests

    def _came(self, response: xds_pb2.DeltaDiscoveryResponse) -> None:
        self.answered.add(response.type_url)
        self.last = time.monotonic()
        self.received_bytes += response.ByteSize()
        self._news.set()


async def _taken_from(
    queue: "asyncio.Queue[xds_pb2.DeltaDiscoveryRequest]",
) -> AsyncIterator[xds_pb2.DeltaDiscoveryRequest]:
    while True:
        yield await queue.get()


async def run(address: str, state_directory: Path, nodes: Sequence[str]) -> None:
    """Until standard input ends."""
    credentials = grpc.ssl_channel_credentials((state_directory / "root-cert.pem").read_bytes())
    key, now = (state_directory / KEY_FILE).read_bytes(), time.time()
    news = asyncio.Event()
    members = [Member(node, news) for node in nodes]
    async with asyncio.TaskGroup() as tasks:
        following = [
            tasks.create_task(
                member.follow(address, credentials, make_token(key, member.node, now=now, ttl_seconds=_TOKEN_SECONDS))
            )
            for member in members
        ]
        async for order in _lines():
            while not all(_is_done(order, member) for member in members):
                news.clear()
                await news.wait()
            print(json.dumps(_take(members)), flush=True)
        for task in following:
            task.cancel()


def _is_done(order: str, member: Member) -> bool:
    match order:
        case "synced":
            return member.answered >= set(TYPES)
        case "told":
            return member.received_bytes > 0
        case _:
            return True


def _take(members: Sequence[Member]) -> dict[str, float]:
    sizes = [member.received_bytes for member in members]
    for member in members:
        member.received_bytes = 0
    return {"last": max(member.last for member in members), "bytes": statistics.median_low(sizes)}


async def _lines() -> AsyncIterator[str]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", help="of the control plane, host:port")
    parser.add_argument("state_directory", type=Path, help="of the control plane: its root and the key of its tokens")
    parser.add_argument("nodes", nargs="+")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(arguments.address, arguments.state_directory, arguments.nodes))


if __name__ == "__main__":
    main()
