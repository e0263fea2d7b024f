# SPDX-License-Identifier: Apache-2.0
"""The agent as the DaemonSet starts it: under the container's first process, with exactly the manifest's capabilities,
a read-only root and /proc/sys, after the init container; killed, and upgraded by a pod beside it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.lab.demo import stage as stage_module
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Traffic, is_served
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running
from nodeagent.lab.namespaces import RUN_DIR
from tests.e2e.contained import CAPABILITIES

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.any_kernel]

ROOT = Path(__file__).resolve().parents[2]
NODE = "node-a"
WITHIN_SECONDS = 60.0


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
    restrict = (
        f"exec 9<{supervise}; mount --make-rslave /; mount --bind /proc/sys /proc/sys; "
        "mount -o remount,bind,ro /proc/sys; "
        'mount --bind / /; mount -o remount,bind,ro /; mount -t tmpfs none /tmp; exec "$@"'
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


def agent_pid(stage: Stage) -> int:
    """Of the agent that has the node; 0 while nobody has it."""
    return int(stage.lab.nodes[NODE].read(RUN_DIR / "agent.lock").strip() or b"0")


def children(stage: Stage) -> list[int]:
    """Of the container's first process: the agent, and workers that an agent left."""
    first = stage.agents[NODE].pid
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
    rows = stage.ask(NODE, "status")["components"]
    assert [row for row in rows if row["state"] != "ok"] == []
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


def test_a_rolling_upgrade_disturbs_no_connection(stage: Stage) -> None:
    """maxSurge: the successor's pod starts beside, takes over, has workers of its own, and the former pod goes."""
    former = stage.agents[NODE]
    with Traffic(stage.pod("web"), stage.pod("db").ipv4, PORT).running() as traffic:
        traffic.wait_for_more(5)
        stage.start_agent(NODE)
        # Its predecessor answers its probes until then, which is what minReadySeconds is for.
        eventually(lambda: agent_pid(stage) in children(stage), WITHIN_SECONDS, "the successor has taken over")
        eventually(lambda: stage.is_ready(NODE), WITHIN_SECONDS, "the successor is ready")
        assert former.poll() is None, "it holds its workers"
        pre_stop = containers()["agent"]["lifecycle"]["preStop"]["exec"]["command"]
        done = stage.lab.nodes[NODE].run([sys.executable, "-m", "nodeagent.cli.main", *pre_stop[1:]])
        assert done.returncode == 0, done.stderr
        former.send_signal(signal.SIGTERM)
        former.wait(WITHIN_SECONDS)
        traffic.wait_for_more(20)
    assert traffic.failures == []
    assert stage.is_ready(NODE)
