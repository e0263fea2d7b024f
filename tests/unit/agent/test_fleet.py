# SPDX-License-Identifier: Apache-2.0
"""Workers start, die, hang, outlive their agent and are adopted; here with processes that speak the protocol only."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from nodeagent.agent import fleet as fleet_module
from nodeagent.agent import launch as launch_module
from nodeagent.agent.fleet import KINDS, decide_slots
from nodeagent.agent.roster import living_workers, write_roster
from nodeagent.agent.worker import Worker
from nodeagent.config import Config
from nodeagent.errors import NotPossible
from nodeagent.kernel.maps import SLOTS
from nodeagent.logs.levels import LogLevels
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.record import PID_SHIFT
from nodeagent.proxy.framing import encode_frame
from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.proxy.messages import Start, WorkerConfig
from nodeagent.tls.key_schedule import Cipher
from tests.open_files import open_files

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
Node = Any
"""`Surroundings` of conftest.py, which cannot be imported."""

START = ["Start", "Apply", "LocalPods", "Apply"]
RESYNC = ["Resync", "Apply", "LocalPods"]
LOCAL = frozenset({Ip("10.0.0.1")})
SECONDS = 60
"""For what must come, on a machine however busy."""
NOBODY = frozenset[Identity]()


@pytest.mark.parametrize(
    ("wanted", "cores", "slots"),
    [(0, 1, 1), (0, 2, 1), (0, 4, 2), (0, 8, 4), (0, 64, SLOTS), (3, 1, 3), (4, 64, 4)],
)
def test_one_worker_for_two_cores_but_no_more_than_the_kernel_has_places_for(
    wanted: int, cores: int, slots: int
) -> None:
    assert decide_slots(wanted, cores) == slots


@pytest.mark.parametrize("workers", [1, 3])
def test_each_slot_gets_a_worker_and_its_place_in_the_kernel(node: Node, workers: int) -> None:
    async def scenario() -> None:
        agent = node.agent(workers)
        async with agent.running() as fleet:
            assert await fleet.started(SECONDS)
            assert await fleet.applied(agent.state.set_local(LOCAL), SECONDS)

            assert set(node.steering.table) == {(kind, slot) for kind in KINDS for slot in range(workers)}
            for slot in range(workers):
                assert node.told(agent.pid(slot)) == START
                assert node.journal(agent.pid(slot))[0]["slot"] == slot
            assert sorted(living_workers(node.config.run_dir)) == [(slot, agent.pid(slot)) for slot in range(workers)]
            assert fleet.restarts.total() == 0

    asyncio.run(scenario())


def test_a_connection_is_ended_by_the_worker_that_has_it(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            fleet.cut(agent.pid(0), 9)
            fleet.cut(agent.pid(0) + 1, 9)  # of a worker that has just gone: nobody has it any more
            await eventually(lambda: node.told(agent.pid(0))[-1:] == ["Cut"])

    asyncio.run(scenario())


def test_a_worker_of_another_release_is_not_sent_what_it_does_not_know(node: Node) -> None:
    (node.directory / "no-orders").touch()

    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            fleet.set_log_levels(LogLevels.parse("debug"))
            assert fleet.workers[0].log_levels == ""
            with pytest.raises(NotPossible, match="of another release"):
                fleet.cut(agent.pid(0), 9)
            assert not {"levels", "SetLogLevels", "Ping", "Cut"} & {row["what"] for row in node.journal(agent.pid(0))}

    asyncio.run(scenario())


def test_a_worker_that_dies_is_replaced_and_its_listeners_stay(node: Node) -> None:
    async def scenario() -> None:
        agent = node.agent(2)
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            neighbour, former, table = agent.pid(1), agent.pid(0), dict(node.steering.table)

            successor = await agent.kill(0)

            assert successor != former
            assert agent.pid(1) == neighbour
            assert fleet.restarts == {0: 1}
            assert node.steering.table == table
            assert all(sock.fileno() >= 0 for sock in table.values())
            assert dict(living_workers(node.config.run_dir)) == {0: successor, 1: neighbour}

    asyncio.run(scenario())


def test_the_last_words_of_a_dying_worker_are_heard(node: Node) -> None:
    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            await agent.kill(0, signal.SIGUSR1)

    asyncio.run(scenario())
    assert len(node.lines) == 2, node.lines
    assert "worker_lost" not in node.lines[0]  # it had closed in good order
    assert "worker_lost" in node.lines[1]  # it was open


def test_a_kernel_that_refuses_a_listener_is_asked_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(fleet_module, "KERNEL_RETRY_SECONDS", 0.01)

    async def scenario() -> None:
        agent = node.agent()
        node.steering.is_refusing = True
        async with agent.running() as fleet:
            await eventually(lambda: node.steering.refused > 3)
            assert not fleet.is_ready
            node.steering.is_refusing = False
            assert await fleet.started(SECONDS)
            assert len(node.steering.table) == 3
            assert fleet.restarts.total() == 0

    asyncio.run(scenario())


def test_a_worker_that_stops_is_missed_until_it_goes_on(
    node: Node, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(fleet_module, "PING_SECONDS", 0.01)
    monkeypatch.setattr(fleet_module, "SILENT_SECONDS", 0.2)

    async def scenario() -> None:
        agent = node.agent(2)
        async with agent.running() as fleet:
            assert await fleet.started(SECONDS)
            os.kill(agent.pid(1), signal.SIGSTOP)
            await eventually(lambda: set(fleet.silent) == {1})
            assert fleet.is_ready  # it is not replaced: it may be the machine that is slow
            os.kill(agent.pid(1), signal.SIGCONT)
            await eventually(lambda: not fleet.silent)

    asyncio.run(scenario())


def test_workers_follow_the_log_levels_and_so_do_those_to_come(node: Node, eventually: Eventually) -> None:
    def told(pid: int) -> list[str]:
        return [row["levels"] for row in node.journal(pid) if row["what"] == "levels"]

    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            assert await fleet.started(SECONDS)
            fleet.set_log_levels(LogLevels.parse("warn,proxy:debug"))
            await eventually(lambda: told(agent.pid()) == ["info", "warn,proxy:debug"])
            assert fleet.workers[0].log_levels == "warn,proxy:debug"
            successor = await agent.kill(0)
            await eventually(lambda: told(successor) == ["warn,proxy:debug"])

    asyncio.run(scenario())


@pytest.mark.parametrize("setting", ["off", "auto"])
def test_workers_are_told_what_was_found_of_the_kernels_tls(
    node: Node, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    found = KernelTls(frozenset(Cipher))
    monkeypatch.setattr(fleet_module, "load_module", lambda: None)
    monkeypatch.setattr(fleet_module, "try_aside", lambda: found)
    node.config = Config(**{**vars(node.config), "kernel_tls": setting})

    async def scenario() -> None:
        async with node.agent().running() as fleet:
            assert await fleet.started(SECONDS)
            worker = fleet.workers[0]
            told = (worker.has_kernel_tls, worker.kernel_tls_found)
            assert told == ((True, str(found)) if setting == "auto" else (False, ""))

    asyncio.run(scenario())


def test_a_machine_that_cannot_start_a_worker_is_tried_again(
    node: Node, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    async def scenario() -> None:
        agent = node.agent()
        node.steering.netns = "/nowhere"
        async with agent.running() as fleet:
            await eventually(lambda: "cannot be started" in caplog.text)
            assert not fleet.is_ready
            node.steering.netns = "/proc/self/ns/net"
            assert await fleet.started(SECONDS)

    asyncio.run(scenario())
    assert "/nowhere" in caplog.text


def test_connections_come_from_every_worker_that_answers(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        agent = node.agent(2)
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            rows = await fleet.connections(SECONDS)
            assert sorted((slot, record.id) for slot, record in rows) == [(0, 1), (0, 2), (1, 1), (1, 2)]

            (node.directory / "mute").touch()
            assert await fleet.connections(0.1) == []
            assert "did not list their connections" in caplog.text

    asyncio.run(scenario())


def test_a_worker_that_dies_while_it_is_asked_is_not_waited_for(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        agent = node.agent(2)
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            (node.directory / "mute").touch()
            async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
                looking = group.create_task(fleet.observe(10 * SECONDS))
                first, second = fleet.workers.values()
                await eventually(lambda: any(row["what"] == "ListConnections" for row in node.journal(first.pid)))
                os.kill(second.pid, signal.SIGKILL)  # whose turn is next
                await eventually(lambda: fleet.workers.get(second.slot) not in {None, second})
                os.kill(first.pid, signal.SIGKILL)
                await looking
            assert len(agent.connections) == 0

    asyncio.run(scenario())


# ---- replacement by order --------------------------------------------------------------------------------------------


def test_a_living_worker_hands_its_slot_over_and_drains(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        agent = node.agent(2)
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            assert await fleet.applied(agent.state.set_local(LOCAL), SECONDS)
            former, neighbour, table = agent.pid(0), agent.pid(1), dict(node.steering.table)

            successor = await fleet.replace(0)

            assert agent.pid(0) == successor.pid != former
            assert agent.pid(1) == neighbour
            assert fleet.is_ready, "nobody has to wait"
            assert node.told(successor.pid)[-2:] == ["LocalPods", "Apply"], "it served before the former one left"
            await eventually(lambda: node.told(former)[-1] == "Drain")
            await eventually(lambda: dict(living_workers(node.config.run_dir)) == {0: successor.pid, 1: neighbour})
            assert node.steering.table == table
            assert all(sock.fileno() >= 0 for sock in table.values())
            assert fleet.restarts.total() == 0

            again = await agent.kill(0)  # its keeper watches the successor now
            assert again not in {former, successor.pid}
            assert fleet.restarts == {0: 1}

    asyncio.run(scenario())


def test_who_can_hand_over_does_and_its_connections_are_its_heirs(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        (node.directory / "heirs").touch()
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            assert await fleet.applied(agent.state.set_local(LOCAL), SECONDS)
            former = agent.pid(0)
            successor = await fleet.replace(0)
            await eventually(lambda: list(living_workers(node.config.run_dir)) == [(0, successor.pid)])
            assert node.told(former)[-1] == "HandOver"
            assert node.told(successor.pid)[-1] == "TakeOver"
            await eventually(lambda: agent.connections.count(former) == 0)  # its socket says last who was cut
            assert agent.connections.find(successor.pid, former << PID_SHIFT | 7) is not None
            await successor.ended.wait()
            assert (successor.former, successor.handed_over) == (former, 1)
            assert (successor.drained, successor.cut) == (0, 2), "those that it did not hand over ended with it"
            assert len(node.lines) == 2

    asyncio.run(scenario())


def test_adopted_workers_of_another_version_hand_over_to_such_of_ours(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        (node.directory / "heirs").touch()
        former = node.agent()
        async with former.running() as fleet:
            await fleet.started(SECONDS)
            pid = former.pid(0)
        successor = node.agent()
        async with successor.running() as fleet:
            await fleet.started(SECONDS)
            assert successor.pid(0) == pid
            successor.state.set_local(LOCAL)
            fleet.state_is_complete(NOBODY)
            await eventually(lambda: successor.pid(0) != pid)
            await eventually(lambda: node.told(pid)[-1] == "HandOver")

    asyncio.run(scenario())


def test_a_worker_that_dies_as_it_is_replaced_is_buried_once(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            assert await fleet.applied(agent.state.set_local(LOCAL), SECONDS)
            former = fleet.workers[0]

            successor = await fleet.replace(0)
            former.kill("at this very moment")
            former.gone.set()  # the news, before the keeper of its slot had a turn

            await eventually(lambda: list(living_workers(node.config.run_dir)) == [(0, successor.pid)])
            assert agent.pid(0) == successor.pid
            assert fleet.restarts.total() == 0
            await agent.kill(0)  # its keeper watches the successor
            assert fleet.restarts == {0: 1}

    asyncio.run(scenario())


def test_an_order_that_cannot_be_carried_out_changes_nothing(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            with pytest.raises(NotPossible, match="not there to be replaced"):
                await fleet.replace(0)  # nobody knows yet what a successor would have to know
            assert await fleet.applied(agent.state.set_local(LOCAL), SECONDS)
            with pytest.raises(NotPossible, match="worker 1 is not there"):
                await fleet.replace(1)
            node.steering.netns = "/nowhere"
            with pytest.raises(NotPossible, match="can be started"):
                await fleet.replace(0)
            assert fleet.is_ready
            assert agent.pid(0) == node.launched[0].child.pid

    asyncio.run(scenario())


def test_a_successor_that_ends_too_early_leaves_the_former_one_in_its_place(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            assert await fleet.applied(agent.state.set_local(LOCAL), SECONDS)
            former = agent.pid(0)
            monkeypatch.setattr(launch_module, "PROGRAM", ("/bin/false",))
            with pytest.raises(NotPossible, match="the successor ended"):
                await fleet.replace(0)
            assert agent.pid(0) == former
            assert await fleet.applied(agent.state.apply(Changes()), SECONDS)

    asyncio.run(scenario())


def test_an_order_that_is_cancelled_leaves_no_worker_to_itself(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet, asyncio.TaskGroup() as group:
            await fleet.started(SECONDS)
            assert await fleet.applied(agent.state.set_local(LOCAL), SECONDS)
            former = agent.pid(0)
            order = group.create_task(fleet.replace(0))
            await eventually(lambda: len(node.launched) == 2)
            order.cancel()
            successor = node.launched[1].child.pid
            await eventually(lambda: list(living_workers(node.config.run_dir)) == [(0, former)])
            assert node.told(successor)[-1] == "Drain"
            assert agent.pid(0) == former

    asyncio.run(scenario())


def test_an_agent_that_leaves_takes_no_worker_along_and_the_next_one_adopts_it(
    node: Node, eventually: Eventually
) -> None:
    async def scenario() -> None:
        former, successor = node.agent(2), node.agent(2)
        async with former.running() as fleet:
            await fleet.started(SECONDS)
            pids = [former.pid(0), former.pid(1)]
            await eventually(lambda: all(node.told(pid) == ["Start", "Apply"] for pid in pids))
        begun = [len(node.told(pid)) for pid in pids]

        async with successor.running() as fleet:
            assert await fleet.started(SECONDS)
            assert [successor.pid(0), successor.pid(1)] == pids
            # Until the state is complete the former agent's is better.
            await eventually(lambda: len(successor.connections) == 4)
            successor.state.apply(Changes())
            assert [node.told(pid)[count:] for pid, count in zip(pids, begun, strict=True)] == [[], []]
            assert await fleet.applied(99, 0.1)

            generation = successor.state.set_local(LOCAL)
            fleet.state_is_complete(NOBODY)

            assert await fleet.applied(generation, SECONDS)
            for pid, count in zip(pids, begun, strict=True):
                await eventually(lambda: len(node.told(pid)) == count + 4)  # noqa: B023 - awaited at once
                assert node.told(pid)[count:] == [*RESYNC, "ForgetCertificate"]
            fleet.state_is_complete(NOBODY)  # said once
            assert fleet.restarts.total() == 0

    asyncio.run(scenario())
    assert len(node.launched) == 2


def test_a_certificate_that_is_wanted_is_not_forgotten(node: Node, eventually: Eventually) -> None:
    held = Identity("cluster.local", "gone", "gone")

    async def scenario() -> None:
        former, successor = node.agent(), node.agent()
        async with former.running() as fleet:
            await fleet.started(SECONDS)
        async with successor.running() as fleet:
            await fleet.started(SECONDS)
            fleet.state_is_complete(frozenset({held}))
            assert await fleet.applied(successor.state.set_local(LOCAL), SECONDS)
            assert "ForgetCertificate" not in node.told(successor.pid())
            fleet.state_is_complete(NOBODY)  # its pod left
            await eventually(lambda: "ForgetCertificate" in node.told(successor.pid()))

    asyncio.run(scenario())


def test_an_adopted_worker_that_dies_is_replaced_and_its_connections_are_told(
    node: Node, eventually: Eventually
) -> None:
    async def scenario() -> None:
        former, successor = node.agent(), node.agent()
        async with former.running() as fleet:
            await fleet.started(SECONDS)
        async with successor.running() as fleet:
            await fleet.started(SECONDS)
            await eventually(lambda: len(successor.connections) == 2)
            await successor.kill(0)
            assert fleet.restarts == {0: 1}

    asyncio.run(scenario())
    assert len(node.lines) == 2
    assert all("worker_lost" in line for line in node.lines)


def test_a_worker_that_dies_with_its_agent_is_not_waited_for_long(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "ADOPTION_SECONDS", 10 * SECONDS)

    async def scenario() -> None:
        former, successor = node.agent(), node.agent()
        async with former.running() as fleet:
            await fleet.started(SECONDS)
            pid = former.pid()
        os.kill(pid, signal.SIGKILL)
        node.launched[0].child.wait()
        async with successor.running() as fleet:
            assert await fleet.started(SECONDS)
            assert successor.pid() != pid

    asyncio.run(scenario())


def test_superfluous_workers_lose_their_slots_first_and_then_drain(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        former, successor = node.agent(3), node.agent(1)
        async with former.running() as fleet:
            await fleet.started(SECONDS)
            pids = [former.pid(slot) for slot in range(3)]
        node.steering.steps.clear()

        async with successor.running() as fleet:
            await fleet.started(SECONDS)
            fleet.state_is_complete(NOBODY)
            await eventually(lambda: all(node.told(pid)[-1:] == ["Drain"] for pid in pids[1:]))
            assert set(node.steering.table) == {(kind, 0) for kind in KINDS}
            emptied = [step for step in node.steering.steps if step[3] is False]
            assert node.steering.steps.index(emptied[0]) == 3, "slot 0 serves before the others are emptied"
            await eventually(lambda: len(node.lines) == 4)
            assert living_workers(node.config.run_dir) == [(0, pids[0])]
            assert successor.pid() == pids[0]
            # They learnt what changed while they were still serving.
            assert all("Resync" in node.told(pid) for pid in pids[1:])

    asyncio.run(scenario())
    assert [line.count("worker_lost") for line in node.lines] == [1, 1, 1, 1]  # two each, which this one never closes


def test_a_survivor_that_knocks_too_late_drains_and_does_not_serve_twice(
    node: Node, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(fleet_module, "ADOPTION_SECONDS", 0.2)

    async def scenario() -> None:
        former, successor = node.agent(), node.agent()
        async with former.running() as fleet:
            await fleet.started(SECONDS)
            late = former.pid()
            (node.directory / "hide").touch()
        async with successor.running() as fleet:
            assert await fleet.started(SECONDS)
            replacement = successor.pid()
            assert replacement != late
            table = dict(node.steering.table)
            (node.directory / "hide").unlink()
            await eventually(lambda: "Drain" in node.told(late))
            assert successor.pid() == replacement
            assert node.steering.table == table
            await eventually(lambda: node.launched[0].child.poll() == 0)

    asyncio.run(scenario())


def test_a_stranger_does_not_get_the_slot_of_a_survivor(node: Node, eventually: Eventually) -> None:
    """The roster names a process; another one with the workers' uid says that it is this slot's worker."""

    async def scenario() -> None:
        former, successor = node.agent(), node.agent()
        async with former.running() as fleet:
            await fleet.started(SECONDS)
            survivor = former.pid()
        (node.directory / "hide").touch()
        stranger = node.launch(0, netns="/proc/self/ns/net", uid=0, rendezvous=node.directory / "workers.sock")
        start = encode_frame(Start(msgspec.convert({**vars(node.config)}, WorkerConfig, strict=False)))
        listeners = [listener.fileno() for listener in node.steering.make_listeners().values()]
        socket.send_fds(stranger.control, [start], listeners)
        stranger.control.close()
        stranger.report.close()
        os.close(stranger.pidfd)
        await eventually(lambda: node.told(stranger.child.pid) == ["Start"])
        async with successor.running() as fleet:
            (node.directory / "hide").unlink()
            await fleet.started(SECONDS)
            assert successor.pid() == survivor
            await eventually(lambda: stranger.child.poll() is not None)
            # Nothing of the mesh, and above all no key: only that it shall go.
            assert node.told(stranger.child.pid) == ["Start", "Drain"]

    asyncio.run(scenario())


def test_a_worker_that_lost_its_control_socket_comes_back_and_is_told_everything(
    node: Node, eventually: Eventually
) -> None:
    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            generation = agent.state.set_local(LOCAL)
            fleet.state_is_complete(NOBODY)
            await fleet.applied(generation, SECONDS)
            pid = agent.pid()
            os.kill(pid, signal.SIGUSR2)
            await eventually(lambda: "Resync" in node.told(pid))
            assert await fleet.applied(agent.state.apply(Changes()), SECONDS)
            assert agent.pid() == pid
            assert [record.id for _, record in await fleet.connections(SECONDS)] == [1, 2]
            assert fleet.restarts.total() == 0

    asyncio.run(scenario())


def test_a_worker_that_hangs_is_replaced(node: Node, monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            pid = agent.pid()
            await fleet.observe()
            assert agent.pid() == pid
            monkeypatch.setattr(Worker, "stalled_seconds", property(lambda worker: 61.0 if worker.pid == pid else 0.0))
            await fleet.observe()
            await eventually(lambda: 0 in fleet.workers and agent.pid() != pid)

    asyncio.run(scenario())


def test_a_roster_that_names_a_reused_pid_is_not_believed(node: Node) -> None:
    ours = os.getpid()
    write_roster(node.config.run_dir, [(0, ours)])
    roster = node.directory / "workers.json"
    roster.write_text(roster.read_text().replace("]]", "1]]"))  # started at another time

    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            assert await fleet.started(SECONDS)
            assert agent.pid() != ours

    asyncio.run(scenario())


def test_no_descriptor_is_left_of_a_worker(node: Node, monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    monkeypatch.setattr(fleet_module, "RESTART_SECONDS", (0.0,))
    others = open_files()

    async def scenario() -> None:
        agent = node.agent()
        async with agent.running() as fleet:
            await fleet.started(SECONDS)
            await agent.kill(0)
            before = len(open_files() - others)
            for _ in range(3):
                await agent.kill(0)
            await eventually(lambda: len(open_files() - others) == before)
            with socket.socket(socket.AF_UNIX) as visitor:
                visitor.connect(str(node.directory / "workers.sock"))
            await eventually(lambda: len(open_files() - others) == before)

    asyncio.run(scenario())
