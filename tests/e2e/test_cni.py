# SPDX-License-Identifier: Apache-2.0
"""A pod that starts: held while no agent runs, captured before it runs where one does. The CNI plugin is run as a
container runtime runs it, by a list that `nodeagent cni` has put it into, on a node with real pods and programs.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.kubernetes.conflist import make_entry
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import is_served
from nodeagent.lab.demo.stage import PORT
from tests.e2e.test_kubernetes import NODE, WITHIN_SECONDS, Cluster, is_tunnelled, running_cluster, start_agent
from tests.kube_api import pod
from tests.unit.daemonset.conftest import compiled

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.any_kernel]

HELD = 11


class Runtime:
    """What a container runtime does to start a pod, behind the plugins that have made its network."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self._cluster, self._stage = cluster, cluster.stage
        self._net_dir, self._bin_dir, self._program = directory / "net.d", directory / "bin", directory / "cni"
        for place in (self._net_dir, self._bin_dir):
            place.mkdir()
        compiled("cni", directory, "-static")
        made = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}
        (self._net_dir / "10-pods.conflist").write_text(json.dumps(made))

    def order(self, word: str) -> "subprocess.Popen[bytes]":
        """`nodeagent cni install`, `uninstall` or `check`."""
        words = ["--net-dir", self._net_dir, "--bin-dir", self._bin_dir, "--program", self._program]
        # As its container is: root of the two directories, without any capability.
        confined = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        program = [*confined, sys.executable, "-m", "nodeagent.cli.main", "cni", word]
        return subprocess.Popen([*program, *map(str, words)])

    def is_installed(self) -> bool:
        return bool(self._entry()) and (self._bin_dir / "nodeagent-cni").exists()

    def start(self, name: str, *, namespace: str = "") -> tuple[int, dict[str, Any]]:
        """Status, and the result of the pod's network or an error."""
        place = self._stage.pod(name)
        result = {"cniVersion": "1.0.0", "ips": [{"address": f"{ip}/32"} for ip in place.ips if ":" not in ip]}
        entry = self._entry()
        assert entry, "the runtime runs what the list names"
        given = {"cniVersion": "1.0.0", "name": "pods", **entry, "prevResult": result}
        args = f"K8S_POD_NAMESPACE={namespace or place.namespace};K8S_POD_NAME={name};K8S_POD_UID=uid-{name}"
        environment = {
            "CNI_COMMAND": "ADD",
            "CNI_NETNS": f"/var{place.netns}",
            "CNI_ARGS": args,
            "PATH": "/usr/bin:/bin",
        }
        node = self._stage.lab.nodes[NODE]
        pipe = subprocess.PIPE
        with node.spawn([self._bin_dir / "nodeagent-cni"], env=environment, stdin=pipe, stdout=pipe) as process:
            out, _ = process.communicate(json.dumps(given).encode(), WITHIN_SECONDS)
        said: dict[str, Any] = json.loads(out)
        assert process.returncode or said == result
        return process.returncode, said

    def _entry(self) -> dict[str, object] | None:
        plugins = json.loads((self._net_dir / "10-pods.conflist").read_bytes())["plugins"]
        entry: dict[str, object] | None = next((one for one in plugins if one["type"] == "nodeagent-cni"), None)
        return entry


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("kubernetes")) as made:
        yield made


@pytest.fixture(scope="module")
def runtime(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    made = Runtime(cluster, tmp_path_factory.mktemp("cni"))
    with made.order("install") as installing:
        eventually(made.is_installed, WITHIN_SECONDS, "the plugin is installed")
        assert made.order("check").wait(WITHIN_SECONDS) == 0
        yield made
        installing.send_signal(signal.SIGTERM)
        assert installing.wait(WITHIN_SECONDS) == 0
    assert made.is_installed(), "it holds until somebody removes it"
    assert made.order("uninstall").wait(WITHIN_SECONDS) == 0
    assert not made.is_installed()
    assert made.order("check").wait(WITHIN_SECONDS) == 5


def leave(cluster: Cluster, name: str) -> None:
    """The pod is deleted, and its place as it was before it came."""
    cluster.kube.delete(name, cluster.stage.pod(name).namespace)
    eventually(lambda: cluster.programs(name) == 0, WITHIN_SECONDS, f"{name} is let go")


def restart(cluster: Cluster) -> None:
    start_agent(cluster.stage, NODE, Path(cluster.api.ca_file), Path(cluster.api.token_file))


def schedule(cluster: Cluster, name: str) -> None:
    """The API has it; the kubelet has reported no address yet, so the control plane knows nothing of it."""
    place = cluster.stage.pod(name)
    cluster.kube.put(pod(name, place.namespace, ips=(), node=NODE, labels=dict(place.labels), phase="Pending"))


def test_the_entry_is_what_the_agent_serves(runtime: Runtime) -> None:
    assert runtime._entry() == make_entry(
        "/run/nodeagent/admin.sock", {"istio-system", "kube-system", "nodeagent-system"}
    )


def test_without_an_agent_a_pod_is_held_and_what_an_agent_needs_is_not(cluster: Cluster, runtime: Runtime) -> None:
    cluster.stage.stop_agent(NODE, signal.SIGKILL)
    try:
        for name in ("web", "legacy2"):
            status, said = runtime.start(name)
            assert (status, said["code"]) == (1, HELD)
            assert "/run/nodeagent/admin.sock" in said["msg"]
        assert runtime.start("legacy2", namespace="kube-system")[0] == 0
    finally:
        restart(cluster)


def test_a_pod_is_captured_before_it_runs_and_served_when_the_mesh_knows_it(cluster: Cluster, runtime: Runtime) -> None:
    stage = cluster.stage
    leave(cluster, "web")
    assert is_served(stage.pod("web"), stage.pod("db").ipv4, PORT), "so would it talk in plain text"
    schedule(cluster, "web")
    assert runtime.start("web")[0] == 0
    assert cluster.programs("web") == 2
    assert cluster.reason("web") == "UNKNOWN_WORKLOAD"
    before = stage.packets(NODE)["STEERED"]
    assert not is_served(stage.pod("web"), stage.pod("db").ipv4, PORT)
    assert stage.packets(NODE)["STEERED"] > before, "it was held by a worker"
    stage.stop_agent(NODE, signal.SIGKILL)
    restart(cluster)
    assert cluster.programs("web") == 2
    assert not is_served(stage.pod("web"), stage.pod("db").ipv4, PORT), "a successor knows it by its own file"
    cluster.put("web")
    eventually(lambda: cluster.annotation("web") == "enabled", WITHIN_SECONDS, "web is annotated")
    eventually(lambda: is_tunnelled(stage, "web", "db"), WITHIN_SECONDS, "web reaches db by a tunnel")
    assert cluster.reason("web") == ""


def test_one_that_is_not_of_the_mesh_starts_as_it_is(cluster: Cluster, runtime: Runtime) -> None:
    assert runtime.start("legacy2")[0] == 0
    assert cluster.programs("legacy2") == 0


def test_one_that_the_api_does_not_know_is_held(cluster: Cluster, runtime: Runtime) -> None:
    leave(cluster, "batch")
    try:
        status, said = runtime.start("batch")
        assert (status, said["code"]) == (1, HELD)
        assert "the Kubernetes API has not told of it" in said["msg"]
        assert "nodeagent status" in said["details"]
    finally:
        cluster.put("batch")
        eventually(lambda: cluster.programs("batch") == 2, WITHIN_SECONDS, "batch is captured")
