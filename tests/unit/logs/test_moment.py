# SPDX-License-Identifier: Apache-2.0
"""Whatever number a worker sent as a time, a line can be written."""

import math

import pytest

from nodeagent.logs.moment import timestamp


def test_it_is_rfc_3339_in_utc() -> None:
    assert timestamp(0.25) == "1970-01-01T00:00:00.250000Z"


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_a_time_that_cannot_be_is_clamped(time: float) -> None:
    assert timestamp(time)[:4] in {"1970", "9999"}
