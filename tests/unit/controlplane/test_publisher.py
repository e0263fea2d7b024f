# SPDX-License-Identifier: Apache-2.0
"""Whom a change concerns has everything before the others are woken, and keeps nobody waiting for long."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import pytest

from nodeagent.controlplane import publisher as module
from nodeagent.controlplane.publisher import Publisher
from nodeagent.controlplane.snapshot import Snapshot

NODES = ("node-a", "node-b", "node-c", "node-d")


@contextlib.contextmanager
def streams(publisher: Publisher) -> Iterator[dict[str, asyncio.Event]]:
    with contextlib.ExitStack() as stack:
        yield {node: stack.enter_context(publisher.listening(node)) for node in NODES}


def awake(woken: dict[str, asyncio.Event]) -> list[str]:
    return [node for node, event in woken.items() if event.is_set()]


async def at_once(publisher: Publisher) -> None:
    with streams(publisher) as woken:
        assert publisher.streams == 4
        publisher.publish(Snapshot(), {"elsewhere"})
        assert awake(woken) == list(NODES)


async def after_the_last_of_those_concerned_is_served(publisher: Publisher) -> None:
    with streams(publisher) as woken:
        publisher.publish(Snapshot(), {"node-c", "node-d", "elsewhere"})
        assert awake(woken) == ["node-c", "node-d"]
        publisher.served(woken["node-c"])
        publisher.served(woken["node-a"])
        assert awake(woken) == ["node-c", "node-d"]
        publisher.served(woken["node-d"])
        assert awake(woken) == list(NODES)


async def although_one_that_is_concerned_is_slow(publisher: Publisher) -> None:
    with streams(publisher) as woken:
        publisher.publish(Snapshot(), {"node-c"})
        await asyncio.wait_for(woken["node-a"].wait(), 10)
        publisher.publish(Snapshot(), {"node-c"})
        publisher.served(woken["node-c"])
        assert awake(woken) == list(NODES)


async def when_the_one_that_is_concerned_has_gone(publisher: Publisher) -> None:
    with streams(publisher) as woken:
        with publisher.listening("node-e") as leaving:
            publisher.publish(Snapshot(), {"node-e"})
            assert leaving.is_set()
            assert awake(woken) == []
        assert awake(woken) == list(NODES)


async def of_two_changes_in_a_row_those_of_both(publisher: Publisher) -> None:
    with streams(publisher) as woken:
        publisher.publish(Snapshot(), {"node-a"})
        publisher.publish(Snapshot(), {"node-b"})
        publisher.served(woken["node-a"])
        assert awake(woken) == ["node-a", "node-b"]
        publisher.served(woken["node-b"])
        assert awake(woken) == list(NODES)


@pytest.mark.parametrize(
    "scenario",
    [
        at_once,
        after_the_last_of_those_concerned_is_served,
        although_one_that_is_concerned_is_slow,
        when_the_one_that_is_concerned_has_gone,
        of_two_changes_in_a_row_those_of_both,
    ],
)
def test_the_others_are_woken(
    scenario: Callable[[Publisher], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if scenario is not although_one_that_is_concerned_is_slow:
        monkeypatch.setattr(module, "HEAD_START_SECONDS", 3600.0)

    async def play() -> None:
        publisher = Publisher()
        await scenario(publisher)
        assert publisher.streams == 0

    asyncio.run(play())
