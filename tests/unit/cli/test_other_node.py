# SPDX-License-Identifier: Apache-2.0
"""`--node`: found by a kubectl that is none, and by labs that are none; tests/e2e/test_cli.py goes to a real lab."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from nodeagent.cli.main import COMMANDS, cli
from nodeagent.cli.other_node import CONTAINER, NAMESPACE, SELECTOR, choose_pod, without_node
from nodeagent.lab import enter, journal

Call = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[3]

_KUBECTL = """#!{python}
import json, os, sys
from pathlib import Path
here = Path(__file__).parent
with (here / "asked").open("a") as asked:
    asked.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "exec":
    print("said there")
    print("told there", file=sys.stderr)
    sys.exit(3)
answer = json.loads((here / ("node" if sys.argv[2] == "node" else "pods")).read_text())
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["status"])
"""


def pod(name: str, created: str = "2026-01-01T00:00:00Z", *, state: str = "running", **metadata: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": created, **metadata},
        "status": {"containerStatuses": [{"name": CONTAINER, "state": {state: {}}}]},
    }


class Cluster:
    """What kubectl says, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        program = directory / "kubectl"
        program.write_text(_KUBECTL.format(python=sys.executable), encoding="utf-8")
        program.chmod(0o755)
        self.answer("pods", json.dumps({"items": [pod("nodeagent-x")]}))

    def answer(self, what: str, out: str = "", err: str = "", status: int = 0) -> None:
        told = json.dumps({"out": out, "err": err, "status": status})
        (self.directory / what).write_text(told, encoding="utf-8")

    @property
    def asked(self) -> list[list[str]]:
        lines = (self.directory / "asked").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def run(self, *words: str, **environment: str) -> tuple[int, str, str]:
        """A whole process, which kubectl takes the place of; of no user whose labs it could see."""
        program = "import os, sys; os.geteuid = lambda: 1; from nodeagent.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": f"{self.directory}:{os.environ['PATH']}", **environment},
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_the_same_command_is_run_in_the_pod_of_that_node(cluster: Cluster) -> None:
    words = ("trace", "--pod", "shop/web", "--node=node-a", "-o", "jsonl", "--", "curl", "--node", "x")
    assert cluster.run(*words) == (3, "said there\n", "told there\n"), "output and status are passed through"
    found, done = cluster.asked
    assert found[:6] == ["get", "pods", "--namespace", NAMESPACE, "--selector", SELECTOR]
    assert found[6:8] == ["--field-selector", "spec.nodeName=node-a,status.phase=Running"]
    there = ["nodeagent", "trace", "--pod", "shop/web", "-o", "jsonl", "--", "curl", "--node", "x"]
    assert done == ["exec", "--namespace", NAMESPACE, "--container", CONTAINER, "nodeagent-x", "--", *there]


def test_another_namespace(cluster: Cluster) -> None:
    cluster.run("pods", "--node", "node-a", NODEAGENT_NAMESPACE="mesh")
    assert [words[words.index("--namespace") + 1] for words in cluster.asked] == ["mesh", "mesh"]


def test_names_are_those_of_the_manifest() -> None:
    manifest = yaml.safe_load((ROOT / "daemonset/base/daemonset.yaml").read_text(encoding="utf-8"))
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert manifest["metadata"]["namespace"] == NAMESPACE
    assert SELECTOR in {f"{key}={value}" for key, value in labels.items()}
    assert CONTAINER in {container["name"] for container in manifest["spec"]["template"]["spec"]["containers"]}
    plugin = yaml.safe_load((ROOT / "daemonset/cni/daemonset.yaml").read_text(encoding="utf-8"))
    others = plugin["spec"]["template"]["metadata"]["labels"]
    assert SELECTOR not in {f"{key}={value}" for key, value in others.items()}


@pytest.mark.parametrize(
    ("pods", "chosen"),
    [
        ([], None),
        ([pod("a")], "a"),
        ([pod("old"), pod("new", "2026-01-02T00:00:00Z")], "new"),
        ([pod("old"), pod("new", "2026-01-02T00:00:00Z", state="waiting")], "old"),
        ([pod("old"), pod("going", "2026-01-02T00:00:00Z", deletionTimestamp="2026-01-03T00:00:00Z")], "old"),
        ([{"metadata": {"name": "a"}, "status": {}}], None),
    ],
)
def test_which_pod(pods: list[dict[str, Any]], chosen: str | None) -> None:
    assert choose_pod(pods) == chosen


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (["pods", "--node", "a"], ["pods"]),
        (["--debug", "pods", "--node=a", "-o", "json"], ["--debug", "pods", "-o", "json"]),
        (["trace", "--node", "a", "--", "x", "--node", "b"], ["trace", "--", "x", "--node", "b"]),
        (["pods"], ["pods"]),
    ],
)
def test_the_command_line_there(words: list[str], there: list[str]) -> None:
    assert without_node(words) == there


@pytest.mark.parametrize(
    ("pods", "node", "status", "said"),
    [
        pytest.param(
            {"err": "E1128 noise\nThe connection to the server was refused\n", "status": 1},
            {},
            3,
            "kubectl cannot list the pods of nodeagent-system: The connection to the server was refused",
            id="no cluster",
        ),
        pytest.param({"out": "<html>"}, {}, 3, "kubectl does not answer as kubectl does", id="another program"),
        pytest.param(
            {"out": '{"items": []}'},
            {"err": 'Error from server (NotFound): nodes "node-a" not found\n', "status": 1},
            2,
            "the cluster has no node 'node-a'",
            id="no such node",
        ),
        pytest.param(
            {"out": '{"items": []}'},
            {"out": "node/node-a\n"},
            3,
            "no nodeagent pod runs on node-a, in the namespace nodeagent-system",
            id="no agent on it",
        ),
    ],
)
def test_what_stands_in_the_way(
    cluster: Cluster, pods: dict[str, Any], node: dict[str, Any], status: int, said: str
) -> None:
    cluster.answer("pods", **pods)
    cluster.answer("node", **node)
    found, out, err = cluster.run("pods", "--node", "node-a")
    assert (found, out) == (status, "")
    assert err.startswith(f"error: {said}")
    assert "\ncheck: " in err


def test_no_kubectl(cluster: Cluster, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    status, _, err = cluster.run("pods", "--node", "node-a", PATH=str(empty))
    assert status == 3
    assert "there is no kubectl" in err
    assert "as root" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pods", "--node", "a,metadata.name=b"), "is no name of a node"),
        (("pods", "--node", "a", "-f", "dump.json"), "--node and --file exclude each other"),
        (("flows", "--node", "a", "--input", __file__), "--node and --input exclude each other"),
        (("explain", "a", "b:80", "--node", "a", "--policy-dir", str(ROOT)), "nodeagent dump --node NAME"),
        (("report", "--node", "a"), "--to - > report.tar.gz"),
    ],
)
def test_wrong_use(call: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    status, out, err = call(*words)
    assert (status, out) == (2, "")
    assert said in " ".join(err.split())


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Two labs with a node-a; what a process was about to become."""
    node = journal.Entry(journal.Kind.LINK, "/x/node-a")
    runs = [
        journal.Run(number, 1, (journal.Entry(journal.Kind.PINNED, f"/x/na-node-a.{number}"), node))
        for number in (4, 5)
    ]
    become: list[object] = []

    def remember(place: enter.Place, words: list[str]) -> None:
        become.append((place.netns.name, words))
        raise SystemExit(0)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(journal, "living_runs", lambda: runs)
    monkeypatch.setattr(enter, "become", remember)
    return become


def test_a_node_of_a_lab_is_entered(call: Call, monkeypatch: pytest.MonkeyPatch, lab: list[object]) -> None:
    status, _, err = call("pods", "--node", "node-a")
    assert status == 2
    assert "2 labs are running: 4, 5" in err
    monkeypatch.setenv("NODEAGENT_LAB_RUN", "5")
    with pytest.raises(SystemExit):
        call("bpf", "maps", "--node", "node-a", "pods")
    assert lab == [("na-node-a.5", ["nodeagent", "bpf", "maps", "pods"])]
    monkeypatch.setenv("NODEAGENT_LAB_RUN", "first")
    assert call("pods", "--node", "node-a")[0] == 2


_ON_A_NODE = {"agent", "token"}
"""Whose --node is a setting."""
_OF_THE_CONTROL_PLANE = {"proxies", "control-plane"}
"""Whose --socket is another one."""


def test_every_command_that_asks_an_agent_or_its_kernel_has_it() -> None:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        members = command.commands.values() if isinstance(command, click.Group) else [command]
        for member in members:
            assert member is not None
            flags = {flag for parameter in member.params for flag in parameter.opts}
            asks = "--socket" in flags or name == "bpf"
            expected = name in _ON_A_NODE or (asks and name not in _OF_THE_CONTROL_PLANE)
            assert ("--node" in flags) is expected, f"{name} {member.name}"
