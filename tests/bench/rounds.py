# SPDX-License-Identifier: Apache-2.0
"""The subjects in turn, round after round, and none of a round that somebody else has disturbed.

A subject is a plug-in: a name, where its client dials, and what the node must be like for it. Odd rounds go backwards,
so that a drift of the machine falls on both halves of each ratio, and neighbours stay neighbours.
"""

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from nodeagent.errors import NotPossible
from nodeagent.lab.namespaces import Host
from nodeagent.model.address import Ip
from tests.bench import proxies, quiet
from tests.bench.load import Generator, Work
from tests.bench.report import Round

_CALM_SECONDS = 30.0
"""For a machine to become quiet before the first round: what `make` has just installed may still be written out."""
_LOOK_SECONDS = 2.0
_ATTEMPTS = 3
_REST_SECONDS = 2.0
_REST_LOOK_SECONDS = 0.08
"""The kernel tells CPU time in hundredths of a second."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Subject:
    name: str
    client: Host
    ip: Ip
    port: int
    prepare: Callable[[], None]
    """Makes the node what it must be; called before each of its turns."""
    check: Callable[[], None] = lambda: None
    """After its turn: raises when the traffic went another way than it should have."""
    proxies: Callable[[], Collection[int]] = tuple
    """Pids of the proxies on its way, whose CPU seconds are told; none: nothing is told of them."""


class Settings(NamedTuple):
    rounds: int
    seconds: float
    """Of one work."""
    is_busy_good_enough: bool
    """Rounds count although the machine was busy. Then nothing may be written."""
    tunnel_rounds: int = 5
    """Of the part `tunnels`, which takes longer than all others together."""
    only: tuple[str, ...] = ()
    """Of the same part: texts, one of which must be in the name of what is measured; without, everything."""
    has_light_peers: bool = False
    """Of the part `abuse`, see there."""

    def takes(self, name: str) -> bool:
        return not self.only or any(text in name for text in self.only)


class Busy(Exception):
    """There were not enough quiet rounds; the text says who was busy."""


class Harness:
    def __init__(
        self, generator: Generator, own_pids: Callable[[], Collection[int]], cpus: int, settings: Settings
    ) -> None:
        self._generator, self._own_pids, self._cpus, self._settings = generator, own_pids, cpus, settings
        self.disturbed = 0
        """Rounds in which the machine was busy with something else."""

    def await_quiet(self) -> None:
        """Raises Busy."""
        deadline = time.monotonic() + _CALM_SECONDS
        while not self._settings.is_busy_good_enough:
            before = self._look()
            time.sleep(_LOOK_SECONDS)
            foreign = quiet.compare(before, self._look(), self._cpus)
            if foreign.is_quiet:
                return
            if time.monotonic() > deadline:
                raise Busy(f"{foreign.share:.0%} of the CPUs: {foreign.busiest}")

    def run(self, subjects: Sequence[Subject], works: Sequence[Work], wanted: int = 0) -> list[Round]:
        """As many rounds as are wanted (0: by the settings), and at most as many that do not count. Raises Busy."""
        rounds: list[Round] = []
        wanted, disturbed = wanted or self._settings.rounds, 0
        worst = quiet.Foreign(0, "")
        while len(rounds) < wanted and disturbed <= wanted:
            number = len(rounds) + disturbed
            made, foreign = self._round(subjects if number % 2 == 0 else list(reversed(subjects)), works)
            print(f"  round {number + 1}: {foreign.share:.0%} of the CPUs were busy with something else", flush=True)
            if foreign.is_quiet or self._settings.is_busy_good_enough:
                rounds.append(made)
            else:
                disturbed += 1
            self.disturbed += not foreign.is_quiet
            worst = max(worst, foreign, key=lambda one: one.share)
        if len(rounds) < wanted:
            raise Busy(f"in one round {worst.share:.0%} of the CPUs: {worst.busiest}")
        return rounds

    def undisturbed(self, measure: Callable[[], Result]) -> Result:
        """What a part measures without rounds, again if somebody disturbed it. Raises Busy."""
        foreign = quiet.Foreign(0, "")
        for _ in range(_ATTEMPTS):
            before = self._look()
            result = measure()
            foreign = quiet.compare(before, self._look(), self._cpus)
            self.disturbed += not foreign.is_quiet
            if foreign.is_quiet or self._settings.is_busy_good_enough:
                return result
        raise Busy(f"{foreign.share:.0%} of the CPUs: {foreign.busiest}")

    def _round(self, subjects: Sequence[Subject], works: Sequence[Work]) -> tuple[Round, quiet.Foreign]:
        """The worst of its turns says how quiet it was; what prepares a turn is not in it."""
        made: dict[tuple[str, str], float] = {}
        worst = quiet.Foreign(0, "")
        for subject in subjects:
            subject.prepare()
            before = self._look()
            try:
                for work in works:
                    made.update({(subject.name, name): value for name, value in self._turn(subject, work).items()})
            except NotPossible as error:
                raise NotPossible(f"subject {subject.name}: {error}", check=error.check) from error
            foreign = quiet.compare(before, self._look(), self._cpus)
            worst = max(worst, foreign, key=lambda one: one.share)
            subject.check()
        return made, worst

    def _turn(self, subject: Subject, work: Work) -> dict[str, float]:
        pids = subject.proxies()
        before = 0.0

        def begun() -> None:
            nonlocal before
            before = proxies.spent(pids)

        told = self._generator.run(subject.client, work, subject.ip, subject.port, self._settings.seconds, begun)
        made = work.values(told)
        if pids:
            self.rest()
            made[work.cost.name] = (proxies.spent(pids) - before) * work.cost.amount / told[work.cost.key]
        return made

    def rest(self) -> None:
        """Until what a work has left to be closed and told is done: it costs that work, and not the next one."""
        own = set(self._own_pids()) - {os.getpid()}
        deadline = time.monotonic() + _REST_SECONDS
        spent = proxies.spent(own)
        while time.monotonic() < deadline:
            time.sleep(_REST_LOOK_SECONDS)
            before, spent = spent, proxies.spent(own)
            if spent - before < _REST_LOOK_SECONDS / 4:
                return

    def _look(self) -> quiet.Look:
        return quiet.look(self._own_pids(), time.monotonic())
