# SPDX-License-Identifier: Apache-2.0
"""Lists of connections: whole or of no use, from who was asked, and never of a worker that is gone."""

import asyncio
from typing import cast

import pytest

from nodeagent.agent.questions import Questions
from nodeagent.agent.worker import Worker
from nodeagent.model.address import Ip
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.proxy.messages import Connections, ListConnections
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.open_connections import OpenConnections
from nodeagent.telemetry.traffic import TrafficMetrics
from tests.logged import logged


def record(number: int, reason: str = "") -> ConnectionRecord:
    return ConnectionRecord(
        id=number,
        direction=Direction.OUTBOUND,
        started=1.0,
        source_ip=Ip("10.0.0.1"),
        source_port=number,
        original_ip=Ip("10.0.0.2"),
        original_port=80,
        reason=reason,
    )


class FakeWorker:
    def __init__(self, slot: int) -> None:
        self.slot, self.pid = slot, 100 + slot
        self.gone = asyncio.Event()
        self.asked: list[int] = []

    def send(self, message: ListConnections) -> None:
        self.asked.append(message.request)


class Room:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.table = OpenConnections(TrafficMetrics(), AccessLog(self.lines.append))
        self.questions = Questions(self.table)
        self.workers = [FakeWorker(0), FakeWorker(1)]

    def answer(self, slot: int, *numbers: int, is_last: bool = True, request: int = 0) -> None:
        worker = self.workers[slot]
        records = tuple(map(record, numbers))
        self.questions.answered(cast("Worker", worker), Connections(request or worker.asked[-1], records, is_last))

    async def ask(self, *slots: int, seconds: float = 60) -> tuple[list[tuple[int, int]], bool]:
        asked = {cast("Worker", self.workers[slot]) for slot in slots}
        found, is_whole = await self.questions.ask(asked, seconds)
        return sorted((slot, one.id) for slot, one in found), is_whole


def test_answers_come_in_parts_and_in_any_order() -> None:
    async def scenario() -> None:
        room = Room()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(room.ask(0, 1))
            await asyncio.sleep(0)
            room.answer(1, 3, is_last=False)
            room.answer(0, 1)
            room.answer(1, 4)
            assert await asking == ([(0, 1), (1, 3), (1, 4)], True)
            room.answer(1, 5)  # again, when nobody asks

    asyncio.run(scenario())


def test_two_questions_at_once_have_an_answer_each() -> None:
    async def scenario() -> None:
        room = Room()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(room.ask(0))
            second = group.create_task(room.ask(0))
            await asyncio.sleep(0)
            one, two = room.workers[0].asked
            room.answer(0, 2, request=two)
            assert await second == ([(0, 2)], True)
            room.answer(0, 1, request=one)
            assert await first == ([(0, 1)], True)

    asyncio.run(scenario())


def test_an_answer_of_somebody_else_does_not_count() -> None:
    async def scenario() -> None:
        room = Room()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(room.ask(0))
            await asyncio.sleep(0)
            room.answer(1, 9, request=room.workers[0].asked[0])
            assert not asking.done()
            room.answer(0, 1)
            assert await asking == ([(0, 1)], True)

    asyncio.run(scenario())


def test_who_is_silent_or_gone_makes_half_a_list(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        room = Room()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(room.ask(0, 1, seconds=0.05))
            await asyncio.sleep(0)
            room.answer(0, 1)
            assert await asking == ([(0, 1)], False)
            assert "workers [1] did not list" in caplog.text
            caplog.clear()

            asking = group.create_task(room.ask(0, 1))
            await asyncio.sleep(0)
            room.answer(0, 1)
            room.workers[1].gone.set()
            room.questions.worker_gone()
            assert await asking == ([(0, 1)], False)
            assert logged(caplog) == []

    asyncio.run(scenario())


def test_half_a_list_ends_no_connection() -> None:
    """A slow worker's open connections must not be told as lost."""

    async def scenario() -> None:
        room = Room()
        worker = room.workers[0]
        room.table.opened(worker.pid, record(1))
        for _ in range(3):
            async with asyncio.TaskGroup() as group:
                group.create_task(room.questions.observe(cast("Worker", worker), 0.01))
                await asyncio.sleep(0)
                room.answer(0, 7, is_last=False)
        assert room.lines == []
        assert room.table.count(worker.pid) == 1

    asyncio.run(scenario())


def test_an_observation_fills_the_table_but_with_nothing_that_ended_meanwhile() -> None:
    async def scenario() -> None:
        room = Room()
        worker = room.workers[0]
        async with asyncio.TaskGroup() as group:
            group.create_task(room.questions.observe(cast("Worker", worker), 60))
            await asyncio.sleep(0)
            room.table.closed(worker.pid, record(2, "closed"))
            room.answer(0, 1, 2)
        assert room.table.count(worker.pid) == 1

    asyncio.run(scenario())


def test_a_worker_that_is_gone_enters_nothing() -> None:
    """Its end was told to the table already, and nobody would end these."""

    async def scenario() -> None:
        room = Room()
        worker = room.workers[0]
        async with asyncio.TaskGroup() as group:
            group.create_task(room.questions.observe(cast("Worker", worker), 60))
            await asyncio.sleep(0)
            worker.gone.set()
            room.answer(0, 1)
        assert room.table.count(worker.pid) == 0

    asyncio.run(scenario())


def test_a_question_that_is_cancelled_is_forgotten() -> None:
    async def scenario() -> None:
        room = Room()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(room.ask(0))
            await asyncio.sleep(0)
            asking.cancel()
        room.answer(0, 1)
        assert room.questions._asked == {}

    asyncio.run(scenario())
