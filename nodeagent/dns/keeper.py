# SPDX-License-Identifier: Apache-2.0
"""Keeps the names of the mesh resolved, and tells what has changed."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

from nodeagent.dns.book import GoodAnswer, NameBook, Outcomes
from nodeagent.dns.memory import KeptAnswer
from nodeagent.errors import StateFileUnwritable
from nodeagent.model.mesh import Changes
from nodeagent.model.resolved_name import ResolvedName

_log = logging.getLogger(__name__)


FIRST_ANSWERS_SECONDS = 2.0
"""How long an agent that starts waits for them before it tells workers what is known: they may have a predecessor's."""
SAVE_SECONDS = 5.0
"""From an answer to its being on disk: each renewal is one, and by what is lost the age that counts is too great."""


class Resolver(Protocol):
    async def look_up(self, name: str) -> Outcomes:
        """Ends within seconds, and never raises for what a resolver may answer."""


class Memory(Protocol):
    """See memory.py."""

    def load(self) -> Iterable[KeptAnswer]: ...

    def save(self, answers: Iterable[KeptAnswer]) -> None: ...


class NameKeeper:
    """`wanted` is asked whenever `look_again` was called, `tell` is given what is another thing than before."""

    def __init__(
        self,
        resolver: Resolver,
        wanted: Callable[[], Collection[str]],
        tell: Callable[[Changes], object],
        memory: Memory,
    ) -> None:
        """Reads what a predecessor knew."""
        self._resolver, self._wanted, self._tell, self._memory = resolver, wanted, tell, memory
        self.book = NameBook(random.random)  # spreads questions, no secret
        self.book.recall(_in_monotonic_time(memory.load()))
        self.file_error = ""
        """Why the answers are not on disk."""
        self._has_learned = asyncio.Event()
        self.lookups, self.failures = 0, 0
        """Questions so far, and those that the resolver could not answer."""
        self._seen: frozenset[str] = frozenset()
        """Wanted when it was looked last: most changes of a mesh are about no name."""
        self._patience_ends: float | None = None
        self._is_settled = False
        self._wake = asyncio.Event()
        self._wake.set()

    def is_settled(self) -> bool:
        """Whether every name that is wanted has been answered once, or has had its time."""
        if not self._is_settled:
            now = time.monotonic()
            if self._patience_ends is None:
                self._patience_ends = now + FIRST_ANSWERS_SECONDS
            self._is_settled = now >= self._patience_ends or self.book.has_told(self._wanted())
        return self._is_settled

    def look_again(self) -> None:
        """Other names may be wanted."""
        self._wake.set()

    async def run(self) -> None:
        """Ends only by cancellation."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_saved(), name="names on disk")
            while True:
                await self._wait()
                self._wake.clear()
                self._look_at_names()
                self._publish(self.book.overdue(time.monotonic()))
                for name in self.book.due(time.monotonic()):
                    group.create_task(self._look_up(name), name=f"resolve {name}")

    def _look_at_names(self) -> None:
        wanted = self._wanted()
        seen = frozenset(wanted)
        if seen != self._seen:
            self._seen = seen
            self._publish(self.book.want(wanted, time.monotonic()))

    async def _wait(self) -> None:
        due = self.book.next_event()
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _look_up(self, name: str) -> None:
        outcomes = await self._resolver.look_up(name)
        self.lookups += 1
        self.failures += any(not outcome.is_answer for outcome in outcomes.values())
        self._publish(self.book.learned(name, outcomes, time.monotonic()))
        self._has_learned.set()
        self._wake.set()  # there is room for another one, and the next time of this one may be the first

    async def _keep_saved(self) -> None:
        while True:
            await self._has_learned.wait()
            await asyncio.sleep(SAVE_SECONDS)
            self._has_learned.clear()
            answers = tuple(_in_wall_time(self.book.good_answers(time.monotonic())))
            try:
                await asyncio.to_thread(self._memory.save, answers)
            except StateFileUnwritable as error:
                if not self.file_error:  # once per outage of the disk
                    _log.warning("%s. Names would mean nothing after a restart while the resolver is out.", error)
                self.file_error = str(error)
                self._has_learned.set()
            else:
                self.file_error = ""

    def _publish(self, changes: Changes) -> None:
        for found in changes.names:
            level = logging.WARNING if found.error else logging.DEBUG
            _log.log(level, "%s: %s", found.hostname, describe(found))
        if changes:
            self._tell(changes)


def _in_monotonic_time(answers: Iterable[KeptAnswer]) -> Iterator[GoodAnswer]:
    """A clock that was set back in between makes an answer as old as now, never younger."""
    now, wall = time.monotonic(), time.time()
    for one in answers:
        yield GoodAnswer(one.name, one.family, one.addresses, now - max(0.0, wall - one.at))


def _in_wall_time(answers: Iterable[GoodAnswer]) -> Iterator[KeptAnswer]:
    now, wall = time.monotonic(), time.time()
    for one in answers:
        yield KeptAnswer(one.name, one.family, one.addresses, wall - (now - one.at))


def describe(found: ResolvedName) -> str:
    """What a name means, and what is wrong with that."""
    if not found.addresses:
        return f"it cannot be resolved: {found.error}"
    outdated = f"; perhaps outdated: {found.error}" if found.error else ""
    return ", ".join(found.addresses) + outdated
