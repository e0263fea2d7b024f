# SPDX-License-Identifier: Apache-2.0
"""A real ztunnel with our control plane as its istiod and CA, and beside our agent."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Echo, is_served
from nodeagent.lab.demo.stage import OTHER_PORT, PORT, SERVICE_PORT, Stage, command
from nodeagent.lab.demo.under_load import UnderLoad
from nodeagent.lab.topology import PodSpec
from tests.peers.conftest import Beside
from tests.peers.load import MARKER, MORE, becomes, is_whole
from tests.peers.ztunnel import CRL, WITHIN_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.ztunnel]

OURS, THEIRS = "node-a", "node-b"
WAYS = [pytest.param("web", "db", id="ours to ztunnel"), pytest.param("db", "web", id="ztunnel to ours")]


@contextmanager
def policies(stage: Stage, *objects: mesh.Object) -> Iterator[None]:
    stage.write("30-policies.yaml", objects)
    try:
        yield
    finally:
        stage.write("30-policies.yaml", [])


def proxies(stage: Stage) -> set[tuple[str, str]]:
    """Node and state of each client and type."""
    done = subprocess.run(
        command("proxies", "--state-dir", stage.state_directory, "-o", "json"), capture_output=True, check=False
    )
    return {(row["node"], row["state"]) for row in json.loads(done.stdout)["proxies"]}


def test_it_knows_what_our_agent_knows(beside: Beside) -> None:
    stage, ztunnel = beside.stage, beside.ztunnel
    everything = [
        mesh.authorization("web-only", "shop", "db", "ALLOW", [mesh.rule(principals=["cluster.local/ns/shop/sa/web"])]),
        mesh.authorization("no-batch", "shop", "db", "DENY", [mesh.rule(namespaces=["backoffice"], ports=[PORT])]),
        mesh.peer_authentication("default", "shop", "STRICT"),
    ]
    becomes(stage, "web", "db", served=True)
    becomes(stage, "db", "api", served=True)
    with policies(stage, *everything):
        named = {f"shop/{name}" for name in ("web-only", "no-batch")} | {"istio-system/istio_converted_static_strict"}

        def told() -> bool:
            rows = ztunnel.config_dump()["policies"]
            return {f"{row['namespace']}/{row['name']}" for row in rows} == named

        eventually(told, WITHIN_SECONDS, f"its policies are {named}")
        ours = {row["uid"] for row in stage.ask(OURS, "workloads")["workloads"]}
        theirs = {row["uid"] for row in ztunnel.config_dump()["workloads"]}
        assert theirs == ours or (ztunnel.is_on_demand and theirs < ours)
        eventually(lambda: proxies(stage) == {(OURS, "SYNCED"), (THEIRS, "SYNCED")}, WITHIN_SECONDS, "both are synced")
    assert ztunnel.certificates() == {"spiffe://cluster.local/ns/shop/sa/db": "Available"}


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_traffic_is_tunnelled(beside: Beside, source: str, target: str) -> None:
    stage = beside.stage
    client, server = stage.pod(source), stage.pod(target)
    with stage.lab.wire.tap(marker=MARKER) as tap, UnderLoad(client, server.ips, PORT, MARKER) as load:
        load.wait_for_more(MORE)
    is_whole(load.last)
    seen = tap.result()
    assert (seen.dropped, seen.markers) == (0, 0)
    assert seen.hbone_bytes > 1 << 16
    ports = {line.get("src.identity") for line in stage.access_lines(OURS) if line["direction"] == "inbound"}
    assert source == "web" or "spiffe://cluster.local/ns/shop/sa/db" in ports


@pytest.mark.parametrize(("source", "target"), [("web", "db"), ("db", "api")])
def test_services_are_reached(beside: Beside, source: str, target: str) -> None:
    stage = beside.stage
    for ip in stage.service_ips if target == "db" else stage.api_service_ips:
        assert is_served(stage.pod(source), ip, SERVICE_PORT), ip


@pytest.mark.parametrize(("source", "target"), WAYS)
@pytest.mark.parametrize(
    ("action", "peer", "port"),
    [
        pytest.param("DENY", "source", PORT, id="denied"),
        pytest.param("ALLOW", "another", PORT, id="not allowed"),
        pytest.param("DENY", "source", OTHER_PORT, id="denied at another port"),
        pytest.param("ALLOW", "source", PORT, id="allowed"),
    ],
)
def test_a_policy_decides(beside: Beside, source: str, target: str, action: str, peer: str, port: int) -> None:
    stage = beside.stage
    account = source if peer == "source" else "another"
    rule = mesh.rule(principals=[f"cluster.local/ns/shop/sa/{account}"], ports=[port])
    with policies(stage, mesh.authorization("rule", "shop", target, action, [rule])):
        is_allowed = action == "ALLOW" and account == source
        becomes(stage, source, target, port, served=is_allowed)
        other = OTHER_PORT if port == PORT else PORT
        becomes(stage, source, target, other, served=action == "DENY")
    becomes(stage, source, target, port, served=True)


def test_strict_refuses_who_has_no_identity(beside: Beside) -> None:
    stage = beside.stage
    for source, target in (("legacy2", "db"), ("legacy", "web")):
        becomes(stage, source, target, served=True)
    with policies(stage, mesh.peer_authentication("default", "shop", "STRICT")):
        for source, target in (("legacy2", "db"), ("legacy", "web")):
            becomes(stage, source, target, served=False)
        for source, target in (("web", "db"), ("db", "web"), ("batch", "db"), ("db", "api")):
            becomes(stage, source, target, served=True)


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_a_policy_that_is_edited_ends_connections_that_are_open(beside: Beside, source: str, target: str) -> None:
    """They begin when it is there: a ztunnel judges by the list of policies that the workload had at that moment."""
    stage = beside.stage
    rule = mesh.rule(principals=[f"cluster.local/ns/shop/sa/{source}"])
    with policies(stage, mesh.authorization("edited", "shop", target, "ALLOW", [rule])):
        becomes(stage, "batch", target, served=False)
        held = [Echo(stage.pod(source), ip, PORT) for ip in stage.pod(target).ips]
        try:
            for echo in held:
                echo.exchange()
            stage.write("30-policies.yaml", [mesh.authorization("edited", "shop", target, "DENY", [rule])])
            assert None not in [echo.seconds_until_cut(WITHIN_SECONDS) for echo in held]
        finally:
            for echo in held:
                echo.close()
    becomes(stage, source, target, served=True)


@contextmanager
def both_ways(stage: Stage) -> Iterator[Sequence[UnderLoad]]:
    """Load from web to db and from db to web; at the end nothing is lost."""
    web, db = stage.pod("web"), stage.pod("db")
    with UnderLoad(web, db.ips, PORT, MARKER) as there, UnderLoad(db, web.ips, PORT, MARKER) as back:
        for load in (there, back):
            load.wait_for_more(MORE)
        yield there, back
        for load in (there, back):
            load.wait_for_more(MORE)
    for load in (there, back):
        is_whole(load.last)


def test_a_worker_that_is_replaced_loses_nothing(beside: Beside) -> None:
    stage = beside.stage
    with both_ways(stage) as loads:
        for _ in range(3):
            told = stage.replace_worker(OURS)
            assert told["handed_over"] >= 4, "the streams in both ways"
            assert (told["cut"], told["left"]) == (0, 0)
            for load in loads:
                load.wait_for_more(MORE)


def test_a_control_plane_that_is_away_is_not_missed_and_comes_back(beside: Beside) -> None:
    stage = beside.stage
    with both_ways(stage) as loads:
        stage.control_plane.kill()
        stage.control_plane.wait()
        for load in loads:
            load.wait_for_more(MORE)
        stage.start_control_plane()
        rule = mesh.rule(namespaces=["backoffice"])
        for target in ("db", "web"):
            with policies(stage, mesh.authorization("edited", "shop", target, "DENY", [rule])):
                becomes(stage, "batch", target, served=False)
            becomes(stage, "batch", target, served=True)


def test_a_pod_comes_and_goes(beside: Beside) -> None:
    stage, ztunnel = beside.stage, beside.ztunnel
    pod = stage.lab.add_pod(PodSpec(name="late", node=THEIRS, namespace="shop", service_account="late", labels={}))
    try:
        stage.start_application(pod, PORT)
        stage.write("40-late.yaml", [mesh.pod(pod.place)])
        ztunnel.cni.add(pod)
        for source, target in (("web", "late"), ("late", "web"), ("late", "db"), ("db", "late")):
            becomes(stage, source, target, served=True)
        identity = "spiffe://cluster.local/ns/shop/sa/late"
        assert ztunnel.certificates()[identity] == "Available"
        rule = mesh.rule(principals=[identity.removeprefix("spiffe://")])
        with policies(stage, mesh.authorization("late", "shop", "web", "DENY", [rule])):
            becomes(stage, "late", "web", served=False)
    finally:
        stage.write("40-late.yaml", [])
        ztunnel.cni.remove(pod)
        stage.lab.remove_pod(pod)
    eventually(lambda: identity not in ztunnel.certificates(), WITHIN_SECONDS, "its certificate goes with it")


def test_whom_our_list_of_revoked_certificates_names_is_refused(beside: Beside) -> None:
    stage, batch = beside.stage, "spiffe://cluster.local/ns/backoffice/sa/batch"
    becomes(stage, "batch", "db", served=True)
    rows = stage.ask(OURS, "certs")["certificates"]
    [serial] = {row["serial"] for row in rows if row["name"] == batch and row["type"] == "Leaf"}
    source = stage.state_directory / "ca-crl.pem"
    former = source.read_bytes()
    subprocess.run(command("ca", "revoke", serial, "--state-dir", stage.state_directory), check=True)
    eventually(lambda: source.read_bytes() != former, WITHIN_SECONDS, "the list is made again")
    content = source.read_bytes()
    stage.lab.nodes[THEIRS].call(lambda: CRL.write_bytes(content))
    becomes(stage, "batch", "db", served=False)
    becomes(stage, "web", "db", served=True)
    stage.ask(OURS, "certs", "--renew")
    becomes(stage, "batch", "db", served=True)
