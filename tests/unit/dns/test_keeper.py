# SPDX-License-Identifier: Apache-2.0
"""Names are kept resolved by a resolver that answers as told; what comes of it is told once."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable

import pytest

from nodeagent.dns.book import KEPT_SECONDS, Family, Outcome, Outcomes
from nodeagent.dns.keeper import NameKeeper, describe
from nodeagent.dns.memory import KeptAnswer
from nodeagent.errors import StateFileUnwritable
from nodeagent.model.address import Ip
from nodeagent.model.mesh import Changes
from nodeagent.model.resolved_name import ResolvedName

A = Ip("203.0.113.7")
NONE = Outcome(seconds=30, words="it has no address")
FAILED = Outcome(words="no answer", is_answer=False)


class Scene:
    """A keeper, what it is asked for, and a resolver that answers when the test lets it."""

    def __init__(self, *names: str, before: tuple[KeptAnswer, ...] = ()) -> None:
        self.names = list(names)
        self.asked: list[str] = []
        self.answer = Outcome((A,), 300)
        self.may_answer = asyncio.Event()
        self.told: list[Changes] = []
        self.before, self.saved, self.disk_error = before, list[tuple[KeptAnswer, ...]](), ""
        self.keeper = NameKeeper(self, lambda: self.names, self.told.append, self)

    def load(self) -> tuple[KeptAnswer, ...]:
        return self.before

    def save(self, answers: Iterable[KeptAnswer]) -> None:
        if self.disk_error:
            raise StateFileUnwritable(self.disk_error)
        self.saved.append(tuple(answers))

    async def look_up(self, name: str) -> Outcomes:
        self.asked.append(name)
        await self.may_answer.wait()
        return {Family.IPV4: self.answer, Family.IPV6: NONE}

    def run(self, steps: Callable[[], Awaitable[None]]) -> None:
        async def body() -> None:
            running = asyncio.ensure_future(self.keeper.run())
            await steps()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        asyncio.run(body())


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        for _ in itertools.takewhile(lambda _: not holds(), itertools.count()):
            await asyncio.sleep(0)


def test_what_is_wanted_is_asked_and_told_and_what_is_not_is_taken_back() -> None:
    scene = Scene("api.example")

    async def steps() -> None:
        await until(lambda: scene.asked)
        assert scene.told == []
        assert not scene.keeper.is_settled()
        scene.may_answer.set()
        await until(lambda: scene.told)
        assert scene.told == [Changes(names=(ResolvedName(hostname="api.example", addresses=(A,)),))]
        assert scene.keeper.is_settled()
        scene.names = []
        scene.keeper.look_again()
        await until(lambda: len(scene.told) > 1)

    scene.run(steps)
    assert scene.told[1] == Changes(removed_names=("api.example",))
    assert (scene.keeper.lookups, scene.keeper.failures) == (1, 0)


def test_a_resolver_that_hangs_holds_up_no_other_name_and_is_asked_once() -> None:
    scene = Scene("slow.example")

    async def steps() -> None:
        await until(lambda: scene.asked)
        scene.names.append("other.example")
        scene.keeper.look_again()
        await until(lambda: len(scene.asked) > 1)

    scene.run(steps)
    assert scene.asked == ["slow.example", "other.example"]


def test_failures_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene("api.example")
    scene.answer = FAILED
    scene.may_answer.set()

    async def steps() -> None:
        await until(lambda: scene.told)

    scene.run(steps)
    assert scene.keeper.failures == 1
    assert "api.example: it cannot be resolved: no answer" in caplog.text


def test_without_names_there_is_nothing_to_wait_for() -> None:
    assert Scene().keeper.is_settled()


def test_the_first_answers_are_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("nodeagent.dns.keeper.time.monotonic", lambda: now)
    keeper = Scene("api.example").keeper
    assert not keeper.is_settled()
    now += 60
    assert keeper.is_settled()


def test_what_a_predecessor_knew_is_used_while_the_resolver_hangs(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene("api.example", before=(KeptAnswer("api.example", Family.IPV4, (A,), time.time() - 60),))

    async def steps() -> None:
        await until(lambda: scene.told)
        assert scene.keeper.is_settled()

    scene.run(steps)
    assert [name.addresses for name in scene.told[0].names] == [(A,)]
    assert "perhaps outdated: the node's resolver has not answered yet" in caplog.text


@pytest.mark.parametrize("seconds", [KEPT_SECONDS + 60, -3600], ids=["too old", "the clock was set back"])
def test_its_age_is_that_of_the_wall_clock(seconds: float) -> None:
    scene = Scene(before=(KeptAnswer("api.example", Family.IPV4, (A,), time.time() - seconds),))
    assert len(list(scene.keeper.book.good_answers(time.monotonic()))) == (seconds < 0)


def test_answers_are_saved_with_their_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("nodeagent.dns.keeper.SAVE_SECONDS", 0.0)
    scene = Scene("api.example")
    scene.disk_error = "names.json: no space left"
    scene.may_answer.set()
    began = time.time()

    async def steps() -> None:
        await until(lambda: scene.keeper.file_error)
        scene.disk_error = ""
        await until(lambda: scene.saved)
        await until(lambda: not scene.keeper.file_error)

    scene.run(steps)
    (answer,) = scene.saved[0]
    assert (answer.name, answer.family, answer.addresses) == ("api.example", Family.IPV4, (A,))
    assert began - 1 < answer.at <= time.time() + 1
    assert caplog.text.count("no space left") == 1


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (ResolvedName(hostname="h", addresses=(A, Ip("2001:db8::7"))), "203.0.113.7, 2001:db8::7"),
        (ResolvedName(hostname="h", addresses=(A,), error="no answer"), "203.0.113.7; perhaps outdated: no answer"),
        (ResolvedName(hostname="h", error="no such name"), "it cannot be resolved: no such name"),
    ],
)
def test_how_a_name_is_described(found: ResolvedName, words: str) -> None:
    assert describe(found) == words
