# SPDX-License-Identifier: Apache-2.0
"""One look for all viewers, none without a viewer; who is slow misses pictures, and is told how many connections."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from nodeagent.admin.page import feed as feeds
from nodeagent.admin.page.feed import Feed
from nodeagent.errors import AgentUnreachable, ConfigError

PATIENCE_SECONDS = 30


class Node:
    """Answers as an admin socket does, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.ended: list[int] = []
        self.run, self.generation, self.in_kernel, self.page = "run", 1, 0, 1000
        self.error: Exception | None = None
        self.bugs = 0

    def met_bug(self) -> None:
        self.bugs += 1

    async def ask(self, route: str, query: Mapping[str, str]) -> Mapping[str, Any]:
        self.asked[route] += 1
        if self.error is not None:
            raise self.error
        match route:
            case "/status":
                workers = [{"connections": 1}]
                mesh = {"since": self.run, "generation": self.generation}
                return {**mesh, "in_kernel": self.in_kernel, "workers": workers}
            case "/flows":
                return self._flows(query)
            case _:
                return {route.removeprefix("/"): [], "certificates": [], "generation": self.generation}

    def _flows(self, query: Mapping[str, str]) -> Mapping[str, Any]:
        begin = max(0, len(self.ended) - int(query.get("last", "0")))
        if "after" in query:
            run, _, number = query["after"].partition("-")
            if run != self.run:
                raise ConfigError("no cursor of this agent")
            begin = int(number)
        rows = self.ended[begin : begin + self.page]
        end = begin + len(rows)
        has_more = end < len(self.ended)
        return {"flows": rows, "cursor": f"{self.run}-{end}", "has_more": has_more, "lost": 0}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LOOK_SECONDS", 0.001)


@contextlib.asynccontextmanager
async def _viewing(feed: Feed) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    async with contextlib.aclosing(feed.follow()) as events:
        yield events


async def _next(events: AsyncGenerator[bytes, None]) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        piece = await anext(events)
    assert piece.startswith(b"data: ")
    assert piece.endswith(b"\n\n")
    assert piece.count(b"\n") == 2
    body: dict[str, Any] = json.loads(piece.removeprefix(b"data: "))
    return body


def _with(node: Node, play: Callable[[Feed], Awaitable[None]]) -> None:
    async def both() -> None:
        feed = Feed(node.ask, node.met_bug)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(feed.run())
            await play(feed)
            running.cancel()

    asyncio.run(both())


def test_a_viewer_sees_what_was_kept_and_then_what_comes() -> None:
    node = Node()
    node.ended += [1, 2]

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as events:
            first = await _next(events)
            assert (first["flows"], first["skipped"]) == ([1, 2], 0)
            assert set(first) >= {"status", "pods", "certificates", "policies", "connections"}
            node.ended.append(3)
            flows: list[int] = []
            while not flows:
                flows += (await _next(events))["flows"]
            assert flows == [3]

    _with(node, play)


def test_who_comes_later_does_not_see_what_was_long_ago() -> None:
    node = Node()

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as events:
            await _next(events)
        node.generation = 2
        async with _viewing(feed) as events:
            generations = [(await _next(events))["status"]["generation"] for _ in range(2)]
            assert generations in ([2, 2], [1, 2]), "a look may have been under way"

    _with(node, play)


def test_without_a_viewer_nobody_is_asked() -> None:
    node = Node()

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as events:
            await _next(events)
        looks = node.asked["/status"]
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert node.asked["/status"] <= looks + 1, "one may have been under way"

    _with(node, play)


def test_many_viewers_are_one_look_and_each_sees_all() -> None:
    node = Node()

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as one, _viewing(feed) as other:
            await _next(one)
            node.ended += [1, 2, 3]
            for events in (one, other):
                flows: list[int] = []
                while len(flows) < 3:
                    flows += (await _next(events))["flows"]
                assert flows == [1, 2, 3]
            assert node.asked["/status"] - feed._looks in {0, 1}

    _with(node, play)


def test_who_is_slow_gets_the_latest_and_is_told_what_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEPT_FLOWS", 4)
    node = Node()

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as slow, _viewing(feed) as quick:
            await _next(slow)
            for number in range(10):
                node.ended.append(number)
                seen: list[int] = []
                while number not in seen:
                    seen += (await _next(quick))["flows"]
            event = await _next(slow)
            assert (event["flows"], event["skipped"]) == ([6, 7, 8, 9], 6)

    _with(node, play)


def test_more_than_an_answer_has_room_for_is_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEPT_FLOWS", 4)
    node = Node()
    node.page = 5

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as events:
            await _next(events)
            node.ended += list(range(20))
            event = await _next(events)
            while not event["flows"]:
                event = await _next(events)
            assert (event["flows"], event["skipped"]) == ([16, 17, 18, 19], 16)

    _with(node, play)


def test_a_successor_of_the_agent_is_followed() -> None:
    node = Node()

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as events:
            await _next(events)
            node.run, node.ended = "other", [7]
            flows: list[int] = []
            while not flows:
                flows += (await _next(events))["flows"]
            assert flows == [7]
            assert node.asked["/policies"] == 2, "of the same generation, and another agent's"

    _with(node, play)


def test_an_agent_that_is_away_is_told_and_looked_for_again() -> None:
    node = Node()
    node.error = AgentUnreachable("no agent answers")

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as events:
            assert (await _next(events))["error"] == "no agent answers"
            node.error = None
            while "error" in await _next(events):
                pass

    _with(node, play)


def test_a_bug_is_counted_told_and_ends_nothing_else() -> None:
    node = Node()
    node.error = KeyError("what nobody has thought of")

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as events:
            assert "bug" in (await _next(events))["error"]
            node.error = None
            while "error" in await _next(events):
                pass

    _with(node, play)
    assert node.bugs >= 1


def test_policies_are_asked_for_once_a_generation_and_too_many_connections_never() -> None:
    node = Node()
    node.in_kernel = feeds.MOST_CONNECTIONS

    async def play(feed: Feed) -> None:
        async with _viewing(feed) as events:
            for _ in range(3):
                assert (await _next(events))["connections"] is None
            assert (node.asked["/policies"], node.asked["/connections"]) == (1, 0)
            node.generation, node.in_kernel = 2, 0
            while (await _next(events))["connections"] is None:
                pass
            assert node.asked["/policies"] == 2

    _with(node, play)


def test_silence_is_broken_so_that_the_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "QUIET_SECONDS", 0.001)

    async def ask(_route: str, _query: Mapping[str, str]) -> Mapping[str, Any]:
        await asyncio.sleep(PATIENCE_SECONDS)
        return {}

    async def play() -> None:
        feed = Feed(ask, lambda: None)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(feed.run())
            async with _viewing(feed) as events:
                assert await anext(events) == b": still here\n\n"
            running.cancel()

    asyncio.run(play())
