# SPDX-License-Identifier: Apache-2.0
"""A small scene on the demo's stage, with something of everything for the command line to show.

`python -m tests.e2e.scene` (root) plays it and writes tests/data/dump.json: what `nodeagent dump` says then on node-a,
where most of it happens; and tests/data/answers.json: what commands say as JSON that no dump can answer.
docs/examples.md is printed from these (`make proto`).
"""

import contextlib
import json
import platform
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
DUMP, ANSWERS = Path("tests/data/dump.json"), Path("tests/data/answers.json")


TRACED = "trace --pod batch --peer api -- curl -s http://10.244.1.3:8080"
"""A connection that a policy denies; what is run in place of curl dials as it would."""
RECORDED = ("check", "bpf progs", "bpf maps", "bpf maps pods", "bpf attach", "bpf verify")


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


def traced(stage: Stage, pod: str, peer: str, ip: str, port: int = PORT) -> dict[str, Any]:
    """The answer of a trace of one connection, whose client waits for its end."""
    dial = f"import socket; s = socket.create_connection(({ip!r}, {port}), 60); s.sendall(b'WHO\\n'); s.recv(1)"
    words = command("trace", "--pod", pod, "--peer", peer, "-o", "json", "--", sys.executable, "-c", dial)
    done = stage.lab.nodes[NODE].run(words, seconds=WITHIN_SECONDS + 120)
    if not done.stdout:
        raise NotPossible(done.stderr)
    return dict(json.loads(done.stdout))


def main() -> int:
    with running() as stage, played(stage):
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
