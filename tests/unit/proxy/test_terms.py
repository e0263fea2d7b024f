# SPDX-License-Identifier: Apache-2.0
"""What a policy asks of one connection: a place, a time to connect, an end when idle; and that all is given back."""

import gc
import socket
import weakref
from collections.abc import Iterator
from itertools import accumulate

import pytest

from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction
from nodeagent.model.traffic import Keepalive, OutlierDetection, TrafficPolicy
from nodeagent.model.workload import Workload
from nodeagent.proxy.guard import ConnectionGuard, OpenConnections
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import Closed, Opened
from nodeagent.proxy.shared import pick_by_weight
from nodeagent.proxy.terms import Terms, keep_alive
from nodeagent.routing.balancing import Chooser, Lease
from nodeagent.routing.candidates import Candidates
from nodeagent.routing.candidates import Terms as WrittenTerms
from tests.unit.proxy.conftest import Clock

OUTLIER = OutlierDetection(failures=1, base_ejection_seconds=30, max_ejection_percent=100, interval_seconds=10)
DB = Workload(uid="db", name="db", namespace="shop")


class Scene:
    def __init__(self, clock: Clock) -> None:
        self.clock, self.loop = clock, Loop(clock)
        self.emitted: list[Opened | Closed] = []
        self.table = OpenConnections(self.emitted.append, lambda: self.loop.now, lambda: 5e9)
        self.chooser = Chooser(pick_by_weight, lambda: self.loop.now)
        self.written = WrittenTerms(TrafficPolicy(), "shop/db", 80)

    def begin(self, **policy: object) -> tuple[ConnectionGuard, Terms]:
        self.written = WrittenTerms(TrafficPolicy(max_connections=1, **policy), "shop/db", 80)  # type: ignore[arg-type]
        lease = self.take()
        assert lease is not None
        guard = self.table.begin(Direction.OUTBOUND, (Ip("10.0.0.1"), 40000), (Ip("10.0.0.2"), 80))
        return guard, Terms(self.loop, guard, lease, self.written.policy)

    def take(self) -> Lease | None:
        return self.chooser.take(self.written, "db")

    def is_ejected(self) -> bool:
        found = Candidates((DB,), tuple(accumulate([1])), self.written)
        return self.chooser.choose(Ip("10.0.0.1"), found) is None

    def passes(self, seconds: float) -> None:
        self.clock.seconds += seconds
        self.loop.turn(0)

    def endings(self) -> list[str]:
        return [report.record.reason for report in self.emitted if isinstance(report, Closed)]


@pytest.fixture
def scene(clock: Clock) -> Scene:
    return Scene(clock)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def test_a_place_is_given_back_at_the_end_whatever_it_is(scene: Scene) -> None:
    for end in (
        ConnectionGuard.discard,
        lambda guard: guard.close(Reason.CLOSED),
        lambda guard: guard.cut(Reason.RESET),
    ):
        guard, terms = scene.begin()
        assert scene.take() is None
        terms.connected()
        assert scene.take() is None
        end(guard)
        lease = scene.take()
        assert lease is not None
        lease.release()


def test_a_place_is_given_back_when_another_process_goes_on(scene: Scene) -> None:
    guard, terms = scene.begin(idle_seconds=1)
    terms.connected()
    guard.leave()
    assert scene.take() is not None
    scene.passes(10)
    guard.is_open = False
    assert scene.endings() == []


def test_nothing_is_left_of_a_connection_that_has_ended(scene: Scene) -> None:
    guard, terms = scene.begin(idle_seconds=4, connect_seconds=1)
    terms.connected()
    left = weakref.ref(terms)
    guard.close(Reason.CLOSED)
    gc.disable()
    try:
        del guard, terms
        scene.passes(5)  # its cancelled timers fall due
        assert left() is None, "no circle keeps it"
    finally:
        gc.enable()


def test_a_connection_that_is_not_made_in_time_ends_and_counts_as_a_failure(scene: Scene) -> None:
    guard, terms = scene.begin(connect_seconds=2, outlier=OUTLIER)

    def refuse(reason: Reason, error: str) -> None:
        terms.refused(reason)
        guard.close(reason, error)

    guard.ender = refuse
    scene.passes(1.9)
    assert scene.endings() == []
    scene.passes(0.2)
    assert scene.endings() == ["connect_timeout"]
    assert guard.record.error == "connectTimeout is 2 s"
    assert scene.is_ejected()


def test_one_that_was_made_is_not_hurried_any_more(scene: Scene) -> None:
    guard, terms = scene.begin(connect_seconds=2)
    terms.connected()
    scene.passes(100)
    assert scene.endings() == []
    guard.close(Reason.CLOSED)


@pytest.mark.parametrize(
    ("reason", "is_ejected"),
    [
        (Reason.CONNECT_REFUSED, True),
        (Reason.HBONE_REFUSED, True),
        (Reason.PEER_LOST, True),
        (Reason.HBONE_DENIED, False),
        (Reason.POLICY_DENIED, False),
        (Reason.RESET, False),
        (Reason.CERTIFICATE_MISSING, False),
        (Reason.DRAINED, False),
    ],
)
def test_what_speaks_against_an_endpoint(scene: Scene, reason: Reason, *, is_ejected: bool) -> None:
    guard, terms = scene.begin(outlier=OUTLIER)
    terms.refused(reason)
    guard.close(reason)
    assert scene.is_ejected() is is_ejected


def test_an_idle_connection_ends_and_a_busy_one_does_not(scene: Scene) -> None:
    guard, terms = scene.begin(idle_seconds=4)
    terms.connected()
    for name in ("sent_bytes", "received_bytes"):
        for _ in range(5):
            scene.passes(1)
            setattr(guard.record, name, getattr(guard.record, name) + 1)
    scene.passes(1)
    for _ in range(3):
        scene.passes(1)
        assert scene.endings() == []
    scene.passes(1)
    assert scene.endings() == ["idle_timeout"]
    assert guard.record.error == "idleTimeout is 4 s"


def test_keepalive_is_set_as_far_as_it_is_written(scene: Scene, sock: socket.socket) -> None:
    guard, terms = scene.begin(keepalive=Keepalive(probes=3, idle_seconds=60, interval_seconds=7))
    terms.connected(sock)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    options = (socket.TCP_KEEPCNT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
    assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [3, 60, 7]
    guard.close(Reason.CLOSED)


def test_what_keepalive_leaves_open_is_the_kernels(sock: socket.socket) -> None:
    before = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    keep_alive(sock, Keepalive(probes=2))
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == before
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_day_is_more_than_the_kernel_takes(sock: socket.socket) -> None:
    keep_alive(sock, Keepalive(probes=999, idle_seconds=86400, interval_seconds=86400))
    options = (socket.TCP_KEEPCNT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
    assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [127, 32767, 32767]


def test_a_defect_of_ours_ends_the_connection(scene: Scene) -> None:
    _, terms = scene.begin()
    terms.crashed()
    assert scene.endings() == ["bug"]
