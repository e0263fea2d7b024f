# SPDX-License-Identifier: Apache-2.0
"""Of whom a trace is, and what each hop says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from nodeagent.admin.hops import (
    ANY_ADDRESS,
    ANY_PORT,
    Names,
    Traced,
    TraceQuestion,
    find_traced,
    packet_hop,
    parse_trace,
    record_hops,
)
from nodeagent.admin.state import AgentState, Captured, OpenConnection, PodView
from nodeagent.errors import ConfigError, NotPossible
from nodeagent.kernel import tracing
from nodeagent.kernel.reasons import reasons
from nodeagent.model.address import Ip
from nodeagent.model.hop import TracedPacket
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.record import ConnectionRecord, Direction, Transport
from nodeagent.model.workload import Service, Vip
from nodeagent.routing.route import Target

StateOf = Callable[..., AgentState]
WEB, DB = Ip("10.241.0.12"), Ip("10.242.0.1")
POD = PodView(namespace="shop", pod="web", ips=(WEB,), netns="/run/netns/web", captured=Captured.YES)


def _question(*peers: str, pod: str = "shop/web") -> TraceQuestion:
    return TraceQuestion(pod=pod, peers=peers, seconds=10, most=100)


# ---- of whom ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shop/web", "web"])
def test_a_pod_of_this_node(state_of: StateOf, name: str) -> None:
    traced = find_traced(state_of(), _question(pod=name))
    assert (traced.name, traced.peers) == ("shop/web", frozenset())
    assert traced.place == {"namespace": "shop", "pod": "web", "netns": "/run/netns/web"}


def test_pods_that_cannot_be_traced(state_of: StateOf) -> None:
    with pytest.raises(ConfigError, match="no pod of this node is called 'shop/wep'") as caught:
        find_traced(state_of(), _question(pod="shop/wep"))
    assert caught.value.check == "Did you mean shop/web?"
    with pytest.raises(ConfigError, match="no pod of this node is called 'db-0'") as caught:
        find_traced(state_of(), _question(pod="db-0"))
    assert "nodeagent pods" in caught.value.check
    with pytest.raises(NotPossible, match=r"old/cron is not captured \(NOT_IN_MESH\)"):
        find_traced(state_of(), _question(pod="cron"))
    pending = PodView(namespace="shop", pod="new", captured=Captured.PENDING)
    with pytest.raises(NotPossible, match=r"shop/new is not captured \(pending\)"):
        find_traced(state_of(pods=(pending,)), _question(pod="new"))
    with pytest.raises(ConfigError, match="'web' may mean old/web, shop/web"):
        find_traced(state_of(pods=(POD, replace(POD, namespace="old"))), _question(pod="web"))


ENDPOINTS = {Ip("10.242.0.1"), Ip("fd00::1"), Ip("10.242.0.2"), Ip("fd00::2")}


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        ("10.9.9.9", {(Ip("10.9.9.9"), ANY_PORT)}),
        ("10.9.9.9:80", {(Ip("10.9.9.9"), 80)}),
        ("fd00::9", {(Ip("fd00::9"), ANY_PORT)}),
        ("[fd00::9]", {(Ip("fd00::9"), ANY_PORT)}),
        ("[fd00::9]:80", {(Ip("fd00::9"), 80)}),
        (":443", {(ANY_ADDRESS, 443)}),
        ("db-0:5432", {(Ip("10.242.0.1"), 5432), (Ip("fd00::1"), 5432)}),
        ("shop/db-0", {(Ip("10.242.0.1"), ANY_PORT), (Ip("fd00::1"), ANY_PORT)}),
        ("db:5432", {(Ip("10.96.0.5"), 5432), *((ip, 5432) for ip in ENDPOINTS)}),
        ("db", {(Ip("10.96.0.5"), ANY_PORT), *((ip, ANY_PORT) for ip in ENDPOINTS)}),
        ("empty:80", {(Ip("10.96.0.6"), 80)}),
    ],
)
def test_other_ends(state_of: StateOf, peer: str, found: set[tuple[Ip, int]]) -> None:
    assert find_traced(state_of(), _question(peer)).peers == {Target(*end) for end in found}


def test_a_services_own_port_is_its_endpoints(state_of: StateOf, mesh: Mesh) -> None:
    """Its port is 5432 here and there; the endpoints' own would be another."""
    key = "shop/db.shop.svc.cluster.local"
    workload = mesh.workloads["Kubernetes//Pod/shop/db-0"]
    (port,) = workload.services[key]
    assert (port.service_port, port.target_port) == (5432, 5432)
    mesh.workloads[workload.uid] = msgspec.structs.replace(
        workload, services={key: (msgspec.structs.replace(port, target_port=6000),)}
    )
    peers = find_traced(state_of(), _question("db:5432")).peers
    assert {Target(Ip("10.242.0.1"), 6000), Target(Ip("10.242.0.2"), 5432)} < peers


@pytest.mark.parametrize("peer", ["", ":", ":0", "db:x", "db:", ":70000"])
def test_what_is_no_other_end(state_of: StateOf, peer: str) -> None:
    with pytest.raises(ConfigError, match="is no other end"):
        find_traced(state_of(), _question(peer))


def test_an_other_end_that_nobody_knows(state_of: StateOf) -> None:
    with pytest.raises(ConfigError, match="nothing called 'nobody'"):
        find_traced(state_of(), _question("nobody:80"))


def test_the_kernels_any_is_the_same() -> None:
    assert (tracing.ANY_ADDRESS, tracing.ANY_PORT) == (ANY_ADDRESS, ANY_PORT)


@pytest.mark.parametrize(
    ("peers", "fits"),
    [
        ((), True),
        ((Target(DB, 5432),), True),
        ((Target(DB, ANY_PORT),), True),
        ((Target(Ip("10.96.0.5"), 5432),), True),
        ((Target(ANY_ADDRESS, 5432),), True),
        ((Target(ANY_ADDRESS, 81), Target(DB, 81)), False),
        ((Target(Ip("10.9.9.9"), ANY_PORT),), False),
    ],
)
def test_which_connections(connection: OpenConnection, peers: tuple[Target, ...], *, fits: bool) -> None:
    assert Traced(POD, frozenset(peers)).fits(connection.record) is fits
    stranger = msgspec.structs.replace(connection.record, source_ip=Ip("10.9.0.1"))
    assert not Traced(POD, frozenset(peers)).fits(stranger)


# ---- packets ---------------------------------------------------------------------------------------------------------


def _packet(program: str, reason: str, **changes: Any) -> TracedPacket:
    row = next(found for found in reasons() if found.name == reason)
    packet = TracedPacket(
        at=1_787_233_553.25,
        program=program,
        device="veth3",
        source=WEB,
        source_port=40000,
        destination=Ip("10.96.0.5"),
        destination_port=5432,
        flags=2,
        reason=reason,
        verdict=row.verdict,
        words=row.words,
    )
    return replace(packet, **changes)


def test_a_packet(mesh: Mesh) -> None:
    hop = packet_hop(Names(mesh, ""), _packet("from_pod", "STEERED"))
    assert hop == {
        "time": "2026-08-20T13:45:53.250000Z",
        "place": "from_pod",
        "device": "veth3",
        "what": "SYN",
        "bytes": 0,
        "source": {"namespace": "shop", "workload": "web", "address": "10.241.0.12:40000"},
        "destination": {"namespace": "shop", "workload": "db", "address": "10.96.0.5:5432"},
        "outcome": "STEERED",
        "verdict": "redirect",
        "next": "at_proxy",
        "words": "connection to the mesh, steered to the proxy",
        "policy": "",
        "check": "",
        "id": "",
    }


def test_names_are_looked_up_once_until_the_mesh_changes(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Ip] = []
    find = mesh.services_at

    def counted(network: str, ip: Ip) -> tuple[Service, ...]:
        looks.append(ip)
        return find(network, ip)

    monkeypatch.setattr(mesh, "services_at", counted)
    nobody = Ip("10.250.0.1")
    for port in range(80, 85):
        assert Names(mesh, "").party(nobody, port)["workload"] == ""
    assert looks == [nobody]
    late = Service(name="late", namespace="shop", hostname="late", vips=(Vip("", nobody),), ports=())
    mesh.apply(Changes(services=(late,)))
    party = Names(mesh, "").party(nobody, 80)
    assert party == {"namespace": "shop", "workload": "late", "address": "10.250.0.1:80"}


def test_an_address_of_nobody(mesh: Mesh) -> None:
    hop = packet_hop(Names(mesh, ""), _packet("from_pod", "UNKNOWN_DESTINATION", destination=Ip("fd00::99")))
    assert hop["destination"] == {"namespace": "", "workload": "", "address": "[fd00::99]:5432"}


@pytest.mark.parametrize(
    ("program", "reason", "verdict", "goes"),
    [
        ("from_pod", "STEERED", "redirect", "at_proxy"),
        ("from_pod", "LOCAL_ALLOWED", "pass", "to_pod"),
        ("from_pod", "LOCAL_FLOW", "pass", "to_pod"),
        ("from_pod", "UNKNOWN_DESTINATION", "pass", "node"),
        ("from_pod", "PROXY_PASSAGE", "pass", "node"),
        ("from_pod", "SPOOFED_SOURCE", "drop", "nowhere"),
        ("to_pod", "INBOUND", "redirect", "at_proxy"),
        ("to_pod", "LOCAL_DELIVERED", "pass", "pod"),
        ("from_proxy", "INTO_POD", "redirect", "pod"),
        ("from_proxy", "INTO_NODE", "redirect", "from_pod"),
        ("from_proxy", "INTO_PROXY", "redirect", "at_proxy"),
        ("at_proxy", "ASSIGNED_OUTBOUND", "pass", "proxy"),
        ("at_proxy", "PROXY_AWAY", "drop", "nowhere"),
    ],
)
def test_what_becomes_of_it(mesh: Mesh, program: str, reason: str, verdict: str, goes: str) -> None:
    hop = packet_hop(Names(mesh, ""), _packet(program, reason))
    assert (hop["verdict"], hop["next"]) == (verdict, goes)


# ---- the proxy -------------------------------------------------------------------------------------------------------


def _told(
    mesh: Mesh, record: ConnectionRecord, *, is_over: bool = False, is_told: bool = False, **changes: Any
) -> list[tuple[str, str, str, str]]:
    changed = msgspec.structs.replace(record, **changes)
    hops = record_hops(Names(mesh, ""), changed, is_over=is_over, is_told=is_told)
    return [(hop["outcome"], hop["verdict"], hop["next"], hop["words"]) for hop in hops]


def test_an_outbound_tunnelled_connection(mesh: Mesh, connection: OpenConnection) -> None:
    record = msgspec.structs.replace(connection.record, set_up_seconds=0.25)
    accepted, connected = record_hops(Names(mesh, ""), record, is_over=False, is_told=False)
    assert accepted["words"] == (
        "a worker accepted the pod's connection to 10.96.0.5:5432, which is shop/db.shop.svc.cluster.local"
    )
    assert connected["words"] == (
        "led to 10.242.0.1:5432 by a tunnel to 10.242.0.1:15008, whose proxy answered the CONNECT with 200"
    )
    assert (accepted["place"], accepted["what"], accepted["id"]) == ("proxy", "outbound", "0-9")
    assert (accepted["time"], connected["time"]) == ("2026-08-20T13:45:40.500000Z", "2026-08-20T13:45:40.750000Z")
    assert connected["destination"] == {"namespace": "shop", "workload": "db-0", "address": "10.242.0.1:5432"}
    assert _told(mesh, record, is_told=True) == []
    assert _told(mesh, record, is_over=True, is_told=True, reason="closed", seconds=2.5) == [
        ("closed", "allowed", "", "10 B there and 2000 B back in 2.500 s")
    ]


def test_a_connection_that_is_refused(mesh: Mesh, connection: OpenConnection) -> None:
    refused = msgspec.structs.replace(connection.record, reason="policy_denied", policy="shop/no-web")
    accepted, end = record_hops(Names(mesh, ""), refused, is_over=True, is_told=False)
    assert accepted["outcome"] == "accepted"
    assert (end["outcome"], end["verdict"], end["next"]) == ("policy_denied", "denied", "nowhere")
    assert (end["words"], end["policy"]) == ("refused; decided by shop/no-web", "shop/no-web")
    assert end["check"] == "A DENY policy matches; `nodeagent explain` names the rule."


def test_one_that_fails_says_how(mesh: Mesh, connection: OpenConnection) -> None:
    failed = {"reason": "connect_timeout", "error": "no answer within 10 s"}
    assert _told(mesh, connection.record, is_over=True, is_told=True, **failed) == [
        ("connect_timeout", "failed", "nowhere", "no answer within 10 s")
    ]
    cut = {"reason": "policy_changed", "set_up_seconds": 0.1}
    assert _told(mesh, connection.record, is_over=True, is_told=True, **cut)[0][3] == "ended"


@pytest.mark.parametrize(
    ("changes", "accepted", "connected"),
    [
        pytest.param(
            {"direction": Direction.INBOUND, "policy": "shop/db-allow"},
            "a CONNECT for 10.242.0.1:5432 came by a tunnel of cluster.local/ns/shop/sa/web",
            "dialled 10.242.0.1:5432, and the application accepted; the CONNECT was answered with 200; "
            "decided by shop/db-allow",
            id="a tunnel's stream",
        ),
        pytest.param(
            {"direction": Direction.INBOUND, "transport": Transport.TCP, "source_identity": None},
            "a worker accepted plain text for 10.242.0.1:5432, from nobody that proved who he is",
            "dialled 10.242.0.1:5432, and the application accepted",
            id="plain text",
        ),
        pytest.param(
            {"transport": Transport.TCP, "service": "", "destination_identity": Identity("t", "n", "s")},
            "a worker accepted the pod's connection to 10.96.0.5:5432",
            "dialled 10.242.0.1:5432, and the application accepted",
            id="between two pods of this node",
        ),
    ],
)
def test_other_ways(
    mesh: Mesh, connection: OpenConnection, changes: dict[str, Any], accepted: str, connected: str
) -> None:
    told = _told(mesh, connection.record, set_up_seconds=0.01, **changes)
    assert [words for *_, words in told] == [accepted, connected]


def test_one_that_the_kernel_carries(mesh: Mesh, connection: OpenConnection) -> None:
    record = msgspec.structs.replace(connection.record, is_in_kernel=True, transport=Transport.TCP)
    (hop,) = record_hops(Names(mesh, ""), record, is_over=False, is_told=False)
    assert (hop["place"], hop["outcome"], hop["next"], hop["id"]) == ("kernel", "connects", "from_pod", "kernel-9")
    assert _told(mesh, record, is_over=True, is_told=True, reason="closed", seconds=1.0) == [
        ("closed", "allowed", "", "10 B there and 2000 B back in 1.000 s")
    ]


# ---- the query -------------------------------------------------------------------------------------------------------


def test_a_query() -> None:
    asked = {"pod": "web", "peers": "", "seconds": "10", "most": "1000", "every": "false"}
    assert parse_trace(asked) == TraceQuestion(pod="web", seconds=10.0, most=1000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pod": ""}, "needs a pod"),
        ({"seconds": "x"}, "number of seconds"),
        ({"seconds": "0"}, "number of seconds"),
        ({"seconds": "nan"}, "number of seconds"),
        ({"seconds": "601"}, "number of seconds"),
        ({"most": "-1"}, "number of hops"),
        ({"most": "10001"}, "number of hops"),
    ],
)
def test_queries_that_are_malformed(change: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_trace({"pod": "web", "seconds": "10", "most": "1000"} | change)
