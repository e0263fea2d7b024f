# SPDX-License-Identifier: Apache-2.0
"""Events and looks become records, once each, whatever is late, forged, gone or found by a successor."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodeagent.agent import flow_reports as module
from nodeagent.agent.flow_reports import FlowReports
from nodeagent.agent.state import NodeState
from nodeagent.errors import KernelError
from nodeagent.kernel.codings import FlowReport, ReportState
from nodeagent.kernel.flow_table import Losses
from nodeagent.kernel.sock_destroy import End
from nodeagent.kernel.sock_diag import Carried
from nodeagent.kernel.verdicts import Revoked
from nodeagent.model.address import Ip
from nodeagent.model.mesh import Changes
from nodeagent.model.policy import Action, Policy, PolicyScope
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord
from nodeagent.model.workload import TunnelProtocol, Workload
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.open_connections import KERNEL, OpenConnections
from nodeagent.telemetry.traffic import TrafficMetrics

WEB, DB = Ip("10.0.0.1"), Ip("10.0.0.2")
SECOND = 1_000_000_000
NETNS, COOKIE = "/netns/web", 7
OPEN = FlowReport(492, COOKIE, 40 * SECOND, 0, 0, 0, WEB, DB, 40000, 80, 0, 0, ReportState.OPEN)
NAME = Revoked(WEB, 40000, DB, 80)
DENY_ALL = Policy(name="none", namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.ALLOW)


def _ended(report: FlowReport = OPEN, state: ReportState = ReportState.CLOSED) -> FlowReport:
    return report._replace(ended=42 * SECOND, sent=10, received=20, round_trip_us=70, state=state)


def _workload(name: str, ip: Ip) -> Workload:
    return Workload(
        uid=name, name=name, namespace="shop", addresses=(ip,), service_account=name, protocol=TunnelProtocol.HBONE
    )


class FakeTable:
    """The kernel's side, with a pipe in place of the ring's descriptor."""

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self.descriptor, self.write_end = os.pipe()
        self.is_stale = False
        self.queue: list[FlowReport] = []

    def tell(self, *reports: FlowReport) -> None:
        self.queue += reports
        os.write(self.write_end, b"." * len(reports))

    def is_current(self) -> bool:
        return not self.is_stale

    def events(self, limit: int) -> list[FlowReport]:
        found, self.queue = self.queue[:limit], self.queue[limit:]
        os.read(self.descriptor, max(len(found), 1))
        return found

    def rows(self) -> list[FlowReport]:
        if self._kernel.is_broken:
            raise KernelError("the map cannot be read")
        return list(self._kernel.rows.values())

    def forget(self, cookie: int) -> None:
        self._kernel.rows.pop(cookie, None)

    def losses(self) -> Losses:
        return Losses(3, 1)

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self.write_end)


class Kernel:
    """What the agent's part meets, and what it made of it."""

    def __init__(self) -> None:
        self.rows: dict[int, FlowReport] = {}
        self.sockets: dict[int, Carried] = {}
        self.netns_is_gone = self.is_broken = False
        self.asked: list[tuple[str, list[tuple[int, End]]]] = []
        self.cookies = {NETNS: COOKIE}
        self.tables: list[FakeTable] = []
        self.pods: dict[Ip, str] | None = {WEB: NETNS, DB: "/netns/db"}
        self.records: list[ConnectionRecord] = []
        self.state = NodeState()
        self.state.apply(Changes(workloads=(_workload("web", WEB), _workload("db", DB))))
        self.state.set_local(frozenset({WEB, DB}))
        log = AccessLog(lambda _line: None)
        log.closed = self.records.append  # type: ignore[method-assign, assignment]
        self.connections = OpenConnections(TrafficMetrics(), log)
        self.flows = FlowReports(Path("/maps"), "", self.state, self.connections, lambda: self.pods)

    @property
    def table(self) -> FakeTable:
        return self.tables[-1]

    @property
    def reasons(self) -> list[str]:
        return [record.reason for record in self.records]

    def open_table(self, _maps: Path) -> FakeTable:
        self.tables.append(FakeTable(self))
        return self.table

    def read_sockets(self, netns: str, ends: Iterable[tuple[int, End]]) -> dict[int, Carried]:
        asked = list(ends)
        self.asked.append((netns, asked))
        if self.netns_is_gone:
            raise KernelError("it is gone", check="Look elsewhere.")
        return {cookie: self.sockets[cookie] for cookie, _ in asked if cookie in self.sockets}

    def netns_cookie(self, netns: str) -> int:
        if netns not in self.cookies:
            raise FileNotFoundError(netns)
        return self.cookies[netns]

    async def tell(self, *reports: FlowReport) -> None:
        """Events, and as many turns of the loop as they take."""
        self.table.tell(*reports)
        while self.table.queue:  # noqa: ASYNC110 - the loop empties it
            await asyncio.sleep(0.001)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(module, "FlowTable", made.open_table)
    monkeypatch.setattr(module, "read_sockets", made.read_sockets)
    monkeypatch.setattr(module, "netns_cookie", made.netns_cookie)
    return made


@asynccontextmanager
async def running(kernel: Kernel) -> AsyncIterator[FlowReports]:
    await kernel.flows.look()
    try:
        yield kernel.flows
    finally:
        kernel.flows._close()


def test_an_opening_and_an_end_are_one_record(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with running(kernel):
            await kernel.tell(OPEN)
            assert kernel.connections.count(KERNEL) == 1
            await kernel.tell(_ended())

    asyncio.run(scenario())
    (record,) = kernel.records
    assert (record.reason, record.sent_bytes, record.received_bytes, record.seconds) == ("closed", 10, 20, 2.0)
    assert (record.source.workload, record.destination.workload) == ("web", "db")
    assert kernel.connections.count(KERNEL) == 0


def test_more_events_than_one_turn_takes(kernel: Kernel) -> None:
    reports = [OPEN._replace(cookie=number) for number in range(3 * module.MOST_EVENTS)]

    async def scenario() -> None:
        async with running(kernel):
            await kernel.tell(*reports)
            await kernel.tell(*map(_ended, reports))

    asyncio.run(scenario())
    assert kernel.reasons == ["closed"] * len(reports)


@pytest.mark.parametrize(("processors", "rest"), [(1, 32.3), (2, 15.67), (16, 1.083), (34, 0.0), (64, 0.0)])
def test_telling_takes_its_share_of_the_node_and_one_processor_at_most(processors: int, rest: float) -> None:
    assert module.rest_for(processors) == pytest.approx(rest, rel=0.01)


def test_after_a_turn_others_have_theirs(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_PAUSE_SECONDS", 3600.0)
    reports = [OPEN._replace(cookie=number) for number in range(module.MOST_EVENTS + 1)]

    async def scenario() -> None:
        async with running(kernel) as flows:
            kernel.table.tell(*reports)
            while len(kernel.table.queue) > 1:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert kernel.connections.count(KERNEL) == module.MOST_EVENTS
            flows._attend()  # the pause is over
            while kernel.table.queue:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            assert kernel.connections.count(KERNEL) == module.MOST_EVENTS + 1

    asyncio.run(scenario())


def test_the_names_are_those_of_the_opening(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with running(kernel):
            await kernel.tell(OPEN)
            kernel.state.apply(Changes(workloads=(_workload("other", WEB),)))
            await kernel.tell(_ended())

    asyncio.run(scenario())
    assert kernel.records[0].source.workload == "web"


def test_an_end_that_the_ring_had_no_room_for_is_fetched_once(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with running(kernel) as flows:
            await kernel.tell(OPEN)
            kernel.rows[492] = _ended()
            await flows.look()
            await flows.look()

    asyncio.run(scenario())
    assert kernel.reasons == ["closed"]
    assert kernel.rows == {}


def test_bytes_of_open_ones_are_told_at_each_look(kernel: Kernel) -> None:
    listed: list[ConnectionRecord] = []

    async def scenario() -> None:
        async with running(kernel) as flows:
            await kernel.tell(OPEN)
            kernel.rows[492], kernel.sockets[492] = OPEN, Carried(1000, 2000, 70, 2)
            await flows.look()
            listed.extend(await flows.connections())
            kernel.connections.cut(KERNEL, 492, Reason.LOST, 0.0)

    asyncio.run(scenario())
    assert kernel.asked[0] == (NETNS, [(492, End(WEB, 40000, DB, 80))])
    assert (kernel.records[0].sent_bytes, kernel.records[0].received_bytes) == (1000, 2000)
    (record,) = listed
    assert (record.sent_bytes, record.received_bytes, record.round_trip_us, record.retransmissions) == (
        1000, 2000, 70, 2,
    )  # fmt: skip
    assert record.seconds > 0


def test_a_successor_finds_what_is_open(kernel: Kernel) -> None:
    kernel.rows[492], kernel.sockets[492] = OPEN, Carried(1, 2, 3, 0)

    async def scenario() -> None:
        async with running(kernel):
            assert kernel.connections.count(KERNEL) == 1
            await kernel.tell(_ended())

    asyncio.run(scenario())
    assert kernel.reasons == ["closed"]


def test_one_whose_socket_is_gone_is_given_up_the_second_time(kernel: Kernel) -> None:
    connecting = OPEN._replace(cookie=493, state=ReportState.CONNECTING)

    async def scenario() -> None:
        async with running(kernel) as flows:
            await kernel.tell(OPEN)
            kernel.rows = {492: OPEN, 493: connecting}
            await flows.look()
            assert (kernel.reasons, set(kernel.rows)) == ([], {492, 493})
            await flows.look()

    asyncio.run(scenario())
    assert kernel.reasons == ["end_unseen"]
    assert kernel.rows == {}


def test_one_that_ends_during_a_look_does_not_come_back(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with running(kernel) as flows:
            await kernel.tell(OPEN)
            kernel.rows[492], kernel.sockets[492] = OPEN, Carried(1, 2, 3, 0)
            looking = asyncio.ensure_future(flows.look())
            kernel.table.tell(_ended())
            await looking
            await kernel.tell()

    asyncio.run(scenario())
    assert kernel.reasons == ["closed"]
    assert kernel.connections.count(KERNEL) == 0


def test_a_namespace_that_cannot_be_asked_costs_no_connection(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with running(kernel) as flows:
            await kernel.tell(OPEN)
            kernel.rows[492], kernel.netns_is_gone = OPEN, True
            for _ in range(3):
                await flows.look()
            assert flows.error == "it is gone. Look elsewhere."
            kernel.netns_is_gone, kernel.sockets[492] = False, Carried(1, 2, 3, 0)
            await flows.look()
            assert flows.error == ""

    asyncio.run(scenario())
    assert kernel.reasons == []
    assert kernel.connections.count(KERNEL) == 1


def test_reports_of_a_pod_that_left(kernel: Kernel) -> None:
    other = OPEN._replace(cookie=493)

    async def scenario() -> None:
        async with running(kernel) as flows:
            await kernel.tell(OPEN, other)
            kernel.pods = {DB: "/netns/db"}
            kernel.state.set_local(frozenset({DB}))
            await kernel.tell(_ended(state=ReportState.RESET))
            kernel.rows[493] = other
            await flows.look()
            await kernel.tell(_ended(OPEN._replace(cookie=494)))

    asyncio.run(scenario())
    assert kernel.reasons == ["pod_removed", "pod_removed"]
    assert kernel.rows == {}
    assert kernel.flows.disowned == 1


def test_nobody_can_speak_for_a_pod_from_another_namespace(kernel: Kernel) -> None:
    forged = OPEN._replace(netns=COOKIE + 1)

    async def scenario() -> None:
        async with running(kernel) as flows:
            await kernel.tell(forged, _ended(forged))
            kernel.rows[492], kernel.sockets[492] = forged, Carried(1, 2, 3, 0)
            await flows.look()
            assert await flows.connections() == []
            kernel.rows[492] = _ended(forged)
            await flows.look()
            kernel.cookies[NETNS] = COOKIE + 1  # the pod was made anew, at the same path
            await kernel.tell(forged)

    asyncio.run(scenario())
    assert kernel.records == []
    assert kernel.flows.disowned == 2
    assert kernel.connections.count(KERNEL) == 1


def test_where_the_kernel_tells_no_namespace_all_are_believed(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with running(kernel):
            await kernel.tell(OPEN._replace(netns=0))

    asyncio.run(scenario())
    assert kernel.connections.count(KERNEL) == 1


@pytest.mark.parametrize(
    ("prepare", "state", "reason", "policy"),
    [
        pytest.param(
            lambda _kernel: None, ReportState.RESET, "policy_changed", "", id="told, and allowed again by now"
        ),
        pytest.param(
            lambda kernel: kernel.state.apply(Changes(policies=(DENY_ALL,))),
            ReportState.RESET,
            "policy_changed",
            "",
            id="told, and denied",
        ),
        pytest.param(
            lambda kernel: kernel.state.lapsed.add(_workload("web", WEB).identity),
            ReportState.RESET,
            "certificate_missing",
            "",
            id="its certificate has ended",
        ),
        pytest.param(lambda _kernel: None, ReportState.CLOSED, "closed", "", id="it ended by itself"),
    ],
)
def test_one_that_was_revoked(
    kernel: Kernel, prepare: Callable[[Kernel], Any], state: ReportState, reason: str, policy: str
) -> None:
    async def scenario() -> None:
        async with running(kernel) as flows:
            await kernel.tell(OPEN)
            prepare(kernel)
            flows.revoked([NAME])
            await kernel.tell(_ended(state=state))

    asyncio.run(scenario())
    assert (kernel.records[0].reason, kernel.records[0].policy) == (reason, policy)


@pytest.mark.parametrize(("state", "reason"), [(ReportState.RESET, "operator_killed"), (ReportState.CLOSED, "closed")])
def test_one_that_an_operator_ended(kernel: Kernel, state: ReportState, reason: str) -> None:
    async def scenario() -> None:
        async with running(kernel) as flows:
            await kernel.tell(OPEN)
            flows.killed(NAME)
            await kernel.tell(_ended(state=state))
            flows.killed(NAME)
            await flows.look()  # it is not open, so the next one of this name is another
            await kernel.tell(OPEN._replace(cookie=493), _ended(OPEN._replace(cookie=493), ReportState.RESET))

    asyncio.run(scenario())
    assert kernel.reasons == [reason, "reset"]


def test_what_is_not_open_is_not_remembered_as_revoked(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with running(kernel) as flows:
            flows.revoked([NAME])
            await flows.look()
            await kernel.tell(OPEN, _ended(state=ReportState.RESET))

    asyncio.run(scenario())
    assert kernel.reasons == ["reset"]


def test_maps_that_were_made_anew_are_opened(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with running(kernel) as flows:
            kernel.table.is_stale = True
            await flows.look()
            assert len(kernel.tables) == 2
            await kernel.tell(OPEN)
            assert flows.losses() == Losses(3, 1)

    asyncio.run(scenario())
    assert kernel.connections.count(KERNEL) == 1


def test_it_begins_when_the_pods_are_known_and_goes_on_after_an_error(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    pods, kernel.pods = kernel.pods, None

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - the part under test gives no sign
                await asyncio.sleep(0.001)

    async def scenario() -> None:
        task = asyncio.ensure_future(kernel.flows.run())
        await asyncio.sleep(0.01)
        assert kernel.tables == []
        assert kernel.flows.losses() == Losses()
        assert await kernel.flows.connections() == []
        kernel.pods, kernel.is_broken = pods, True
        await until(lambda: "cannot be read" in kernel.flows.error)
        assert await kernel.flows.connections() == []
        kernel.is_broken = False
        await until(lambda: kernel.flows.error == "")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kernel.table.descriptor)
