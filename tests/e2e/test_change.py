# SPDX-License-Identifier: Apache-2.0
"""Whatever is replaced, dies or is lost under load: nothing is refused or reset, nothing is sent in plain text.

The load is 50 new connections a second and a stream to each place: to db by tunnel, to api in the kernel, each in both
families. What may be lost is named: connections that a killed worker, or those of a lost namespace, held.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import NamedTuple

import pytest
from pyroute2 import IPRoute

from nodeagent.kernel.netns import MNT_DETACH, unmount
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Echo, is_served
from nodeagent.lab.demo.stage import NODES, PORT, Stage, command, running
from nodeagent.lab.demo.traffic_claims import MARKER
from nodeagent.lab.demo.under_load import Report, UnderLoad
from nodeagent.lab.demo.versions import (
    OTHER_FLOWS,
    OTHER_HANDOVER,
    OTHER_PACKAGE,
    OTHER_PROGRAMS,
    OTHER_SETTINGS,
    THIS_VERSION,
    Version,
    make_version,
)
from nodeagent.lab.namespaces import RUN_DIR
from nodeagent.model.address import Ip
from tests.soak.losses import IN_FLIGHT_SECONDS, RESET, Loss, is_excused

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

BETWEEN_ROUNDS = 2
"""Connections to each place that must be served before the next one."""
MOVED_BYTES = 1 << 20
"""By the tunnels, of what the load sends in a second."""
WITHIN_SECONDS = 120.0
DRAIN_SECONDS = 20
"""More than a test needs for what shall end while a worker drains; what stays is cut then."""


class Scene(NamedTuple):
    stage: Stage
    versions: dict[str, Version]
    lost: list[Loss]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    changes = {
        "programs": OTHER_PROGRAMS,
        "settings": OTHER_SETTINGS,
        "flows": OTHER_FLOWS,
        "package": OTHER_PACKAGE,
        "handover": OTHER_HANDOVER,
    }
    versions = {name: make_version(tmp_path_factory.mktemp(name), change) for name, change in changes.items()}
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node)
        for ip in stage.pod("api").ips:
            eventually(lambda ip=ip: is_direct(stage, ip), WITHIN_SECONDS, "connections to api stay in the kernel")  # type: ignore[misc]
        yield Scene(stage, {"this": THIS_VERSION, **versions}, [])


def is_direct(stage: Stage, ip: Ip) -> bool:
    before = stage.packets(NODES[0])["LOCAL_ALLOWED"]
    return is_served(stage.pod("web"), ip, PORT) and stage.packets(NODES[0])["LOCAL_ALLOWED"] > before


# ---- the changes -----------------------------------------------------------------------------------------------------


def upgrade(*cycle: str, attach: str) -> Callable[[Scene, int], None]:
    """The nodes in turn: the agent leaves in good order or is killed, and one of the next version takes its place."""

    def change(scene: Scene, number: int) -> None:
        node, version = NODES[number % 2], cycle[number // 2 % len(cycle)]
        scene.stage.stop_agent(node, signal.SIGKILL if number % 4 in {1, 2} else signal.SIGTERM)
        scene.stage.versions[node] = scene.versions[version]
        scene.stage.start_agent(node, attach=attach)

    return change


def hand_over(scene: Scene, number: int) -> None:
    node = NODES[number % 2]
    former = only_worker(scene.stage, node)
    told = scene.stage.replace_worker(node)
    assert scene.stage.worker_pids(node) == [told["pid"]], "nothing is left to drain"
    assert told["former_pid"] == former != told["pid"]
    assert told["handed_over"] >= 2, "the streams to db, and what else was open"
    assert (told["cut"], told["left"]) == (0, 0)


def only_worker(stage: Stage, node: str) -> int:
    """Its pid, once those that had its place before have ended."""
    pids: list[int] = []

    def is_alone() -> bool:
        pids[:] = stage.worker_pids(node)
        return len(pids) == 1 and [row["pid"] for row in stage.ask(node, "status")["workers"]] == pids

    eventually(is_alone, WITHIN_SECONDS, f"{node} has one worker")
    return pids[0]


def kill_worker(scene: Scene, number: int) -> None:
    node = NODES[number % 2]
    if number // 2 % 3 == 2:  # one that dies soon after its start is replaced with a pause, which would take our time
        scene.stage.start_agent(node, takeover=True)
    _kill_workers(scene, node)


def lose_namespace(scene: Scene, number: int) -> None:
    """The mount, the device, the workers, and the agent that holds a descriptor of it or, in turn, not that one."""
    node = NODES[number % 2]
    is_agent_lost = number % 4 in {1, 2}
    if is_agent_lost:
        scene.stage.stop_agent(node, signal.SIGKILL)
    # What a lost namespace held hears nothing of it, if it has nothing to send but waits for an answer.
    # Nor is anybody's end waited for: the agent would put another worker into a namespace that is taken away then.
    former = _kill_workers(scene, node, RESET | {"silent"}, kill=lambda pid: os.kill(pid, signal.SIGKILL))
    scene.stage.lab.nodes[node].call(_take_away)
    if is_agent_lost:
        scene.stage.start_agent(node)
    eventually(lambda: _is_served_anew(scene, node, former), WITHIN_SECONDS, f"{node} has a proxy namespace again")


def _take_away() -> None:
    unmount(RUN_DIR / "proxy.netns", MNT_DETACH)
    with IPRoute() as link:
        link.link("del", ifname="na0")


def _is_served_anew(scene: Scene, node: str, former: list[int]) -> bool:
    with suppress(OSError):  # not mounted yet
        workers = scene.stage.worker_pids(node)
        return bool(workers) and not {*workers} & {*former} and scene.stage.attachment_fault(node) == ""
    return False


def _kill_workers(
    scene: Scene, node: str, endings: AbstractSet[str] = RESET, kill: Callable[[int], None] | None = None
) -> list[int]:
    began, former = time.monotonic(), scene.stage.worker_pids(node)
    for pid in former:
        (kill or scene.stage.kill_worker)(pid)
    scene.lost.append(Loss(began, time.monotonic() + IN_FLIGHT_SECONDS, endings))
    return former


@pytest.mark.parametrize(
    ("rounds", "change"),
    [
        pytest.param(
            20, upgrade("programs", "this", attach="auto"), id="programs replaced in place, upgraded and rolled back"
        ),
        pytest.param(
            20, upgrade("settings", "flows", "this", attach="clsact"), id="maps migrated, upgraded and rolled back"
        ),
        pytest.param(20, hand_over, id="connections handed from worker to worker"),
        pytest.param(20, kill_worker, id="workers killed"),
        pytest.param(5, lose_namespace, id="the proxy namespace lost and rebuilt"),
    ],
)
def test_a_change_loses_nothing(scene: Scene, rounds: int, change: Callable[[Scene, int], None]) -> None:
    stage = scene.stage
    scene.lost.clear()
    places = [ip for name in ("db", "api") for ip in stage.pod(name).ips]
    with (
        stage.lab.wire.tap(marker=MARKER) as tap,
        UnderLoad(stage.pod("web"), places, PORT, MARKER) as load,
    ):
        load.wait_for_more(BETWEEN_ROUNDS)
        for number in range(rounds):
            change(scene, number)
            load.wait_for_more(BETWEEN_ROUNDS)
    judge(scene, load.last)
    seen = tap.result()
    assert seen.dropped == 0, "the tap lost packets, so its counts prove nothing"
    assert seen.markers == 0
    assert seen.hbone_bytes > MOVED_BYTES
    assert [stage.attachment_fault(node) for node in NODES] == ["", ""]


def test_without_a_worker_connections_wait_and_those_in_the_kernel_do_not_notice(scene: Scene) -> None:
    stage, node = scene.stage, NODES[0]
    scene.lost.clear()
    stage.stop_agent(node)
    stage.versions[node] = THIS_VERSION  # whose counters can be read here
    stage.start_agent(node)
    direct, tunnelled = stage.pod("api").ips, stage.pod("db").ips
    with UnderLoad(stage.pod("web"), [*tunnelled, *direct], PORT, MARKER) as load:
        load.wait_for_more(BETWEEN_ROUNDS)
        stage.stop_agent(node, signal.SIGKILL)
        before = stage.packets(node)["PROXY_AWAY"]
        _kill_workers(scene, node)
        served = load.wait_for_more(10, direct).served
        eventually(lambda: stage.packets(node)["PROXY_AWAY"] > before + 10, WITHIN_SECONDS, "SYNs are dropped")
        assert {ip: served[ip] for ip in tunnelled} == {ip: load.ask().served[ip] for ip in tunnelled}
        stage.start_agent(node)
        load.wait_for_more(BETWEEN_ROUNDS)
    judge(scene, load.last)


def judge(scene: Scene, report: Report) -> None:
    """What was lost was held by a worker that went. What goes past it, in the kernel, never notices."""
    tunnelled = {*scene.stage.pod("db").ips}

    lost = [one for one in (*report.failures, *report.broken) if not is_excused(one, tunnelled, scene.lost)]
    assert not lost, f"{lost}; workers went at {scene.lost}"
    assert report.whole == len(report.served), "each stream that was open at the end arrived unchanged"
    print(f"{report.opened} connections in {report.seconds:.0f} s, {len(report.failures)} + {len(report.broken)} lost,")
    print(f"the slowest took {report.slowest:.3f} s; streams: {report.bytes}")


def test_the_command_replaces_workers_and_says_what_became_of_their_connections(scene: Scene) -> None:
    stage, node = scene.stage, NODES[1]
    web, db = stage.pod("web"), stage.pod("db")
    former = only_worker(stage, node)
    open_ones = [Echo(web, ip, PORT) for ip in db.ips]
    for echo in open_ones:
        echo.exchange()
    eventually(
        lambda: len(stage.ask(node, "connections")["connections"]) == len(open_ones),
        WITHIN_SECONDS,
        "what the tests before had open has ended",
    )
    place = stage.lab.nodes[node]
    told = place.run(command("workers", "replace", "--worker", "0"))
    [successor] = stage.worker_pids(node)
    assert (told.returncode, told.stderr) == (0, "")
    header, row = told.stdout.splitlines()
    assert header.split() == ["WORKER", "FORMER", "PID", "PID", "HANDED", "OVER", "DRAINED", "CUT", "LEFT", "TIME"]
    assert row.split()[:6] == ["0", str(former), str(successor), "2", "0", "0"]
    for echo in open_ones:
        echo.exchange()
        echo.close()
    refused = place.run(command("workers", "replace", "--worker", "3"))
    assert (refused.returncode, refused.stdout) == (5, "")
    assert refused.stderr.startswith("error: worker 3 is not there to be replaced\n")
    stage.stop_agent(node)
    alone = place.run(command("workers", "replace"))
    assert (alone.returncode, alone.stdout) == (3, "")
    assert alone.stderr.startswith("error: no agent answers at ")
    assert stage.worker_pids(node) == [successor]
    stage.start_agent(node)


def start_version(scene: Scene, node: str, version: str, drain_seconds: int = 5) -> None:
    scene.stage.stop_agent(node)
    scene.stage.versions[node] = scene.versions[version]
    scene.stage.start_agent(node, drain_seconds=str(drain_seconds))


def test_workers_of_another_release_hand_over_and_what_cannot_be_read_drains(scene: Scene) -> None:
    stage, node = scene.stage, NODES[1]
    start_version(scene, node, "this")
    web, db = stage.pod("web"), stage.pod("db")
    first = only_worker(stage, node)
    leaving, staying = (Echo(web, ip, PORT) for ip in db.ips)
    for echo in (leaving, staying):
        echo.exchange()
    start_version(scene, node, "package")
    eventually(lambda: first not in stage.worker_pids(node), WITHIN_SECONDS, "all is handed over, without an order")
    leaving.exchange()
    staying.exchange()

    second = only_worker(stage, node)
    start_version(scene, node, "handover", DRAIN_SECONDS)
    order = stage.lab.nodes[node].spawn(
        command("workers", "replace", "-o", "json"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )

    def has_successor() -> bool:
        return [row["pid"] for row in stage.ask(node, "status")["workers"]] not in ([], [second])

    eventually(has_successor, WITHIN_SECONDS, "a worker that speaks otherwise has the place")
    assert second in stage.worker_pids(node), "it has served until it was ordered, and drains"
    leaving.exchange()
    leaving.close()
    assert all(is_served(web, ip, PORT) for ip in db.ips)
    [told] = json.loads(order.communicate(timeout=DRAIN_SECONDS + WITHIN_SECONDS)[0])["replaced"]
    assert order.returncode == 1
    assert told["former_pid"] == second
    assert (told["handed_over"], told["cut"], told["left"]) == (0, 1, 0)
    assert told["drained"] >= 1, "also new ones, by a tunnel whose end is on its way"
    assert staying.seconds_until_cut(WITHIN_SECONDS) is not None, "at the end of the drain"
    staying.close()
    eventually(
        lambda: [line["reason"] for line in stage.access_lines(node) if "reason" in line][-1:] == ["drained"],
        WITHIN_SECONDS,
        "the access log says why it ended",
    )
    start_version(scene, node, "this")
    stage.replace_worker(node)  # as nobody else would: a test after this one wants a worker that can hand over to ours


def test_open_connections_survive_another_layout_and_the_way_back(scene: Scene) -> None:
    stage = scene.stage
    open_ones = [Echo(stage.pod("web"), ip, PORT) for name in ("db", "api") for ip in stage.pod(name).ips]
    for version in ("settings", "flows", "this"):
        stage.stop_agent(NODES[0])
        stage.versions[NODES[0]] = scene.versions[version]
        stage.start_agent(NODES[0])
        for echo in open_ones:
            echo.exchange()
        assert stage.attachment_fault(NODES[0]) == ""
    for echo in open_ones:
        echo.close()
