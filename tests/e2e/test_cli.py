# SPDX-License-Identifier: Apache-2.0
"""The command line in front of a real agent: a dump answers as the agent did."""

import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.kernel.sources import PROGRAMS
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import fate
from nodeagent.lab.demo.program import connected
from nodeagent.lab.demo.stage import NODES, PORT, Stage, command, running
from nodeagent.lab.namespaces import RUN_DIR
from tests.e2e.scene import NODE, WITHIN_SECONDS, played
from tests.unit.cli.test_forms import validate

pytestmark = pytest.mark.e2e

STILL = ("pods", "workloads", "services", "policies", "certs", "explain shop/web shop/db:80", "version")
"""What does not change while nothing happens, but for ages."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage, played(stage):
        yield stage


def ran(stage: Stage, *words: str) -> Any:
    done = stage.lab.nodes[NODE].run(command(*words))
    assert done.returncode in {0, 1}, done.stderr
    return json.loads(done.stdout)


def test_a_dump_answers_as_the_agent_did(stage: Stage, tmp_path: Path) -> None:
    done = stage.lab.nodes[NODE].run(command("dump"))
    path = tmp_path / "dump.json"  # the lab's own directory is not there inside a node
    path.write_text(done.stdout)
    for words in STILL:
        live, dumped = (ran(stage, *words.split(), "-o", "json", *more) for more in ((), ("-f", str(path))))
        assert without_ages(dumped) == without_ages(live), words
    for words, kind in (("connections", "connections"), ("flows", "flows")):
        rows = ran(stage, words, "-o", "json", "--file", str(path))[kind]
        assert rows, words


def without_ages(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_ages(one) for name, one in value.items() if not name.endswith("_seconds")}
    return [without_ages(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", ["tunnel", "kernel"])
def test_a_connection_is_killed_by_its_id_whoever_carries_it(stage: Stage, path: str) -> None:
    rows = ran(stage, "connections", "-o", "json")["connections"]
    number = next(row["id"] for row in rows if row["path"] == path)
    (killed,) = ran(stage, "connections", "--kill", number, "-o", "json")["killed"]
    assert (killed["id"], killed["path"], killed["reason"]) == (number, path, "operator_killed")
    assert number not in {row["id"] for row in ran(stage, "connections", "-o", "json")["connections"]}
    (told,) = [row for row in ran(stage, "flows", "-o", "json")["flows"] if row["id"] == number]
    assert told["verdict"] == "allowed"
    again = stage.lab.nodes[NODE].run(command("connections", "--kill", number))
    assert again.returncode == 2
    assert "is open here" in again.stderr


def test_the_log_level_is_changed_in_every_process(stage: Stage) -> None:
    rows = ran(stage, "log", "debug", "-o", "json")["logs"]
    assert [(row["part"], row["level"]) for row in rows] == [("agent", "debug"), ("worker 0", "debug")]
    assert all(row["until"] for row in rows)
    rows = ran(stage, "log", "--reset", "-o", "json")["logs"]
    assert [(row["level"], row["until"]) for row in rows] == [("info", ""), ("info", "")]


def test_edges_and_rates(stage: Stage) -> None:
    edges = {(row["source"], row["destination"]): row for row in ran(stage, "edges", "-o", "json")["edges"]}
    assert edges["shop/web", "shop/db"]["secured"] == "mtls"
    assert edges["shop/web", "shop/api"]["secured"] == "node"
    assert edges["backoffice/batch", "shop/api"]["denied"] >= 1
    done = stage.lab.nodes[NODE].run(command("top", "edges", "--times", "1", "--every", "1s", "-o", "jsonl"))
    assert done.returncode == 0
    assert "shop/web -> shop/db" in {json.loads(line)["name"] for line in done.stdout.splitlines()}


def test_a_node_is_named_from_outside_of_it(stage: Stage, tmp_path: Path) -> None:
    """By whoever is on the machine of the lab: with the same answer, output and exit status as on the node itself."""
    environment = {**os.environ, "NODEAGENT_LAB_RUN": str(stage.lab.run)}

    def asked(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command(*words), capture_output=True, check=False, env=environment, cwd=tmp_path)

    for name in NODES:
        done = asked("pods", "--node", name, "-o", "name")
        there = stage.lab.nodes[name].run(command("pods", "-o", "name"))
        assert (done.returncode, done.stdout.decode()) == (0, there.stdout)
    done = asked("bpf", "maps", "pods", "--node", NODE, "-o", "json")
    assert stage.pod("web").ipv4 in {row["key"] for row in json.loads(done.stdout)["rows"]}
    done = asked("connections", "--kill", "1-1", "--node", NODE)
    assert done.returncode == 2
    assert b"is open here" in done.stderr
    done = asked("report", "--node", NODE, "--to", "-")
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert any(name.endswith("/nodeagent/pods.txt") for name in archive.getnames())


def test_a_report_of_a_node_has_no_secret_in_it(stage: Stage, tmp_path: Path) -> None:
    """Of those that the test can have: the token of the node, and the keys of the control plane."""
    node = stage.lab.nodes[NODE]
    done = node.run(command("report", "--to", tmp_path, "--log", RUN_DIR / "access.log", "-o", "json"), seconds=120)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    ours = {row["name"]: row["exit_code"] for row in manifest["files"] if row["name"].startswith("nodeagent/")}
    assert not {name: status for name, status in ours.items() if status not in {0, 1}}
    content = gzip.decompress(Path(manifest["path"]).read_bytes())
    assert b"shop/web" in content
    secrets = [node.read(RUN_DIR / "token").strip()]
    for key in (*stage.state_directory.glob("*key*"), *stage.state_directory.glob("*.pem")):
        lines = key.read_bytes().splitlines()
        if key.name == "token-key" or b"PRIVATE" in lines[0]:
            secrets += [line for line in lines if b"-----" not in line]
    assert len(secrets) > 4
    for secret in (*secrets, b"PRIVATE KEY"):
        assert secret not in content


def test_a_strict_report_of_a_node_names_nobody(stage: Stage, tmp_path: Path) -> None:
    node = stage.lab.nodes[NODE]
    words = ("report", "--to", tmp_path, "--log", RUN_DIR / "access.log", "--redact", "strict", "--since", "1h")
    done = node.run(command(*words, "-o", "json"), seconds=120)
    assert (done.returncode, done.stderr) == (0, "")
    content = gzip.decompress(Path(json.loads(done.stdout)["path"]).read_bytes()).decode()
    for secret in (*(pod.ipv4 for pod in stage.lab.pods.values()), "backoffice", "shop/", NODE, "/sa/web"):
        assert secret not in content
    assert "spiffe://cluster.local/ns/name-" in content


def test_the_tunnels_to_the_other_node_are_tried_and_leave_no_record(stage: Stage) -> None:
    web, db = stage.pod("web"), stage.pod("db")
    with web.connect(db.ipv4, PORT) as last:
        port = last.getsockname()[1]
    for name in NODES:  # what the tests before have left is told before it
        stage.access_line(name, web.ipv4, port)
    before = {name: len(stage.access_lines(name)) for name in NODES}
    found = ran(stage, "probe", "-o", "json")
    validate(found, "ProbedNodes")
    assert [(row["to_node"], row["address"], row["error"]) for row in found["probes"]] == [
        ("node-b", db.ipv4, ""),
        ("node-b", db.ipv6, ""),
    ]
    assert all(0 < row["round_trip_seconds"] < row["handshake_seconds"] for row in found["probes"])
    assert {name: len(stage.access_lines(name)) for name in NODES} == before


def test_what_the_kernel_has_is_shown_decoded(stage: Stage) -> None:
    progs = ran(stage, "bpf", "progs", "-o", "json")["progs"]
    current = {row["name"]: row for row in progs if row["is_current"]}
    assert set(current) == set(PROGRAMS)
    assert (current["from_pod"]["kind"], current["sockops"]["kind"]) == ("sched_cls", "sock_ops")
    assert f"node {stage.pod('web').device} " in " ".join(current["from_pod"]["attached_to"])
    assert current["connect4"]["attached_to"] == []
    maps = {row["name"]: row for row in ran(stage, "bpf", "maps", "-o", "json")["maps"]}
    assert maps["pods"]["rows"] == 6, "three pods with two addresses"
    for name in set(maps) - {"flow_events"}:
        validate(ran(stage, "bpf", "maps", name, "-o", "json"), "BpfRows")
    web = stage.pod("web")
    pods = {row["key"]: row["value"] for row in ran(stage, "bpf", "maps", "pods", "-o", "json")["rows"]}
    assert pods[web.ipv4]["device"].startswith(f"{web.device} (")
    counts = {row["key"]: row["value"] for row in ran(stage, "bpf", "maps", "reason_counts", "-o", "json")["rows"]}
    assert counts["STEERED"] > 0
    assert "not shown" in str(ran(stage, "bpf", "maps", "settings", "-o", "json")["rows"])
    listeners = {row["key"] for row in ran(stage, "bpf", "maps", "listeners", "-o", "json")["rows"]}
    assert "hbone of worker 0" in listeners
    reports = ran(stage, "bpf", "maps", "flow_reports", "-o", "json")["rows"]
    assert all(row["value"]["state"] in {"open", "closed", "reset"} for row in reports)
    assert stage.lab.nodes[NODE].run(command("bpf", "maps", "flow_events")).returncode == 2


def test_connections_of_the_kernel_are_shown_by_their_ends(stage: Stage) -> None:
    web, api = stage.pod("web"), stage.pod("api")

    def open_now() -> list[dict[str, Any]]:
        found = ran(stage, "connections", "--kernel", "-o", "json")
        validate(found, "TrackedConnections")
        return [row for row in found["tracked"] if row["state"] == "open" and row["destination"].startswith(api.ipv4)]

    with connected(web, api.ipv4, PORT, "ECHO"):
        eventually(lambda: bool(open_now()), WITHIN_SECONDS, "its client's socket tells of it")
        row = open_now()[0]
        assert row["source"].startswith(f"{web.ipv4}:")
        assert (row["destination"], row["kind"], row["is_opener_known"]) == (f"{api.ipv4}:{PORT}", "allowed", True)
        assert {"flows", "flow_reports"} <= set(row["tables"])
        pods = {row["pod"]: row for row in ran(stage, "pods", "-o", "json")["pods"]}
    assert [pods[name]["mode"] for name in ("web", "api", "legacy2")] == ["kernel", "kernel", ""]
    assert pods["web"]["direct"] >= 1
    assert pods["api"]["direct"] >= 1
    assert pods["batch"]["direct"] == 0


def test_runs_of_programs_are_counted_while_it_measures(stage: Stage) -> None:
    words = command("bpf", "progs", "--measure", "1", "-o", "json")
    measuring = stage.lab.nodes[NODE].spawn(words, stdout=subprocess.PIPE)
    while measuring.poll() is None:
        fate(stage.pod("web"), stage.pod("db").ipv4, PORT)
    said, _ = measuring.communicate()
    rows = {row["name"]: row for row in json.loads(said)["progs"]}
    assert rows["from_pod"]["runs"] > 0
    assert rows["from_pod"]["average_nanoseconds"] > 0
    assert rows["connect4"]["runs"] == 0, "not attached"


def test_what_is_attached_is_shown_and_compared(stage: Stage) -> None:
    places = ran(stage, "bpf", "attach", "-o", "json")["attached"]
    ours = {(row["place"].partition(" (")[0], row["hook"]): row["program"] for row in places if row["is_ours"]}
    device = stage.pod("web").device
    assert ours[f"node {device}", "ingress"] == "from_pod"
    assert ours[f"node {device}", "egress"] == "to_pod"
    assert ours["proxy eth0", "ingress"] == "at_proxy"
    assert "sockops" in ours.values()
    found = ran(stage, "bpf", "verify", "-o", "json")
    validate(found, "BpfComparisons")
    assert [row for row in found["compared"] if not row["is_same"]] == []
    other = stage.lab.nodes[NODE].run(command("bpf", "verify", "--mark", "0x2000", "--mark-mask", "0x200f"))
    assert other.returncode == 1, "programs with another mark are other programs"
    assert "not pinned" in other.stdout


def test_a_node_of_a_lab_is_well(stage: Stage) -> None:
    """Its own settings, and what its agent has been given; the cgroup and kTLS are this machine's."""
    parts = ("--pre", "--setup", "--proxy")
    answer = ran(stage, "check", *parts, "--kubernetes", "on", "--token", str(RUN_DIR / "token"), "-o", "json")
    validate(answer, "Checks")
    found = {row["id"]: row for row in answer["checks"]}
    names = ("memlock", "pods-netns", "forwarding", "marks", "programs", "token", "clock", "roots")
    assert {name: found[name]["evidence"] for name in names if not found[name]["ok"]} == {}
    assert found["token"]["evidence"].startswith("for istio-ca, ends at ")
