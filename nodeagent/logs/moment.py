# SPDX-License-Identifier: Apache-2.0
"""Time as log lines tell it."""

import datetime as dt
from functools import lru_cache

LAST_SECOND = 253_402_300_799.0
"""The end of the year 9999, which is the latest that can be written."""


def timestamp(time: float) -> str:
    """RFC 3339 in UTC with microseconds, from Unix time; what cannot be a date (it came from a worker) is clamped."""
    seconds, microseconds = divmod(round(min(max(0.0, time), LAST_SECOND) * 1_000_000), 1_000_000)
    return f"{_second(seconds)}.{microseconds:06}Z"


@lru_cache(maxsize=16)  # lines of one moment share it, and it is most of the work
def _second(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
