# SPDX-License-Identifier: Apache-2.0
"""Time as log lines tell it."""

import datetime as dt

LAST_SECOND = 253_402_300_799.0
"""The end of the year 9999, which is the latest that can be written."""


def timestamp(time: float) -> str:
    """RFC 3339 in UTC with microseconds, from Unix time; what cannot be a date (it came from a worker) is clamped."""
    moment = dt.datetime.fromtimestamp(min(max(0.0, time), LAST_SECOND), dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
