# SPDX-License-Identifier: Apache-2.0
"""Who else was busy is told from sums that nobody can slip through by ending in between."""

import os
import time

import pytest

from tests.bench.quiet import FOREIGN_SHARE, Look, Spent, compare, look, parse_stat

STAT = "4711 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 30 20 11 12 13"


def _look(at: float, stolen: float = 0.0, **processes: tuple[int, float, float]) -> Look:
    """Each by its name: pid, own and children's CPU seconds."""
    return Look(at, stolen, {pid: Spent(name, own, children) for name, (pid, own, children) in processes.items()})


def test_a_name_may_hold_anything() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    assert parse_stat(STAT) == (1, Spent("a) b (c", 300 / ticks, 50 / ticks))


def test_a_share_is_of_all_cpus() -> None:
    found = compare(_look(0, parent=(5, 1.0, 0)), _look(2, parent=(5, 1.4, 0)), 2)
    assert found.share == pytest.approx(0.1)
    assert found.busiest == "parent (5) 0.40 s"
    assert not found.is_quiet


def test_what_ended_in_between_is_its_parents() -> None:
    before = _look(0, parent=(5, 1.0, 0), child=(6, 3.0, 0))
    after = _look(1, parent=(5, 1.0, 3.5))
    assert compare(before, after, 1).share == pytest.approx(0.5)


def test_what_the_parent_does_not_want_to_know_is_not_negative() -> None:
    assert compare(_look(0, child=(6, 3.0, 0)), _look(1), 1).share == 0


def test_stolen_time_is_somebody_elses() -> None:
    found = compare(_look(0, stolen=1.0), _look(1, stolen=1.5), 1)
    assert found.share == pytest.approx(0.5)
    assert found.busiest == "the machine below 0.50 s"


def test_quiet_enough() -> None:
    assert compare(_look(0, idle=(5, 0, 0)), _look(1, idle=(5, FOREIGN_SHARE, 0)), 1).is_quiet


def test_this_process_is_seen_unless_it_is_our_own() -> None:
    assert os.getpid() in look((), time.monotonic()).processes
    assert os.getpid() not in look({os.getpid()}, time.monotonic()).processes
