# SPDX-License-Identifier: Apache-2.0
"""Every view is JSON, complete, and in an order that does not depend on when things came."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from nodeagent.admin import views
from nodeagent.admin.state import AgentState, CertificateState, CertificateView, OpenConnection
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Action, Policy, PolicyScope
from nodeagent.model.reason import Reason
from nodeagent.model.record import FlowPage, PolicyHits, Transport
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.security import DryRun
from nodeagent.model.workload import Service, Workload
from tests.unit.conftest import TinyCa

StateOf = Callable[..., AgentState]

NOW = 1_787_233_553.0


def _json(view: Mapping[str, object]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(view))


def test_pods(state_of: StateOf) -> None:
    assert _json(views.pods(state_of()))["pods"] == [
        {
            "namespace": "old",
            "pod": "cron",
            "ips": [],
            "netns": "",
            "captured": "no",
            "reason": "NOT_IN_MESH",
            "mode": "",
            "identity": "",
            "device": "",
            "hits": 0,
            "direct": 0,
            "dropped": 0,
        },
        {
            "namespace": "shop",
            "pod": "web",
            "ips": ["10.241.0.12"],
            "netns": "/run/netns/web",
            "captured": "yes",
            "reason": "",
            "mode": "kernel",
            "identity": "spiffe://cluster.local/ns/shop/sa/web",
            "device": "veth3",
            "hits": 812,
            "direct": 7,
            "dropped": 3,
        },
    ]


def test_workloads(mesh: Mesh) -> None:
    told = _json(views.workloads(mesh))["workloads"]
    assert [f"{one['namespace']}/{one['name']}" for one in told] == [
        "batch/job",
        "old/legacy",
        "shop/db-0",
        "shop/db-1",
        "shop/late",
        "shop/web",
    ]
    assert told[2]["addresses"] == ["10.242.0.1", "fd00::1"]
    assert told[2]["services"] == ["shop/db.shop.svc.cluster.local"]
    assert (told[1]["protocol"], told[2]["protocol"]) == ("TCP", "HBONE")


def test_services(mesh: Mesh) -> None:
    told = _json(views.services(mesh))["services"]
    assert [(one["name"], one["vips"], one["ports"], one["endpoints"], one["healthy_endpoints"]) for one in told] == [
        ("db", ["/10.96.0.5"], {"5432": 5432}, 2, 2),
        ("empty", ["/10.96.0.6"], {"80": 80}, 0, 0),
    ]


def test_policies_tell_what_is_missing(state_of: StateOf) -> None:
    told = _json(views.policies(state_of()))
    assert [(one["name"], one["action"], one["origin"], one["attached"]) for one in told["policies"]] == [
        ("istio_converted_static_strict", "DENY", "PeerAuthentication", 2),
        ("db-allow", "ALLOW", "AuthorizationPolicy", 2),
    ]
    assert told["missing"] == [{"policy": "shop/not-yet", "attached": 1}]


def test_a_policy_has_come_some_time_ago(state_of: StateOf) -> None:
    told = _json(views.policies(state_of(policy_since={"shop/db-allow": NOW - 90})))["policies"]
    (found,) = [one for one in told if one["name"] == "db-allow"]
    assert (found["synced"], found["synced_seconds"]) == (views.moment(NOW - 90), 90.0)
    (never,) = [one for one in _json(views.policies(state_of()))["policies"] if one["name"] == "db-allow"]
    assert (never["synced"], never["synced_seconds"]) == ("", 0.0)


def test_a_policy_has_its_hits(state_of: StateOf) -> None:
    told = _json(views.policies(state_of(policy_hits={"shop/db-allow": PolicyHits(3, NOW)})))["policies"]
    assert [(one["name"], one["hits"], one["last_hit"]) for one in told] == [
        ("istio_converted_static_strict", 0, ""),
        ("db-allow", 3, "2026-08-20T13:45:53Z"),
    ]


def test_one_policy_in_words(state_of: StateOf) -> None:
    told = _json(views.policy_in_words(state_of(), "shop/db-allow"))["policy"]
    assert told["headline"] == "Allows connections to the workloads that it selects"
    assert told["attached_to"] == ["shop/db-0", "shop/db-1"]
    (sentence,) = told["rules_in_words"]
    assert "cluster.local/ns/shop/sa/web" in sentence
    assert "5432" in sentence


def test_a_policy_that_is_not_there_is_the_askers_mistake(state_of: StateOf) -> None:
    with pytest.raises(ConfigError, match="'shop/none'"):
        views.policy_in_words(state_of(), "shop/none")


def test_certificates(state_of: StateOf) -> None:
    missing = CertificateView(
        identity=Identity("cluster.local", "shop", "api"),
        state=CertificateState.UNAVAILABLE,
        last_error="CA: refused",
    )
    root = CertificateView(
        identity=None, state=CertificateState.AVAILABLE, subject="O=cluster.local", not_before=1.0, not_after=NOW - 1
    )
    told = _json(views.certificates(state_of(certificates=(root, *state_of().certificates, missing))))["certificates"]
    assert [(one["name"], one["type"], one["state"], one["valid"], one["expires_in_seconds"]) for one in told] == [
        ("spiffe://cluster.local/ns/shop/sa/api", "Leaf", "Unavailable", False, 0),
        ("spiffe://cluster.local/ns/shop/sa/web", "Leaf", "Available", True, 86300),
        ("O=cluster.local", "Root", "Available", False, 0),
    ]
    assert told[0]["last_error"] == "CA: refused"
    assert (told[0]["not_after"], told[1]["not_after"]) == ("", "2026-08-21T13:44:13Z")


def test_roots_are_those_that_any_identity_trusts_each_once(state_of: StateOf, make_ca: type[TinyCa]) -> None:
    first, second = make_ca("First"), make_ca("Second")
    pems = [ca.certificate.public_bytes(Encoding.PEM) for ca in (first, second)]
    leaves = tuple(
        CertificateView(
            identity=Identity("cluster.local", "shop", name), state=CertificateState.AVAILABLE, roots_pem=roots
        )
        for name, roots in (("api", pems[0]), ("web", pems[0] + pems[1]), ("db", b""))
    )
    now = first.certificate.not_valid_after_utc.timestamp() - 90
    told = _json(views.certificates(state_of(certificates=leaves, now=now)))["certificates"]
    roots = {one["name"]: one for one in told if one["type"] == "Root"}
    assert len(told) == len(leaves) + len(roots)
    assert set(roots) == {"O=First", "O=Second"}
    assert roots["O=First"]["serial"] == f"{first.certificate.serial_number:x}"
    assert (roots["O=First"]["state"], roots["O=First"]["valid"]) == ("Available", True)
    assert roots["O=First"]["expires_in_seconds"] == 90


def test_connections(connection: OpenConnection) -> None:
    (told,) = _json(views.connections([connection], NOW))["connections"]
    assert told == {
        "id": "0-9",
        "started": "2026-08-20T13:45:40Z",
        "age_seconds": 12.5,
        "direction": "outbound",
        "source": {"namespace": "shop", "workload": "web", "address": "10.241.0.12:40000"},
        "destination": {"namespace": "shop", "workload": "db-0", "address": "10.242.0.1:5432"},
        "original": "10.96.0.5:5432",
        "service": "shop/db.shop.svc.cluster.local",
        "hop": "10.242.0.1:15008",
        "protocol": "HBONE",
        "path": "tunnel",
        "tls_peer": "spiffe://cluster.local/ns/shop/sa/db",
        "policy": "",
        "dry_run": "",
        "dry_run_policy": "",
        "sent_bytes": 10,
        "received_bytes": 2000,
        "round_trip_us": 0,
        "retransmissions": 0,
        "source_identity": "spiffe://cluster.local/ns/shop/sa/web",
        "destination_identity": "spiffe://cluster.local/ns/shop/sa/db",
        "worker": 1,
    }


def test_a_connection_in_the_kernel_has_no_worker(connection: OpenConnection) -> None:
    record = msgspec.structs.replace(
        connection.record, is_in_kernel=True, transport=Transport.TCP, round_trip_us=70, retransmissions=2
    )
    old = msgspec.structs.replace(record, started=1.0)
    found = [OpenConnection(None, record), connection, OpenConnection(None, old)]
    told = _json(views.connections(found, NOW))["connections"]
    assert [one["id"] for one in told] == ["kernel-9", "kernel-9", "0-9"]
    assert (told[1]["path"], told[1]["protocol"], told[1]["worker"]) == ("kernel", "PLAIN", None)
    assert (told[1]["round_trip_us"], told[1]["retransmissions"]) == (70, 2)


def test_flows(connection: OpenConnection) -> None:
    record = msgspec.structs.replace(
        connection.record, seconds=1.25, reason="policy_not_allowed", policy="shop/db-allow", error="no rule fits"
    )
    told = _json(views.flows(FlowPage((record,), "run-7", has_more=True, lost=3)))
    assert (told["cursor"], told["has_more"], told["lost"]) == ("run-7", True, 3)
    (flow,) = told["flows"]
    expected = {
        "started": "2026-08-20T13:45:40.500000Z",
        "ended": "2026-08-20T13:45:41.750000Z",
        "seconds": 1.25,
        "verdict": "denied",
        "reason": "policy_not_allowed",
        "policy": "shop/db-allow",
        "error": "no rule fits",
        "check": Reason.POLICY_NOT_ALLOWED.check,
        "source_identity": str(record.source_identity or ""),
        "destination_identity": "spiffe://cluster.local/ns/shop/sa/db",
    }
    assert {name: flow[name] for name in expected} == expected
    assert (flow["path"], flow["original"]) == ("tunnel", "10.96.0.5:5432")


def test_dry_runs_are_listed_with_the_policies(mesh: Mesh, state_of: StateOf) -> None:
    tried = Policy(name="try", namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.DENY, is_dry_run=True)
    mesh.apply(Changes(extensions=(DryRun(policy=tried, namespace="shop"),)))
    (told,) = [one for one in _json(views.policies(state_of()))["policies"] if one["name"] == "try"]
    in_shop = [workload for workload in mesh.workloads.values() if workload.namespace == "shop"]
    assert (told["dry_run"], told["attached"]) == (True, len(in_shop))
    assert "dry run" in _json(views.policy_in_words(state_of(), "shop/try"))["policy"]["headline"]


def test_an_endpoint_that_is_known_by_its_name_shows_it_and_what_it_means(mesh: Mesh) -> None:
    outside = Service(name="outside", namespace="shop", hostname="api.example")
    named = [
        Workload(uid=name, name=name, namespace="out", hostname=f"{name}.example", services={outside.key: ()})
        for name in ("known", "lost", "new")
    ]
    known = ResolvedName(hostname="known.example", addresses=(Ip("203.0.113.7"),))
    lost = ResolvedName(hostname="lost.example", error="there is no such name")
    mesh.apply(Changes(services=(outside,), workloads=tuple(named), names=(known, lost)))
    told = [one for one in _json(views.workloads(mesh))["workloads"] if one["namespace"] == "out"]
    assert [(one["dns_name"], one["addresses"], one["dns_error"]) for one in told] == [
        ("known.example", ["203.0.113.7"], ""),
        ("lost.example", [], "there is no such name"),
        ("new.example", [], ""),
    ]
    (service,) = [one for one in _json(views.services(mesh))["services"] if one["name"] == "outside"]
    assert service["names"] == {"known.example": ["203.0.113.7"], "lost.example": [], "new.example": []}
