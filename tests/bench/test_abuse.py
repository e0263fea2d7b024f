# SPDX-License-Identifier: Apache-2.0
"""The rows of the part `abuse`, and that each abuse says something."""

import pytest

from tests.bench import abuse
from tests.bench.hostile import ABUSES, COMPUTES, OTHERS


def test_an_abuse_is_compared_with_the_same_round_without_it() -> None:
    rounds = [
        {
            (name, measure): value * factor
            for name, factor in ((abuse.ALONE, 1.0), ("PING", slow))
            for measure, value in zip(abuse.WORK.measures, (100.0, 900.0), strict=True)
        }
        for slow in (3.0, 1.5, 2.5)
    ]
    median, last = abuse.rows("PING", rounds)
    assert median.name == f"{abuse.TITLE} 1 KiB request/response, 64 connections, p50, beside PING to alone"
    assert (median.value, median.baseline, median.ratio, median.met) == (250, 100, 2.5, False)
    assert (last.lowest, last.highest) == (1.5, 3.0)
    assert "p99" in last.name


@pytest.mark.parametrize("name", ABUSES)
def test_what_is_said(name: str) -> None:
    assert bool(ABUSES[name]()) != (name in OTHERS)


def test_a_light_peers_rows_have_names_of_their_own() -> None:
    values = {(name, measure): 100.0 for name in (abuse.ALONE, "PING") for measure in abuse.WORK.measures}
    heavy, light = (abuse.rows("PING", [values], is_light=is_light) for is_light in (False, True))
    assert not {row.name for row in heavy} & {row.name for row in light}
    assert [row.goal for row in light] == [row.goal for row in heavy]


def test_a_process_that_only_computes_has_no_goal() -> None:
    values = {(name, measure): 100.0 for name in (abuse.ALONE, COMPUTES) for measure in abuse.WORK.measures}
    assert [row.goal for row in abuse.rows(COMPUTES, [values])] == [None, None]
