# SPDX-License-Identifier: Apache-2.0
"""An order to end a connection is given to whoever has it, again while nothing happens, and answered by its record."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec
import pytest

from nodeagent.agent import kill as module
from nodeagent.agent.fleet import WorkerFleet
from nodeagent.agent.flow_reports import FlowReports
from nodeagent.agent.kill import Killer
from nodeagent.errors import ConfigError, KernelError, NotPossible
from nodeagent.kernel.sock_destroy import End
from nodeagent.kernel.verdicts import Revoked
from nodeagent.model.address import Ip
from nodeagent.model.record import PID_SHIFT, ConnectionRecord, Direction
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.open_connections import KERNEL, OpenConnections
from nodeagent.telemetry.traffic import TrafficMetrics

PID = 4711
WEB, DB = Ip("10.0.0.1"), Ip("10.0.0.2")


def record(number: int, *, is_in_kernel: bool = False) -> ConnectionRecord:
    return ConnectionRecord(
        id=number,
        direction=Direction.OUTBOUND,
        started=1.0,
        source_ip=WEB,
        source_port=40000,
        original_ip=DB,
        original_port=80,
        destination_ip=DB,
        destination_port=80,
        is_in_kernel=is_in_kernel,
    )


TUNNELLED = record(PID << PID_SHIFT | 9)
DIRECT = record(492, is_in_kernel=True)


class Node:
    """A table of connections, and what its carriers are told; `obey` is what they do then."""

    def __init__(self) -> None:
        self.connections = OpenConnections(TrafficMetrics(), AccessLog(lambda _line: None))
        self.told: list[object] = []
        self.obey: Callable[[], None] = lambda: None
        self.namespaces: Mapping[Ip, str] | None = {WEB: "/netns/web", DB: "/netns/db"}
        self.killer = Killer(
            self.connections, cast("WorkerFleet", self), cast("FlowReports", self), lambda: self.namespaces
        )

    def cut(self, pid: int, number: int) -> None:
        self.told.append((pid, number))
        self.obey()

    def killed(self, flow: Revoked) -> None:
        self.told.append(flow)

    def destroy(self, netns: str, ends: Sequence[End]) -> int:
        self.told.append((netns, [end.port for end in ends]))
        self.obey()
        return 1

    def end(self, worker: int, ended: ConnectionRecord) -> None:
        self.connections.closed(worker, msgspec.structs.replace(ended, reason="operator_killed"))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node()
    monkeypatch.setattr(module, "destroy_sockets", made.destroy)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    return made


def test_a_worker_is_told(node: Node) -> None:
    node.connections.opened(PID, TUNNELLED)
    node.obey = lambda: node.end(PID, TUNNELLED)
    ended = asyncio.run(node.killer.kill(TUNNELLED.name))
    assert (ended.id, ended.reason) == (TUNNELLED.id, "operator_killed")
    assert node.told == [(PID, TUNNELLED.id)]


def test_the_order_follows_a_handover(node: Node) -> None:
    """The former worker has sent it away already; its successor is told at the next attempt."""
    node.connections.opened(PID, TUNNELLED)

    def obey() -> None:
        if len(node.told) == 1:
            node.connections.handed_over(PID, 4712, [TUNNELLED.id])
        else:
            node.end(4712, TUNNELLED)

    node.obey = obey
    assert asyncio.run(node.killer.kill(TUNNELLED.name)).reason == "operator_killed"
    assert node.told == [(PID, TUNNELLED.id), (4712, TUNNELLED.id)]


def test_in_the_kernel_both_ends_are_ended(node: Node) -> None:
    node.connections.opened(KERNEL, DIRECT)

    async def scenario() -> ConnectionRecord:
        loop = asyncio.get_running_loop()

        def obey() -> None:
            if len(node.told) == 3:  # it runs in a thread
                loop.call_soon_threadsafe(node.end, KERNEL, DIRECT)

        node.obey = obey
        return await node.killer.kill(DIRECT.name)

    assert asyncio.run(scenario()).id == DIRECT.id
    assert node.told[0] == Revoked(WEB, 40000, DB, 80), "the end is explained before it happens"
    assert sorted(map(str, node.told[1:])) == ["('/netns/db', [80])", "('/netns/web', [40000])"]


@pytest.mark.parametrize(
    ("name", "words"), [("everything", "not a connection's id"), ("4711-8", "no connection 4711-8"), ("", "id")]
)
def test_what_is_not_open(node: Node, name: str, words: str) -> None:
    node.connections.opened(PID, TUNNELLED)
    with pytest.raises(ConfigError, match=words):
        asyncio.run(node.killer.kill(name))
    assert node.told == []


def test_one_that_does_not_end_is_told_so(node: Node) -> None:
    node.connections.opened(PID, TUNNELLED)
    with pytest.raises(NotPossible, match="no end of it was told"):
        asyncio.run(node.killer.kill(TUNNELLED.name))
    assert len(node.told) == module.ATTEMPTS


def test_pods_that_are_gone_and_kernels_that_refuse(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.connections.opened(KERNEL, DIRECT)
    node.namespaces = None
    with pytest.raises(NotPossible, match="not known any more"):
        asyncio.run(node.killer.kill(DIRECT.name))

    def refuse(_netns: str, _ends: Sequence[End]) -> int:
        raise KernelError("connections cannot be ended")

    node.namespaces = {WEB: "/netns/web"}
    monkeypatch.setattr(module, "destroy_sockets", refuse)
    with pytest.raises(KernelError, match="cannot be ended"):
        asyncio.run(node.killer.kill(DIRECT.name))
