# SPDX-License-Identifier: Apache-2.0
"""VirtualService and DestinationRule: what is read, what is refused with its line, and what layer 4 leaves out."""

import pytest

from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import (
    DestinationRule,
    MeshConfig,
    OutboundMode,
    RouteDestination,
    Sidecar,
    VirtualService,
    WrittenRoute,
)
from nodeagent.model.address import Cidr
from nodeagent.model.traffic import EgressHosts, Subset, TcpMatch
from tests.unit.controlplane.served import Read

ROUTED = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db, namespace: shop}
spec:
  hosts: [db]
  gateways: [mesh, public]
  tcp:
  - match:
    - {port: 5432, sourceNamespace: shop, sourceLabels: {app: web}, destinationSubnets: [10.9.0.0/16], gateways: [mesh]}
    route:
    - {destination: {host: db, subset: v1, port: {number: 5433}}, weight: 90}
    - {destination: {host: canary.shop.svc.cluster.local}, weight: 10}
  - route: [{destination: {host: db}}]
"""
NAMED = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: out, namespace: shop}
spec:
  hosts: [a.example.com, '*.b.example.com']
  tls:
  - match: [{port: 443, sniHosts: [A.example.com, '*.b.example.com'], sourceLabels: {app: web}, gateways: [mesh]}]
    route: [{destination: {host: a.example.com, subset: v1}}]
  - match: [{sniHosts: [c.b.example.com]}]
    route: [{destination: {host: gate}}]
"""
RULE = """
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: db, namespace: shop}
spec:
  host: db
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: all}
"""
SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: istio-system}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
"""


def test_tcp_routes_are_read(read: Read) -> None:
    (found,), findings = read(ROUTED)
    assert isinstance(found, VirtualService)
    assert findings == []
    assert (found.hosts, found.is_for_mesh) == (("db",), True)
    match = TcpMatch(
        destination_blocks=(Cidr.parse("10.9.0.0/16"),),
        port=5432,
        source_namespace="shop",
        source_labels={"app": "web"},
    )
    assert found.routes == (
        WrittenRoute(
            matches=(match,),
            destinations=(
                RouteDestination(host="db", weight=90, port=5433, subset="v1"),
                RouteDestination(host="canary.shop.svc.cluster.local", weight=10),
            ),
        ),
        WrittenRoute(destinations=(RouteDestination(host="db"),)),
    )


def test_tls_routes_are_read(read: Read) -> None:
    (found,), findings = read(NAMED)
    assert isinstance(found, VirtualService)
    assert findings == []
    names = ("a.example.com", "*.b.example.com")
    assert found.routes == ()
    assert found.tls_routes == (
        WrittenRoute(
            matches=(TcpMatch(port=443, source_labels={"app": "web"}, server_names=names),),
            destinations=(RouteDestination(host="a.example.com", subset="v1"),),
        ),
        WrittenRoute(
            matches=(TcpMatch(server_names=("c.b.example.com",)),), destinations=(RouteDestination(host="gate"),)
        ),
    )


def described(finding: Finding) -> str:
    return f"{finding.field}: {finding.message}"


def test_subsets_are_read(read: Read) -> None:
    (found,), findings = read(RULE)
    assert isinstance(found, DestinationRule)
    assert findings == []
    assert (found.host, found.subsets) == ("db", (Subset("v1", {"version": "v1"}), Subset("all")))


def test_a_match_for_gateways_only_is_never_met(read: Read) -> None:
    (found,), _ = read(ROUTED.replace("gateways: [mesh]}", "gateways: [public]}"))
    assert isinstance(found, VirtualService)
    assert found.routes[0] == WrittenRoute(), "not one that matches everything"


def test_what_is_for_gateways_only_is_not_for_the_mesh(read: Read) -> None:
    (found,), findings = read(ROUTED.replace("[mesh, public]", "[public]") + "  http: []\n")
    assert isinstance(found, VirtualService)
    assert not found.is_for_mesh
    assert findings == []


@pytest.mark.parametrize(
    ("text", "old", "new", "line", "words"),
    [
        (ROUTED, "hosts: [db]", "hosts: []", 6, "spec.hosts: at least one is needed"),
        (ROUTED, "hosts: [db]", "hosts: [d_b]", 6, "spec.hosts[0]: 'd_b' is not a host"),
        (ROUTED, "port: 5432", "port: 0", 10, "spec.tcp[0].match[0].port: '0' is not a port"),
        (ROUTED, "10.9.0.0/16", "10.9.0.0/33", 10, "destinationSubnets[0]: '10.9.0.0/33' is not an address or CIDR"),
        (ROUTED, "sourceNamespace", "sourceNamespaces", 10, "match[0].sourceNamespaces: there is no such field"),
        (ROUTED, "weight: 90", "weight: -1", 12, "route[0].weight: '-1' is not a whole number from 0 to 4294967295"),
        (ROUTED, "weight: 90", "weight: many", 12, "route[0].weight: 'many' is not a whole number"),
        (ROUTED, "host: db, subset", "hosts: db, subset", 12, "destination.hosts: there is no such field"),
        (ROUTED, "{number: 5433}", "{numbers: 5433}", 12, "port.numbers: there is no such field"),
        (ROUTED, "[{destination: {host: db}}]", "[]", 14, "spec.tcp[1].route: at least one destination is needed"),
        (ROUTED, "[{destination: {host: db}}]", "[{weight: 1}]", 14, "route[0].destination: is missing"),
        (ROUTED, "weight: 90}", "weight: 0}", 0, ""),
        (NAMED, "[c.b.example.com]", "[]", 10, "spec.tls[1].match[0].sniHosts: at least one is needed"),
        (NAMED, "[c.b.example.com]", "[c.example.com]", 10, "match[0].sniHosts[0]: c.example.com is none of the"),
        (NAMED, "[c.b.example.com]", "['*']", 10, "match[0].sniHosts[0]: * is none of the"),
        (NAMED, "[c.b.example.com]", "['x*.b.example.com']", 10, "'x*.b.example.com' is not a server name"),
        (NAMED, "sniHosts: [c", "sniHost: [c", 10, "match[0].sniHost: there is no such field"),
        (NAMED, "match: [{sniHosts: [c.b.example.com]}]", "match: []", 10, "spec.tls[1].match: at least one is needed"),
        (RULE, "host: db", "hots: db", 6, "spec.hots: there is no such field"),
        (RULE, "name: all", "name: v1", 7, "spec.subsets: 'v1' is defined twice"),
        (RULE, "name: all", "name: ''", 9, "spec.subsets[1].name: '' is no name of a subset"),
        (SIDECAR, "REGISTRY_ONLY", "NOBODY", 6, "spec.outboundTrafficPolicy.mode: 'NOBODY' is not one of"),
        (SIDECAR, "mode", "modus", 6, "spec.outboundTrafficPolicy.modus: there is no such field"),
        (RULE, "version: v1", "version: 1", 8, "spec.subsets[0].labels.version: a text is expected"),
    ],
)
def test_a_mistake_is_refused_with_its_line(read: Read, text: str, old: str, new: str, line: int, words: str) -> None:
    found, findings = read(text.replace(old, new, 1))
    if not words:
        assert len(found) == 1
        return
    assert found == []
    assert (line, True) in {(finding.line, finding.is_rejected) for finding in findings if words in described(finding)}


def test_weights_that_add_up_to_nothing_are_refused(read: Read) -> None:
    found, findings = read(ROUTED.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 0"))
    assert found == []
    assert [finding.message for finding in findings] == ["the weights add up to 0"]


@pytest.mark.parametrize(
    ("written", "mode"),
    [
        ("{mode: REGISTRY_ONLY}", OutboundMode.REGISTRY_ONLY),
        ("{mode: ALLOW_ANY}", OutboundMode.ALLOW_ANY),
        ("{}", OutboundMode.REGISTRY_ONLY),
    ],
)
def test_an_outbound_policy_is_read(read: Read, written: str, mode: OutboundMode) -> None:
    policy = f"outboundTrafficPolicy: {written}"
    (sidecar, mesh), findings = read(
        SIDECAR.replace("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", policy) + f"---\nkind: MeshConfig\n{policy}\n"
    )
    assert isinstance(sidecar, Sidecar)
    assert isinstance(mesh, MeshConfig)
    assert (sidecar.outbound, mesh.outbound, findings) == (mode, mode, [])


def test_without_an_outbound_policy_everything_may_be_reached(read: Read) -> None:
    (mesh,), _ = read("kind: MeshConfig\n")
    assert isinstance(mesh, MeshConfig)
    assert mesh.outbound is OutboundMode.ALLOW_ANY


@pytest.mark.parametrize("kind", ["VirtualService", "DestinationRule"])
def test_an_object_without_a_spec_is_refused(read: Read, kind: str) -> None:
    found, findings = read(
        f"apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\n"
    )
    assert found == []
    assert findings[0].is_rejected


def test_what_a_sidecar_shows_is_read(read: Read) -> None:
    (found,), findings = read(
        SIDECAR
        + "  workloadSelector: {labels: {app: web}}\n"
        + "  egress: [{hosts: ['./*', istio-system/*.a, '*/b.c']}, "
        + "{port: {number: 80, name: http, protocol: HTTP}, captureMode: IPTABLES, hosts: ['~/*']}]\n"
    )
    assert isinstance(found, Sidecar)
    assert findings == []
    assert found.labels == {"app": "web"}
    assert found.egress == (EgressHosts(("./*", "istio-system/*.a", "*/b.c")), EgressHosts(("~/*",), 80))


@pytest.mark.parametrize(
    ("egress", "words"),
    [
        ("[{}]", "spec.egress[0].hosts: at least one is needed"),
        ("[{hosts: ['*']}]", "spec.egress[0].hosts[0]: '*' is not namespace/host"),
        ("[{hosts: [a*/b]}]", "'a*/b' is not namespace/host"),
        ("[{hosts: [a/b*]}]", "'b*' is not a host"),
        ("[{hosts: [a/]}]", "'' is not a host"),
        ("[{hosts: [a/b], port: {}}]", "port.number: a number is needed"),
        ("[{hosts: [a/b], prot: {}}]", "prot: there is no such field"),
        ("[{hosts: [a/b], captureMode: SOME}]", "captureMode: 'SOME' is not one of"),
        ("[{hosts: [a/b]}, {hosts: [a/c]}]", "spec.egress: two listeners have no port"),
        (
            "[{hosts: [a/b], port: {number: 1}}, {hosts: [a/c], port: {number: 1}}]",
            "spec.egress: two listeners have the port 1",
        ),
    ],
)
def test_a_mistake_in_what_a_sidecar_shows_is_refused(read: Read, egress: str, words: str) -> None:
    found, findings = read(SIDECAR + f"  egress: {egress}\n")
    assert found == []
    assert any(words in described(finding) for finding in findings), findings


def test_a_listener_to_which_no_captured_connection_comes_is_told_and_shows_nothing(read: Read) -> None:
    for more, name in (("bind: 127.0.0.1", "bind"), ("captureMode: NONE", "captureMode")):
        (found,), (finding,) = read(SIDECAR + f"  egress: [{{hosts: [a/b], {more}}}, {{hosts: [a/c]}}]\n")
        assert isinstance(found, Sidecar)
        assert (found.egress, finding.code) == ((EgressHosts(("a/c",)),), "MN0301")
        assert f"spec.egress[0].{name}: not applied" in described(finding)


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        (ROUTED, "  http: [{route: []}]\n", "spec.http: not applied"),
        (ROUTED, "  exportTo: ['.']\n", "spec.exportTo: not applied"),
        (RULE, "  exportTo: ['.']\n", "spec.exportTo: not applied"),
        (SIDECAR, "  ingress: [{port: {number: 80}}]\n", "spec.ingress: not applied"),
        (SIDECAR, "  inboundConnectionPool: {}\n", "spec.inboundConnectionPool: not applied"),
        (RULE, "  workloadSelector: {matchLabels: {app: web}}\n", "spec.workloadSelector: not applied"),
    ],
)
def test_what_layer_4_leaves_out_is_told(read: Read, text: str, more: str, words: str) -> None:
    found, (finding,) = read(text + more)
    assert len(found) == 1
    assert (finding.code, finding.is_rejected) == ("MN0301", False)
    assert words in described(finding)
