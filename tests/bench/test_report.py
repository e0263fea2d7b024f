# SPDX-License-Identifier: Apache-2.0
"""Ratios are those of one round, goals are judged by the ratio where there is one, and a part replaces its own rows."""

import pytest

from tests.bench.report import Comparison, Goal, Row, at_least, at_most, merge, summarize, table

ROUNDS = [
    {("fast", "p50"): 22.0, ("bare", "p50"): 20.0},
    {("fast", "p50"): 44.0, ("bare", "p50"): 40.0},
    {("fast", "p50"): 33.0, ("bare", "p50"): 10.0},
]


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    (row,) = summarize(ROUNDS, [Comparison("fast to bare, p50", "p50", "us", "fast", "bare", at_most(1.05))])
    assert (row.value, row.baseline) == (33.0, 20.0)
    assert row.ratio == pytest.approx(1.1), "33 of 20 would be 1.65"
    assert row.highest == pytest.approx(3.3)
    assert row.met is False


def test_without_a_peer_it_is_a_value() -> None:
    (row,) = summarize(ROUNDS, [Comparison("fast, p50", "p50", "us", "fast", goal=at_most(33))])
    assert row.as_object() == {
        "name": "fast, p50",
        "value": 33.0,
        "unit": "us",
        "baseline": None,
        "ratio": None,
        "goal": 33,
        "met": True,
    }


@pytest.mark.parametrize(
    ("goal", "found", "is_met"),
    [
        (at_most(1.05), 1.05, True),
        (at_most(1.05), 1.06, False),
        (at_least(0.9), 0.9, True),
        (at_least(0.9), 0.8, False),
    ],
)
def test_goals(goal: Goal, found: float, *, is_met: bool) -> None:
    assert goal.is_met_by(found) is is_met


def test_a_row_without_a_goal_is_neither_met_nor_not() -> None:
    assert Row("memory", 30.0, "MiB").met is None
    assert Row("memory", 30.0, "MiB").as_object()["goal"] is None


def test_a_part_replaces_its_own_rows_and_no_others() -> None:
    kept = [{"name": "a", "value": 1}, {"name": "b", "value": 2}]
    merged = merge(kept, [Row("b", 3.0, "ns"), Row("c", 4.0, "ns")])
    assert [(row["name"], row["value"]) for row in merged] == [("a", 1), ("b", 3.0), ("c", 4.0)]


def test_people_see_goal_ratio_and_spread() -> None:
    rows = summarize(ROUNDS, [Comparison("fast to bare, p50", "p50", "us", "fast", "bare", at_most(1.05))])
    assert table(rows) == [
        "fast to bare, p50       33.0 us    of      20.0: 1.100 x  (1.100 to 3.300)  goal <= 1.05: NOT MET"
    ]
