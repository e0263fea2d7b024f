# SPDX-License-Identifier: Apache-2.0
"""Connections between pods of one node with a whole agent: in the kernel, or all by tunnel; and what survives.

The agents are asked for the kernel's TLS: what they do then, and what `status` and `check` say. Where the kernel has
none, the same connections pass the workers' own records. One stage for all, since an emulated processor takes half a
minute for each.
"""

import contextlib
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Echo, Fate, Traffic, ask, fate, is_served, upload
from nodeagent.lab.demo.policy_claims import POLICY
from nodeagent.lab.demo.stage import NODES, OTHER_PORT, PORT, Stage, running
from nodeagent.model.address import Ip, join_host_port
from nodeagent.proxy.kernel_tls import load_module
from nodeagent.proxy.kernel_trial import try_kernel_tls

pytestmark = pytest.mark.e2e

NODE = "node-a"
WITHIN_SECONDS = 60.0
_WEB = "cluster.local/ns/shop/sa/web"
_PROXIED = ("LOCAL_STEERED", "PROXY_FLOW", "INTO_POD", "ASSIGNED_OUTBOUND")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.settings["kernel_tls"] = "auto"
        stage.prepare()
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node)
        yield stage


@contextlib.contextmanager
def tunnelled(stage: Stage) -> Iterator[None]:
    """In this block the agent of the node sends everything through tunnels."""
    _replace(stage, same_node="tunnel")
    try:
        for ip in stage.pod("api").ips:
            eventually(lambda ip=ip: _is_tunnelled(stage, ip), WITHIN_SECONDS, "connections take the tunnel")  # type: ignore[misc]
        yield
    finally:
        _replace(stage)


def _replace(stage: Stage, **settings: str) -> None:
    former = stage.agents[NODE]
    stage.start_agent(NODE, takeover=True, **settings)
    former.wait(WITHIN_SECONDS)


def _packets(stage: Stage, *names: str) -> list[int]:
    counted = stage.packets(NODE)
    return [counted[name] for name in names]


def _is_tunnelled(stage: Stage, ip: Ip) -> bool:
    before = _packets(stage, "INTO_PROXY", "LOCAL_ALLOWED")
    is_answered = is_served(stage.pod("web"), ip, PORT)
    after = _packets(stage, "INTO_PROXY", "LOCAL_ALLOWED")
    return is_answered and after[0] > before[0] and after[1] == before[1]


def _line_of_the_client(stage: Stage, ip: Ip, port: int) -> dict[str, Any]:
    """Both ends of the tunnel are on this node, and each leaves a line."""
    found: list[dict[str, Any]] = []

    def written() -> bool:
        wanted = {"src.addr": join_host_port(ip, port), "direction": "outbound"}
        found[:] = [line for line in stage.access_lines(NODE) if wanted.items() <= line.items()]
        return bool(found)

    eventually(written, WITHIN_SECONDS, "the access log has the client's line")
    return found[0]


def _direct(stage: Stage, ip: Ip) -> None:
    """Waits until the kernel lets web through to this address: its table may be a moment behind the workers."""

    def is_so() -> bool:
        (before,) = _packets(stage, "LOCAL_ALLOWED")
        return is_served(stage.pod("web"), ip, PORT) and _packets(stage, "LOCAL_ALLOWED")[0] > before

    eventually(is_so, WITHIN_SECONDS, f"the kernel lets web through to {ip}")


def _quiet(stage: Stage) -> None:
    """Waits until the proxy has nothing more to do with connections of the test before."""

    def is_so() -> bool:
        before = _packets(stage, *_PROXIED)
        has_open = any(one["worker"] is not None for one in stage.ask(NODE, "connections")["connections"])
        return not has_open and _packets(stage, *_PROXIED) == before

    eventually(is_so, WITHIN_SECONDS, "the proxy is quiet")


@pytest.mark.parametrize("family", [pytest.param(0, id="IPv4"), pytest.param(1, id="IPv6", marks=pytest.mark.vm)])
def test_a_direct_connection_never_notices_that_the_agent_is_killed_and_comes_back(stage: Stage, family: int) -> None:
    ip = stage.pod("api").ips[family]
    _quiet(stage)
    _direct(stage, ip)
    echo = Echo(stage.pod("web"), ip, PORT)
    echo.exchange()
    before = _packets(stage, *_PROXIED)
    with Traffic(stage.pod("web"), ip, PORT).running() as traffic:
        traffic.wait_for_more(5)
        stage.agents[NODE].send_signal(signal.SIGKILL)
        stage.agents[NODE].wait(WITHIN_SECONDS)
        traffic.wait_for_more(10)
        stage.start_agent(NODE)
        traffic.wait_for_more(10)
    echo.exchange()
    echo.close()
    assert traffic.failures == []
    assert _packets(stage, *_PROXIED) == before, "the proxy had no part in any of it"


def test_without_any_worker_allowed_pods_of_a_node_talk_on(stage: Stage) -> None:
    ip = stage.pod("api").ipv4
    _direct(stage, ip)
    echo = Echo(stage.pod("web"), ip, PORT)
    stage.agents[NODE].send_signal(signal.SIGKILL)
    stage.agents[NODE].wait(WITHIN_SECONDS)
    for pid in stage.worker_pids(NODE):
        stage.kill_worker(pid)
    eventually(lambda: not stage.worker_pids(NODE), WITHIN_SECONDS, "the workers are gone")
    try:
        echo.exchange()
        assert is_served(stage.pod("web"), ip, PORT)
        assert fate(stage.pod("web"), stage.pod("db").ipv4, PORT, seconds=0.3) is Fate.SILENT, "dropped, not refused"
    finally:
        stage.start_agent(NODE)
    echo.exchange()
    echo.close()
    eventually(lambda: is_served(stage.pod("web"), stage.pod("db").ipv4, PORT), WITHIN_SECONDS, "a worker came back")


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_same_node_tunnel_sends_all_through_mutual_tls(stage: Stage, family: int) -> None:
    web, ip = stage.pod("web"), stage.pod("api").ips[family]
    with tunnelled(stage):
        seen = ask(web, ip, PORT, "WHO").split()
        assert seen[0] == web.ips[family]
        outbound = _line_of_the_client(stage, web.ips[family], int(seen[1]))
        assert outbound["src.identity"] == f"spiffe://{_WEB}"
        assert outbound["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/api"
        assert str(outbound["dst.hbone_addr"]).endswith(f":{PORT}")
        sent, received, _ = upload(web, ip, PORT, 8 << 20)
        assert sent == received
        stage.write(POLICY, [mesh.authorization("api", "shop", "api", "DENY", [mesh.rule(principals=[_WEB])])])
        eventually(lambda: fate(web, ip, PORT) is Fate.REFUSED, WITHIN_SECONDS, "the policy is in force")
        stage.write(POLICY, [])
        eventually(lambda: is_served(web, ip, PORT), WITHIN_SECONDS, "the policy is gone")


def test_a_direct_connection_ends_when_all_shall_be_tunnelled(stage: Stage) -> None:
    ip = stage.pod("api").ipv4
    _direct(stage, ip)
    echo = Echo(stage.pod("web"), ip, PORT)
    echo.exchange()
    with tunnelled(stage):
        assert echo.seconds_until_cut(WITHIN_SECONDS) is not None
        echo.close()
    _direct(stage, ip)


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_an_excluded_port_goes_out_in_plain_text_and_a_pod_of_this_node_is_none(stage: Stage, family: int) -> None:
    web, far, near = stage.pod("web"), stage.pod("db").ips[family], stage.pod("api").ips[family]
    _replace(stage, exclude=f"*:{OTHER_PORT}")
    try:
        eventually(lambda: _moves(stage, far, "EXCLUDED"), WITHIN_SECONDS, "connections to the port are left alone")
        sent, received, _ = upload(web, far, OTHER_PORT, 4 << 20)
        assert sent == received
        eventually(lambda: _moves(stage, near, "LOCAL_ALLOWED"), WITHIN_SECONDS, "a pod of this node is no exception")
        sent, received, _ = upload(web, near, OTHER_PORT, 4 << 20)
        assert sent == received
    finally:
        _replace(stage)


def _moves(stage: Stage, ip: Ip, reason: str) -> bool:
    (before,) = _packets(stage, reason)
    return is_served(stage.pod("web"), ip, OTHER_PORT) and _packets(stage, reason)[0] > before


@pytest.mark.vm
def test_both_ends_of_a_tunnel_do_what_their_kernel_can(stage: Stage) -> None:
    load_module()
    has_it = try_kernel_tls().works
    with stage.pod("web").connect(stage.pod("db").ipv4, PORT) as sock:
        sock.sendall(b"WHERE\n")
        assert stage.pod("db").ipv4.encode() in sock.makefile("rb").readline()
    does = r"\b[1-9]\d* tunnels so far"
    does_not = "the workers make the records of tunnels, the kernel's TLS does not work"
    words = does if has_it else does_not

    def is_told(node: str) -> bool:
        return re.search(words, _kernel_tls(stage, node)["detail"]) is not None

    for node in NODES:
        eventually(lambda node=node: is_told(node), WITHIN_SECONDS, words)  # type: ignore[misc]
        assert _kernel_tls(stage, node)["state"] == ("ok" if has_it else "degraded")


@pytest.mark.vm
def test_check_tells_the_same_of_the_kernels_tls(stage: Stage) -> None:
    load_module()
    [row] = [row for row in stage.ask(NODE, "check")["checks"] if row["name"] == "ktls"]
    assert row["ok"] is try_kernel_tls().works
    assert not row["is_needed"]


def _kernel_tls(stage: Stage, node: str) -> dict[str, Any]:
    [found] = [row for row in stage.ask(node, "status")["components"] if row["component"] == "kernel-tls"]
    return dict(found)
