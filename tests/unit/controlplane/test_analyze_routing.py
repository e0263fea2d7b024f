# SPDX-License-Identifier: Apache-2.0
"""Routing objects and what they name: nothing is said of what is right; the faults are planted in tests/data/bad."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.review import review
from nodeagent.controlplane.translate import translate

MESH = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web, version: v1}},
 status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop},
 spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: tcp, port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: out, namespace: shop},
 spec: {hosts: ['*.example.com', api.example.org], addresses: [192.0.2.1], resolution: STATIC,
        ports: [{number: 443, name: tls, protocol: TLS}]}}
"""
Codes = Callable[[str], set[str]]


@pytest.fixture
def codes() -> Codes:
    """What is said beside the mesh, but that kinds are not used."""

    def find(more: str) -> set[str]:
        catalog = admit(Catalog(), {"a.yaml": Content("mesh.d/a.yaml", f"{MESH}---\n{more}")})
        return {finding.code for finding in review(catalog, catalog.values, translate(catalog.values))} - {"MN0006"}

    return find


def written(kind: str, spec: str, name: str = "a") -> str:
    metadata = f"{{name: {name}, namespace: shop}}"
    return f"apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n"


def route(destination: str, rest: str = "") -> str:
    return written("VirtualService", f"{{hosts: [web], tcp: [{{{rest}route: [{{destination: {destination}}}]}}]}}")


RULE = written("DestinationRule", "{host: web, subsets: [{name: v1, labels: {version: v1}}]}")


@pytest.mark.parametrize(
    "more",
    [
        "",
        route("{host: web}"),
        route("{host: web.shop.svc.cluster.local, port: {number: 80}}"),
        route("{host: api.example.org}"),
        route("{host: web}", "match: [{port: 80}], "),
        RULE,
        f"{RULE}---\n" + route("{host: web, subset: v1}"),
        written("DestinationRule", "{host: api.example.org, subsets: [{name: x, labels: {a: b}}]}"),
        written("Sidecar", "{workloadSelector: {labels: {app: web}}, egress: [{hosts: ['./*']}]}"),
        written("VirtualService", "{hosts: [web], gateways: [mesh, elsewhere], tcp: []}"),
    ],
)
def test_nothing_to_say(codes: Codes, more: str) -> None:
    assert codes(more) == set()


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (route("{host: example.com}"), "IST0101"),
        (route("{host: any.example.com}"), "MN0303"),
        (written("DestinationRule", "{host: '*.example.net'}"), "MN0301"),
        (written("Sidecar", "{ingress: [{port: {number: 80}}]}"), "MN0301"),
        (route("{host: api.example.org, port: {number: 80}}"), "IST0101"),
        (route("{host: web, subset: v1}"), "IST0101"),
        (
            written("Gateway", "{servers: []}", "ours")
            + "---\n"
            + written("VirtualService", "{hosts: [web], gateways: [theirs]}"),
            "IST0101",
        ),
        (
            written(
                "VirtualService",
                "{hosts: [web], tls: [{match: [{sniHosts: [web]}], route: [{destination: {host: web}}]}, "
                "{match: [{sniHosts: [web]}], route: [{destination: {host: web}}]}]}",
            ),
            "IST0130",
        ),
        (written("Sidecar", "{workloadSelector: {labels: {app: nobody}}}"), "IST0101"),
        (
            written(
                "ServiceEntry",
                "{hosts: [a.example], resolution: DNS, ports: [{number: 1, protocol: TCP}]}",
            ).replace(
                "namespace: shop}", "namespace: shop, labels: {networking.istio.io/enable-autoallocate-ip: 'false'}}"
            ),
            "IST0134",
        ),
    ],
)
def test_something_to_say(codes: Codes, more: str, code: str) -> None:
    assert code in codes(more)


CONDITIONS = "conditions: [{type: %s, status: '%s', reason: %s}]"


@pytest.mark.parametrize(
    ("kind", "status", "is_told"),
    [
        ("WorkloadEntry", CONDITIONS % ("istio.io/WaypointBound", "False", "x"), True),
        ("WorkloadEntry", CONDITIONS % ("istio.io/WaypointBound", "True", "x"), False),
        ("AuthorizationPolicy", CONDITIONS % ("ZtunnelAccepted", "False", "UnsupportedValue"), True),
        ("AuthorizationPolicy", CONDITIONS % ("WaypointAccepted", "True", "PartiallyInvalid"), True),
        ("AuthorizationPolicy", CONDITIONS % ("WaypointAccepted", "True", "Accepted"), False),
        ("AuthorizationPolicy", CONDITIONS % ("Accepted", "False", "x"), False),
        ("HTTPRoute", f"parents: [{{}}, {{{CONDITIONS % ('ResolvedRefs', 'False', 'x')}}}]", True),
        ("GRPCRoute", f"parents: [{{{CONDITIONS % ('Accepted', 'False', 'x')}}}]", True),
        ("HTTPRoute", f"parents: [{{{CONDITIONS % ('Accepted', 'True', 'x')}}}]", False),
    ],
)
def test_what_the_cluster_says_of_an_object(codes: Codes, kind: str, status: str, *, is_told: bool) -> None:
    spec = "{address: 10.0.0.7}" if kind == "WorkloadEntry" else "{}"
    group = "security.istio.io/v1" if kind == "AuthorizationPolicy" else "gateway.networking.k8s.io/v1"
    group = "networking.istio.io/v1" if kind == "WorkloadEntry" else group
    text = f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n"
    assert ("IST0171" in codes(f"{text}status: {{{status}}}\n")) is is_told
    assert "IST0171" not in codes(text)


@pytest.mark.parametrize("destination", ["{host: nobody}", "{host: web, subset: v1}"])
def test_what_does_not_exist_is_told_once(codes: Codes, destination: str) -> None:
    assert codes(route(destination)) == {"IST0101"}


CAPTURED = """
{apiVersion: v1, kind: Namespace, metadata: {name: istio-system, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: istio-system, labels: {app: a}}, status: {podIP: 10.0.0.9}}
---
"""


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}", set[str]()),
        ("{egress: [{hosts: ['./*']}]}", set[str]()),
        ("{workloadSelector: {labels: {app: a}}, egress: [{hosts: ['./*']}]}", set[str]()),
        ("{workloadSelector: {labels: {app: a}}}", {"IST0167"}),
        ("{ingress: [{port: {number: 80}}]}", {"IST0167", "MN0301"}),
    ],
)
def test_a_sidecar_of_captured_pods_counts_only_for_what_they_reach(codes: Codes, spec: str, found: set[str]) -> None:
    assert codes(CAPTURED + written("Sidecar", spec).replace("shop", "istio-system")) == found


@pytest.mark.parametrize("kind", ["VirtualService", "DestinationRule", "Sidecar", "ServiceEntry", "Gateway"])
@pytest.mark.parametrize("spec", ["7", "[]", "{}", "{hosts: 7, tcp: [7], subsets: {}, ports: [{number: x}]}", ""])
def test_what_is_no_such_object_breaks_nothing(codes: Codes, kind: str, spec: str) -> None:
    codes(written(kind, spec))
