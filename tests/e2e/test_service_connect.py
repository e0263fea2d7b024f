# SPDX-License-Identifier: Apache-2.0
"""Service addresses in connect(2) with whole agents: reached without the proxy, balanced, named, and still judged."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.stage import NODES, PORT, SERVICE_PORT, Stage, running

pytestmark = pytest.mark.e2e

NODE = NODES[0]
PROXIED = ("STEERED", "LOCAL_STEERED", "PROXY_FLOW", "ASSIGNED_OUTBOUND")
BOTH = ("10.96.0.20", "fd00:96::20")
"""A Service with an endpoint on either node."""
WITHIN_SECONDS = 60.0

_CLIENT = """
import json, socket, sys
ip, port, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(times):
    try:
        with socket.create_connection((ip, port), 60) as sock:
            told = {"port": sock.getsockname()[1], "peer": sock.getpeername()[:2]}
            sock.sendall(b"WHERE\\n")
            told["where"] = sock.makefile().read().split()
    except OSError as error:
        told = {"error": str(error)}
    print(json.dumps(told), flush=True)
"""
"""A program of a pod: a socket that somebody else makes for it would not be in the pod's cgroup."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        pods = [_with_label(mesh.pod(pod.place), pod.name) for pod in stage.lab.pods.values()]
        stage.write("10-pods.yaml", pods)
        stage.write("25-both.yaml", [mesh.service("both", "shop", {"part": "both"}, BOTH, {SERVICE_PORT: PORT})])
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node, service_connect="on")
        eventually(lambda: _services(stage).startswith("4 "), WITHIN_SECONDS, "Services are drawn")
        yield stage


@pytest.fixture(autouse=True)
def _is_settled(stage: Stage) -> None:
    """What the test before has changed or left open is over: until then the proxy has part in what the kernel does."""

    def is_so() -> bool:
        before = _packets(stage)
        (told,) = _dial(stage, stage.api_service_ips[0])
        has_open = any(one["worker"] is not None for one in stage.ask(NODE, "connections")["connections"])
        return "where" in told and not has_open and _packets(stage) == before

    eventually(is_so, WITHIN_SECONDS, "a Service of this node is reached without the proxy")


def _with_label(pod: mesh.Object, name: str) -> mesh.Object:
    if name in {"api", "db"}:
        pod["metadata"]["labels"]["part"] = "both"  # type: ignore[index]
    return pod


def _services(stage: Stage) -> str:
    components = stage.ask(NODE, "status")["components"]
    (found,) = [str(one["detail"]) for one in components if one["component"] == "services"]
    return found


def _dial(stage: Stage, ip: str, times: int = 1) -> list[dict[str, Any]]:
    """By a program of web; each answer knows how many lines the access log had before."""
    lines = len(stage.access_lines(NODE))
    words = [sys.executable, "-S", "-E", "-c", _CLIENT, ip, str(SERVICE_PORT), str(times)]
    process = stage.pod("web").spawn(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    told, _ = process.communicate(timeout=120)
    return [{**json.loads(line), "lines": lines} for line in told.splitlines()]


def _line(stage: Stage, told: dict[str, Any]) -> dict[str, Any]:
    """The client's line of this connection. Its port may be another one's too, that goes to another endpoint."""
    found: list[dict[str, Any]] = []

    def is_that(line: dict[str, Any]) -> bool:
        is_client = str(line["src.addr"]).endswith(f":{told['port']}") and line["direction"] == "outbound"
        return is_client and told["where"][0] in str(line["dst.addr"])

    def is_there() -> bool:
        found[:] = filter(is_that, stage.access_lines(NODE)[told["lines"] :])
        return bool(found)

    eventually(is_there, WITHIN_SECONDS, f"the access log has a line of {told}")
    assert len(found) == 1, found
    return found[0]


def _packets(stage: Stage) -> list[int]:
    counted = stage.packets(NODE)
    return [counted[name] for name in PROXIED]


@pytest.mark.parametrize("kind", ["IPv4", "IPv6", "IPv4 by an IPv6 socket"])
def test_a_service_of_this_node_is_reached_without_the_proxy(stage: Stage, kind: str) -> None:
    vip = stage.api_service_ips[kind == "IPv6"]
    before = _packets(stage)
    dialled = f"::ffff:{vip}" if "by" in kind else vip
    (told,) = _dial(stage, dialled)
    assert told["where"] == [stage.pod("api").ips[kind == "IPv6"], str(PORT)]
    assert told["peer"] == [dialled, SERVICE_PORT], "the application is told the Service"
    line = _line(stage, told)
    assert (line["path"], line["dst.service"], line["dst.workload"]) == ("kernel", "api.shop.svc.cluster.local", "api")
    assert line["dst.addr"].endswith(f":{PORT}")
    assert _packets(stage) == before


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_one_with_an_endpoint_elsewhere_is_balanced_over_both(stage: Stage, family: int) -> None:
    """Balanced as by the proxy: what is drawn elsewhere is tunnelled, and both records name the Service."""
    told = _dial(stage, BOTH[family], times=100)
    reached = Counter(answer["where"][0] for answer in told)
    assert reached.keys() == {stage.pod(name).ips[family] for name in ("api", "db")}
    assert min(reached.values()) > 15, reached
    paths = {}
    for answer in told:
        line = _line(stage, answer)
        assert line["dst.service"] == "both.shop.svc.cluster.local"
        paths[answer["where"][0]] = line["path"]
        assert answer["peer"][0] == BOTH[family]
    assert paths == {stage.pod("api").ips[family]: "kernel", stage.pod("db").ips[family]: "tunnel"}


def test_what_policy_denies_is_refused_by_name(stage: Stage) -> None:
    denied = mesh.authorization("no-web", "shop", "api", "DENY", [mesh.rule(principals=["*/sa/web"])])
    vip = stage.api_service_ips[0]

    def is_refused() -> bool:
        return "error" in _dial(stage, vip)[0]

    stage.write("40-no-web.yaml", [denied])
    try:
        eventually(is_refused, WITHIN_SECONDS, "the policy is in force")
        before = len(stage.access_lines(NODE))
        assert is_refused()

        def told() -> list[dict[str, Any]]:
            return [line for line in stage.access_lines(NODE)[before:] if "reason" in line]

        eventually(lambda: bool(told()), WITHIN_SECONDS, "the refusal is told")
        line = told()[0]
        assert (line["reason"], line["policy"], line["path"]) == ("policy_denied", "shop/no-web", "proxy")
        assert line["dst.service"] == "api.shop.svc.cluster.local"
    finally:
        stage.write("40-no-web.yaml", [])
        eventually(lambda: not is_refused(), WITHIN_SECONDS, "the policy is gone")


def test_an_endpoint_that_is_not_ready_any_more_is_not_drawn(stage: Stage) -> None:
    pods = [_with_label(mesh.pod(pod.place), pod.name) for pod in stage.lab.pods.values()]
    api = stage.pod("api").ips[0]

    def reached() -> set[str]:
        return {answer["where"][0] for answer in _dial(stage, BOTH[0], times=20)}

    ill = [json.loads(json.dumps(pod)) for pod in pods]
    for pod in ill:
        if pod["metadata"]["name"] == "db":
            pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    stage.write("10-pods.yaml", ill)
    try:
        eventually(lambda: reached() == {api}, WITHIN_SECONDS, "only the ready one is drawn")
    finally:
        stage.write("10-pods.yaml", pods)
    eventually(lambda: len(reached()) == 2, WITHIN_SECONDS, "both are drawn again")


def test_explain_and_status_say_so(stage: Stage) -> None:
    (route,) = stage.ask(NODE, "explain", "shop/web", f"{stage.api_service_ips[0]}:{SERVICE_PORT}")["routes"]
    assert route["path"][0] == "pod -> connect(2): the endpoint is drawn in the kernel"
    assert route["path"][-2:] == ["from_pod: the kernel's table of verdicts", "application"]
    assert _services(stage) == "4 Service addresses are drawn in connect(2)"


def test_an_open_connection_keeps_its_service_through_a_change_of_agents(stage: Stage) -> None:
    program = (
        "import socket, sys; sock = socket.create_connection((sys.argv[1], int(sys.argv[2])));"
        "sock.sendall(b'ECHO\\n'); print(sock.getsockname()[1], flush=True); sys.stdin.readline()"
    )
    words = [sys.executable, "-S", "-E", "-c", program, stage.api_service_ips[0], str(SERVICE_PORT)]
    lines = len(stage.access_lines(NODE))
    client = stage.pod("web").spawn(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout is not None
    port = int(client.stdout.readline())
    former = stage.agents[NODE]
    stage.start_agent(NODE, takeover=True, service_connect="on")
    former.wait(WITHIN_SECONDS)

    def listed() -> list[str]:
        found = stage.ask(NODE, "connections")["connections"]
        return [one["service"] for one in found if one["source"]["address"].endswith(f":{port}")]

    eventually(lambda: listed() == ["shop/api.shop.svc.cluster.local"], WITHIN_SECONDS, "the successor names it")
    client.communicate(b"\n", timeout=60)
    told = {"port": port, "where": [stage.pod("api").ips[0]], "lines": lines}
    assert _line(stage, told)["dst.service"] == "api.shop.svc.cluster.local"


def test_switched_off_the_proxy_draws(stage: Stage) -> None:
    former = stage.agents[NODE]
    stage.start_agent(NODE, takeover=True)
    former.wait(WITHIN_SECONDS)
    try:
        eventually(lambda: _services(stage).startswith("off"), WITHIN_SECONDS, "it is off")
        (told,) = _dial(stage, stage.api_service_ips[0])
        line = _line(stage, told)
        assert (line["path"], line["dst.service"]) == ("proxy", "api.shop.svc.cluster.local")
    finally:
        former = stage.agents[NODE]
        stage.start_agent(NODE, takeover=True, service_connect="on")
        former.wait(WITHIN_SECONDS)
        eventually(lambda: _services(stage).startswith("4 "), WITHIN_SECONDS, "Services are drawn again")
