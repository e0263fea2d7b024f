# SPDX-License-Identifier: Apache-2.0
"""Enrolment in Kubernetes, whole: pods of an API server, real namespaces and programs, a control plane that says HBONE
for those alone that are annotated, as istiod does.
"""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nodeagent.kubernetes.api import ApiServer
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import is_served
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running
from nodeagent.lab.namespaces import RUN_DIR
from nodeagent.model.opt_in import MODE_LABEL
from tests.kube_api import FakeKube, namespace, pod, serving

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.any_kernel]

NODE = "node-a"
WITHIN_SECONDS = 60.0
API_PORT = 6443


class Cluster:
    """The lab's pods in the API, and what the API says of them in the control plane's directory."""

    def __init__(self, stage: Stage, kube: FakeKube) -> None:
        self.stage, self.kube = stage, kube
        self.api: ApiServer
        self._is_over = threading.Event()
        self._mirror = threading.Thread(target=self._keep_mirrored)

    def put(self, name: str) -> None:
        place = self.stage.pod(name)
        self.kube.put(pod(name, place.namespace, ips=place.ips, node=place.node, labels=dict(place.labels)))

    def opt(self, name: str, mode: str) -> None:
        place = self.stage.pod(name)
        known = json.loads(json.dumps(self.kube.objects["pods"][place.namespace, name]))
        known["metadata"]["labels"] = {**place.labels, **({MODE_LABEL: mode} if mode else {})}
        self.kube.put(known)

    def annotation(self, name: str) -> str | None:
        return self.kube.annotation(name, self.stage.pod(name).namespace)

    def reason(self, name: str) -> str | None:
        """Of `nodeagent pods`; empty when it is captured, None when it is not listed."""
        rows: list[dict[str, Any]] = self.stage.ask(self.stage.pod(name).node, "pods")["pods"]
        return next((str(row["reason"]) for row in rows if row["pod"] == name), None)

    def programs(self, name: str) -> int:
        place = self.stage.pod(name)
        return sum(place.device in hook for hook in self.stage.attached(place.node))

    def start(self) -> None:
        self.kube.put(
            *(namespace(name, "ambient" if name != "legacy" else "") for name in ("shop", "backoffice", "legacy"))
        )
        for name in self.stage.lab.pods:
            self.put(name)
        self._mirror.start()

    def end(self) -> None:
        self._is_over.set()
        self._mirror.join()

    def _keep_mirrored(self) -> None:
        """What istiod would see: pods with their annotations."""
        written = 0
        while not self._is_over.wait(0.02):
            with self.kube.condition:
                version, pods = self.kube.version, list(self.kube.objects["pods"].values())
            if version != written:
                self.stage.write("10-pods.yaml", pods)
                written = version


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("kubernetes")) as made:
        yield made


@contextmanager
def running_cluster(directory: Path) -> Iterator[Cluster]:
    with running() as stage:
        stage.prepare()
        stage.write("05-mesh.yaml", [{"kind": "MeshConfig", "enrolment": "annotation"}])
        stage.start_control_plane()
        control = stage.lab.control
        listener = control.listen(API_PORT)
        with serving(directory, listener, control.ipv4) as (kube, api):
            made = Cluster(stage, kube)
            made.start()
            try:
                for name in NODES:
                    start_agent(stage, name, Path(api.ca_file), Path(api.token_file))
                made.api = api
                yield made
            finally:
                made.end()


def start_agent(stage: Stage, name: str, ca_file: Path, token_file: Path) -> None:
    node, files = stage.lab.nodes[name], {"ca.crt": ca_file.read_bytes(), "kube-token": token_file.read_bytes()}
    for file, content in files.items():
        node.call(lambda file=file, content=content: (RUN_DIR / file).write_bytes(content))  # type: ignore[misc]
    stage.start_agent(
        name,
        pods_file="",
        drain_seconds="2",
        kubernetes="on",
        kubernetes_host=stage.lab.control.ipv4,
        kubernetes_port=str(API_PORT),
        kubernetes_ca=str(RUN_DIR / "ca.crt"),
        kubernetes_token=str(RUN_DIR / "kube-token"),
    )


def is_tunnelled(stage: Stage, source: str, destination: str) -> bool:
    """Whether a connection is served, and the far node's kernel steered it into its proxy."""
    names = ("node-a", "STEERED"), ("node-b", "INTO_POD")
    before = [stage.packets(node)[name] for node, name in names]
    is_answered = is_served(stage.pod(source), stage.pod(destination).ipv4, PORT)
    return is_answered and all(stage.packets(node)[name] > old for (node, name), old in zip(names, before, strict=True))


def test_pods_that_opted_in_are_captured_annotated_and_tunnelled(cluster: Cluster) -> None:
    for name in ("web", "api", "batch", "db"):
        eventually(lambda name=name: cluster.annotation(name) == "enabled", WITHIN_SECONDS, f"{name} is annotated")  # type: ignore[misc]
        assert cluster.programs(name) == 2
    eventually(lambda: is_tunnelled(cluster.stage, "web", "db"), WITHIN_SECONDS, "web reaches db by a tunnel")
    for name in ("legacy", "legacy2"):
        assert cluster.reason(name) == "NOT_LABELLED"
        assert (cluster.annotation(name), cluster.programs(name)) == (None, 0)


def test_a_pod_leaves_the_mesh_and_comes_back_and_no_new_connection_is_refused(cluster: Cluster) -> None:
    stage = cluster.stage
    eventually(lambda: is_tunnelled(stage, "web", "db"), WITHIN_SECONDS, "web reaches db by a tunnel")
    failures: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            if not is_served(stage.pod("web"), stage.pod("db").ipv4, PORT):
                failures.append(1)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        cluster.opt("db", "none")
        eventually(lambda: cluster.annotation("db") is None, WITHIN_SECONDS, "the annotation is gone")
        eventually(lambda: cluster.reason("db") == "OPTED_OUT", WITHIN_SECONDS, "db is let go")
        assert cluster.programs("db") == 0
        cluster.opt("db", "")
        eventually(lambda: cluster.annotation("db") == "enabled", WITHIN_SECONDS, "db is annotated again")
        assert cluster.programs("db") == 2
        eventually(lambda: is_tunnelled(stage, "web", "db"), WITHIN_SECONDS, "web reaches db by a tunnel again")
    finally:
        is_over.set()
        asking.join()
    assert len(failures) <= 1, "the one that was open when db was let go ends with that"


def test_an_agent_that_is_killed_and_an_api_that_is_away_open_nothing(cluster: Cluster) -> None:
    stage = cluster.stage
    for name in ("web", "api", "batch", "db"):  # of both nodes: after that nobody has anything to write
        eventually(lambda name=name: cluster.annotation(name) == "enabled", WITHIN_SECONDS, f"{name} is annotated")  # type: ignore[misc]
    ca, token = (_written(stage, name, stage.lab.nodes[NODE].read(RUN_DIR / name)) for name in ("ca.crt", "kube-token"))
    nonsense = _written(stage, "nonsense", b"nonsense")
    stage.stop_agent(NODE, signal.SIGKILL)
    patches = len(cluster.kube.patched)
    start_agent(stage, NODE, nonsense, token)
    assert cluster.reason("web") == ""
    assert cluster.programs("web") == 2
    status = stage.ask(NODE, "status")
    rows = {row["component"]: row for row in status["components"]}
    assert rows["kubernetes"]["state"] == "degraded"
    assert is_served(stage.pod("web"), stage.pod("db").ipv4, PORT)
    assert len(cluster.kube.patched) == patches
    stage.stop_agent(NODE)
    start_agent(stage, NODE, ca, token)
    eventually(lambda: cluster.reason("web") == "", WITHIN_SECONDS, "web is captured as before")


def _written(stage: Stage, name: str, content: bytes) -> Path:
    path = stage.directory / f"saved-{name}"
    path.write_bytes(content)
    return path


def test_a_mistake_gives_one_clear_error(cluster: Cluster) -> None:
    words = ["agent", "--node", NODE, "--kubernetes", "on"]
    for more, message in (([], "KUBERNETES_SERVICE_HOST"), (["--pods-file", "x"], "two sources")):
        refused = cluster.stage.lab.nodes[NODE].run([sys.executable, "-m", "nodeagent.cli.main", *words, *more])
        assert refused.returncode == 2
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
