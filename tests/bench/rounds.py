# SPDX-License-Identifier: Apache-2.0
"""The subjects in turn, round after round, and none of a round that somebody else has disturbed.

A subject is a plug-in: a name, where its client dials, and what the node must be like for it. Odd rounds go backwards,
so that a drift of the machine falls on both halves of each ratio, and neighbours stay neighbours.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from nodeagent.errors import NotPossible
from nodeagent.lab.namespaces import Host
from nodeagent.model.address import Ip
from tests.bench import quiet
from tests.bench.load import Generator, Work
from tests.bench.report import Round

_CALM_SECONDS = 30.0
"""For a machine to become quiet before the first round: what `make` has just installed may still be written out."""
_LOOK_SECONDS = 2.0
_ATTEMPTS = 3

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


class Settings(NamedTuple):
    rounds: int
    seconds: float
    """Of one work."""
    is_busy_good_enough: bool
    """Rounds count although the machine was busy. Then nothing may be written."""


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

    def run(self, subjects: Sequence[Subject], works: Sequence[Work]) -> list[Round]:
        """As many rounds as are wanted, and at most as many more that do not count. Raises Busy."""
        rounds: list[Round] = []
        wanted, disturbed = self._settings.rounds, 0
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
                    measured = self._generator.run(
                        subject.client, work, subject.ip, subject.port, self._settings.seconds
                    )
                    made.update({(subject.name, name): value for name, value in measured.items()})
            except NotPossible as error:
                raise NotPossible(f"subject {subject.name}: {error}", check=error.check) from error
            foreign = quiet.compare(before, self._look(), self._cpus)
            worst = max(worst, foreign, key=lambda one: one.share)
            subject.check()
        return made, worst

    def _look(self) -> quiet.Look:
        return quiet.look(self._own_pids(), time.monotonic())
