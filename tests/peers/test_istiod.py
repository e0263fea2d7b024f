# SPDX-License-Identifier: Apache-2.0
"""Our agents on both nodes under a real istiod, as our DaemonSet runs there."""

import socket
from pathlib import Path

import pytest

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Echo, is_served
from nodeagent.lab.demo.stage import NODES, PORT, SERVICE_PORT, Stage, command
from nodeagent.lab.demo.under_load import UnderLoad
from nodeagent.lab.topology import PodSpec
from nodeagent.model.address import Ip
from tests.dns_server import DnsServer, Records
from tests.kube_api import Json
from tests.peers.agents import SERVICE_IPS
from tests.peers.conftest import Under
from tests.peers.istiod import WITHIN_SECONDS, Istiod
from tests.peers.load import MARKER, MORE, becomes, is_whole
from tests.peers.node_http import ADMIN_PORT, get

pytestmark = [pytest.mark.e2e, pytest.mark.istiod]

IDENTITIES = {"node-a": {"shop/sa/web", "shop/sa/api", "backoffice/sa/batch"}, "node-b": {"shop/sa/db"}}
SYNCED = {"Address": True, "Authorization": True}
KINDS = ("workloads", "services", "policies")
EVERYBODY = [("web", "db"), ("db", "web"), ("web", "api"), ("batch", "db"), ("legacy2", "db"), ("legacy", "api")]


def identities(stage: Stage, node: str) -> set[str]:
    rows = stage.ask(node, "certs")["certificates"]
    return {row["name"].removeprefix("spiffe://cluster.local/ns/") for row in rows if row["type"] == "Leaf"}


def verdict(stage: Stage, source: str, target: str) -> str:
    """What `nodeagent explain` says on the destination's node."""
    ends = [f"{stage.pod(name).namespace}/{name}" for name in (source, target)]
    answer: str = stage.ask(stage.pod(target).node, "explain", ends[0], f"{ends[1]}:{PORT}")["verdict"]
    return answer


def test_everybody_agrees(under: Under, tmp_path: Path) -> None:
    """Both agents with each other, with what istioctl reads out of them, and with what istiod says of them."""
    stage, istiod = under.stage, under.istiod
    istiod.put(mesh.authorization("agreed", "shop", "db", "DENY", [mesh.rule(namespaces=["nobody"])]))
    try:
        for node in NODES:
            eventually(lambda node=node: "shop/agreed" in names(stage, node, "policies"), WITHIN_SECONDS, "it is told")  # type: ignore[misc]
            assert identities(stage, node) >= IDENTITIES[node]
            assert stage.ask(node, "status")["state"] == "ok"
            dump = tmp_path / f"{node}.json"
            dump.write_bytes(get(stage.lab.nodes[node], ADMIN_PORT, "/config_dump"))
            for what in KINDS:
                shown = {f"{row['namespace']}/{row['name']}" for row in istiod.ztunnel_config(what, dump)}
                assert shown == names(stage, node, what), what
        for what in KINDS:
            assert names(stage, "node-a", what) == names(stage, "node-b", what), what
        proxies = {f"nodeagent-{node}.nodeagent-system" for node in NODES}
        eventually(lambda: synced(istiod) == proxies, WITHIN_SECONDS, f"istiod has {proxies} in sync")
    finally:
        istiod.remove("AuthorizationPolicy", "agreed", "shop")


def names(stage: Stage, node: str, what: str) -> set[str]:
    return {f"{row['namespace']}/{row['name']}" for row in stage.ask(node, what)[what]}


def synced(istiod: Istiod) -> set[str]:
    """Whoever has acknowledged all that was sent to it, of workloads and of policies."""
    return {
        row["proxy"]
        for row in istiod.sync_status()
        if {kind.rpartition(".")[2]: one["acked"] == one["sent"] for kind, one in row["resources"].items()} == SYNCED
    }


@pytest.mark.parametrize(("source", "target"), EVERYBODY)
def test_pods_reach_each_other(under: Under, source: str, target: str) -> None:
    becomes(under.stage, source, target, served=True)
    # Who is not captured yet is served as well.
    eventually(
        lambda: verdict(under.stage, source, target).startswith("ALLOWED"),
        WITHIN_SECONDS,
        f"{source} reaches {target} by the mesh",
    )


def test_a_service_is_reached(under: Under) -> None:
    for ip in SERVICE_IPS:
        assert is_served(under.stage.pod("web"), Ip(ip), SERVICE_PORT), ip


def test_policies_and_strict_are_enforced(under: Under) -> None:
    stage, istiod = under.stage, under.istiod
    objects = [
        mesh.peer_authentication("default", "shop", "STRICT"),
        mesh.authorization("db", "shop", "db", "ALLOW", [mesh.rule(principals=["cluster.local/ns/shop/sa/web"])]),
        mesh.authorization("api", "shop", "api", "DENY", [mesh.rule(namespaces=["shop"])]),
    ]
    served = {("web", "db"), ("batch", "api")}
    ends = [(source, target) for source in ("web", "batch", "legacy2") for target in ("db", "api")]
    istiod.put(*objects)
    try:
        for source, target in ends:
            becomes(stage, source, target, served=(source, target) in served)
            assert verdict(stage, source, target).startswith("ALLOWED") is ((source, target) in served)
        told = {"shop/db", "shop/api", "istio-system/istio_converted_static_strict"}
        assert [names(stage, node, "policies") for node in NODES] == [told, told]
    finally:
        for one in objects:
            istiod.remove(str(one["kind"]), one["metadata"]["name"], "shop")  # type: ignore[index]
    for source, target in ends:
        becomes(stage, source, target, served=True)


def test_an_edited_policy_ends_what_is_open(under: Under) -> None:
    stage, istiod = under.stage, under.istiod
    echoes = [Echo(stage.pod("web"), ip, PORT) for ip in stage.pod("db").ips]
    istiod.put(mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(principals=["cluster.local/ns/shop/sa/web"])]))
    try:
        assert None not in [echo.seconds_until_cut(WITHIN_SECONDS) for echo in echoes]
    finally:
        for echo in echoes:
            echo.close()
        istiod.remove("AuthorizationPolicy", "db", "shop")
    becomes(stage, "web", "db", served=True)


def test_a_host_of_a_service_entry_is_reached_by_the_address_that_istiod_allocates(under: Under) -> None:
    stage, istiod = under.stage, under.istiod
    entry: Json = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "outside", "namespace": "shop"},
        "spec": {
            "hosts": ["api.outside.example"],
            "ports": [{"number": 443, "name": "tcp", "protocol": "TCP", "targetPort": PORT}],
            "resolution": "DNS",
        },
    }
    sock = stage.lab.control.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((stage.lab.control.ipv4, 53))
    records: Records = {
        ("api.outside.example", kind): (str(ip),)
        for kind, ip in zip(("A", "AAAA"), stage.pod("legacy").ips, strict=True)
    }
    with DnsServer(sock, records, ttl=5):
        istiod.put(entry)
        try:
            path = "/apis/networking.istio.io/v1/namespaces/shop/serviceentries/outside"
            allocated: list[str] = []

            def is_allocated() -> bool:
                rows = istiod.ask("GET", path).get("status", {}).get("addresses", [])
                allocated[:] = [row["value"] for row in rows]
                return bool(allocated)

            eventually(is_allocated, WITHIN_SECONDS, "istiod has allocated an address")
            web = stage.pod("web")
            for ip in allocated:
                eventually(lambda ip=ip: is_served(web, Ip(ip), 443, seconds=5), WITHIN_SECONDS, f"{ip} is served")  # type: ignore[misc]
        finally:
            istiod.remove("ServiceEntry", "outside", "shop")


def test_a_workload_comes_and_goes(under: Under) -> None:
    stage, istiod = under.stage, under.istiod
    pod = stage.lab.add_pod(PodSpec(name="late", node="node-b", namespace="shop", service_account="late", labels={}))
    try:
        stage.start_application(pod, PORT)
        istiod.put(under.agents.pod_object(pod))
        eventually(lambda: istiod.annotation("late") == "enabled", WITHIN_SECONDS, "it is captured")
        istiod.put(mesh.peer_authentication("default", "shop", "STRICT"))
        for source, target in (("web", "late"), ("late", "web"), ("late", "db")):
            becomes(stage, source, target, served=True)
        becomes(stage, "legacy2", "late", served=False)
        assert "shop/sa/late" in identities(stage, "node-b")
    finally:
        istiod.remove("PeerAuthentication", "default", "shop")
        istiod.delete("late")
        stage.lab.remove_pod(pod)
    eventually(
        lambda: "shop/sa/late" not in identities(stage, "node-b"), WITHIN_SECONDS, "its certificate goes with it"
    )


def test_an_istiod_that_is_away_is_not_missed_and_comes_back(under: Under) -> None:
    stage, istiod = under.stage, under.istiod
    with UnderLoad(stage.pod("web"), stage.pod("db").ips, PORT, MARKER) as load:
        load.wait_for_more(MORE)
        istiod.kill("pilot-discovery")
        load.wait_for_more(MORE)
        istiod.start_istiod()
        istiod.put(mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(namespaces=["backoffice"])]))
        try:
            becomes(stage, "batch", "db", served=False)
        finally:
            istiod.remove("AuthorizationPolicy", "db", "shop")
        becomes(stage, "batch", "db", served=True)
        load.wait_for_more(MORE)
    is_whole(load.last)


def test_another_root_is_taken_up(under: Under) -> None:
    """istiod has lost its self-signed one. The kubelets bring what it writes, then certificates are renewed."""
    stage, istiod = under.stage, under.istiod
    former = istiod.root()
    istiod.kill("pilot-discovery")
    istiod.remove("Secret", "istio-ca-secret", "istio-system")
    istiod.start_istiod()
    eventually(lambda: istiod.root() != former, WITHIN_SECONDS, "istiod has another root")
    for node in NODES:
        under.agents.bring_root(node)
    for node in NODES:
        eventually(lambda node=node: is_renewed(stage, node), WITHIN_SECONDS, f"{node} has other certificates")  # type: ignore[misc]
    becomes(stage, "web", "db", served=True)
    becomes(stage, "db", "web", served=True)


def is_renewed(stage: Stage, node: str) -> bool:
    result = stage.lab.nodes[node].run(command("certs", "--renew"))
    return result.returncode == 0
