# SPDX-License-Identifier: Apache-2.0
"""A small scene on the demo's stage, with something of everything for the command line to show.

`python -m tests.e2e.scene` (root) plays it and writes tests/data/dump.json: what `nodeagent dump` says then on node-a,
where most of it happens; tests/data/answers.json: what commands say as JSON that no dump can answer; and
tests/data/said.json: lines of those that say nothing as JSON, the demo's among them.
docs/examples.md is printed from these (`make proto`).
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nodeagent.errors import NotPossible
from nodeagent.lab.demo import mesh, program
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Echo, connect, fate
from nodeagent.lab.demo.stage import NODES, PORT, SERVICE_PORT, Stage, command, running

NODE = NODES[0]
WITHIN_SECONDS = 60.0
DUMP, ANSWERS, SAID = (Path(f"tests/data/{name}.json") for name in ("dump", "answers", "said"))
MOST_LINES = 6
"""Of a log, of its beginning."""


CONTROL_PLANE = "control-plane --config-dir mesh.d --state-dir state --listen 192.168.77.250:15012"
AGENT = "agent --node node-a --pods-file pods.yaml --token token --root-certificate root-cert.pem"
IN_TEXT = {"log_format": "text"}
RECORDED = (
    "check",
    "probe",
    "connections --kernel",
    "bpf progs",
    "bpf maps",
    "bpf maps pods",
    "bpf attach",
    "bpf verify",
)
ELSEWHERE = "pods --node node-b"
TRACED = "trace --pod batch --peer api -- curl -s http://10.244.1.3:8080"
"""A connection that a policy denies; what is run in place of curl dials as it would."""


@contextlib.contextmanager
def played(stage: Stage) -> Iterator[None]:
    """Policies, connections that are over, and for the length of the block some that are open."""
    stage.prepare()
    stage.write(
        "30-policy.yaml",
        [
            mesh.authorization("db-clients", "shop", "db", "ALLOW", [mesh.rule(namespaces=["shop"], ports=[PORT])]),
            mesh.authorization("no-batch", "shop", "api", "DENY", [mesh.rule(namespaces=["backoffice"])]),
            mesh.peer_authentication("strict", "shop", "STRICT"),
        ],
    )
    stage.start_control_plane()
    for name in NODES:
        stage.start_agent(name)
    web, batch, api, db = (stage.pod(name) for name in ("web", "batch", "api", "db"))
    eventually(lambda: _is_direct(stage), WITHIN_SECONDS, "web reaches api directly")
    fate(web, stage.service_ips[0], SERVICE_PORT)
    fate(batch, db.ipv4, PORT)
    fate(batch, api.ipv4, PORT)
    fate(stage.pod("legacy2"), api.ipv4, PORT)
    with contextlib.ExitStack() as stack:
        for ip, port in ((stage.service_ips[0], SERVICE_PORT), (db.ipv6, PORT)):
            echo = Echo(web, ip, port)
            stack.callback(echo.close)
            echo.exchange()
        # In the pods' cgroup, where connections that the kernel carries are seen.
        stack.enter_context(program.connected(web, api.ipv4, PORT, "ECHO"))
        eventually(lambda: _is_told(stage), WITHIN_SECONDS, "the agent tells of them all")
        yield


def _is_direct(stage: Stage) -> bool:
    before = stage.packets(NODE).get("LOCAL_ALLOWED", 0)
    with contextlib.suppress(OSError):
        connect(stage.pod("web"), stage.pod("api").ipv4, PORT).close()
    return stage.packets(NODE).get("LOCAL_ALLOWED", 0) > before


def _is_told(stage: Stage) -> bool:
    open_now = stage.ask(NODE, "connections")["connections"]
    denied = [row for row in stage.ask(NODE, "flows")["flows"] if row["verdict"] == "denied"]
    return len(open_now) >= 3 and len(denied) >= 2


def _said_at_the_end(stage: Stage, kept: dict[str, list[str]]) -> None:
    """What daemons have said at their start, and what is said when all of it is taken away again."""
    for part, line in (("control-plane", CONTROL_PLANE), (NODE, AGENT)):
        log = (stage.directory / f"{part}.log").read_text(encoding="utf-8")
        kept[line] = log.splitlines()[:MOST_LINES]
    listed = subprocess.run(command("lab", "list"), capture_output=True, text=True, check=True)
    lines = listed.stdout.splitlines()
    ours = next(number for number, line in enumerate(lines) if line.endswith(f"of process {os.getpid()}"))
    kept["lab list | head -6"] = lines[ours : ours + MOST_LINES]
    node = stage.lab.nodes[NODE]
    _keep_plugin(stage, kept)
    kept[ELSEWHERE] = _from_outside(stage, *ELSEWHERE.split())
    kept["version"] = node.run(command("version")).stdout.splitlines()
    stage.stop_agent(NODE)
    for line in ("cleanup", "prepare-node", "cleanup"):
        words = ("--run-dir", "/run/nodeagent") if line == "cleanup" else ()
        kept.setdefault(line, node.run(command(line, *words), seconds=WITHIN_SECONDS).stdout.splitlines())


def _from_outside(stage: Stage, *words: str) -> list[str]:
    """What is said to somebody on the machine of the lab."""
    environment = {**os.environ, "NODEAGENT_LAB_RUN": str(stage.lab.run)}
    done = subprocess.run(command(*words), capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def _keep_plugin(stage: Stage, kept: dict[str, list[str]]) -> None:
    """With the lists of a runtime that is not there."""
    lists, programs = (stage.directory / f"cni/{name}" for name in ("net.d", "bin"))
    for place in (lists, programs):
        place.mkdir(parents=True)
    chained = lists / "10-bridge.conflist"
    chained.write_text('{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}', encoding="ascii")
    places = ("--net-dir", lists, "--bin-dir", programs, "--program", "/bin/true", "--run-dir", stage.directory)
    with subprocess.Popen(command("cni", "install", *places), stderr=subprocess.PIPE, text=True) as installer:
        eventually(lambda: "nodeagent-cni" in chained.read_text("utf-8"), WITHIN_SECONDS, "the plugin is in the list")
        kept["cni check"] = subprocess.run(
            command("cni", "check", *places), capture_output=True, text=True, check=True
        ).stdout.splitlines()
        installer.terminate()
        _, told = installer.communicate()
    kept["cni install"] = told.splitlines()


def _demo() -> list[str]:
    done = subprocess.run(command("demo", "--script"), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def traced(stage: Stage, pod: str, peer: str, ip: str, port: int = PORT) -> dict[str, Any]:
    """The answer of a trace of one connection, whose client waits for its end."""
    dial = f"import socket; s = socket.create_connection(({ip!r}, {port}), 60); s.sendall(b'WHO\\n'); s.recv(1)"
    words = command("trace", "--pod", pod, "--peer", peer, "-o", "json", "--", sys.executable, "-c", dial)
    done = stage.lab.nodes[NODE].run(words, seconds=WITHIN_SECONDS + 120)
    if not done.stdout:
        raise NotPossible(done.stderr)
    return dict(json.loads(done.stdout))


def main() -> int:
    said: dict[str, list[str]] = {}
    with running() as stage, contextlib.ExitStack() as scene:
        stage.settings = IN_TEXT
        scene.enter_context(played(stage))
        done = stage.lab.nodes[NODE].run(command("dump"), seconds=WITHIN_SECONDS)
        if done.returncode:
            sys.stderr.write(done.stderr)
            return 1
        text = json.dumps(json.loads(done.stdout), indent=1)
        run_dir = str(stage.directory)
        DUMP.write_text(text.replace(run_dir, "/run/lab") + "\n", encoding="utf-8")
        answers = {line: stage.ask(NODE, *line.split()) for line in RECORDED}
        (tunnel,) = [row["id"] for row in stage.ask(NODE, "connections")["connections"] if "[" in row["original"]]
        answers[TRACED] = traced(stage, "batch", "api", stage.pod("api").ipv4)
        answers["connections --kill ID"] = stage.ask(NODE, "connections", "--kill", tunnel)
        done = stage.lab.nodes[NODE].run(command("top", "edges", "--times", "1", "-o", "jsonl"))
        answers["top edges --times 1"] = {"rates": [json.loads(line) for line in done.stdout.splitlines()]}
        done = stage.lab.control.run(command("ca", "show", "--state-dir", stage.state_directory, "-o", "json"))
        proxies = command("proxies", "--state-dir", stage.state_directory, "-o", "json")
        answers["proxies"] = json.loads(stage.lab.control.run(proxies).stdout)
        answers["ca show"] = json.loads(done.stdout)
        answers["workers replace"] = stage.ask(NODE, "workers", "replace", seconds=WITHIN_SECONDS)
        text = json.dumps(answers, indent=1).replace(run_dir, "/run/lab").replace(platform.release(), "6.18.0")
        ANSWERS.write_text(f"{text}\n", encoding="utf-8")
        _said_at_the_end(stage, said)
        program = str(Path(sys.executable).parent.parent)
        text = json.dumps(said, indent=1).replace(run_dir, "/run/lab").replace(program, "/opt/nodeagent")
    text = json.dumps({**json.loads(text), "demo --script": _demo()}, indent=1, ensure_ascii=False)
    SAID.write_text(f"{text}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
