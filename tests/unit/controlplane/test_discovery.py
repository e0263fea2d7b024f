# SPDX-License-Identifier: Apache-2.0
"""Whom a change concerns is woken before the others."""

import asyncio
import contextlib

from nodeagent.controlplane.discovery import Publisher
from nodeagent.controlplane.snapshot import Snapshot


def test_those_whom_a_change_concerns_are_woken_first() -> None:
    async def scenario() -> None:
        publisher, served = Publisher(), list[str]()

        async def stream(node: str, woken: asyncio.Event) -> None:
            await woken.wait()
            served.append(node)

        with contextlib.ExitStack() as stack:
            nodes = ["node-a", "node-b", "node-c", "node-d"]
            tasks = [
                asyncio.create_task(stream(node, stack.enter_context(publisher.listening(node)))) for node in nodes
            ]
            await asyncio.sleep(0)
            assert publisher.streams == 4
            publisher.publish(Snapshot(), {"node-c", "node-d", "elsewhere"})
            await asyncio.gather(*tasks)
        assert served == ["node-c", "node-d", "node-a", "node-b"]
        assert publisher.streams == 0

    asyncio.run(scenario())
