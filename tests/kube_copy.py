# SPDX-License-Identifier: Apache-2.0
"""A copy of an API server's pods as a follower keeps it, and what it was told."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ParamSpec
from urllib.parse import parse_qs

from nodeagent.kubernetes.api import ApiServer
from nodeagent.kubernetes.follow import Follower
from nodeagent.kubernetes.reflector import Ask, Change, Changed, Reflector, Removed, Replaced

PATIENCE_SECONDS = 60.0
P = ParamSpec("P")


class _Recorded(Reflector):
    def __init__(self, path: str, **selection: str) -> None:
        super().__init__(path, **selection)
        self.asked: list[Ask] = []

    def ask(self, pick: float) -> Ask:
        self.asked.append(super().ask(pick))
        return self.asked[-1]


class Copy:
    """What a follower has told, by name."""

    def __init__(self, api: ApiServer) -> None:
        self.pods: dict[str, str] = {}
        self.changes: list[str] = []
        self.reflector = _Recorded("/api/v1/pods", fieldSelector="spec.nodeName=node-a")
        self.follower = Follower(api, self.reflector, self._changed)

    def watched(self) -> int:
        """The version from which it watches; 0: it lists."""
        asked = parse_qs(self.reflector.asked[-1].target)
        return int(asked["resourceVersion"][0]) if "watch" in asked else 0

    def _changed(self, change: Change) -> None:
        self.changes.append(type(change).__name__)
        match change:
            case Replaced(objects):
                self.pods = {one.metadata.name: one.metadata.resource_version for one in objects}
            case Changed(one):
                self.pods[one.metadata.name] = one.metadata.resource_version
            case Removed(one):
                self.pods.pop(one.metadata.name, None)


@contextlib.asynccontextmanager
async def followed(copy: Copy) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(copy.follower.run())
        yield
        task.cancel()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is in another thread
            await asyncio.sleep(0.005)


def in_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run
