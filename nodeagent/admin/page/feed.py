# SPDX-License-Identifier: Apache-2.0
"""What the page is told, as server-sent events: one look at a node each second for all who look, none when nobody does.

A viewer has no queue. Who is slow takes the latest picture when ready for it, with the connections that ended since, as
far as they are kept here; how many are not is told. So a viewer costs a place and one answer, however slow.
"""

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from nodeagent.errors import ConfigError, NodeagentError

Ask: TypeAlias = Callable[[str, Mapping[str, str]], Awaitable[Mapping[str, Any]]]
"""Route and query of an admin socket to the answer's members. Raises NodeagentError."""

LOOK_SECONDS = 1.0
KEPT_FLOWS = 500
"""For a viewer who comes, and one who is slow; about 0.8 KiB each."""
MOST_CONNECTIONS = 2000
"""Open ones that are looked at: each is told by its worker, and encoded."""
QUIET_SECONDS = 10.0
"""Without news so long, a comment is sent, so that a viewer who has gone is noticed."""

HITS_LOOKS = 3
"""Looks after which hits of policies are asked for again, if there may be new ones."""

_encode = msgspec.json.Encoder().encode


class Feed:
    """Of one node."""

    def __init__(self, ask: Ask, met_bug: Callable[[], None]) -> None:
        """`met_bug` counts and logs the exception with which a look has ended."""
        self._ask, self._met_bug = ask, met_bug
        self._picture: dict[str, Any] = {}
        self._policies: tuple[object, Any] = (None, None)
        self._flows: deque[msgspec.Raw] = deque(maxlen=KEPT_FLOWS)
        self._flows_told = 0
        """So many have come since this feed began, be they kept or skipped."""
        self._hits_told = self._hits_look = 0
        self._cursor = ""
        self._looks = 0
        self._news = asyncio.Condition()
        self._viewers = 0
        self._is_watched = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. A node that does not answer is a picture too."""
        while True:
            await self._is_watched.wait()
            try:
                await self._look()
            except NodeagentError as error:
                self._picture = {"error": str(error), "check": error.check}
            except Exception:  # noqa: BLE001 - as for a request: a bug of the page must not end the agent
                self._met_bug()
                self._picture = {"error": "this is a bug of nodeagent", "check": "Its log has the traceback."}
            async with self._news:
                self._looks += 1
                self._news.notify_all()
            await asyncio.sleep(LOOK_SECONDS)

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """Events for one viewer, from what there is on."""
        # What the last viewer saw may be of long ago.
        seen, flows = 0 if self._viewers else self._looks, self._flows_told - len(self._flows)
        self._viewers += 1
        self._is_watched.set()
        try:
            while True:
                event = b": still here\n\n"
                try:
                    async with asyncio.timeout(QUIET_SECONDS), self._news:
                        await self._news.wait_for(functools.partial(self._has_looked_since, seen))
                except TimeoutError:
                    pass
                else:
                    seen, event, flows = self._looks, self._event(flows), self._flows_told
                yield event
        finally:
            self._viewers -= 1
            if not self._viewers:
                self._is_watched.clear()

    def _has_looked_since(self, looks: int) -> bool:
        return self._looks > looks

    def _event(self, told: int) -> bytes:
        """For one who has been told so many connections that ended."""
        behind = self._flows_told - told
        kept = min(behind, len(self._flows))
        body = self._picture | {
            "flows": list(itertools.islice(self._flows, len(self._flows) - kept, None)),
            "skipped": behind - kept,
        }
        return b"data: " + _encode(body) + b"\n\n"

    async def _look(self) -> None:
        status = await self._ask("/status", {})
        picture: dict[str, Any] = {
            "status": status,
            "pods": (await self._ask("/pods", {}))["pods"],
            "certificates": (await self._ask("/certs", {}))["certificates"],
            "policies": await self._policies_of((status["since"], status["generation"], self._look_for_hits())),
            "connections": await self._open_connections(status),
        }
        await self._take_flows()
        self._picture = picture

    def _look_for_hits(self) -> int:
        """Another number when connections have ended since the last one, and some seconds have passed."""
        if self._flows_told != self._hits_told and self._looks - self._hits_look >= HITS_LOOKS:
            self._hits_told, self._hits_look = self._flows_told, self._looks
        return self._hits_told

    async def _policies_of(self, generation: tuple[str, int, int]) -> Any:
        """They are counted over all workloads of the mesh, so not again before it, the agent or their hits change."""
        if self._policies[0] != generation:
            self._policies = (generation, await self._ask("/policies", {}))
        return self._policies[1]

    async def _open_connections(self, status: Mapping[str, Any]) -> list[Any] | None:
        """None: too many to look at each."""
        if status.get("in_kernel", 0) + sum(worker["connections"] for worker in status["workers"]) > MOST_CONNECTIONS:
            return None
        found: list[Any] = (await self._ask("/connections", {}))["connections"]
        return found

    async def _take_flows(self) -> None:
        page = await self._after() if self._cursor else await self._newest()
        if page["has_more"]:  # more than one answer has room for, in a second: the last of them will do
            page = await self._newest()
        self._flows_told += _between(self._cursor, page["cursor"]) or len(page["flows"])
        self._cursor = page["cursor"]
        self._flows.extend(msgspec.Raw(_encode(flow)) for flow in page["flows"])

    async def _newest(self) -> Mapping[str, Any]:
        return await self._ask("/flows", {"last": str(KEPT_FLOWS)})

    async def _after(self) -> Mapping[str, Any]:
        try:
            return await self._ask("/flows", {"after": self._cursor})
        except ConfigError:  # a cursor that this agent does not understand is another release's
            return await self._newest()


def _between(former: str, latter: str) -> int:
    """How many ended between two cursors; 0 when they are not of the same agent."""
    (run, _, begin), (same_run, _, end) = former.rpartition("-"), latter.rpartition("-")
    return int(end) - int(begin) if run == same_run else 0
