# SPDX-License-Identifier: Apache-2.0
"""Pauses double up to the longest and stay within their spread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.upstream.backoff import SPREAD, delay


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(1, 0.01), (2, 0.02), (3, 0.04), (11, 10.24), (12, 15.0), (13, 15.0), (10_000, 15.0)],
)
def test_it_doubles_up_to_the_longest(failures: int, seconds: float) -> None:
    assert delay(failures, 0.01, 15.0, lambda: 0.5) == pytest.approx(seconds)


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_it_stays_within_its_spread(failures: int, pick: float) -> None:
    nominal = delay(failures, 1.0, 150.0, lambda: 0.5)

    assert nominal * (1 - SPREAD) - 1e-9 <= delay(failures, 1.0, 150.0, lambda: pick) <= nominal * (1 + SPREAD) + 1e-9
