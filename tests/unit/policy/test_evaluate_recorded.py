# SPDX-License-Identifier: Apache-2.0
"""Policies as a real istiod made them from YAML, judged as the YAML's author meant it.

The recordings are those of the xDS tests (tests/data/istiod); each is replayed up to a step, in the order of the wire.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Policy
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Service, Workload
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Verdict, evaluate_for
from nodeagent.xds.decode import decode_resource
from nodeagent.xds.delta import Kind

DATA = Path(__file__).parents[2] / "data" / "istiod"
NOT_ALLOWED = Deny(None, Reason.POLICY_NOT_ALLOWED)

Replay = Callable[[str, int], Mesh]


def denied(policy: str) -> Deny:
    return Deny(policy, Reason.POLICY_DENIED)


def _changes(kind: Kind, message: dict[str, Any]) -> Changes:
    values = [
        decode_resource(kind, found["name"], base64.b64decode(found["value_b64"]))
        for found in message.get("resources", [])
    ]
    gone = tuple(message.get("removed_resources", []))
    return Changes(
        policies=tuple(value for value in values if isinstance(value, Policy)),
        services=tuple(value for value in values if isinstance(value, Service)),
        workloads=tuple(value for value in values if isinstance(value, Workload)),
        removed_policies=gone if kind is Kind.AUTHORIZATION else (),
        removed_services=gone if kind is Kind.ADDRESS else (),
        removed_workloads=gone if kind is Kind.ADDRESS else (),
    )


@pytest.fixture(scope="module")
def replay() -> Replay:
    """The mesh after the first `steps` steps of a recording; 0: after the connect."""

    def replayed(folder: str, steps: int) -> Mesh:
        messages = [
            (message["seq"], kind, message)
            for kind in (Kind.ADDRESS, Kind.AUTHORIZATION)
            for line in (DATA / folder / f"{kind.name.lower()}.jsonl").read_text(encoding="utf-8").splitlines()
            if (message := json.loads(line))["dir"] == "res"
        ]
        mesh = Mesh()
        for _, kind, message in sorted(messages, key=lambda found: found[0]):
            step = message["step"].partition("step-")[2][:2]
            if int(step or 0) <= steps:
                mesh.apply(_changes(kind, message))
        return mesh

    return replayed


def verdict(mesh: Mesh, pod: str, source: str, port: int, source_ip: str = "10.30.0.1") -> Verdict:
    """`source` is `ns/account`, or empty for plaintext."""
    workload = mesh.workloads[f"Kubernetes//Pod/{pod}"]
    identity = Identity("cluster.local", *source.split("/")) if source else None
    return evaluate_for(mesh, workload, ConnectionFacts(identity, Ip(source_ip), workload.addresses[0], port))


STATIC = "istio-system/istio_converted_static_strict"
CART = "shop/converted_peer_authentication_cart"
CATALOG = "backend/converted_peer_authentication_catalog"
STORE = "backend/converted_peer_authentication_store"


@pytest.mark.parametrize(
    ("step", "pod", "port", "refused_by"),
    [
        pytest.param(0, "shop/web-0", 80, None, id="no PeerAuthentication"),
        pytest.param(1, "shop/web-0", 80, STATIC, id="mesh STRICT"),
        pytest.param(1, "open/free-0", 80, STATIC, id="mesh STRICT elsewhere"),
        pytest.param(2, "open/free-0", 80, None, id="namespace PERMISSIVE"),
        pytest.param(2, "shop/web-0", 80, STATIC, id="namespace PERMISSIVE is only its own"),
        pytest.param(3, "shop/web-0", 80, None, id="workload DISABLE"),
        pytest.param(4, "shop/cart-0", 8080, None, id="port PERMISSIVE"),
        pytest.param(4, "shop/cart-0", 8082, None, id="port DISABLE"),
        pytest.param(4, "shop/cart-0", 8081, CART, id="port STRICT"),
        pytest.param(4, "shop/cart-0", 80, CART, id="other ports"),
        pytest.param(5, "backend/catalog-0", 8000, None, id="port PERMISSIVE under the mesh's STRICT"),
        pytest.param(5, "backend/catalog-0", 80, CATALOG, id="the mesh's STRICT"),
        pytest.param(6, "backend/catalog-0", 80, None, id="mesh PERMISSIVE"),
        pytest.param(6, "shop/cart-0", 80, CART, id="the workload's own STRICT stays"),
        pytest.param(6, "shop/cart-0", 8080, None, id="and so do its exceptions"),
        pytest.param(7, "backend/store-0", 5432, STORE, id="one port STRICT"),
        pytest.param(7, "backend/store-0", 5433, None, id="another PERMISSIVE"),
        pytest.param(7, "backend/store-0", 80, None, id="the rest as the workload"),
        pytest.param(8, "backend/catalog-0", 80, CATALOG, id="namespace STRICT"),
        pytest.param(8, "backend/catalog-0", 8000, None, id="with its excepted port"),
        pytest.param(8, "backend/store-0", 80, None, id="a workload's PERMISSIVE over it"),
        pytest.param(9, "shop/cart-0", 80, None, id="the workload's is gone"),
        pytest.param(10, "backend/catalog-0", 80, None, id="all are gone"),
    ],
)
def test_plaintext_under_peer_authentication(
    step: int, pod: str, port: int, refused_by: str | None, replay: Replay
) -> None:
    mesh = replay("peerauth", step)
    assert verdict(mesh, pod, "", port) == (denied(refused_by) if refused_by else Allow(None))
    assert verdict(mesh, pod, "shop/default", port) == Allow(None)


@pytest.mark.parametrize(
    ("step", "pod", "source", "port", "expected"),
    [
        pytest.param(0, "shop/cart-0", "shop/web", 80, Allow("shop/allow-all"), id="rules: [{}] allows all"),
        pytest.param(0, "shop/cart-0", "", 80, Allow("shop/allow-all"), id="also plaintext"),
        pytest.param(0, "shop/cart-0", "quarantine/x", 80, denied("istio-system/mesh-deny-probe"), id="mesh-wide DENY"),
        pytest.param(0, "shop/web-0", "shop/cart", 9100, denied("shop/wl-deny-port"), id="to and from are anded"),
        pytest.param(0, "shop/web-0", "monitoring/m", 9100, Allow("shop/allow-all"), id="not from this namespace"),
        pytest.param(0, "shop/web-0", "shop/cart", 80, Allow("shop/allow-all"), id="layer 7 DENY rules never fire"),
        pytest.param(0, "backend/catalog-0", "shop/web", 8000, denied("backend/m-namespaces"), id="by namespace"),
        pytest.param(0, "backend/catalog-0", "ops/x", 8000, denied("backend/m-when"), id="by destination.ip"),
        pytest.param(1, "shop/cart-0", "shop/web", 80, NOT_ALLOWED, id="the ALLOW was narrowed"),
        pytest.param(1, "shop/cart-0", "backend/catalog", 80, Allow("shop/allow-all"), id="to another namespace"),
        pytest.param(1, "shop/cart-0", "", 80, NOT_ALLOWED, id="plaintext has no namespace"),
        pytest.param(2, "shop/cart-0", "shop/web", 80, Allow("shop/wl-allow-cart"), id="a workload's own ALLOW"),
        pytest.param(2, "shop/web-0", "shop/web", 80, NOT_ALLOWED, id="is not its neighbour's"),
        pytest.param(2, "shop/web-0", "backend/catalog", 9100, denied("shop/wl-deny-port"), id="before removal"),
        pytest.param(3, "shop/web-0", "backend/catalog", 9100, Allow("shop/l7-allow-mixed"), id="after removal"),
        pytest.param(3, "shop/cart-0", "quarantine/x", 80, denied("istio-system/mesh-deny-probe"), id="still there"),
        pytest.param(4, "shop/cart-0", "quarantine/x", 80, NOT_ALLOWED, id="the mesh's DENY is gone"),
        pytest.param(5, "shop/cart-0", "shop/web", 80, NOT_ALLOWED, id="the selector moved away"),
    ],
)
def test_authorization_policies(step: int, pod: str, source: str, port: int, expected: Verdict, replay: Replay) -> None:
    found = verdict(replay("authz", step), pod, source, port)
    if isinstance(expected, Allow):  # which of several ALLOW policies is named depends on their order
        assert isinstance(found, Allow)
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("source_ip", "is_denied"),
    [("10.99.0.1", True), ("10.20.77.1", True), ("2001:db8::1", True), ("10.99.9.1", False), ("10.98.0.1", False)],
)
def test_blocks_that_came_unmasked(source_ip: str, *, is_denied: bool, replay: Replay) -> None:
    mesh = replay("authz", 0)
    # Alone, because the others of this namespace would decide too.
    workload = Workload(uid="x", name="x", namespace="nowhere", policies=("backend/m-ip-blocks",))
    facts = ConnectionFacts(Identity("cluster.local", "ops", "x"), Ip(source_ip), Ip("10.20.1.20"), 8000)
    assert evaluate_for(mesh, workload, facts) == (denied("backend/m-ip-blocks") if is_denied else Allow(None))
