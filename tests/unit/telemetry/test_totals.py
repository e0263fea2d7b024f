# SPDX-License-Identifier: Apache-2.0
"""A sum never falls, whoever dies."""

from nodeagent.telemetry.totals import Totals


def test_a_replaced_worker_keeps_its_share() -> None:
    totals = Totals()
    totals.reported(0, {"tunnels": 3})
    totals.reported(0, {"tunnels": 5})
    totals.reported(1, {"tunnels": 1, "bugs": 1})
    assert totals.sums() == {"tunnels": 6, "bugs": 1}
    totals.ended(0)
    assert totals.sums() == {"tunnels": 6, "bugs": 1}
    totals.reported(2, {"tunnels": 2})
    assert totals.sums() == {"tunnels": 8, "bugs": 1}


def test_a_worker_that_never_reported_may_end() -> None:
    totals = Totals()
    totals.ended(4)
    assert totals.sums() == {}
