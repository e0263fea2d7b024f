# SPDX-License-Identifier: Apache-2.0
"""The agent as the DaemonSet starts it: under the container's first process, with exactly the manifest's capabilities,
a read-only root and /proc/sys, after the init container; killed, and upgraded by a pod beside it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.lab.demo import stage as stage_module
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Echo, Traffic, is_served
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running
from nodeagent.lab.demo.traffic_claims import MARKER
from nodeagent.lab.demo.under_load import UnderLoad
from nodeagent.lab.demo.versions import OTHER_HANDOVER, Version, make_version
from nodeagent.lab.namespaces import RUN_DIR
from nodeagent.model.address import Ip
from tests.e2e.contained import CAPABILITIES

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.any_kernel]

ROOT = Path(__file__).resolve().parents[2]
NODE = "node-a"
WITHIN_SECONDS = 60.0
UPGRADES = 10


def containers() -> dict[str, Any]:
    manifest = yaml.safe_load((ROOT / "daemonset/base/daemonset.yaml").read_text())
    spec = manifest["spec"]["template"]["spec"]
    return {one["name"]: one for one in (*spec["initContainers"], *spec["containers"])}


def capabilities() -> list[str]:
    granted = containers()["agent"]["securityContext"]["capabilities"]
    assert granted["drop"] == ["ALL"]
    return [name.lower() for name in granted["add"]]


@pytest.fixture(scope="module")
def supervise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("image") / "supervise"
    subprocess.run(["clang", "-O2", "-o", program, ROOT / "daemonset/supervise.c"], check=True)
    return program


@pytest.fixture(scope="module")
def stage(supervise: Path) -> Iterator[Stage]:
    """Its agents have what a container of the manifest has; of its mounts those that restrict: no write outside."""
    command = stage_module.command
    granted = ",".join(f"+{name}" for name in capabilities())
    empty = "mount -t tmpfs none /tmp; "
    if ROOT.is_relative_to("/tmp"):  # what the image has elsewhere
        inside = f"/mnt/{ROOT.relative_to('/tmp')}"
        empty = f"mount -t tmpfs none /mnt; mkdir -p {inside}; mount --bind {ROOT} {inside}; mount --rbind /mnt /tmp; "
    restrict = (
        f"exec 9<{supervise}; mount --make-rslave /; mount --bind /proc/sys /proc/sys; "
        "mount -o remount,bind,ro /proc/sys; "
        f'mount --bind / /; mount -o remount,bind,ro /; {empty}exec "$@"'
    )

    def contained(*words: str | Path) -> list[str]:
        if words[0] != "agent":
            return command(*words)
        first = containers()["agent"]["command"]
        assert first == ["supervise", "--takeover", "nodeagent", "agent"]
        confined = ["setpriv", f"--bounding-set=-all,{granted}", f"--inh-caps=-all,{granted}"]
        words = tuple(word for word in words if word != "--takeover")
        program = ["/proc/self/fd/9", "--takeover", *command(*words)]
        return ["unshare", "--mount", "sh", "-ec", restrict, "sh", *confined, *program]

    with pytest.MonkeyPatch.context() as patch, running() as made:
        made.prepare()
        made.start_control_plane()
        patch.setattr(stage_module, "command", contained)
        init = containers()["prepare-node"]
        assert init["command"] == ["nodeagent", "prepare-node"]
        for node in NODES:
            done = made.lab.nodes[node].run(command(*init["command"][1:]))
            assert done.returncode == 0, done.stderr
            made.start_agent(node)
        yield made


def agent_pid(stage: Stage, node: str = NODE) -> int:
    """Of the agent that has the node; 0 while nobody has it."""
    return int(stage.lab.nodes[node].read(RUN_DIR / "agent.lock").strip() or b"0")


def children(stage: Stage, node: str) -> list[int]:
    """Of the container's first process: the agent, and workers that an agent left."""
    first = stage.agents[node].pid
    return [int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split()]


def test_it_has_the_manifests_capabilities_and_no_other(stage: Stage) -> None:
    status = Path(f"/proc/{agent_pid(stage)}/status").read_text()
    wanted = sum(1 << CAPABILITIES.index(name) for name in capabilities())
    for line in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status.split(f"{line}:")[1].split()[0], 16) == wanted, line


def test_everything_works_with_them(stage: Stage) -> None:
    before = stage.packets("node-b")["INTO_POD"]
    assert is_served(stage.pod("web"), stage.pod("db").ipv4, PORT)
    assert stage.packets("node-b")["INTO_POD"] > before
    assert is_served(stage.pod("web"), stage.pod("api").ipv4, PORT)

    def is_well() -> bool:
        return {row["state"] for row in stage.ask(NODE, "status")["components"]} == {"ok"}

    eventually(is_well, WITHIN_SECONDS, "all parts are well: the test before may have ended the agent, or replaced it")
    stage.ask(NODE, "certs", "--renew")
    replaced = stage.replace_worker(NODE)
    assert replaced["cut"] == 0
    assert stage.ask(NODE, "trace", "--pod", "shop/web", "--seconds", "0.1")["end"]["why"] == "time"


def test_an_agent_that_is_killed_is_started_again_and_its_workers_go_on(stage: Stage) -> None:
    workers, pid = stage.worker_pids(NODE), agent_pid(stage)
    with Traffic(stage.pod("web"), stage.pod("db").ipv4, PORT).running() as traffic:
        traffic.wait_for_more(5)
        os.kill(pid, signal.SIGKILL)
        traffic.wait_for_more(20)
        eventually(
            lambda: agent_pid(stage) not in {0, pid} and stage.is_ready(NODE), WITHIN_SECONDS, "another agent is ready"
        )
        traffic.wait_for_more(5)
    assert traffic.failures == []
    assert stage.worker_pids(NODE) == workers


def upgrade(stage: Stage, node: str) -> dict[str, Any]:
    """maxSurge: the successor's pod starts beside, takes over, has workers of its own, and the former pod goes.

    What became of the connections of its worker.
    """
    former, [worker] = stage.agents[node], stage.worker_pids(node)
    stage.start_agent(node)
    # Its predecessor answers its probes until then, which is what minReadySeconds is for.
    eventually(lambda: agent_pid(stage, node) in children(stage, node), WITHIN_SECONDS, "the successor has taken over")
    eventually(lambda: stage.is_ready(node), WITHIN_SECONDS, "the successor is ready")
    assert former.poll() is None, "it holds its workers"
    pre_stop = containers()["agent"]["lifecycle"]["preStop"]["exec"]["command"]
    words = [sys.executable, "-m", "nodeagent.cli.main", *pre_stop[1:], "-o", "json"]
    done = stage.lab.nodes[node].run(words, seconds=2 * WITHIN_SECONDS)
    assert done.stderr == ""
    [told] = json.loads(done.stdout)["replaced"]
    former.send_signal(signal.SIGTERM)
    former.wait(WITHIN_SECONDS)
    assert told["former_pid"] == worker
    assert stage.worker_pids(node) == [told["pid"]], (
        "of the successor's container, and nobody is left of the former one"
    )
    row: dict[str, Any] = told
    return row


def test_ten_rolling_upgrades_disturb_no_connection(stage: Stage) -> None:
    """Of both nodes in turn; with new connections and streams to each place, by tunnel and in the kernel."""
    places = [ip for name in ("db", "api") for ip in stage.pod(name).ips]
    for ip in stage.pod("api").ips:
        eventually(lambda ip=ip: is_direct(stage, ip), WITHIN_SECONDS, "connections to api stay in the kernel")  # type: ignore[misc]
    with UnderLoad(stage.pod("web"), places, PORT, MARKER, rate=20.0) as load:
        load.wait_for_more(2)
        for number in range(UPGRADES):
            told = upgrade(stage, NODES[number % 2])
            assert told["handed_over"] >= 2, "the streams to db, and what else was open"
            assert (told["cut"], told["left"]) == (0, 0)
            load.wait_for_more(2)
        before = load.ask()
        load.wait_for_more(20)
    report = load.last
    assert (report.failures, report.broken) == ((), ())
    assert report.whole == len(places), "each stream was open all the time, and arrived unchanged"
    assert all(report.bytes[ip] > before.bytes[ip] for ip in places)
    for node in NODES:
        assert stage.attachment_fault(node) == ""
        assert stage.is_ready(node)


def is_direct(stage: Stage, ip: Ip) -> bool:
    before = stage.packets(NODE)["LOCAL_ALLOWED"]
    return is_served(stage.pod("web"), ip, PORT) and stage.packets(NODE)["LOCAL_ALLOWED"] > before


@pytest.fixture
def other_release() -> Iterator[Version]:
    """Whose workers speak otherwise about open connections. Not in /tmp, which a container has for itself."""
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as directory:
        yield make_version(Path(directory), OTHER_HANDOVER)


def test_what_an_upgrade_cannot_hand_over_drains_and_its_record_says_so(stage: Stage, other_release: Version) -> None:
    """What stays in the kernel does not notice."""
    web, [db, _] = stage.pod("web"), stage.pod("db").ips
    eventually(lambda: is_direct(stage, stage.pod("api").ipv4), WITHIN_SECONDS, "connections to api stay in the kernel")

    def is_quiet() -> bool:
        return not [one for one in stage.ask(NODE, "connections")["connections"] if one["worker"] is not None]

    eventually(is_quiet, WITHIN_SECONDS, "the worker has nothing left of the test before")
    kept, staying = Echo(web, stage.pod("api").ipv4, PORT), Echo(web, db, PORT)
    stage.versions[NODE] = other_release
    for echo in (kept, staying):
        echo.exchange()
    try:
        lines = len(stage.access_lines(NODE))
        told = upgrade(stage, NODE)
        assert (told["handed_over"], told["cut"]) == (0, 1)
        assert staying.seconds_until_cut(WITHIN_SECONDS) is not None, "at the end of the drain"
        eventually(
            lambda: [line["reason"] for line in stage.access_lines(NODE)[lines:] if "reason" in line] == ["drained"],
            WITHIN_SECONDS,
            "the access log says why it ended",
        )
        kept.exchange()
    finally:
        del stage.versions[NODE]
        for echo in (kept, staying):
            echo.close()
        upgrade(stage, NODE)
