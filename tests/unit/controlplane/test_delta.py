# SPDX-License-Identifier: Apache-2.0
"""One delta stream without sockets: first answers, changes, resume, refusals, on demand."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.delta import Accepted, DeltaStream, Refused, Subscribed
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import MeshObject
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, Snapshot, advance
from nodeagent.controlplane.translate import translate
from nodeagent.proto import authorization_pb2, workload_pb2, xds_pb2

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]
Publish = Callable[[str], Snapshot]
WEB, DB = "Kubernetes//Pod/shop/web-0", "Kubernetes//Pod/shop/db-0"
SERVICE, POLICY = "shop/db.shop.svc.cluster.local", "shop/db"


@pytest.fixture
def publish(read: Read) -> Publish:
    """Makes the next snapshot from a text."""
    current = Snapshot()

    def advanced(text: str) -> Snapshot:
        nonlocal current
        objects, findings = read(text)
        assert findings == []
        current, _ = advance(current, translate(objects))
        return current

    return advanced


def ask(type_url: str, **fields: object) -> xds_pb2.DeltaDiscoveryRequest:
    request = xds_pb2.DeltaDiscoveryRequest(type_url=type_url)
    for name, value in fields.items():
        if name == "initial_resource_versions":
            assert isinstance(value, dict)
            request.initial_resource_versions.update(value)
        else:
            assert isinstance(value, list)
            getattr(request, f"resource_names_{name}").extend(value)
    return request


def told(responses: list[xds_pb2.DeltaDiscoveryResponse]) -> list[tuple[str, set[str], list[str]]]:
    return [
        (
            response.type_url.rpartition(".")[2],
            {resource.name for resource in response.resources},
            list(response.removed_resources),
        )
        for response in responses
    ]


def subscribed(snapshot: Snapshot) -> DeltaStream:
    stream = DeltaStream("node-a")
    stream.received(ask(ADDRESS))
    stream.received(ask(AUTHORIZATION))
    assert len(stream.due(snapshot)) == 2
    return stream


def test_each_type_is_answered_at_once_and_then_only_changes(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    stream = DeltaStream("node-a")
    assert stream.received(ask(ADDRESS)) == Subscribed(ADDRESS, 0)
    (response,) = stream.due(snapshot)
    assert told([response]) == [("Address", {WEB, DB, SERVICE}, [])]
    assert stream.received(ask(AUTHORIZATION)) == Subscribed(AUTHORIZATION, 0)
    assert told(stream.due(snapshot)) == [("Authorization", {POLICY}, [])]
    assert stream.due(snapshot) == []
    for resource in response.resources:
        assert resource.version
        assert resource.resource.type_url == ADDRESS
        address = workload_pb2.Address.FromString(resource.resource.value)
        assert resource.name in {address.workload.uid, f"{address.service.namespace}/{address.service.hostname}"}
        assert not resource.aliases


def test_an_empty_mesh_and_an_unknown_type_are_answered_too() -> None:
    stream = DeltaStream("node-a")
    for type_url in (ADDRESS, AUTHORIZATION, "type.googleapis.com/envoy.config.cluster.v3.Cluster"):
        stream.received(ask(type_url))
        (response,) = stream.due(Snapshot())
        assert (response.type_url, len(response.resources), list(response.removed_resources)) == (type_url, 0, [])
        assert response.nonce
    assert stream.due(Snapshot()) == []


def test_a_change_sends_what_differs_and_nothing_else(publish: Publish, mesh: str) -> None:
    stream = subscribed(publish(mesh))
    snapshot = publish(mesh.replace("port: 5432", "port: 5433"))
    assert told(stream.due(snapshot)) == [("Address", {DB, SERVICE}, [])]
    snapshot = publish(mesh.replace("port: 5432", "port: 5433").replace("sa/web]", "sa/other]"))
    (response,) = stream.due(snapshot)
    assert told([response]) == [("Authorization", {POLICY}, [])]
    policy = authorization_pb2.Authorization.FromString(response.resources[0].resource.value)
    assert policy.rules[0].clauses[0].matches[0].principals[0].exact.endswith("sa/other")


def test_policies_come_before_and_go_after_the_workloads_that_name_them(publish: Publish, mesh: str) -> None:
    without = mesh[: mesh.index("---\napiVersion: security")]
    stream = subscribed(publish(without))
    assert told(stream.due(publish(mesh))) == [("Authorization", {POLICY}, []), ("Address", {DB}, [])]
    assert told(stream.due(publish(without))) == [("Address", {DB}, []), ("Authorization", set(), [POLICY])]


def test_a_resumed_stream_gets_changes_and_removals_alone(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    versions = {name: resource.version for name, resource in snapshot.of_type(ADDRESS).items()}
    policies = {name: resource.version for name, resource in snapshot.of_type(AUTHORIZATION).items()}

    same = DeltaStream("node-a")
    assert same.received(ask(ADDRESS, initial_resource_versions=versions)) == Subscribed(ADDRESS, 3)
    same.received(ask(AUTHORIZATION, initial_resource_versions=policies))
    assert told(same.due(snapshot)) == [("Authorization", set(), []), ("Address", set(), [])]

    away = DeltaStream("node-a")
    away.received(ask(ADDRESS, initial_resource_versions=versions | {WEB: "old", "Kubernetes//Pod/shop/gone": "x"}))
    assert told(away.due(snapshot)) == [("Address", {WEB}, ["Kubernetes//Pod/shop/gone"])]

    elsewhere = DeltaStream("node-a")
    elsewhere.received(ask(AUTHORIZATION, initial_resource_versions={POLICY: "", "shop/gone": ""}))
    assert told(elsewhere.due(snapshot)) == [("Authorization", {POLICY}, []), ("Authorization", set(), ["shop/gone"])]


def test_versions_survive_a_restart_of_the_control_plane(read: Read, mesh: str) -> None:
    objects, _ = read(mesh)
    first, _ = advance(Snapshot(), translate(objects))
    second, _ = advance(Snapshot(), translate(reversed(objects)))
    for type_url in (ADDRESS, AUTHORIZATION):
        assert dict(first.of_type(type_url)) == dict(second.of_type(type_url))


def test_a_refused_resource_is_not_sent_again_until_it_changes(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    stream = subscribed(snapshot)
    refusal = ask(AUTHORIZATION)
    refusal.response_nonce = "1/2"
    refusal.error_detail.message = "shop/db: too clever"
    assert stream.received(refusal) == Refused(AUTHORIZATION, "1/2", "shop/db: too clever")
    assert stream.due(snapshot) == []
    assert told(stream.due(publish(mesh.replace("sa/web]", "sa/other]")))) == [("Authorization", {POLICY}, [])]
    accepted = ask(AUTHORIZATION)
    accepted.response_nonce = "2/3"
    assert stream.received(accepted) == Accepted(AUTHORIZATION, "2/3")


def test_nonces_differ_and_name_the_generation(publish: Publish, mesh: str) -> None:
    stream = DeltaStream("node-a")
    stream.received(ask(ADDRESS))
    stream.received(ask(AUTHORIZATION))
    responses = stream.due(publish(mesh)) + stream.due(publish(mesh.replace("port: 5432", "port: 1")))
    assert len({response.nonce for response in responses}) == len(responses) == 3
    assert [response.system_version_info for response in responses] == ["1", "1", "2"]


def on_demand(snapshot: Snapshot, node: str = "node-a") -> DeltaStream:
    stream = DeltaStream(node)
    stream.received(ask(ADDRESS, subscribe=["*"], unsubscribe=["*"]))
    assert told(stream.due(snapshot)) == [("Address", {WEB} if node == "node-a" else {DB}, [])]
    return stream


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param("/10.96.0.10", {SERVICE, DB}, id="a service's address"),
        pytest.param(SERVICE, {SERVICE, DB}, id="a service"),
        pytest.param("/10.244.2.10", {DB}, id="a workload's address"),
        pytest.param(DB, {DB}, id="a workload"),
        pytest.param("/fd00:244:1::10", {WEB}, id="one that is held already"),
    ],
)
def test_on_demand_a_name_brings_what_it_stands_for(publish: Publish, mesh: str, name: str, found: set[str]) -> None:
    snapshot = publish(mesh)
    stream = on_demand(snapshot)
    stream.received(ask(ADDRESS, subscribe=[name]))
    (response,) = stream.due(snapshot)
    assert told([response]) == [("Address", found, [])]
    assert all(resource.aliases for resource in response.resources)
    assert stream.due(snapshot) == []


def test_on_demand_a_name_of_nothing_is_answered_as_removed(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    stream = on_demand(snapshot)
    stream.received(ask(ADDRESS, subscribe=["/203.0.113.7"]))
    assert told(stream.due(snapshot)) == [("Address", set(), ["/203.0.113.7"])]
    assert stream.due(snapshot) == []
    snapshot = publish(mesh.replace("10.244.2.10", "203.0.113.7"))
    assert told(stream.due(snapshot)) == [("Address", {DB}, [])]


def test_on_demand_new_endpoints_of_a_held_service_are_pushed(publish: Publish, mesh: str) -> None:
    stream = on_demand(publish(mesh))
    stream.received(ask(ADDRESS, subscribe=[SERVICE]))
    stream.due(publish(mesh))
    another = "apiVersion: v1\nkind: Pod\nmetadata: {name: db-1, namespace: shop, labels: {app: db}}\n"
    snapshot = publish(f"{mesh}---\n{another}spec: {{nodeName: node-b}}\nstatus: {{podIP: 10.244.2.11}}\n")
    assert told(stream.due(snapshot)) == [("Address", {"Kubernetes//Pod/shop/db-1"}, [])]
    stream.received(ask(ADDRESS, unsubscribe=[SERVICE]))
    ((_, added, removed),) = told(stream.due(snapshot))
    assert (added, set(removed)) == (set(), {SERVICE, DB, "Kubernetes//Pod/shop/db-1"})


def test_a_name_asked_for_on_a_whole_stream_is_sent_again(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    stream = subscribed(snapshot)
    stream.received(ask(ADDRESS, subscribe=[DB, "/203.0.113.7"]))
    assert told(stream.due(snapshot)) == [("Address", {DB}, ["/203.0.113.7"])]
