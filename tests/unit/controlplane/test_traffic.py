# SPDX-License-Identifier: Apache-2.0
"""Routes and subsets as agents are told them: which objects count, which Service a host means, which labels go out."""

import msgspec
import pytest

from nodeagent.controlplane.delta import DeltaStream
from nodeagent.controlplane.snapshot import ADDRESS, EXTENSION, Snapshot, advance
from nodeagent.controlplane.traffic import analyze_traffic, translate_traffic
from nodeagent.controlplane.translate import mesh_config, translate
from nodeagent.model.security import PolicyOrigin
from nodeagent.model.traffic import (
    ClientScope,
    ClientScopes,
    Destination,
    Distribution,
    EgressHosts,
    Extension,
    LocalityBalancing,
    MeshTraffic,
    PortPolicy,
    ServiceTraffic,
    Subset,
    TcpMatch,
    TcpRoute,
    TrafficPolicy,
    WorkloadLabels,
    WorkloadLimits,
)
from nodeagent.model.workload import BalancingMode, LoadBalancing, Scope, Service
from nodeagent.proto import xds_pb2
from tests.unit.controlplane.served import Read

DB, WEB = "shop/db.shop.svc.cluster.local", "shop/web.shop.svc.cluster.local"
OFFICE = "office/db.office.svc.cluster.local"
OUTSIDE = "office/db.example.com"
SERVICES = {
    key: Service(name=key, namespace=key.partition("/")[0], hostname=key.partition("/")[2])
    for key in (DB, WEB, OFFICE, OUTSIDE)
}
LABELS = {"u1": {"app": "db", "version": "v1"}, "u2": {"app": "db", "version": "v2", "x": "y"}, "u3": {"app": "web"}}


def virtual(spec: str, name: str = "db", namespace: str = "shop", created: str = "") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}
spec: {spec}
"""


def rule(spec: str, name: str = "db", namespace: str = "shop", created: str = "") -> str:
    return virtual(spec, name, namespace, created).replace("VirtualService", "DestinationRule")


def translated(read: Read, text: str) -> dict[str, Extension]:
    objects, findings = read(text)
    assert not findings
    return translate_traffic(objects, LABELS, dict.fromkeys(LABELS, "shop"), SERVICES, mesh_config(objects))


def told(read: Read, text: str) -> list[tuple[str, str]]:
    objects, _ = read(text)
    return [(finding.code, finding.message) for finding in analyze_traffic(objects, SERVICES, mesh_config(objects))]


def test_nothing_written_is_nothing_said_but_where_policies_stand(read: Read, mesh: str) -> None:
    objects, _ = read(mesh)
    (origin,) = translate(objects).extensions.values()
    assert origin == PolicyOrigin(policy="shop/db", file="mesh.d/a.yaml", line=23)


def test_routes_with_subsets_and_the_labels_they_ask_for(read: Read) -> None:
    text = virtual(
        "{hosts: [db], tcp: [{match: [{sourceLabels: {app: web}}], "
        "route: [{destination: {host: db, subset: v1}, weight: 3}, {destination: {host: web}, weight: 1}]}]}"
    ) + rule("{host: db.shop.svc.cluster.local, subsets: [{name: v1, labels: {version: v1}}]}")
    routes = (
        TcpRoute(
            (Destination(service=DB, weight=3, subset="v1"), Destination(service=WEB, weight=1)),
            (TcpMatch(source_labels={"app": "web"}),),
        ),
    )
    assert translated(read, text) == {
        f"service/{DB}": ServiceTraffic(service=DB, routes=routes, subsets=(Subset("v1", {"version": "v1"}),)),
        "workload/u1": WorkloadLabels(uid="u1", labels={"version": "v1"}),
        "workload/u3": WorkloadLabels(uid="u3", labels={"app": "web"}),
    }
    assert told(read, text) == []


def test_a_single_destination_gets_everything_and_one_of_weight_0_nothing(read: Read) -> None:
    alone = virtual("{hosts: [db], tcp: [{route: [{destination: {host: db}, weight: 0}]}]}")
    both = virtual("{hosts: [db], tcp: [{route: [{destination: {host: db}}, {destination: {host: web}, weight: 7}]}]}")
    for text, destination in ((alone, Destination(service=DB, weight=1)), (both, Destination(service=WEB, weight=7))):
        assert translated(read, text) == {
            f"service/{DB}": ServiceTraffic(service=DB, routes=(TcpRoute((destination,)),))
        }


def test_tls_routes_stand_beside_tcp_routes_and_ask_for_labels_as_they_do(read: Read) -> None:
    text = virtual(
        "{hosts: [db], tls: [{match: [{sniHosts: [db], sourceLabels: {app: web}}], "
        "route: [{destination: {host: web}}]}], tcp: [{route: [{destination: {host: db}}]}]}"
    )
    match = TcpMatch(server_names=("db",), source_labels={"app": "web"})
    assert translated(read, text) == {
        f"service/{DB}": ServiceTraffic(
            service=DB,
            routes=(TcpRoute((Destination(service=DB, weight=1),)),),
            tls_routes=(TcpRoute((Destination(service=WEB, weight=1),), (match,)),),
        ),
        "workload/u3": WorkloadLabels(uid="u3", labels={"app": "web"}),
    }
    nowhere = text.replace("{host: web}", "{host: gone}")
    assert told(read, nowhere) == [("MN0303", "destination 'gone' is no Service")]


def test_a_wildcard_is_a_host_if_it_is_just_what_a_service_of_the_namespace_is_called(read: Read) -> None:
    text = virtual("{hosts: ['*.example.com'], tcp: [{route: [{destination: {host: '*.example.com'}}]}]}")
    objects, _ = read(text)
    wild = "shop/*.example.com"
    for key, expected in ((wild, {f"service/{wild}"}), ("office/*.example.com", set())):
        found = translate_traffic(objects, {}, {}, {key: SERVICES[DB]}, mesh_config(objects))
        assert found.keys() == expected


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("db", DB),
        ("db.shop.svc.cluster.local", DB),
        ("db.office.svc.cluster.local", OFFICE),
        ("db.example.com", OUTSIDE),
        ("new.example.com", "shop/new.example.com"),
        ("gone", "shop/gone.shop.svc.cluster.local"),
    ],
)
def test_which_service_a_destination_means(read: Read, host: str, key: str) -> None:
    (found,) = translated(
        read, virtual(f"{{hosts: [db], tcp: [{{route: [{{destination: {{host: {host}}}}}]}}]}}")
    ).values()
    assert isinstance(found, ServiceTraffic)
    assert found.routes[0].destinations[0].service == key


@pytest.mark.parametrize(
    ("host", "code"),
    [("db.office.svc.cluster.local", "MN0302"), ("'*'", "MN0301"), ("'*.shop.svc.cluster.local'", "MN0301")],
)
def test_hosts_of_others_and_patterns_are_not_routed(read: Read, host: str, code: str) -> None:
    text = virtual(f"{{hosts: [{host}], tcp: [{{route: [{{destination: {{host: db}}}}]}}]}}")
    assert translated(read, text) == {}
    assert [found for found, _ in told(read, text)] == [code]


def test_the_oldest_route_of_a_host_counts(read: Read) -> None:
    young, old = (
        virtual(f"{{hosts: [db], tcp: [{{route: [{{destination: {{host: {host}}}}}]}}]}}", name, created=created)
        for host, name, created in (("web", "a", "2026-02-01T00:00:00Z"), ("db", "b", "2026-01-01T00:00:00Z"))
    )
    assert translated(read, young + old) == translated(read, old)
    assert told(read, young + old) == [("MN0217", "not in force for db: an older one routes it")]


def test_subsets_of_one_namespace_are_merged_and_go_before_those_of_the_root(read: Read) -> None:
    own = rule("{host: db, subsets: [{name: v1, labels: {version: v1}}]}", "a", created="2026-01-01T00:00:00Z")
    more = rule("{host: db, subsets: [{name: v1, labels: {version: v9}}, {name: v2, labels: {version: v2}}]}", "b")
    root = rule("{host: db.shop.svc.cluster.local, subsets: [{name: v3, labels: {version: v3}}]}", "c", "istio-system")
    other = rule("{host: db.shop.svc.cluster.local, subsets: [{name: v4, labels: {version: v4}}]}", "d", "office")

    def names(text: str) -> dict[str, dict[str, str]]:
        found = translated(read, text).get(f"service/{DB}")
        return {subset.name: subset.labels for subset in found.subsets} if isinstance(found, ServiceTraffic) else {}

    assert names(own + more + root + other) == {"v1": {"version": "v1"}, "v2": {"version": "v2"}}
    assert names(root + own) == {"v1": {"version": "v1"}}
    assert names(root) == {"v3": {"version": "v3"}}
    assert names(other) == {}
    assert [code for code, _ in told(read, other)] == ["MN0302"]


def test_the_policy_of_the_oldest_rule_that_has_one(read: Read) -> None:
    def policy(most: int, name: str, created: str, subsets: str = "[]") -> str:
        pool = f"{{connectionPool: {{tcp: {{maxConnections: {most}}}}}}}"
        return rule(f"{{host: db, trafficPolicy: {pool}, subsets: {subsets}}}", name, created=created)

    old, young = policy(5, "b", "2026-01-01T00:00:00Z"), policy(9, "a", "2026-02-01T00:00:00Z", "[{name: all}]")
    assert translated(read, young + old) == {
        f"service/{DB}": ServiceTraffic(
            service=DB, subsets=(Subset("all"),), policies=(PortPolicy(0, TrafficPolicy(max_connections=5)),)
        )
    }
    empty = rule("{host: db}", "c", created="2025-01-01T00:00:00Z")
    assert translated(read, empty) == {}
    assert translated(read, empty + old) == translated(read, old)


def locality(setting: str, *, outlier: bool = True, host: str = "db") -> str:
    counted = ", outlierDetection: {}" if outlier else ""
    return rule(f"{{host: {host}, trafficPolicy: {{loadBalancer: {{localityLbSetting: {setting}}}{counted}}}}}")


def localities(read: Read, text: str, services: dict[str, Service] = SERVICES) -> dict[str, LocalityBalancing | None]:
    """By Service: of its first policy."""
    objects, _ = read(text)
    found = translate_traffic(objects, LABELS, dict.fromkeys(LABELS, "shop"), services, mesh_config(objects))
    traffics = (one for one in found.values() if isinstance(one, ServiceTraffic))
    return {one.service: one.policies[0].policy.locality for one in traffics}


FAR = LocalityBalancing(failover=(("a", "b"),))
SPLIT = LocalityBalancing(distributions=(Distribution("*", (("a", 70), ("b", 30))),))
FAILOVER = "{failover: [{from: a, to: b}]}"
DISTRIBUTE = "{distribute: [{from: '*', to: {b: 30, a: 70}}]}"


@pytest.mark.parametrize(
    ("of_mesh", "of_rule", "expected"),
    [
        pytest.param("", locality(FAILOVER), {DB: FAR}, id="a rule's"),
        pytest.param("", locality(DISTRIBUTE, outlier=False), {DB: SPLIT}, id="to distribute needs no outliers"),
        pytest.param(FAILOVER, "", {}, id="the mesh's alone, without outliers"),
        pytest.param(FAILOVER, rule("{host: db, trafficPolicy: {outlierDetection: {}}}"), {DB: FAR}, id="the mesh's"),
        pytest.param(
            FAILOVER, rule("{host: db, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}"), {DB: None},
            id="the mesh's, and a rule without outliers",
        ),
        pytest.param("{enabled: true}", locality("{enabled: false}"), {DB: None}, id="a rule turns it off"),
        pytest.param("{enabled: true}", locality("{enabled: false}", outlier=False), {}, id="and says nothing else"),
        pytest.param(DISTRIBUTE, locality(FAILOVER), {DB: FAR, WEB: SPLIT, OFFICE: SPLIT, OUTSIDE: SPLIT}, id="both"),
        pytest.param(DISTRIBUTE.replace("{", "{enabled: false, ", 1), "", {}, id="turned off"),
        pytest.param("", locality("{}"), {DB: LocalityBalancing()}, id="without a field"),
    ],
)  # fmt: skip
def test_which_locality_setting_counts(
    read: Read, of_mesh: str, of_rule: str, expected: dict[str, LocalityBalancing | None]
) -> None:
    mesh = f"---\nkind: MeshConfig\nlocalityLbSetting: {of_mesh}\n" if of_mesh else ""
    assert localities(read, of_rule + mesh) == expected


def test_a_services_own_preference_goes_before_the_meshs(read: Read) -> None:
    near = msgspec.structs.replace(SERVICES[DB], balancing=LoadBalancing(BalancingMode.FAILOVER, (Scope.ZONE,)))
    mesh = f"---\nkind: MeshConfig\nlocalityLbSetting: {DISTRIBUTE}\n"
    assert localities(read, mesh, {DB: near, WEB: SERVICES[WEB]}) == {WEB: SPLIT}
    assert localities(read, mesh + locality(FAILOVER), {DB: near}) == {DB: FAR}


def test_of_labels_that_are_compared_every_value_goes_out(read: Read) -> None:
    found = translated(read, locality("{failoverPriority: [version, x=y, topology.kubernetes.io/region]}"))
    assert [extension for extension in found.values() if isinstance(extension, WorkloadLabels)] == [
        WorkloadLabels(uid="u1", labels={"version": "v1"}),
        WorkloadLabels(uid="u2", labels={"version": "v2", "x": "y"}),
    ]


def test_a_route_that_leads_nowhere_is_told_and_kept_so_that_agents_refuse(read: Read) -> None:
    text = virtual(
        "{hosts: [db], tcp: [{route: [{destination: {host: gone}}]}, {route: [{destination: {host: db, subset: v1}}]}]}"
    )
    assert told(read, text) == [
        ("MN0303", "destination 'gone' is no Service"),
        ("MN0303", f"{DB} has no subset 'v1'"),
    ]
    assert f"service/{DB}" in translated(read, text)


SIDECAR = """
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: %s, namespace: %s, creationTimestamp: '%s'}
spec: {outboundTrafficPolicy: {mode: %s}}
"""
RESTRICTED = "---\nkind: MeshConfig\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"
OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "is_registry_only"),
    [
        pytest.param(RESTRICTED, True, id="MeshConfig"),
        pytest.param(RESTRICTED.replace("REGISTRY_ONLY", "ALLOW_ANY"), False, id="said and off"),
        pytest.param(SIDECAR % ("a", "istio-system", OLD, "REGISTRY_ONLY"), True, id="a Sidecar of the root namespace"),
        pytest.param(RESTRICTED + SIDECAR % ("a", "istio-system", OLD, "ALLOW_ANY"), False, id="it goes first"),
        pytest.param(
            SIDECAR % ("a", "istio-system", YOUNG, "ALLOW_ANY") + SIDECAR % ("b", "istio-system", OLD, "REGISTRY_ONLY"),
            True,
            id="the oldest",
        ),
    ],
)
def test_only_what_is_registered_for_the_whole_mesh_or_not_at_all(
    read: Read, text: str, *, is_registry_only: bool
) -> None:
    found = {"mesh": MeshTraffic(is_registry_only=True)} if is_registry_only else {}
    assert translated(read, text) == found


def test_what_a_sidecar_shows_is_told_with_the_labels_that_it_asks_for_of_its_own_namespace(read: Read) -> None:
    selecting = (SIDECAR % ("a", "shop", OLD, "REGISTRY_ONLY")).replace(
        "spec: {", "spec: {workloadSelector: {labels: {app: web}}, egress: [{hosts: ['./*']}], "
    )
    scope = ClientScope(name="shop/a", labels={"app": "web"}, egress=(EgressHosts(("./*",)),), is_registry_only=True)
    assert translated(read, selecting) == {
        "clients/shop": ClientScopes(namespace="shop", scopes=(scope,)),
        "workload/u3": WorkloadLabels(uid="u3", labels={"app": "web"}),
    }
    assert told(read, selecting) == []
    assert translated(read, selecting.replace("namespace: shop", "namespace: office")).keys() == {"clients/office"}


def limit(spec: str, name: str, namespace: str = "shop", created: str = "") -> str:
    return f"""
---
apiVersion: nodeagent/v1
kind: ConnectionLimit
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}
spec: {spec}
"""


def test_a_workload_has_the_limit_that_selects_it_else_the_namespaces(read: Read) -> None:
    text = (
        limit("{perSource: {concurrent: 1}}", "a", created=OLD)
        + limit("{perSource: {concurrent: 2}, selector: {matchLabels: {app: db}}}", "b", created=YOUNG)
        + limit("{perSource: {concurrent: 3}, selector: {matchLabels: {version: v1}}}", "c", created=OLD)
        + limit("{perSource: {connectionsPerSecond: 4}}", "d", namespace="office")
    )
    found = translated(read, text)
    assert found == {
        f"limits/u{n}": WorkloadLimits(uid=f"u{n}", concurrent=most) for n, most in ((1, 3), (2, 2), (3, 1))
    }


# ---- on the wire ---------------------------------------------------------------------------------------------------


def subscribe(stream: DeltaStream, *urls: str) -> None:
    for url in urls:
        stream.received(xds_pb2.DeltaDiscoveryRequest(type_url=url))


def test_extensions_are_sent_before_what_they_are_about_and_removed_after_it(read: Read, mesh: str) -> None:
    objects, _ = read(mesh)
    plain, _ = advance(Snapshot(), translate(objects))
    routed = rule("{host: db, subsets: [{name: a, labels: {app: db}}]}")
    extended, difference = advance(plain, translate(read(mesh + routed.replace("app: db}", "app: db}"))[0]))
    assert (difference.extensions, str(difference)) == (2, "2 extensions")

    stream = DeltaStream("node-a")
    subscribe(stream, ADDRESS, EXTENSION)
    first = stream.due(extended, 0.0)
    assert [response.type_url for response in first] == [EXTENSION, ADDRESS]
    assert [resource.name for resource in first[0].resources] == [
        "origin/shop/db",
        "service/shop/db.shop.svc.cluster.local",
        "workload/Kubernetes//Pod/shop/db-0",
    ]
    gone = stream.due(advance(extended, translate([*objects[:-2]]))[0], 0.0)
    assert [response.type_url for response in gone] == [ADDRESS, EXTENSION]
    assert len(gone[1].removed_resources) == 3


def test_who_does_not_ask_is_told_nothing(read: Read, mesh: str) -> None:
    snapshot, _ = advance(Snapshot(), translate(read(mesh + rule("{host: db, subsets: [{name: a}]}"))[0]))
    stream = DeltaStream("node-a")
    subscribe(stream, ADDRESS)
    assert [response.type_url for response in stream.due(snapshot, 0.0)] == [ADDRESS]
