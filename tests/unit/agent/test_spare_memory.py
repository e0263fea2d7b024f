# SPDX-License-Identifier: Apache-2.0
"""What is spare is given back after changes: once for many, and not before the first mesh is in the kernel."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from nodeagent.agent import spare_memory as module
from nodeagent.agent.spare_memory import LARGE_CHANGE, SpareMemory
from nodeagent.model import sharing

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
HOUR = 3600.0


class Kept:
    """Counts what is done."""

    def __init__(self) -> None:
        self.is_settled, self.times, self.forgotten = True, 0, 0
        self.memory = SpareMemory(lambda: self.is_settled, self.give_back)

    def give_back(self) -> None:
        self.times += 1

    def forget(self) -> None:
        self.forgotten += 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SpareMemory]:
        task = asyncio.create_task(self.memory.run())
        yield self.memory
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    for name in ("AFTER_LARGE_SECONDS", "AFTER_SMALL_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(module, name, 0.001)
    kept = Kept()
    monkeypatch.setattr(sharing, "forget", kept.forget)
    return kept


async def _some_turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_many_changes_are_one(kept: Kept, eventually: Eventually) -> None:
    async def scenario() -> None:
        async with kept.running() as memory:
            for _ in range(10):
                memory.changed(1)
            await eventually(lambda: kept.times == 1)
            memory.changed(1)
            await eventually(lambda: kept.times == 2)
        assert not kept.forgotten

    asyncio.run(scenario())


def test_after_a_large_change_nobody_asks_for_its_texts(kept: Kept, eventually: Eventually) -> None:
    async def scenario() -> None:
        async with kept.running() as memory:
            memory.changed(LARGE_CHANGE)
            await eventually(lambda: kept.times == 1)
        assert kept.forgotten == 1

    asyncio.run(scenario())


def test_a_small_change_does_not_hurry_a_large_one(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AFTER_LARGE_SECONDS", HOUR)

    async def scenario() -> None:
        kept.memory.changed(LARGE_CHANGE)
        kept.memory.changed(1)
        async with kept.running():
            await asyncio.sleep(0.01)
            await _some_turns()
        assert kept.times == 0

    asyncio.run(scenario())


def test_changes_without_end_do_not_put_it_off(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    async def scenario() -> None:
        kept.memory.changed(1)
        monkeypatch.setattr(module, "AFTER_SMALL_SECONDS", HOUR)
        kept.memory.changed(1)
        async with kept.running():
            await eventually(lambda: kept.times == 1)

    asyncio.run(scenario())


def test_it_waits_until_the_kernel_has_the_mesh(kept: Kept, eventually: Eventually) -> None:
    async def scenario() -> None:
        kept.is_settled = False
        async with kept.running() as memory:
            memory.changed(LARGE_CHANGE)
            await asyncio.sleep(0.01)
            await _some_turns()
            assert kept.times == 0
            kept.is_settled = True
            await eventually(lambda: kept.times == 1)

    asyncio.run(scenario())
