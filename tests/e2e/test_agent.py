# SPDX-License-Identifier: Apache-2.0
"""The agent as an operator meets it: refusals with an exit code, successors, leaving, cleaning up, a full disk."""

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Fate, Traffic, ask, fate, is_served
from nodeagent.lab.demo.processes import status
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running
from nodeagent.lab.machine import network_state
from nodeagent.lab.namespaces import RUN_DIR

pytestmark = pytest.mark.e2e

NODE = "node-a"
WITHIN_SECONDS = 60.0


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node)
        yield stage


def run(stage: Stage, *words: str, node: str = NODE) -> "subprocess.CompletedProcess[str]":
    return stage.lab.nodes[node].run([sys.executable, "-m", "nodeagent.cli.main", *words])


def is_captured(stage: Stage) -> bool:
    """Whether a connection from web to db is served, and by way of the proxies of both nodes, as the kernels count."""
    names = ("node-a", "STEERED"), ("node-b", "INTO_POD")
    before = [stage.packets(node)[name] for node, name in names]
    is_answered = is_served(stage.pod("web"), stage.pod("db").ipv4, PORT)
    return is_answered and all(stage.packets(node)[name] > old for (node, name), old in zip(names, before, strict=True))


def fetch(stage: Stage, port: int, target: str, method: str = "GET") -> tuple[int, str]:
    """Status and body, asked on the node's own loopback."""

    def ask_there() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    return stage.lab.nodes[NODE].call(ask_there)


def agent_words(stage: Stage, *more: str) -> list[str]:
    return ["agent", "--node", NODE, "--xds-address", f"https://{stage.lab.control.ipv4}:15012", *more]


def test_a_second_agent_is_refused_and_the_first_goes_on(stage: Stage) -> None:
    refused = run(stage, *agent_words(stage))

    assert refused.returncode == 5
    assert f"already running on this node (pid {stage.agents[NODE].pid})" in refused.stderr
    assert "--takeover" in refused.stderr
    assert stage.agents[NODE].poll() is None
    assert is_served(stage.pod("web"), stage.pod("db").ipv4, PORT)


def test_a_successor_takes_over_under_traffic_and_nothing_is_lost(stage: Stage) -> None:
    workers, former = stage.worker_pids(NODE), stage.agents[NODE]
    with Traffic(stage.pod("web"), stage.pod("db").ipv4, PORT).running() as traffic:
        traffic.wait_for_more(5)
        stage.start_agent(NODE, takeover=True)
        traffic.wait_for_more(20)

    assert former.wait(WITHIN_SECONDS) == 0
    assert traffic.failures == []
    assert traffic.served >= 25
    assert stage.worker_pids(NODE) == workers


def test_sigterm_leaves_workers_programs_and_connections(stage: Stage) -> None:
    workers, programs = stage.worker_pids(NODE), stage.attached(NODE)
    with Traffic(stage.pod("web"), stage.pod("db").ipv4, PORT).running() as traffic:
        traffic.wait_for_more(5)
        stage.agents[NODE].send_signal(signal.SIGTERM)
        assert stage.agents[NODE].wait(WITHIN_SECONDS) == 0
        traffic.wait_for_more(20)
        assert stage.attached(NODE) == programs
        told = run(stage, "status")
        stage.start_agent(NODE)
        assert stage.attachment_fault(NODE) == ""
        traffic.wait_for_more(5)

    assert told.returncode == 3
    assert "no agent answers" in told.stderr
    assert traffic.failures == []
    assert stage.worker_pids(NODE) == workers


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(["--node", ""], 2, "node's name is not set", id="no node name"),
        pytest.param(["--workers", "9"], 2, "--workers", id="too many workers"),
        pytest.param(["--drain-seconds", "soon"], 2, "--drain-seconds", id="no number"),
        pytest.param(["--config", "/nowhere.yaml"], 2, "/nowhere.yaml", id="no such file"),
        pytest.param(["--xds-address", "https://"], 2, "xds", id="no host"),
        pytest.param(["--page", "0.0.0.0:15080"], 2, "is not loopback", id="a page for everybody"),
        pytest.param(["--no-such-flag"], 2, "--no-such-flag", id="no such flag"),
        pytest.param(["--run-dir", "/proc/nodeagent"], 5, "/proc/nodeagent", id="a directory that cannot be"),
        pytest.param(
            ["--run-dir", "/run/other", "--ready-address", "127.0.0.1:1", "--stats-address", "[::]:15020"],
            5,
            "15020",
            id="a port in use",
        ),
    ],
)
def test_a_mistake_gives_one_clear_error(stage: Stage, words: list[str], code: int, message: str) -> None:
    refused = run(stage, *agent_words(stage, *words))

    assert refused.returncode == code, refused.stderr
    assert message in refused.stderr.lower()
    assert "Traceback" not in refused.stderr + refused.stdout
    assert stage.agents[NODE].poll() is None


def test_without_its_capabilities_it_says_so(stage: Stage) -> None:
    # Not another user, who may well be kept out of the folder in which this code lies.
    program = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "nodeagent.cli.main"]
    ports = ("--ready-address", "127.0.0.1:15121", "--stats-address", "127.0.0.1:15120", "--admin-address", "")
    elsewhere = ("--run-dir", "/run/other", *ports)
    refused = stage.lab.nodes[NODE].run([*program, *agent_words(stage, *elsewhere)])

    assert refused.returncode == 4, refused.stderr
    assert "CAP_BPF" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_it_is_ready_only_while_every_worker_answers(stage: Stage) -> None:
    def readiness() -> tuple[int, str]:
        return fetch(stage, 15021, "/healthz/ready")

    pid = stage.worker_pids(NODE)[0]
    eventually(lambda: readiness()[0] == 200, WITHIN_SECONDS, "the agent is ready")
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: "has not answered" in readiness()[1], WITHIN_SECONDS, "the stopped worker is missed")
        assert readiness()[0] == 503
        assert "silent" in run(stage, "status").stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: readiness()[0] == 200, WITHIN_SECONDS, "the agent is ready again")
    assert pid in stage.worker_pids(NODE)


def test_istioctl_and_kiali_find_what_they_ask_a_ztunnel_for(stage: Stage) -> None:
    with Traffic(stage.pod("web"), stage.pod("db").ipv4, PORT).running() as traffic:
        traffic.wait_for_more(1)
        status, body = fetch(stage, 15000, "/config_dump")
    dump = json.loads(body)
    assert status == 200
    assert {"web", "db", "legacy"} <= {one["name"] for one in dump["workloads"]}
    up = {one["info"]["name"] for one in dump["workloadState"].values() if one["state"] == "Up"}
    assert up == {"web", "api", "batch"}
    certificates = {one["identity"].rpartition("/")[2]: one for one in dump["certificates"]}
    assert certificates["web"]["state"] == "Available"
    assert (len(certificates["web"]["certChain"]), len(certificates["web"]["rootCerts"])) == (2, 1)
    assert "PRIVATE KEY" not in body + str(base64.b64decode(certificates["web"]["certChain"][0]["pem"]))


def test_levels_of_the_log_change_in_agent_and_workers(stage: Stage) -> None:
    def posted(query: str) -> tuple[int, str]:
        return fetch(stage, 15000, f"/logging?{query}", method="POST")

    assert posted("level=warn,proxy:debug") == (200, "current log level is warn,proxy:debug\n")
    assert fetch(stage, 15000, "/logging") == (200, "current log level is warn,proxy:debug\n")
    assert posted("level=loud")[0] == 400
    assert posted("level=info&reset") == (200, "current log level is info\n")


def test_a_broken_pods_file_leaves_the_last_good_list_in_force(stage: Stage) -> None:
    node = stage.lab.nodes[NODE]
    good = node.read(RUN_DIR / "pods.yaml")

    node.call(lambda: (RUN_DIR / "pods.yaml").write_text("- {namespace: shop"))
    eventually(lambda: "pods-file" in run(stage, "status").stdout, WITHIN_SECONDS, "status names the pods file")

    assert is_captured(stage)
    node.call(lambda: (RUN_DIR / "pods.yaml").write_bytes(good))
    eventually(lambda: "pods-file" not in run(stage, "status").stdout, WITHIN_SECONDS, "status is content again")


def test_a_full_disk_for_the_state_file_is_told_and_harms_nobody(stage: Stage) -> None:
    node = stage.lab.nodes[NODE]

    def fill() -> None:
        with (RUN_DIR / "state.filler").open("wb") as file:
            while True:
                try:
                    file.write(bytes(1 << 20))
                    file.flush()
                except OSError:
                    return

    # A disk of its own for the run directory, so that it can be full.
    node.call(lambda: subprocess.run(["mount", "-o", "remount,size=2m", "/run"], check=True))
    try:
        node.call(fill)
        stage.write("25-more.yaml", _more_objects())
        eventually(lambda: "state-file" in run(stage, "status").stdout, WITHIN_SECONDS, "status names the state file")
        assert is_captured(stage)
        assert stage.agents[NODE].poll() is None
    finally:
        node.call((RUN_DIR / "state.filler").unlink)
        node.call(lambda: subprocess.run(["mount", "-o", "remount,size=50%", "/run"], check=True))
        stage.write("25-more.yaml", [])
    eventually(lambda: "state-file" not in run(stage, "status").stdout, WITHIN_SECONDS, "status is content again")


def _more_objects() -> list[dict[str, object]]:
    """A change that reaches this node, and is larger than what may be left of the last page of its state file."""
    from nodeagent.lab.demo import mesh

    return [
        mesh.service(f"more-{number}", "shop", {"app": "db"}, (f"10.96.1.{number}", f"fd00:96::1:{number}"), {80: PORT})
        for number in range(1, 61)
    ]


def test_explain_names_the_policy_that_the_proxy_enforces(stage: Stage) -> None:
    from nodeagent.lab.demo import mesh

    web, db = stage.pod("web"), stage.pod("db")
    allowed = run(stage, "explain", "shop/web", f"shop/db:{PORT}", node="node-b")
    stage.write(
        "30-policy.yaml", [mesh.authorization("no-web", "shop", "db", "DENY", [mesh.rule(namespaces=["shop"])])]
    )
    eventually(lambda: fate(web, db.ipv4, PORT) is Fate.REFUSED, WITHIN_SECONDS, "the policy is in force")
    denied = run(stage, "explain", "shop/web", f"shop/db:{PORT}", "-o", "json", node="node-b")
    stage.write("30-policy.yaml", [])
    eventually(lambda: is_served(web, db.ipv4, PORT), WITHIN_SECONDS, "the policy is gone")

    assert allowed.returncode == 0, allowed.stderr
    assert "ALLOWED" in allowed.stdout
    assert denied.returncode == 1
    assert "shop/no-web" in denied.stdout
    json.loads(denied.stdout)


def test_metrics_and_readiness_are_served(stage: Stage) -> None:
    ask(stage.pod("web"), stage.pod("db").ipv4, PORT, "WHO")
    # The worker tells the agent of a connection beside carrying it, so the client may be answered before.
    eventually(lambda: _is_counted(_get(stage, 15020, "/metrics")), WITHIN_SECONDS, "the connection is in the metrics")
    assert "nodeagent_kernel_packets_total" in _get(stage, 15020, "/metrics")
    assert '"ready":true' in _get(stage, 15021, "/healthz/ready").replace(" ", "")


def _is_counted(scraped: str) -> bool:
    opened = [line for line in scraped.splitlines() if line.startswith("istio_tcp_connections_opened_total{")]
    return any('reporter="source"' in line and 'destination_workload="db"' in line for line in opened)


def _get(stage: Stage, port: int, path: str) -> str:
    with stage.lab.nodes[NODE].connect("127.0.0.1", port) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while some := connection.recv(65536):
            answer += some
    return answer.decode()


def has_ended(pid: int) -> bool:
    """Nobody may have asked yet for the end of one whose parent, the agent, is gone."""
    try:
        return status(pid)["State"].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_cleanup_is_refused_while_an_agent_runs_and_then_takes_everything_away(stage: Stage) -> None:
    node = stage.lab.nodes["node-b"]
    refused = run(stage, "cleanup", node="node-b")
    workers = stage.worker_pids("node-b")
    assert workers
    stage.agents["node-b"].terminate()
    stage.agents["node-b"].wait(WITHIN_SECONDS)

    cleaned = run(stage, "cleanup", node="node-b")

    assert refused.returncode == 5
    assert cleaned.returncode == 0, cleaned.stderr
    assert [pid for pid in workers if not has_ended(pid)] == []
    assert stage.attached("node-b") == {}
    assert node.call(lambda: [path for path in Path("/sys/fs/bpf").iterdir() if "nodeagent" in path.name]) == []
    assert stage.node_differences("node-b") == []
    assert "na0" not in {fact.device for fact in node.call(network_state)}
    assert run(stage, "cleanup", node="node-b").stdout.strip() == "nothing to remove"
    # Without an agent the pods talk as before, in plain text.
    assert is_served(stage.pod("legacy"), stage.pod("db").ipv4, PORT)
    stage.start_agent("node-b")
    assert is_captured(stage)
