# SPDX-License-Identifier: Apache-2.0
"""Reports never block, are bounded, and their losses are told."""

import socket
from collections.abc import Iterator

import pytest

from nodeagent.proxy import reports as module
from nodeagent.proxy.framing import FrameReader
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import Counters, Lost, Report
from nodeagent.proxy.reports import Reports


class Line:
    """A report socket and who reads it."""

    def __init__(self, loop: Loop) -> None:
        self.worker, self.agent = socket.socketpair()
        self.agent.settimeout(0)
        self.loop = loop
        self._reader: FrameReader[Report] = FrameReader(Report)

    def read(self) -> list[Report]:
        """What is there now."""
        got: list[Report] = []
        while True:
            self.loop.turn(0)
            try:
                payload = self.agent.recv(1 << 20)
            except BlockingIOError:
                return got
            got += [report for report, _ in self._reader.received(payload)]


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line(Loop())
    yield made
    made.agent.close()
    made.worker.close()


def numbered(number: int, padding: int = 0) -> Counters:
    return Counters({"number": number, "x" * padding: 0})


def test_reports_arrive_in_order(line: Line) -> None:
    reports = Reports(line.loop, line.worker)
    sent = [numbered(number) for number in range(300)]
    for report in sent:
        reports.emit(report)
    assert line.read() == sent
    assert not reports.has_waiting


def test_a_reader_that_is_slow_loses_nothing_within_the_bound(line: Line) -> None:
    reports = Reports(line.loop, line.worker)
    sent = [numbered(number, padding=10_000) for number in range(100)]
    for report in sent:
        reports.emit(report)
        line.loop.turn(0)
    assert reports.has_waiting
    assert line.read() == sent


def test_beyond_the_bound_losses_are_counted_and_told(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING_BYTES", 100_000)
    reports = Reports(line.loop, line.worker)
    for number in range(200):
        reports.emit(numbered(number, padding=10_000))
        line.loop.turn(0)
    received = line.read()
    numbers = [report.totals["number"] for report in received if isinstance(report, Counters)]
    assert numbers == sorted(numbers)
    assert reports.lost == 200 - len(numbers) > 0
    assert [report for report in received if isinstance(report, Lost)][-1] == Lost(reports.lost)


def test_a_successor_gets_what_waited_and_the_frame_that_was_cut(line: Line) -> None:
    reports = Reports(line.loop, line.worker)
    sent = [numbered(number, padding=10_000) for number in range(100)]
    for report in sent:
        reports.emit(report)
    line.loop.turn(0)
    head = line.agent.recv(12_345)  # one frame and a part of the next
    assert len(head) == 12_345
    line.agent.close()
    line.loop.turn(0)
    reports.emit(numbered(100))
    line.loop.turn(0)
    successor = Line(line.loop)
    reports.attach(successor.worker)
    received = [report.totals["number"] for report in successor.read() if isinstance(report, Counters)]
    assert received == sorted(received)
    assert received[-1] == 100
    assert received == list(range(received[0], 101))
    successor.agent.close()
    successor.worker.close()
