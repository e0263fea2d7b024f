# SPDX-License-Identifier: Apache-2.0
"""`nodeagent trace` in the lab: what becomes of real packets, on both nodes, and that nothing of it stays."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import ask, connect
from nodeagent.lab.demo.program import connected
from nodeagent.lab.demo.stage import NODES, PORT, SERVICE_PORT, Stage, command, running
from tests.e2e.scene import NODE, WITHIN_SECONDS, played, traced
from tests.unit.cli.test_forms import validate

pytestmark = pytest.mark.e2e

Hops = list[dict[str, Any]]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage, played(stage):
        yield stage


def _of(answer: dict[str, Any], port: str | None = None) -> Hops:
    """The hops of the connection that was dialled, by its client's port; or those of tunnels."""
    hops: Hops = answer["hops"]
    own = port or next(hop["source"]["address"] for hop in hops if hop["what"] == "SYN").rpartition(":")[2]
    return [hop for hop in hops if own in {hop[end]["address"].rpartition(":")[2] for end in ("source", "destination")}]


def _steps(hops: Hops, what: str) -> list[tuple[str, str, str, str]]:
    return [(hop["place"], hop["outcome"], hop["verdict"], hop["next"]) for hop in hops if hop["what"] == what]


def test_a_connection_that_the_kernel_carries(stage: Stage) -> None:
    answer = traced(stage, "shop/web", "shop/api", stage.pod("api").ipv4)
    validate(answer, "Trace")
    assert answer["command_status"] == 0
    hops = _of(answer)
    assert _steps(hops, "SYN") == [
        ("from_pod", "LOCAL_ALLOWED", "pass", "to_pod"),
        ("to_pod", "LOCAL_DELIVERED", "pass", "pod"),
    ]
    assert {hop["place"] for hop in hops} == {"from_pod", "to_pod"}, "no worker has seen it"
    assert hops[0]["source"]["workload"] == "web"
    assert hops[0]["destination"]["workload"] == "api"
    assert [hop["time"] for hop in hops] == sorted(hop["time"] for hop in hops)


def test_what_the_kernels_tcp_tells_of_one(stage: Stage) -> None:
    """Where the client is a process of the pod, which `sockops` sees: what `-- COMMAND` runs is none."""
    web, api = stage.pod("web"), stage.pod("api")
    program = _begin(stage, NODE, "--pod", "web", "--peer", f"api:{PORT}")
    try:
        with connected(web, api.ipv4, PORT, "WHO"):
            pass
        hops = _until(program, lambda hop: hop["place"] == "kernel" and hop["outcome"] == "closed")
    finally:
        _kill(program)
    connects, closed = [hop for hop in hops if hop["place"] == "kernel"]
    assert connects["outcome"] == "connects"
    assert "the kernel carries it alone" in connects["words"]
    assert closed["id"] == connects["id"]
    assert {hop["outcome"] for hop in hops if hop["what"] == "SYN"} == {"LOCAL_ALLOWED", "LOCAL_DELIVERED"}


def test_a_connection_that_a_policy_denies(stage: Stage) -> None:
    answer = traced(stage, "batch", "api", stage.pod("api").ipv4)
    hops = _of(answer)
    assert answer["command_status"] not in {0, None}
    assert _steps(hops, "SYN") == [
        ("from_pod", "LOCAL_STEERED", "redirect", "at_proxy"),
        ("at_proxy", "ASSIGNED_OUTBOUND", "pass", "proxy"),
    ]
    accepted, refused = [hop for hop in hops if hop["place"] == "proxy"]
    assert accepted["outcome"] == "accepted"
    assert (refused["outcome"], refused["verdict"], refused["policy"]) == ("policy_denied", "denied", "shop/no-batch")
    assert "nodeagent explain" in refused["check"]
    assert _steps(hops, "RST")[-1][:2] == ("from_proxy", "INTO_POD")
    (flow,) = [row for row in stage.ask(NODE, "flows")["flows"] if row["id"] == refused["id"]]
    assert flow["reason"] == "policy_denied"


def test_a_connection_by_a_service_and_a_tunnel(stage: Stage) -> None:
    answer = traced(stage, "web", f"db:{SERVICE_PORT}", stage.service_ips[0], SERVICE_PORT)
    hops = _of(answer)
    assert _steps(hops, "SYN") == [
        ("from_pod", "STEERED", "redirect", "at_proxy"),
        ("at_proxy", "ASSIGNED_OUTBOUND", "pass", "proxy"),
    ]
    accepted, opened, closed = [hop for hop in hops if hop["place"] == "proxy"]
    assert "which is shop/db." in accepted["words"]
    assert "whose proxy answered the CONNECT with 200" in opened["words"]
    assert ":15008" in opened["words"]
    assert closed["outcome"] in {"closed", "reset"}
    tunnel = _of(answer, "15008")
    assert {(hop["place"], hop["outcome"]) for hop in tunnel} == {
        ("from_proxy", "INTO_NODE"), ("from_pod", "PROXY_PASSAGE"), ("to_pod", "INBOUND_FLOW"),
        ("at_proxy", "PROXY_PACKET"),
    }  # fmt: skip
    assert all(hop["next"] for hop in tunnel)


def test_the_other_side_of_a_tunnel(stage: Stage) -> None:
    db = stage.pod("db")
    program = _begin(stage, NODES[1], "--pod", "db")
    try:
        ask(stage.pod("web"), db.ipv4, PORT, "WHO")
        hops = _until(program, lambda hop: hop["place"] == "proxy" and hop["outcome"] == "closed")
    finally:
        _kill(program)
    accepted, opened, closed = [hop for hop in hops if hop["place"] == "proxy"]
    assert accepted["words"] == f"a CONNECT for {db.ipv4}:{PORT} came by a tunnel of cluster.local/ns/shop/sa/web"
    assert opened["words"].startswith(f"dialled {db.ipv4}:{PORT}, and the application accepted; the CONNECT was")
    assert opened["words"].endswith("decided by shop/db-clients")
    assert closed["id"] == accepted["id"]
    assert _steps(hops, "SYN")[-1] == ("from_proxy", "INTO_POD", "redirect", "pod")


def test_it_ends_with_its_client_and_with_its_agent(stage: Stage) -> None:
    """Killed, both; and told to stop. The programs are those of before each time, and traffic goes on meanwhile."""
    # A former test's client may have been killed a moment ago.
    eventually(lambda: not _pinned(stage), WITHIN_SECONDS, "no trace runs")
    before = stage.attached(NODE)
    with connect(stage.pod("web"), stage.pod("api").ipv4, PORT) as client:
        client.sendall(b"ECHO\n")

        def is_as_before() -> bool:
            return stage.attached(NODE) == before and not _pinned(stage)

        def echo() -> None:
            client.sendall(b"word\n")
            assert client.recv(5, socket.MSG_WAITALL) == b"word\n"

        program = _begin(stage, NODE, "--pod", "web")
        assert stage.attached(NODE) != before
        assert stage.lab.nodes[NODE].run(command("bpf", "verify")).returncode == 0, "they are of this version"
        echo()
        _kill(program)
        eventually(is_as_before, WITHIN_SECONDS, "the client was killed: the usual programs are back")
        echo()
        for number in (signal.SIGKILL, signal.SIGTERM):
            program = _begin(stage, NODE, "--pod", "web")
            echo()
            stage.stop_agent(NODE, number)
            _, said = program.communicate()
            assert program.returncode == 3
            assert b"the agent has ended the trace, or itself" in said
            assert is_as_before() is (number is signal.SIGTERM)
            echo()
            stage.start_agent(NODE)
            eventually(is_as_before, WITHIN_SECONDS, f"after {number.name} another agent has put the usual ones back")
            echo()
    assert stage.lab.nodes[NODE].run(command("bpf", "verify")).returncode == 0


@pytest.mark.parametrize("who", ["client", "agent"])
def test_a_compiler_ends_with_who_waits_for_it(stage: Stage, who: str) -> None:
    """Stopped, so that it would never end by itself."""
    eventually(lambda: not _pinned(stage), WITHIN_SECONDS, "no trace runs")
    before, agent = stage.attached(NODE), stage.agents[NODE]
    with _spawn(stage, NODE, "--pod", "web") as program:
        eventually(lambda: any(map(_stop, _compilers(agent.pid))), WITHIN_SECONDS, "the compiler is stopped")
        (compiler,) = _compilers(agent.pid)
        if who == "client":
            program.kill()
            eventually(lambda: not _compilers(agent.pid), WITHIN_SECONDS, "the compiler has ended")
        else:
            stage.stop_agent(NODE)
            assert agent.returncode == 0
        program.communicate()
    assert not Path(f"/proc/{compiler}").exists()
    eventually(lambda: not _pinned(stage), WITHIN_SECONDS, "nothing of a trace is pinned")
    assert stage.attached(NODE) == before
    if who == "agent":
        stage.start_agent(NODE)
    _kill(_begin(stage, NODE, "--pod", "web"))


def _compilers(agent: int) -> list[int]:
    """Of this agent."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == agent and b"nodeagent.kernel.loader" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def _stop(pid: int) -> bool:
    os.kill(pid, signal.SIGSTOP)
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _pinned(stage: Stage) -> list[Path]:
    """Of a trace, on the node's bpffs."""
    return stage.lab.nodes[NODE].call(lambda: list(Path("/sys/fs/bpf/nodeagent").glob("*/trace")))


def _spawn(stage: Stage, node: str, *words: str) -> "subprocess.Popen[bytes]":
    words = ("trace", *words, "--seconds", "600", "-o", "jsonl")
    return stage.lab.nodes[node].spawn(
        command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _begin(stage: Stage, node: str, *words: str) -> "subprocess.Popen[bytes]":
    """A trace that tells already."""
    program = _spawn(stage, node, *words)
    assert program.stderr is not None
    said = program.stderr.readline()
    assert said.startswith(b"tracing "), said
    return program


def _until(program: "subprocess.Popen[bytes]", is_last: Callable[[dict[str, Any]], bool]) -> Hops:
    hops: Hops = []
    assert program.stdout is not None
    for line in program.stdout:
        hops.append(json.loads(line))
        if is_last(hops[-1]):
            break
    return hops


def _kill(program: "subprocess.Popen[bytes]") -> None:
    program.kill()
    program.communicate()
