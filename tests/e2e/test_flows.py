# SPDX-License-Identifier: Apache-2.0
"""Connections that the kernel carries alone, as the agent tells them: one record each, like those of the proxy."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from nodeagent.lab.demo import mesh, program
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.stage import NODES, PORT, SERVICE_PORT, Stage, running
from nodeagent.model.address import Ip

pytestmark = pytest.mark.e2e

NODE = "node-a"
CLOSED_PORT = 8081
SENT = 300_000
WITHIN_SECONDS = 60.0
ADDED = ("path", "rtt", "retransmissions")
"""What the kernel's lines have and the proxy's do not."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        stage.start_agent(NODES[0])
        yield stage


@pytest.fixture(autouse=True)
def _is_settled(stage: Stage) -> None:
    """What the test before has changed is over: an agent that has just taken over has not looked yet."""
    eventually(lambda: _is_seen(stage), WITHIN_SECONDS, "status names the pods' cgroup")
    eventually(lambda: _is_direct(stage), WITHIN_SECONDS, "web reaches api directly")
    eventually(lambda: not stage.ask(NODE, "connections")["connections"], WITHIN_SECONDS, "nothing is open")


class Client(NamedTuple):
    """A program of web."""

    port: int
    received: int
    former_lines: int
    """That the access log had before it; one of them may be of the same port."""


@contextlib.contextmanager
def connected(stage: Stage, ip: str, port: int = PORT, request: str = "DIGEST", sent: int = 0) -> Iterator[Client]:
    former_lines = len(stage.access_lines(NODE))
    with program.connected(stage.pod("web"), Ip(ip), port, request, sent) as made:
        yield Client(made.port, made.received, former_lines)


def _is_direct(stage: Stage) -> bool:
    before = stage.packets(NODE).get("LOCAL_ALLOWED", 0)
    with connected(stage, stage.pod("api").ips[0], request="WHO") as client:
        is_direct = stage.packets(NODE).get("LOCAL_ALLOWED", 0) > before
    _lines(stage, client)  # and no line of before is still to come
    return is_direct


def _lines(stage: Stage, client: Client) -> list[dict[str, Any]]:
    """All lines of this connection, once there is one."""
    suffix = f":{client.port}"
    found: list[dict[str, Any]] = []

    def are_there() -> bool:
        later = stage.access_lines(NODE)[client.former_lines :]
        found[:] = [line for line in later if str(line.get("src.addr", "")).endswith(suffix)]
        return bool(found)

    eventually(are_there, WITHIN_SECONDS, f"the access log has a line of port {client.port}")
    return found


def _metric(stage: Stage, name: str, **labels: str) -> float:
    node = stage.lab.nodes[NODE]
    with node.connect("127.0.0.1", 15020) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        answer = b""
        while some := connection.recv(1 << 16):
            answer += some
    total = 0.0
    for line in answer.decode().splitlines():
        if line.startswith(name) and all(f'{label}="{value}"' in line for label, value in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


@pytest.mark.parametrize("kind", ["IPv4", "IPv6", "IPv4 by an IPv6 socket"])
def test_one_connection_is_one_record_with_exact_bytes(stage: Stage, kind: str) -> None:
    ip = stage.pod("api").ips[kind == "IPv6"]
    uncounted = _uncounted(stage)
    with connected(stage, f"::ffff:{ip}" if "by" in kind else ip, sent=SENT) as client:
        pass
    (line,) = _lines(stage, client)
    assert (line["path"], line["direction"], line["message"]) == ("kernel", "outbound", "connection complete")
    assert (line["bytes_sent"], line["bytes_recv"]) == (len("DIGEST\n") + SENT, client.received)
    assert (line["src.workload"], line["dst.workload"]) == ("web", "api")
    assert line["src.identity"] == "spiffe://cluster.local/ns/shop/sa/web"
    assert line["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/api"
    assert line["dst.addr"].endswith(f":{PORT}")
    assert int(line["rtt"].removesuffix("us")) > 0
    assert "reason" not in line
    assert _uncounted(stage) == uncounted


def _uncounted(stage: Stage) -> float:
    """Lines of connections that ended well and that this agent has not counted: those of the ones before it."""
    told = [line for line in stage.access_lines(NODE) if line["path"] == "kernel" and "reason" not in line]
    labels = {"reason": "closed", "path": "kernel", "direction": "outbound"}
    return len(told) - _metric(stage, "nodeagent_connections_total", **labels)


def test_the_record_is_the_one_that_the_proxy_would_have_made(stage: Stage) -> None:
    with connected(stage, stage.pod("api").ips[0], sent=SENT) as direct:
        pass
    with connected(stage, stage.api_service_ips[0], SERVICE_PORT, sent=SENT) as proxied:
        pass
    (one,), (other,) = _lines(stage, direct), _lines(stage, proxied)
    assert (one["path"], other["path"]) == ("kernel", "proxy")
    apart = {"time", "duration", "src.addr", "dst.service", *ADDED}
    assert {name: value for name, value in one.items() if name not in apart} == {
        name: value for name, value in other.items() if name not in apart
    }


def test_a_refused_connection_is_told_as_one(stage: Stage) -> None:
    def told() -> list[dict[str, Any]]:
        return [line for line in stage.access_lines(NODE) if line.get("dst.addr", "").endswith(f":{CLOSED_PORT}")]

    text = f"import socket; socket.create_connection(({stage.pod('api').ips[0]!r}, {CLOSED_PORT}))"
    assert "Connection refused" in stage.pod("web").run([sys.executable, "-c", text]).stderr
    eventually(lambda: bool(told()), WITHIN_SECONDS, "it is told")
    (line,) = told()
    assert (line["reason"], line["path"]) == ("connect_refused", "kernel")


def test_open_connections_are_listed_with_what_they_carried(stage: Stage) -> None:
    with connected(stage, stage.pod("api").ips[1], request="SOURCE 0", sent=0) as client:
        (found,) = [
            one
            for one in stage.ask(NODE, "connections")["connections"]
            if one["source"]["address"].endswith(f":{client.port}")
        ]
    assert (found["path"], found["worker"]) == ("kernel", None)
    assert (found["source"]["workload"], found["destination"]["workload"]) == ("web", "api")
    assert (found["sent_bytes"], found["received_bytes"]) == (len("SOURCE 0\n"), 0)
    assert found["round_trip_us"] > 0


def test_a_connection_lives_through_an_agent_and_is_told_once(stage: Stage) -> None:
    with connected(stage, stage.pod("api").ips[0], request="ECHO") as client:
        stage.start_agent(NODE, takeover=True)

        def is_listed() -> bool:
            listed = stage.ask(NODE, "connections")["connections"]
            return any(one["source"]["address"].endswith(f":{client.port}") for one in listed)

        eventually(is_listed, WITHIN_SECONDS, "the successor lists it")
    (line,) = _lines(stage, client)
    assert (line["path"], line["bytes_sent"]) == ("kernel", len("ECHO\n"))
    assert line["src.workload"] == "web"


def test_a_revoked_connection_says_by_which_policy(stage: Stage) -> None:
    with connected(stage, stage.pod("api").ips[0], request="ECHO") as client:
        try:
            denied = mesh.authorization("no-web", "shop", "api", "DENY", [mesh.rule(principals=["*/sa/web"])])
            stage.write("40-no-web.yaml", [denied])
            (line,) = _lines(stage, client)
        finally:
            stage.write("40-no-web.yaml", [])
    assert (line["reason"], line["policy"], line["path"]) == ("policy_changed", "shop/no-web", "kernel")


def test_who_asks_later_is_told_too(stage: Stage) -> None:
    def listed() -> list[dict[str, Any]]:
        found = stage.ask(NODE, "flows", "--from", "shop/web*", "--to", "shop/api*", "--path", "kernel")["flows"]
        return [flow for flow in found if flow["source"]["address"].endswith(f":{client.port}")]

    with connected(stage, stage.pod("api").ips[0], sent=SENT) as client:
        pass
    eventually(lambda: bool(listed()), 10, "the flow is listed")
    (flow,) = listed()
    assert (flow["verdict"], flow["reason"], flow["sent_bytes"]) == ("allowed", "closed", len("DIGEST\n") + SENT)
    assert not stage.ask(NODE, "flows", "--from", "shop/api*", "--path", "kernel", "--since", "0s")["flows"]


def test_status_says_where_they_are_seen(stage: Stage) -> None:
    eventually(lambda: _is_seen(stage), WITHIN_SECONDS, "status names the pods' cgroup")


def _is_seen(stage: Stage) -> bool:
    (component,) = [one for one in stage.ask(NODE, "status")["components"] if one["component"] == "flows"]
    return bool(component["state"] == "ok" and component["detail"].startswith("seen in /sys/fs/cgroup/pods"))
