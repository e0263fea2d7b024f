# SPDX-License-Identifier: Apache-2.0
"""One delta stream without sockets: first answers, changes, resume, refusals, on demand, flow control; and the
conversations that a real istiod had with a client, with us in its place.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nodeagent.controlplane import delta as module
from nodeagent.controlplane.answers import State
from nodeagent.controlplane.delta import (
    MAX_TYPES,
    PATIENCE_SECONDS,
    WINDOW,
    Accepted,
    Asked,
    DeltaStream,
    OutOfTurn,
    Refused,
    Subscribed,
)
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import MeshObject
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, Snapshot, advance
from nodeagent.controlplane.subscription import TooMuchAsked
from nodeagent.controlplane.translate import translate
from nodeagent.proto import authorization_pb2, workload_pb2, xds_pb2

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]
Publish = Callable[[str], Snapshot]
WEB, DB = "Kubernetes//Pod/shop/web-0", "Kubernetes//Pod/shop/db-0"
NOW = 1000.0
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
    assert len(stream.due(snapshot, NOW)) == 2
    return stream


def test_each_type_is_answered_at_once_and_then_only_changes(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    stream = DeltaStream("node-a")
    assert stream.received(ask(ADDRESS)) == Subscribed(ADDRESS, 0)
    (response,) = stream.due(snapshot, NOW)
    assert told([response]) == [("Address", {WEB, DB, SERVICE}, [])]
    assert stream.received(ask(AUTHORIZATION)) == Subscribed(AUTHORIZATION, 0)
    assert told(stream.due(snapshot, NOW)) == [("Authorization", {POLICY}, [])]
    assert stream.due(snapshot, NOW) == []
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
        (response,) = stream.due(Snapshot(), NOW)
        assert (response.type_url, len(response.resources), list(response.removed_resources)) == (type_url, 0, [])
        assert response.nonce
    assert stream.due(Snapshot(), NOW) == []


def test_a_change_sends_what_differs_and_nothing_else(publish: Publish, mesh: str) -> None:
    stream = subscribed(publish(mesh))
    snapshot = publish(mesh.replace("port: 5432", "port: 5433"))
    assert told(stream.due(snapshot, NOW)) == [("Address", {DB, SERVICE}, [])]
    snapshot = publish(mesh.replace("port: 5432", "port: 5433").replace("sa/web]", "sa/other]"))
    (response,) = stream.due(snapshot, NOW)
    assert told([response]) == [("Authorization", {POLICY}, [])]
    policy = authorization_pb2.Authorization.FromString(response.resources[0].resource.value)
    assert policy.rules[0].clauses[0].matches[0].principals[0].exact.endswith("sa/other")


def test_policies_come_before_and_go_after_the_workloads_that_name_them(publish: Publish, mesh: str) -> None:
    without = mesh[: mesh.index("---\napiVersion: security")]
    stream = subscribed(publish(without))
    assert told(stream.due(publish(mesh), NOW)) == [("Authorization", {POLICY}, []), ("Address", {DB}, [])]
    assert told(stream.due(publish(without), NOW)) == [("Address", {DB}, []), ("Authorization", set(), [POLICY])]


def test_a_resumed_stream_gets_changes_and_removals_alone(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    versions = {name: resource.version for name, resource in snapshot.of_type(ADDRESS).items()}
    policies = {name: resource.version for name, resource in snapshot.of_type(AUTHORIZATION).items()}

    same = DeltaStream("node-a")
    assert same.received(ask(ADDRESS, initial_resource_versions=versions)) == Subscribed(ADDRESS, 3)
    same.received(ask(AUTHORIZATION, initial_resource_versions=policies))
    assert told(same.due(snapshot, NOW)) == [("Authorization", set(), []), ("Address", set(), [])]

    away = DeltaStream("node-a")
    away.received(ask(ADDRESS, initial_resource_versions=versions | {WEB: "old", "Kubernetes//Pod/shop/gone": "x"}))
    assert told(away.due(snapshot, NOW)) == [("Address", {WEB}, ["Kubernetes//Pod/shop/gone"])]

    elsewhere = DeltaStream("node-a")
    elsewhere.received(ask(AUTHORIZATION, initial_resource_versions={POLICY: "", "shop/gone": ""}))
    assert told(elsewhere.due(snapshot, NOW)) == [
        ("Authorization", {POLICY}, []),
        ("Authorization", set(), ["shop/gone"]),
    ]


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
    refusal.response_nonce = "1/1"
    refusal.error_detail.message = "shop/db: too clever"
    assert stream.received(refusal) == Refused(AUTHORIZATION, "1/1", "shop/db: too clever")
    assert stream.due(snapshot, NOW) == []
    assert told(stream.due(publish(mesh.replace("sa/web]", "sa/other]")), NOW)) == [("Authorization", {POLICY}, [])]
    accepted = ask(AUTHORIZATION)
    accepted.response_nonce = "2/3"
    assert stream.received(accepted) == Accepted(AUTHORIZATION, "2/3")


def test_nonces_differ_and_name_the_generation(publish: Publish, mesh: str) -> None:
    stream = DeltaStream("node-a")
    stream.received(ask(ADDRESS))
    stream.received(ask(AUTHORIZATION))
    responses = stream.due(publish(mesh), NOW) + stream.due(publish(mesh.replace("port: 5432", "port: 1")), NOW)
    assert len({response.nonce for response in responses}) == len(responses) == 3
    assert [response.system_version_info for response in responses] == ["1", "1", "2"]


def on_demand(snapshot: Snapshot, node: str = "node-a") -> DeltaStream:
    stream = DeltaStream(node)
    stream.received(ask(ADDRESS, subscribe=["*"], unsubscribe=["*"]))
    assert told(stream.due(snapshot, NOW)) == [("Address", {WEB} if node == "node-a" else {DB}, [])]
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
    (response,) = stream.due(snapshot, NOW)
    by_address = [name] if name.startswith("/") else []
    assert told([response]) == [("Address", found, by_address)], "a ztunnel waits for the name that it asked for"
    assert all(resource.aliases for resource in response.resources)
    assert stream.due(snapshot, NOW) == []


def test_on_demand_a_name_of_nothing_is_answered_as_removed(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    stream = on_demand(snapshot)
    stream.received(ask(ADDRESS, subscribe=["/203.0.113.7"]))
    assert told(stream.due(snapshot, NOW)) == [("Address", set(), ["/203.0.113.7"])]
    assert stream.due(snapshot, NOW) == []
    snapshot = publish(mesh.replace("10.244.2.10", "203.0.113.7"))
    assert told(stream.due(snapshot, NOW)) == [("Address", {DB}, [])]


def test_on_demand_new_endpoints_of_a_held_service_are_pushed(publish: Publish, mesh: str) -> None:
    stream = on_demand(publish(mesh))
    stream.received(ask(ADDRESS, subscribe=[SERVICE]))
    stream.due(publish(mesh), NOW)
    another = "apiVersion: v1\nkind: Pod\nmetadata: {name: db-1, namespace: shop, labels: {app: db}}\n"
    snapshot = publish(f"{mesh}---\n{another}spec: {{nodeName: node-b}}\nstatus: {{podIP: 10.244.2.11}}\n")
    assert told(stream.due(snapshot, NOW)) == [("Address", {"Kubernetes//Pod/shop/db-1"}, [])]
    stream.received(ask(ADDRESS, unsubscribe=[SERVICE]))
    ((_, added, removed),) = told(stream.due(snapshot, NOW))
    assert (added, set(removed)) == (set(), {SERVICE, DB, "Kubernetes//Pod/shop/db-1"})


def test_a_name_asked_for_on_a_whole_stream_is_sent_again(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    stream = subscribed(snapshot)
    stream.received(ask(ADDRESS, subscribe=[DB, "/203.0.113.7"]))
    assert told(stream.due(snapshot, NOW)) == [("Address", {DB}, ["/203.0.113.7"])]


def answered(nonce: str, type_url: str = ADDRESS, error: str = "") -> xds_pb2.DeltaDiscoveryRequest:
    request = ask(type_url)
    request.response_nonce = nonce
    if error:
        request.error_detail.message = error
    return request


def test_what_a_request_says(publish: Publish, mesh: str) -> None:
    stream = subscribed(publish(mesh))
    assert stream.received(answered("1/2")) == Accepted(ADDRESS, "1/2")
    assert stream.received(answered("1/2")) == OutOfTurn(ADDRESS, "1/2")
    assert stream.received(answered("1/1", ADDRESS)) == OutOfTurn(ADDRESS, "1/1"), "that nonce is of the other type"
    assert stream.received(answered("1/1", AUTHORIZATION, "no")) == Refused(AUTHORIZATION, "1/1", "no")
    assert stream.received(answered("1/1", AUTHORIZATION, "no")) == OutOfTurn(AUTHORIZATION, "1/1")
    assert stream.received(ask(ADDRESS, subscribe=[DB], unsubscribe=[WEB])) == Asked(ADDRESS, 2)


def test_names_that_come_with_an_answer_count(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    stream = on_demand(snapshot)
    request = answered("out of turn")
    request.resource_names_subscribe.append(DB)
    assert stream.received(request) == OutOfTurn(ADDRESS, "out of turn")
    assert told(stream.due(snapshot, NOW)) == [("Address", {DB}, [])]


def test_the_status_says_how_far_a_client_is(publish: Publish, mesh: str) -> None:
    stream = subscribed(publish(mesh))
    stream.received(answered("1/1", AUTHORIZATION, "shop/db: too clever"))
    policies, addresses = sorted(stream.status(), key=lambda status: status.type_url)
    assert (addresses.state, addresses.held, addresses.unanswered, addresses.waits_since) == (State.STALE, 3, 1, NOW)
    assert addresses.accepted is None
    assert addresses.sent is not None
    assert (addresses.sent.nonce, addresses.sent.version) == ("1/2", "1")
    assert (policies.state, policies.unanswered, policies.refused) == (State.NACKED, 0, 1)
    assert [(refusal.message, set(refusal.names)) for refusal in policies.refusals] == [
        ("shop/db: too clever", {POLICY})
    ]
    # A better version is accepted: it is over.
    stream.due(publish(mesh.replace("sa/web]", "sa/other]")), NOW)
    stream.received(answered("2/3", AUTHORIZATION))
    stream.received(answered("1/2"))
    assert {status.state for status in stream.status()} == {State.SYNCED}


def test_a_client_that_does_not_answer_gets_one_change_when_it_does(publish: Publish, mesh: str) -> None:
    stream = subscribed(publish(mesh))
    nonces = ["1/2"]
    for port in range(1, WINDOW - 1):
        nonces += [response.nonce for response in stream.due(publish(mesh.replace("5432", str(port))), NOW)]
    assert len(nonces) == WINDOW - 1
    snapshot = publish(mesh.replace("5432", "9000"))
    assert stream.due(snapshot, NOW) == []
    assert stream.wait_seconds(NOW + 1) == PATIENCE_SECONDS - 1
    snapshot = publish(mesh.replace("5432", "9001"))
    assert stream.received(answered(nonces[0])) == Accepted(ADDRESS, nonces[0])
    assert stream.wait_seconds(NOW + 1) is None
    (response,) = stream.due(snapshot, NOW + 1)
    assert told([response]) == [("Address", {DB, SERVICE}, [])]
    service = next(resource for resource in response.resources if resource.name == SERVICE)
    assert workload_pb2.Address.FromString(service.resource.value).service.ports[0].service_port == 9001


def test_a_client_that_never_answers_is_not_left_with_stale_policies(publish: Publish, mesh: str) -> None:
    stream = subscribed(publish(mesh))
    for port in range(1, WINDOW - 1):
        stream.due(publish(mesh.replace("5432", str(port))), NOW)
    snapshot = publish(mesh.replace("sa/web]", "sa/other]"))
    assert stream.due(snapshot, NOW + PATIENCE_SECONDS - 0.1) == []
    assert told(stream.due(snapshot, NOW + PATIENCE_SECONDS))[0] == ("Authorization", {POLICY}, [])
    assert stream.wait_seconds(NOW + PATIENCE_SECONDS) == PATIENCE_SECONDS


def test_a_stream_has_a_limit_of_types(publish: Publish, mesh: str) -> None:
    snapshot = publish(mesh)
    stream = DeltaStream("node-a")
    for number in range(MAX_TYPES):
        stream.received(ask(f"type.googleapis.com/t{number}"))
    assert len(stream.due(snapshot, NOW)) == MAX_TYPES
    with pytest.raises(TooMuchAsked, match="types"):
        stream.received(ask("type.googleapis.com/another"))


def test_a_response_that_is_too_large_comes_in_pieces(
    publish: Publish, mesh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = publish(mesh)
    sizes = [len(resource.value) for resource in snapshot.of_type(ADDRESS).values()]
    monkeypatch.setattr(module, "MAX_RESPONSE_BYTES", max(sizes) + 1)
    stream = DeltaStream("node-a")
    stream.received(ask(ADDRESS, initial_resource_versions={"gone": "1"}))
    responses = stream.due(snapshot, NOW)
    assert len(responses) == 3
    assert {name for _, names, _ in told(responses) for name in names} == {WEB, DB, SERVICE}
    assert [removed for _, _, removed in told(responses)] == [["gone"], [], []]
    assert len({response.nonce for response in responses}) == 3


# ---- with us in the place of a real istiod -----------------------------------------------------------------------

RECORDINGS = Path(__file__).parents[2] / "data" / "istiod"
_NOT_OURS = {
    "default/kubernetes.default.svc.cluster.local",
    "istio-system/istiod.istio-system.svc.cluster.local",
    "Kubernetes//Pod/istio-system/ztunnel-a",  # the recorder's own
}
DIFFERENCES = {
    ("ondemand", "connect-ondemand", "Authorization"): "sent first, before what names it",
    # A name that is held already: istiod says nothing, and a client that waits for it waits in vain.
    ("ondemand", "sub shop/cart.shop.svc.cluster.local", "Address"): "answered",
    ("ondemand", "sub Kubernetes//Pod/shop/cart-0", "Address"): "answered",
    # An address that something has: a ztunnel waits for that very name, and istiod answers by another.
    ("ondemand", "sub /10.30.0.11", "Address"): "the address is answered, too",
    ("ondemand", "sub /10.20.2.11", "Address"): "the address is answered, too",
    # A new endpoint of a service that is held: istiod does not tell, and the client balances over the old ones.
    ("ondemand", "apply step-new-pod.yaml", "Address"): "told",
    # istiod takes back everything that the client holds, its own node's pods too; we what nobody asks for any more.
    ("ondemand", "unsub /10.30.0.11", "Address"): "only what was given back",
    # Authorizations of istiod have no versions, so it sends all of them again.
    ("ondemand", "reconnect-ondemand", "Authorization"): "what is known is not sent again",
}
Row = tuple[str, str, frozenset[str], frozenset[str]]


def recorded(scenario: str) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = [
        json.loads(line)
        for kind in ("address", "authorization")
        for line in (RECORDINGS / scenario / f"{kind}.jsonl").read_text().splitlines()
    ]
    return sorted(lines, key=lambda line: int(str(line["seq"])))


def steps(scenario: str) -> list[str]:
    lines = (RECORDINGS / scenario / "steps.txt").read_text().splitlines()
    return [line.partition("#")[0].strip() for line in lines]


def edited(documents: dict[str, str], scenario: str, step: str) -> None:
    """Applies a step to the documents, which are by kind, namespace and name."""
    verb, _, file = step.partition(" ")
    if verb in {"apply", "delete"}:
        for key, text in split((RECORDINGS / scenario / file).read_text()).items():
            if verb == "delete":
                del documents[key]
            else:
                documents[key] = text


def split(text: str) -> dict[str, str]:
    found = {}
    for document in text.split("\n---\n"):
        parsed = yaml.safe_load(document)
        metadata = parsed["metadata"]
        found[f"{parsed['kind']}/{metadata.get('namespace', '')}/{metadata['name']}"] = document
    return found


def ours(scenario: str, publish: Publish) -> set[Row]:
    """What our side of the conversation says when the client says what it said to istiod."""
    documents = split((RECORDINGS / scenario / "input.yaml").read_text())
    requests = [line for line in recorded(scenario) if line["dir"] == "req"]
    stream = DeltaStream("node-a")
    rows: set[Row] = set()
    held: dict[str, str] = {}
    for step in steps(scenario):
        edited(documents, scenario, step)
        snapshot = publish("\n---\n".join(documents.values()))
        if "connect" in step:
            stream = DeltaStream("node-a")
        for line in requests:
            if line["step"] == step and not line.get("error_detail"):
                request = xds_pb2.DeltaDiscoveryRequest.FromString(base64.b64decode(str(line["raw_b64"])))
                for name in _NOT_OURS:
                    request.initial_resource_versions.pop(name, None)
                for name in list(request.initial_resource_versions):
                    request.initial_resource_versions[name] = held[name]  # our hash for istiod's
                stream.received(request)
        for response in stream.due(snapshot, NOW):
            kind = response.type_url.rpartition(".")[2]
            names = frozenset(resource.name for resource in response.resources)
            rows.add((step, kind, names, frozenset(response.removed_resources)))
            stream.received(answered(response.nonce, response.type_url))
            held.update({resource.name: resource.version for resource in response.resources})
    return rows


def theirs(scenario: str) -> set[Row]:
    return {
        (
            str(line["step"]),
            str(line["type_url"]).rpartition(".")[2],
            frozenset(resource["name"] for resource in line.get("resources", ())) - _NOT_OURS,  # type: ignore[attr-defined]
            frozenset(line.get("removed_resources", ())),  # type: ignore[call-overload]
        )
        for line in recorded(scenario)
        if line["dir"] == "res"
    }


@pytest.mark.parametrize("scenario", ["reconnect", "ondemand"])
def test_a_recorded_client_is_told_what_istiod_told_it(scenario: str, publish: Publish) -> None:
    expected = {row for row in theirs(scenario) if (scenario, *row[:2]) not in DIFFERENCES}
    found = {row for row in ours(scenario, publish) if (scenario, *row[:2]) not in DIFFERENCES}
    assert found == expected
