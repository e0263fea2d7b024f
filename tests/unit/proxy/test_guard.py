# SPDX-License-Identifier: Apache-2.0
"""Exactly one record per connection, whatever happens."""

from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction
from nodeagent.proxy.guard import ConnectionGuard, OpenConnections
from nodeagent.proxy.messages import Closed, Opened


class Reports:
    def __init__(self, now: Callable[[], float]) -> None:
        self.emitted: list[Opened | Closed] = []
        self.table = OpenConnections(self.emitted.append, now, lambda: 5e9)

    def begin(self) -> ConnectionGuard:
        return self.table.begin(Direction.OUTBOUND, (Ip("10.0.0.1"), 40000), (Ip("10.0.0.2"), 80))


@pytest.fixture
def reports(clock: Callable[[], float]) -> Reports:
    return Reports(clock)


def test_the_first_close_names_the_reason(reports: Reports) -> None:
    guard = reports.begin()
    guard.close(Reason.RESET, "by the client")
    guard.close(Reason.PEER_LOST)
    [closed] = reports.emitted
    assert isinstance(closed, Closed)
    assert (closed.record.reason, closed.record.error) == ("reset", "by the client")


def test_opened_is_told_once_and_only_while_open(reports: Reports) -> None:
    guard = reports.begin()
    guard.established()
    guard.established()
    guard.close(Reason.CLOSED)
    guard.established()
    assert [type(report) for report in reports.emitted] == [Opened, Closed]


def test_age_and_numbers(reports: Reports, clock: Callable[[], float]) -> None:
    first, second = reports.begin(), reports.begin()
    clock.seconds += 2.5  # type: ignore[attr-defined]
    assert (first.record.id, second.record.id) == (1, 2)
    second.established()
    assert [(record.id, record.seconds) for record in reports.table.records()] == [(2, 2.5)]
    first.close(Reason.CLOSED)
    second.close(Reason.CLOSED)
    assert first.record.seconds == 2.5
    assert len(reports.table) == 0


def test_how_long_it_took_is_counted_when_it_is_established_and_only_then(
    reports: Reports, clock: Callable[[], float]
) -> None:
    first, second = reports.begin(), reports.begin()
    clock.seconds += 0.003  # type: ignore[attr-defined]
    first.established()
    first.established()
    second.close(Reason.CONNECT_REFUSED)
    first.close(Reason.CLOSED)
    totals = reports.table.times.totals()
    assert totals == {"set_up/outbound/5000": 1, "set_up/outbound/sum": pytest.approx(3000, abs=1)}


def test_cut_ends_it_by_whoever_owns_it(reports: Reports) -> None:
    guard = reports.begin()
    cuts: list[Reason] = []

    def end(reason: Reason, error: str) -> None:
        cuts.append(reason)
        guard.close(reason, error)

    guard.ender = end
    guard.cut(Reason.POLICY_CHANGED)
    guard.cut(Reason.DRAINED)
    assert cuts == [Reason.POLICY_CHANGED]
    assert [report.record.reason for report in reports.emitted] == ["policy_changed"]


def test_what_is_discarded_leaves_no_record(reports: Reports) -> None:
    guard = reports.begin()
    guard.discard()
    guard.close(Reason.CLOSED)
    assert reports.emitted == []
    assert len(reports.table) == 0


def test_a_lost_connection_still_leaves_its_record(reports: Reports) -> None:
    with pytest.warns(ResourceWarning, match=r"10\.0\.0\.1"):
        reports.begin()
    assert [report.record.reason for report in reports.emitted] == ["lost"]


def test_a_peers_words_are_one_bounded_line(reports: Reports) -> None:
    guard = reports.begin()
    guard.close(Reason.H2_FAILED, "bad\nforged=line\x1b[31m" + "x" * 1000)
    error = reports.emitted[0].record.error
    assert error.startswith("bad?forged=line?[31mxxx")
    assert len(error) == 300


# ---- going on in another process


def test_a_record_goes_on_at_another_table(reports: Reports, clock: Any) -> None:
    guard = reports.begin()
    guard.established()
    guard.record.sent_bytes = 5
    clock.seconds += 3
    state = guard.leave()
    assert len(reports.table) == 0
    heir = Reports(clock)
    resumed = heir.table.resume(state)
    guard.discard()
    clock.seconds += 2
    resumed.close(Reason.CLOSED)
    assert [type(one) for one in reports.emitted] == [Opened]
    [closed] = heir.emitted
    assert isinstance(closed, Closed)
    assert (closed.record.id, closed.record.seconds, closed.record.sent_bytes) == (guard.record.id, 5, 5)


def test_one_on_its_way_is_ended_by_nobody_but_who_sent_it(reports: Reports) -> None:
    guard = reports.begin()
    guard.ender = lambda _reason, _error: pytest.fail("it is elsewhere")
    guard.leave()
    guard.cut(Reason.POLICY_CHANGED)
    assert guard.is_open
    guard.close(Reason.HANDOVER_FAILED)
    assert len(reports.emitted) == 1


def test_an_id_is_taken_once(reports: Reports, clock: Callable[[], float]) -> None:
    guard = Reports(clock).begin()
    state = guard.leave()
    guard.discard()
    reports.table.resume(state).discard()
    again = reports.table.resume(state)
    with pytest.raises(ValueError, match="here already"):
        reports.table.resume(state)
    again.discard()
