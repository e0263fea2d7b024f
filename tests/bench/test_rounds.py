# SPDX-License-Identifier: Apache-2.0
"""Subjects alternate, every second round backwards; a disturbed round is repeated, and too many are no report."""

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

import pytest

from nodeagent.lab.namespaces import Host
from nodeagent.model.address import Ip
from tests.bench import load
from tests.bench.quiet import Look, Spent
from tests.bench.rounds import Busy, Harness, Settings, Subject

WORK = load.churn(1)
(MEASURE,) = WORK.measures


class Bench:
    """A harness whose work takes a second in which somebody else spends what `foreign` says, turn after turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, foreign: Iterator[float], *, even_busy: bool = False) -> None:
        self.order: list[str] = []
        self._now = self._spent = 0.0
        self._foreign = foreign
        self.harness = Harness(cast("load.Generator", self), lambda: (), 1, Settings(3, 1.0, even_busy))
        monkeypatch.setattr(self.harness, "_look", lambda: Look(self._now, 0, {7: Spent("qemu", self._spent, 0)}))

    def run(self, place: Host, *words: Any) -> dict[str, float]:
        for begun in filter(callable, words):
            begun()
        self.order.append(str(place))
        self._now += 1
        self._spent += next(self._foreign)
        return {"rate": float(len(self.order)), "count": 4000.0}

    def subject(self, name: str) -> Subject:
        return Subject(name, cast("Host", name), Ip("10.0.0.1"), 1, lambda: self.order.append(f"prepare {name}"))


def _forever(*first: float) -> Iterator[float]:
    yield from first
    while True:
        yield 0.0


def test_subjects_alternate_and_neighbours_stay_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, _forever())
    rounds = bench.harness.run([bench.subject("bare"), bench.subject("fast")], [WORK])
    assert len(rounds) == 3
    worked = [name for name in bench.order if not name.startswith("prepare")]
    assert worked == ["bare", "fast", "fast", "bare", "bare", "fast"]
    assert bench.order[:4] == ["prepare bare", "bare", "prepare fast", "fast"]


def test_the_cpu_time_of_the_proxies_is_told_by_what_they_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, _forever())
    spent = iter([1.0, 0.0, 0.0, 3.0])  # before; twice at rest; after
    monkeypatch.setattr("tests.bench.proxies.spent", lambda _pids: next(spent, 3.0))
    subject = dataclasses.replace(bench.subject("envoy"), proxies=lambda: [7, 8])
    made = bench.harness.run([subject], [WORK])[0]
    assert made["envoy", WORK.cost.name] == pytest.approx(500.0), "2 s for 4,000 connections, in ms for 1,000"


def test_a_disturbed_round_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, _forever(0.01, 0.5))
    rounds = bench.harness.run([bench.subject("bare")], [WORK])
    assert [made["bare", MEASURE] for made in rounds] == [2.0, 6.0, 8.0]
    assert bench.harness.disturbed == 1


def test_too_many_are_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, _forever(*[0.2] * 4))
    with pytest.raises(Busy, match=r"20% of the CPUs: qemu \(7\) 0.20 s"):
        bench.harness.run([bench.subject("bare")], [WORK])


def test_even_busy_takes_what_it_gets_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, _forever(*[0.2] * 6), even_busy=True)
    assert len(bench.harness.run([bench.subject("bare")], [WORK])) == 3
    assert bench.harness.disturbed == 3


def test_what_has_no_rounds_is_measured_again_when_it_was_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, _forever(0.2))
    assert bench.harness.undisturbed(lambda: bench.run(cast("Host", "node")))["rate"] == 2.0
    always = Bench(monkeypatch, _forever(0.2, 0.2, 0.2))
    with pytest.raises(Busy, match="20%"):
        always.harness.undisturbed(lambda: always.run(cast("Host", "node")))
