# SPDX-License-Identifier: Apache-2.0
"""Every connection is told once, whatever got lost on the way."""

import re
from collections.abc import Callable

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import PID_SHIFT, ConnectionId, ConnectionRecord, Party
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.labels import labels_of
from nodeagent.telemetry.open_connections import KERNEL, MOST_PODS, Dialled, OpenConnections
from nodeagent.telemetry.traffic import TrafficMetrics

RecordOf = Callable[..., ConnectionRecord]


class Seen:
    """The table with what it told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.metrics = TrafficMetrics()
        self.table = OpenConnections(self.metrics, AccessLog(self.lines.append))

    @property
    def reasons(self) -> list[str]:
        return [found[1] if (found := re.search(r'reason="(\w+)"', line)) else "closed" for line in self.lines]

    def counted(self, name: str, labels: dict[str, str]) -> float:
        registry = CollectorRegistry()
        registry.register(self.metrics)
        return registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def total(seen: Seen, record_of: RecordOf) -> Callable[[str], float]:
    """Of an Istio counter, over the series of open or well-ended connections."""
    return lambda name: seen.counted(f"istio_tcp_{name}_total", labels_of(record_of()).pairs())


def test_opened_and_closed(seen: Seen, record_of: RecordOf, total: Callable[[str], float]) -> None:
    seen.table.opened(0, record_of())
    assert len(seen.table) == 1
    seen.table.closed(0, record_of(reason="closed", sent_bytes=3, received_bytes=4))
    assert len(seen.table) == 0
    assert seen.reasons == ["closed"]
    assert (total("connections_opened"), total("connections_closed")) == (1, 1)
    assert (total("received_bytes"), total("sent_bytes")) == (3, 4)


def test_what_the_kernel_carries_is_counted_for_both_ends(seen: Seen, record_of: RecordOf) -> None:
    one = record_of(id=5, source=Party("web", "shop"), destination=Party("api", "shop"))
    seen.table.opened(KERNEL, one)
    seen.table.observed(KERNEL, [one], now=0.0)
    seen.table.closed(KERNEL, msgspec.structs.replace(one, reason="closed"))
    late = msgspec.structs.replace(one, id=6, reason="closed")
    seen.table.closed(KERNEL, late)  # whose opening was not heard
    seen.table.opened(7, msgspec.structs.replace(one, id=7))
    assert [seen.table.direct("shop", pod) for pod in ("web", "api", "db")] == [2, 2, 0]
    for number in range(MOST_PODS):
        seen.table.opened(
            KERNEL, record_of(id=10 + number, source=Party(f"p{number}", "x"), destination=Party("api", "shop"))
        )
    assert seen.table.direct("shop", "web") == 0, "forgotten"
    assert seen.table.direct("shop", "api") == 2 + MOST_PODS


def test_who_has_a_connection(seen: Seen, record_of: RecordOf) -> None:
    seen.table.opened(7, record_of(id=9))
    seen.table.opened(KERNEL, record_of(id=8))
    found = [seen.table.holder(ConnectionId(*wanted)) for wanted in ((False, 9), (True, 8), (False, 8), (True, 9))]
    assert found == [7, KERNEL, None, None]


def test_closed_without_opening_counts_both(seen: Seen, record_of: RecordOf, total: Callable[[str], float]) -> None:
    denied = record_of(reason="policy_denied")
    seen.table.closed(0, denied)
    assert total("connections_opened") == 1
    assert seen.counted("istio_tcp_connections_failed_total", labels_of(denied).pairs()) == 1
    assert seen.counted("istio_tcp_sockets_open", {"reporter": "source"}) == 0
    assert seen.reasons == ["policy_denied"]


def test_the_same_id_of_two_workers_is_two_connections(seen: Seen, record_of: RecordOf) -> None:
    seen.table.opened(0, record_of())
    seen.table.opened(1, record_of())
    assert len(seen.table) == 2
    assert [seen.table.count(worker) for worker in range(3)] == [1, 1, 0]


def test_a_dead_workers_connections_end_with_its_death(
    seen: Seen, record_of: RecordOf, total: Callable[[str], float]
) -> None:
    record = record_of(id=1)
    seen.table.opened(0, record)
    seen.table.opened(0, record_of(id=2))
    seen.table.opened(1, record_of(id=3))
    seen.table.observed(0, (record_of(id=1, sent_bytes=10), record_of(id=2)), now=record.started + 1)
    assert seen.table.worker_lost(0, now=record.started + 2) == 2
    assert len(seen.table) == 1
    assert seen.reasons == ["worker_lost", "worker_lost"]
    assert "bytes_sent=10 " in seen.lines[0]
    assert 'duration="2000ms"' in seen.lines[0]
    assert total("received_bytes") == 10


def test_bytes_of_a_long_connection_are_counted_once(
    seen: Seen, record_of: RecordOf, total: Callable[[str], float]
) -> None:
    seen.table.opened(0, record_of())
    for sent, received in ((5, 0), (5, 7), (4, 9), (20, 10)):  # the third list is older than the second
        seen.table.observed(0, (record_of(sent_bytes=sent, received_bytes=received),), now=0.0)
    seen.table.closed(0, record_of(reason="closed", sent_bytes=21, received_bytes=11))
    assert (total("received_bytes"), total("sent_bytes")) == (21, 11)


def test_a_connection_that_its_worker_forgot_is_lost_the_second_time(seen: Seen, record_of: RecordOf) -> None:
    seen.table.opened(0, record_of())
    seen.table.observed(0, (), now=0.0)
    assert seen.reasons == []
    seen.table.observed(0, (record_of(),), now=0.0)
    seen.table.observed(0, (), now=0.0)
    assert seen.reasons == []
    seen.table.observed(0, (), now=0.0)
    assert seen.reasons == ["lost"]
    assert len(seen.table) == 0


def test_a_connection_that_a_former_agent_heard_of_ends_with_its_worker_too(
    seen: Seen, record_of: RecordOf, total: Callable[[str], float]
) -> None:
    record = record_of(id=4, sent_bytes=10)
    seen.table.observed(0, (record,), now=record.started + 1)
    assert seen.counted("istio_tcp_sockets_open", {"reporter": "source"}) == 1

    assert seen.table.worker_lost(0, now=record.started + 2) == 1

    assert seen.reasons == ["worker_lost"]
    assert (total("connections_opened"), total("received_bytes")) == (1, 10)
    assert seen.counted("istio_tcp_sockets_open", {"reporter": "source"}) == 0


def test_an_opening_that_comes_behind_the_list_counts_once(
    seen: Seen, record_of: RecordOf, total: Callable[[str], float]
) -> None:
    seen.table.observed(0, (record_of(),), now=0.0)
    seen.table.opened(0, record_of())
    assert total("connections_opened") == 1
    assert len(seen.table) == 1


def test_a_list_that_is_older_than_an_ending_does_not_bring_the_connection_back(
    seen: Seen, record_of: RecordOf, total: Callable[[str], float]
) -> None:
    seen.table.opened(0, record_of())
    with seen.table.asking(0) as ended, seen.table.asking(1) as elsewhere:
        seen.table.closed(0, record_of(reason="closed"))
        seen.table.observed(0, (record_of(),), 0.0, ended)
    assert elsewhere == set()
    assert len(seen.table) == 0
    assert seen.reasons == ["closed"]
    assert (total("connections_opened"), total("connections_closed")) == (1, 1)


def test_a_connection_that_is_open_is_found_as_it_opened(seen: Seen, record_of: RecordOf) -> None:
    record = record_of(id=5)
    seen.table.opened(KERNEL, record)
    assert seen.table.find(KERNEL, 5) == record
    assert seen.table.find(KERNEL, 6) is None
    assert seen.table.find(1, 5) is None


def test_one_that_nobody_tells_of_any_more_is_cut_with_the_last_bytes(
    seen: Seen, record_of: RecordOf, total: Callable[[str], float]
) -> None:
    record = record_of(id=5)
    seen.table.opened(KERNEL, record)
    seen.table.observed(KERNEL, [record_of(id=5, sent_bytes=10)], now=0.0)
    for _ in range(2):
        seen.table.cut(KERNEL, 5, Reason.POD_REMOVED, record.started + 3)
    assert seen.reasons == ["pod_removed"]
    assert "bytes_sent=10 " in seen.lines[0]
    assert 'duration="3000ms"' in seen.lines[0]
    assert total("received_bytes") == 10


def test_why_one_is_missing_is_for_the_asker_to_say(seen: Seen, record_of: RecordOf) -> None:
    seen.table.opened(KERNEL, record_of())
    for _ in range(2):
        seen.table.observed(KERNEL, (), now=0.0, unlisted=Reason.END_UNSEEN)
    assert seen.reasons == ["end_unseen"]


class Notes:
    """DialledServices with one answer for all."""

    def __init__(self) -> None:
        self.is_ready = True
        self.asked = 0
        self.forgotten = 0

    def find(self, record: ConnectionRecord) -> Dialled | None:
        self.asked += 1
        return Dialled(Ip("10.96.0.9"), 8, "shop/drawn.shop", record.id)

    def forget(self, dialled: Dialled) -> None:
        del dialled
        self.forgotten += 1


@pytest.fixture
def notes(seen: Seen) -> Notes:
    seen.table.dialled = made = Notes()
    return made


def test_what_was_dialled_is_in_every_record_of_a_connection(seen: Seen, notes: Notes, record_of: RecordOf) -> None:
    plain = record_of(service="")
    seen.table.opened(0, plain)
    found = seen.table.find(0, plain.id)
    assert found is not None
    assert (found.service, found.original_ip, found.original_port) == ("shop/drawn.shop", "10.96.0.9", 8)
    assert seen.table.named(0, plain) == found
    assert seen.table.named(1, plain) == plain, "another worker's"
    seen.table.observed(0, (record_of(service="", sent_bytes=5),), now=0.0)
    seen.table.closed(0, record_of(service="", reason="closed", sent_bytes=7))
    assert (notes.asked, notes.forgotten) == (1, 1)
    assert 'dst.service="drawn.shop"' in seen.lines[0]
    labels = labels_of(found).pairs()
    assert seen.counted("istio_tcp_connections_opened_total", labels) == 1
    assert seen.counted("istio_tcp_connections_closed_total", labels) == 1
    assert seen.counted("istio_tcp_received_bytes_total", labels) == 7


def test_one_that_never_was_open_is_named_too(seen: Seen, notes: Notes, record_of: RecordOf) -> None:
    seen.table.closed(0, record_of(service="", reason="policy_denied"))
    assert 'dst.service="drawn.shop"' in seen.lines[0]
    assert (notes.asked, notes.forgotten) == (1, 1)


def test_before_the_pods_are_known_it_is_asked_again(seen: Seen, notes: Notes, record_of: RecordOf) -> None:
    """A worker that was adopted tells its connections before anything else is known."""
    notes.is_ready = False
    seen.table.observed(0, (record_of(service=""),), now=0.0)
    assert notes.asked == 0
    notes.is_ready = True
    seen.table.observed(0, (record_of(service=""),), now=0.0)
    seen.table.worker_lost(0, now=1.0)
    assert 'dst.service="drawn.shop"' in seen.lines[0]
    assert (notes.asked, notes.forgotten) == (1, 1)


# ---- handed over -----------------------------------------------------------------------------------------------------

FORMER, HEIR = 7, 8
NUMBER = FORMER << PID_SHIFT | 1


def test_what_was_handed_over_is_told_once(seen: Seen, record_of: RecordOf, total: Callable[[str], float]) -> None:
    seen.table.opened(FORMER, record_of(id=NUMBER))
    seen.table.observed(FORMER, (record_of(id=NUMBER, sent_bytes=10),), 1.0)
    seen.table.handed_over(FORMER, HEIR, (NUMBER, NUMBER + 1))
    assert seen.table.worker_lost(FORMER, 2.0) == 0
    assert seen.table.count(HEIR) == 1
    seen.table.closed(HEIR, record_of(id=NUMBER, reason="closed", sent_bytes=15))
    assert (total("connections_opened"), total("connections_closed"), total("received_bytes")) == (1, 1, 15)


@pytest.mark.parametrize("is_listed", [True, False])
def test_the_heir_may_be_faster_than_the_former_worker(
    seen: Seen, record_of: RecordOf, total: Callable[[str], float], *, is_listed: bool
) -> None:
    seen.table.opened(FORMER, record_of(id=NUMBER))
    if is_listed:
        seen.table.observed(HEIR, (record_of(id=NUMBER),), 1.0)
    seen.table.closed(HEIR, record_of(id=NUMBER, reason="closed"))
    seen.table.handed_over(FORMER, HEIR, (NUMBER,))
    assert len(seen.table) == 0
    assert (total("connections_opened"), total("connections_closed")) == (1, 1)


def test_a_number_without_a_pid_is_its_workers_own(seen: Seen, record_of: RecordOf) -> None:
    seen.table.opened(FORMER, record_of(id=1))
    seen.table.opened(HEIR, record_of(id=1))
    seen.table.closed(HEIR, record_of(id=1, reason="closed"))
    assert seen.table.count(FORMER) == 1


def test_a_former_workers_list_that_is_late_takes_nothing_back(seen: Seen, record_of: RecordOf) -> None:
    seen.table.opened(FORMER, record_of(id=NUMBER))
    seen.table.opened(FORMER, record_of(id=NUMBER + 1))
    with seen.table.asking(FORMER) as ended:
        seen.table.handed_over(FORMER, HEIR, (NUMBER, NUMBER + 1))
        seen.table.closed(HEIR, record_of(id=NUMBER + 1, reason="closed"))
        seen.table.observed(FORMER, (record_of(id=NUMBER), record_of(id=NUMBER + 1)), 1.0, ended)
    assert (seen.table.count(FORMER), seen.table.count(HEIR)) == (0, 1)
    assert seen.table.worker_lost(FORMER, 2.0) == 0


def test_who_watches_is_told_of_each_connection_as_its_record_has_it(
    seen: Seen, notes: Notes, record_of: RecordOf
) -> None:
    told: list[tuple[str, ConnectionRecord]] = []

    class Watcher:
        def opened(self, record: ConnectionRecord) -> None:
            told.append(("opened", record))

        def ended(self, record: ConnectionRecord) -> None:
            told.append(("ended", record))

    seen.table.opened(1, record_of(id=1))
    seen.table.watcher = Watcher()
    seen.table.opened(1, record_of(id=2))
    seen.table.closed(1, record_of(id=2, reason="closed"))
    seen.table.closed(1, record_of(id=3, reason="policy_denied"))
    seen.table.watcher = None
    seen.table.closed(1, record_of(id=1, reason="closed"))
    assert [(what, record.id, record.reason) for what, record in told] == [
        ("opened", 2, ""), ("ended", 2, "closed"), ("ended", 3, "policy_denied")
    ]  # fmt: skip
