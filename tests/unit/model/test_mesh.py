# SPDX-License-Identifier: Apache-2.0
"""The mesh: what is found after changes in any order, and what is left when everything is removed."""

import random
from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.mesh import Changes, Mesh, split
from nodeagent.model.policy import Action, Policy, PolicyScope
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.traffic import (
    ClientScope,
    ClientScopes,
    MeshTraffic,
    ServiceTraffic,
    Subset,
    WorkloadLabels,
    WorkloadLimits,
)
from nodeagent.model.workload import Service, ServicePort, TunnelProtocol, Vip, Workload

A, B, V = Ip("10.0.0.1"), Ip("fd00::2"), Ip("10.9.0.1")


def workload(
    uid: str,
    *addresses: Ip,
    services: tuple[str, ...] = (),
    policies: tuple[str, ...] = (),
    hostname: str = "",
) -> Workload:
    return Workload(
        uid=uid,
        name=uid,
        namespace="shop",
        addresses=addresses,
        services=dict.fromkeys(services, ()),
        policies=policies,
        node=f"node-{uid[0]}",
        hostname=hostname,
    )


def service(name: str, *vips: Vip, namespace: str = "shop", ports: tuple[ServicePort, ...] = ()) -> Service:
    return Service(name=name, namespace=namespace, hostname=f"{name}.example", vips=vips, ports=ports)


def policy(name: str, scope: PolicyScope, namespace: str = "shop") -> Policy:
    return Policy(name=name, namespace=namespace, scope=scope, action=Action.DENY)


def block(text: str) -> Vip:
    return Vip("", block=Cidr.parse(text))


def found(mesh: Mesh, ip: Ip = A) -> str | None:
    at = mesh.workload_at("", ip)
    return at.uid if at else None


def is_empty(mesh: Mesh) -> bool:
    """Nothing is left in any index: a mesh that forgets must not grow."""
    settings = {"generation", "_node", "_network", "_news", "_places"}
    kept = [name for name, index in vars(mesh).items() if name not in settings and index]
    return kept in ([], ["_by_scope"]) and not any(mesh._by_scope.values())


def test_a_workload_is_found_by_each_of_its_addresses_in_its_network() -> None:
    mesh = Mesh()
    mesh.apply(Changes(workloads=(workload("a", A, B),)))
    assert (found(mesh, A), found(mesh, B), found(mesh, V)) == ("a", "a", None)
    assert mesh.workload_at("other", A) is None


def test_a_changed_workload_leaves_its_old_address() -> None:
    mesh = Mesh()
    mesh.apply(Changes(workloads=(workload("a", A),)))
    mesh.apply(Changes(workloads=(workload("a", B),)))
    assert (found(mesh, A), found(mesh, B)) == (None, "a")


@pytest.mark.parametrize("together", [False, True])
def test_a_reused_address_belongs_to_the_newer_pod_in_either_order(*, together: bool) -> None:
    removed_first, added_first = Mesh(), Mesh()
    for mesh in (removed_first, added_first):
        mesh.apply(Changes(workloads=(workload("old", A),)))
    removal, arrival = Changes(removed_workloads=("old",)), Changes(workloads=(workload("new", A),))
    if together:
        both = Changes(workloads=arrival.workloads, removed_workloads=removal.removed_workloads)
        removed_first.apply(both)
        added_first.apply(both)
    else:
        removed_first.apply(removal)
        assert found(removed_first) is None
        removed_first.apply(arrival)
        added_first.apply(arrival)
        assert found(added_first) == "new"
        added_first.apply(removal)
    assert found(removed_first) == found(added_first) == "new"


def test_the_older_pod_is_found_again_when_the_newer_one_goes() -> None:
    mesh = Mesh()
    mesh.apply(Changes(workloads=(workload("old", A), workload("new", A))))
    mesh.apply(Changes(removed_workloads=("new",)))
    assert found(mesh) == "old"


def test_a_host_network_workload_is_an_endpoint_but_never_found_by_address() -> None:
    mesh = Mesh()
    shared = msgspec.structs.replace(workload("host", A, services=("shop/s",)), is_host_network=True)
    mesh.apply(Changes(workloads=(workload("pod", A), shared)))
    assert found(mesh) == "pod"
    assert [endpoint.uid for endpoint in mesh.endpoints("shop/s")] == ["host"]
    mesh.apply(Changes(removed_workloads=("host",)))
    assert found(mesh) == "pod"


def test_endpoints_may_come_before_their_service_and_stay_behind_it() -> None:
    mesh = Mesh()
    mesh.apply(Changes(workloads=(workload("a", A, services=("shop/s.example",)),)))
    mesh.apply(Changes(services=(service("s", Vip("", V)),)))
    assert [endpoint.uid for endpoint in mesh.endpoints("shop/s.example")] == ["a"]
    mesh.apply(Changes(removed_services=("shop/s.example",)))
    mesh.apply(Changes(services=(service("s", Vip("", V)),)))
    assert [endpoint.uid for endpoint in mesh.endpoints("shop/s.example")] == ["a"]
    mesh.apply(Changes(workloads=(workload("a", A),)))
    assert list(mesh.endpoints("shop/s.example")) == []


@pytest.mark.parametrize(
    ("ip", "names"),
    [
        pytest.param("10.9.0.1", ["exact"], id="the exact address before every block"),
        pytest.param("10.9.0.2", ["narrow", "narrow2"], id="the longest block, all that have it"),
        pytest.param("10.1.0.1", ["wide"], id="a wider one"),
        pytest.param("11.0.0.1", [], id="none"),
        pytest.param("fd00::1", ["six"], id="IPv6 blocks are their own"),
    ],
)
def test_services_are_found_by_address_then_by_the_longest_block(ip: str, names: list[str]) -> None:
    mesh = Mesh()
    mesh.apply(
        Changes(
            services=(
                service("wide", block("10.0.0.0/8")),
                service("narrow", block("10.9.0.0/16")),
                service("narrow2", block("10.9.0.0/16"), namespace="ops"),
                service("exact", Vip("", V)),
                service("six", block("::/0")),
            )
        )
    )
    assert [found.name for found in mesh.services_at("", Ip(ip))] == names
    assert mesh.services_at("other", Ip(ip)) == ()


def test_blocks_are_listed_with_the_length_of_their_prefix() -> None:
    mesh = Mesh()
    mesh.apply(Changes(services=(service("wide", block("10.0.0.0/8")), service("narrow", block("10.9.0.0/16")))))
    assert [(bits, found.name) for bits, found in mesh.services_at_block("", V)] == [(104, "wide"), (112, "narrow")]
    assert mesh.services_at_ip("", V) == ()


def test_a_changed_service_leaves_its_old_address_block_and_name() -> None:
    mesh = Mesh()
    mesh.apply(Changes(services=(service("s", Vip("", V), block("10.0.0.0/8")),)))
    mesh.apply(Changes(services=(service("s", Vip("", A)),)))
    assert mesh.services_at("", V) == ()
    assert [found.name for found in mesh.services_at("", A)] == ["s"]


def test_services_of_one_hostname_are_listed_across_namespaces() -> None:
    mesh = Mesh()
    mesh.apply(Changes(services=(service("s"), service("s", namespace="ops"), service("t"))))
    assert [found.namespace for found in mesh.services_named("s.example")] == ["shop", "ops"]
    mesh.apply(Changes(removed_services=("shop/s.example",)))
    assert [found.namespace for found in mesh.services_named("s.example")] == ["ops"]


def test_policies_are_found_by_scope_and_by_name() -> None:
    mesh = Mesh()
    mesh.apply(
        Changes(
            policies=(
                policy("everywhere", PolicyScope.GLOBAL, "istio-system"),
                policy("here", PolicyScope.NAMESPACE),
                policy("there", PolicyScope.NAMESPACE, "ops"),
                policy("mine", PolicyScope.WORKLOAD_SELECTOR),
                policy("strict", PolicyScope.WORKLOAD_SELECTOR, "istio-system"),
                policy("others", PolicyScope.WORKLOAD_SELECTOR),
            )
        )
    )
    names = ("shop/mine", "istio-system/strict", "shop/late", "ops/there", "shop/here")
    policies, missing = mesh.policies_for(workload("a", A, policies=names))
    # What is named applies whatever its scope, and nothing applies twice.
    assert [found.name for found in policies] == ["everywhere", "here", "mine", "strict", "there"]
    assert missing == ("shop/late",)


@pytest.mark.parametrize(
    "scopes", list(permutations([PolicyScope.GLOBAL, PolicyScope.NAMESPACE, PolicyScope.WORKLOAD_SELECTOR], 2))
)
def test_a_policy_that_changes_its_scope_leaves_the_old_one(scopes: tuple[PolicyScope, PolicyScope]) -> None:
    mesh = Mesh()
    for scope in scopes:
        mesh.apply(Changes(policies=(policy("p", scope),)))
    reached = {
        PolicyScope.GLOBAL: [["p"], ["p"]],
        PolicyScope.NAMESPACE: [["p"], []],
        PolicyScope.WORKLOAD_SELECTOR: [[], []],
    }[scopes[1]]
    stranger = msgspec.structs.replace(workload("b"), namespace="ops")
    assert [[p.name for p in mesh.policies_for(target)[0]] for target in (workload("a"), stranger)] == reached


def test_one_change_adds_policies_before_and_removes_them_after_the_workloads() -> None:
    mesh = Mesh()
    mesh.apply(Changes(policies=(policy("old", PolicyScope.WORKLOAD_SELECTOR),)))
    mesh.apply(
        Changes(
            policies=(policy("new", PolicyScope.WORKLOAD_SELECTOR),),
            workloads=(workload("a", A, policies=("shop/new",)),),
            removed_policies=("shop/old",),
        )
    )
    assert mesh.policies_for(mesh.workloads["a"])[1] == ()
    assert set(mesh.policies) == {"shop/new"}


def test_the_generation_grows_with_each_change_and_tells_which_service_it_touched() -> None:
    mesh = Mesh()
    seen = {mesh.changed("shop/s.example")}
    steps = [
        Changes(workloads=(workload("a", A, services=("shop/s.example",)),)),
        Changes(services=(service("s"),)),
        Changes(workloads=(workload("a", A, services=("shop/s.example", "shop/t")),)),
        Changes(removed_workloads=("a",)),
        Changes(services=(service("s", Vip("", V)),)),
    ]
    for change in steps:
        generation = mesh.generation
        mesh.apply(change)
        assert mesh.generation == generation + 1
        assert mesh.changed("shop/s.example") not in seen
        seen.add(mesh.changed("shop/s.example"))
        mesh.apply(Changes(workloads=(workload("other", B),), removed_workloads=("other",)))
        assert mesh.changed("shop/s.example") in seen


def test_a_service_that_comes_back_is_another_one() -> None:
    mesh = Mesh()
    mesh.apply(Changes(services=(service("s"),)))
    first = mesh.changed("shop/s.example")
    mesh.apply(Changes(removed_services=("shop/s.example",)))
    mesh.apply(Changes(services=(service("s"),)))
    assert mesh.changed("shop/s.example") != first


def test_the_workloads_of_a_node_and_the_known_addresses() -> None:
    mesh = Mesh()
    mesh.apply(Changes(workloads=(workload("a1", A), workload("b1", B)), services=(service("s", Vip("", V)),)))
    assert [found.uid for found in mesh.workloads_on("node-a")] == ["a1"]
    assert set(mesh.known_addresses("")) == {A, B, V}
    assert set(mesh.known_addresses("other")) == set()
    assert all(mesh.is_known("", ip) for ip in (A, B, V))
    assert not mesh.is_known("other", A)


def test_news_are_addresses_that_have_come_or_gone_and_nothing_else() -> None:
    mesh = Mesh(network="")
    assert mesh.is_news(A)
    assert mesh.take_news() is None, "the first time: any"
    mesh.apply(Changes(workloads=(workload("a", A),), services=(service("s", Vip("", V), Vip("other", B)),)))
    assert mesh.is_news(A)
    assert mesh.take_news() == {A, V}
    assert not mesh.is_news(A)
    mesh.apply(Changes(workloads=(msgspec.structs.replace(workload("a", A), canonical_revision="2"),)))
    assert mesh.take_news() == set(), "another label is no other address"
    mesh.apply(Changes(services=(service("t", Vip("", A)),), removed_workloads=("a",)))
    assert mesh.take_news() == set(), "a Service has it instead"
    mesh.apply(Changes(removed_services=("shop/t.example",)))
    assert mesh.take_news() == {A}


@given(rng=st.randoms(use_true_random=False))
def test_news_and_the_workloads_of_a_node_are_what_comparing_everything_finds(rng: random.Random) -> None:
    mesh = Mesh("node-a", "")
    mesh.take_news()
    known: set[Ip] = set()
    for _ in range(6):
        for _ in range(rng.randrange(3)):
            mesh.apply(random_changes(rng))
        assert mesh.take_news() == known ^ set(mesh.known_addresses(""))
        known = set(mesh.known_addresses(""))
        here = {uid for uid, value in mesh.workloads.items() if value.node == "node-a"}
        assert {value.uid for value in mesh.workloads_on("node-a")} == here


def test_removing_what_was_never_there_is_harmless() -> None:
    mesh = Mesh()
    mesh.apply(Changes(removed_workloads=("a",), removed_services=("b",), removed_policies=("c",)))
    assert is_empty(mesh)


def random_changes(rng: random.Random) -> Changes:
    """A small world, so that the same names and addresses come again and again."""
    ips = [A, B, V]
    keys = ["shop/s.example", "shop/t.example"]
    return Changes(
        policies=tuple(policy(rng.choice("pq"), rng.choice(list(PolicyScope))) for _ in range(rng.randrange(2))),
        services=tuple(
            service(
                rng.choice("st"),
                rng.choice([Vip("", rng.choice(ips)), block("10.0.0.0/8")]),
                ports=rng.choice([(), (ServicePort(Port(80), 80),)]),
            )
            for _ in range(rng.randrange(3))
        ),
        workloads=tuple(
            workload(
                rng.choice("abc"),
                *rng.sample(ips, rng.randrange(3)),
                services=tuple(rng.sample(keys, rng.randrange(3))),
                policies=tuple(rng.sample(["shop/p", "shop/q"], rng.randrange(3))),
                hostname=rng.choice(["", "g", "h"]),
            )
            for _ in range(rng.randrange(4))
        ),
        names=tuple(
            ResolvedName(
                hostname=rng.choice("gh"),
                addresses=tuple(rng.sample(ips, rng.randrange(3))),
                former=tuple(rng.sample(ips, rng.randrange(2))),
            )
            for _ in range(rng.randrange(2))
        ),
        removed_names=tuple(rng.sample("gh", rng.randrange(2))),
        removed_workloads=tuple(rng.sample("abc", rng.randrange(2))),
        removed_services=tuple(rng.sample(keys, rng.randrange(2))),
        removed_policies=tuple(rng.sample(["shop/p", "shop/q"], rng.randrange(2))),
    )


@given(rng=st.randoms(use_true_random=False))
def test_after_any_history_the_indexes_equal_those_of_a_fresh_mesh(rng: random.Random) -> None:
    mesh = Mesh()
    for _ in range(rng.randrange(8)):
        mesh.apply(random_changes(rng))
        mesh.named_places("")  # which are remembered
    fresh = Mesh()
    fresh.apply(mesh.everything())

    assert fresh.workloads == mesh.workloads
    assert fresh.services == mesh.services
    assert fresh.policies == mesh.policies
    assert fresh.resolved == mesh.resolved
    assert set(mesh.names()) == {one.hostname for one in mesh.workloads.values() if one.is_named}
    for ip in (A, B, V):
        owners = {uid for uid, value in mesh.workloads.items() if ip in value.addresses}
        assert (found(mesh, ip) in owners) if owners else (found(mesh, ip) is None)
        assert {s.key for s in mesh.services_at("", ip)} == {s.key for s in fresh.services_at("", ip)}
        by_name = {s.key for s in mesh.services_by_name("", ip, 80)}
        assert by_name == {s.key for s in fresh.services_by_name("", ip, 80)}
        assert by_name == {
            service.key
            for service in mesh.services.values()
            for one in mesh.endpoints(service.key)
            if service.ports and one.is_named and one.hostname in mesh.resolved
            for found_name in [mesh.resolved[one.hostname]]
            if ip in (*found_name.addresses, *found_name.former)
        }
        assert ((ip, 80) in set(mesh.named_places(""))) is bool(by_name)
    for key in ("shop/s.example", "shop/t.example"):
        assert {e.uid for e in mesh.endpoints(key)} == {e.uid for e in fresh.endpoints(key)}
    for value in mesh.workloads.values():
        here, there = mesh.policies_for(value), fresh.policies_for(value)
        assert ({p.key for p in here[0]}, here[1]) == ({p.key for p in there[0]}, there[1])

    mesh.apply(Changes(removed_workloads=tuple(mesh.workloads), removed_policies=tuple(mesh.policies)))
    mesh.apply(Changes(removed_services=tuple(mesh.services), removed_names=tuple(mesh.resolved)))
    assert is_empty(mesh)


@given(rng=st.randoms(use_true_random=False), limit=st.integers(1, 12))
def test_a_split_change_has_small_pieces_that_do_the_same(rng: random.Random, limit: int) -> None:
    start, change = random_changes(rng), random_changes(rng)
    whole, pieced = Mesh(), Mesh()
    for mesh in (whole, pieced):
        mesh.apply(start)
    whole.apply(change)

    pieces = list(split(change, limit))

    for piece in pieces:
        assert 1 <= sum(len(getattr(piece, field)) for field in piece.__struct_fields__) <= limit
        pieced.apply(piece)
    for field in change.__struct_fields__:
        assert sum((getattr(piece, field) for piece in pieces), ()) == getattr(change, field)
    assert pieced.workloads == whole.workloads
    assert pieced.services == whole.services
    assert pieced.policies == whole.policies
    assert [found(pieced, ip) for ip in (A, B, V)] == [found(whole, ip) for ip in (A, B, V)]


def test_only_a_change_with_something_in_it_is_true() -> None:
    assert not Changes()
    assert Changes(removed_policies=("a/b",))
    assert list(split(Changes(), 5)) == []


@given(rng=st.randoms(use_true_random=False))
def test_a_change_survives_its_way_to_the_worker(rng: random.Random) -> None:
    change = random_changes(rng)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(change), type=Changes) == change


# ---- extensions ----------------------------------------------------------------------------------------------------


def test_what_extensions_say_is_found_until_it_is_removed() -> None:
    mesh = Mesh()
    traffic = ServiceTraffic(service="shop/s.example", subsets=(Subset("v1", {"version": "v1"}),))
    mesh.apply(Changes(extensions=(traffic, WorkloadLabels(uid="a", labels={"version": "v1"}))))
    assert (mesh.traffic("shop/s.example"), mesh.labels("a")) == (traffic, {"version": "v1"})
    assert (mesh.traffic("shop/other"), mesh.labels("b")) == (None, {})
    assert mesh.everything().extensions == tuple(mesh.extensions.values())

    mesh.apply(Changes(removed_extensions=(traffic.name, "workload/a", "workload/nobody")))
    assert (mesh.traffic("shop/s.example"), mesh.labels("a"), mesh.extensions) == (None, {}, {})


@pytest.mark.parametrize(
    "change",
    [
        Changes(extensions=(ServiceTraffic(service="shop/s.example"),)),
        Changes(extensions=(WorkloadLabels(uid="a", labels={"version": "v2"}),)),
        Changes(removed_extensions=("workload/a",)),
    ],
)
def test_a_change_of_an_extension_is_one_of_its_service_and_of_no_other(change: Changes) -> None:
    mesh = Mesh()
    mesh.apply(
        Changes(
            extensions=(WorkloadLabels(uid="a", labels={"version": "v1"}),),
            services=(service("s", Vip("", V)), service("other")),
            workloads=(workload("a", A, services=("shop/s.example",)),),
        )
    )
    before = mesh.changed("shop/s.example"), mesh.changed("shop/other.example")
    mesh.apply(change)
    assert mesh.changed("shop/s.example") != before[0]
    assert mesh.changed("shop/other.example") == before[1]


def test_only_what_is_registered_if_the_mesh_says_so() -> None:
    mesh = Mesh()
    seen = [mesh.is_registry_only(workload("a"))]
    for extension in (MeshTraffic(is_registry_only=True), MeshTraffic()):
        mesh.apply(Changes(extensions=(extension,)))
        seen.append(mesh.is_registry_only(workload("a")))
    assert seen == [False, True, False]


def test_blocks_are_told_with_their_network() -> None:
    mesh = Mesh()
    mesh.apply(Changes(services=(service("a", block("10.0.0.0/8"), Vip("far", block=Cidr.parse("fd00::/8"))),)))
    assert [list(mesh.known_blocks(network)) for network in ("", "far")] == [
        [Cidr.parse("10.0.0.0/8")],
        [Cidr.parse("fd00::/8")],
    ]
    mesh.apply(Changes(removed_services=("shop/a.example",)))
    assert list(mesh.known_blocks("")) == []


def test_the_scope_of_a_client_is_the_first_of_its_namespace_else_everybodys() -> None:
    mesh, client = Mesh(), workload("a")
    own = ClientScopes(
        namespace="shop", scopes=(ClientScope(name="selecting", labels={"x": "y"}), ClientScope(name="all"))
    )
    everybodys = ClientScopes(namespace="", scopes=(ClientScope(name="root"),))
    labels = WorkloadLabels(uid="a", labels={"x": "y", "z": ""})
    seen = [mesh.scope(client)]
    for changes in (
        Changes(extensions=(everybodys,)),
        Changes(extensions=(own,)),
        Changes(extensions=(labels,)),
        Changes(removed_extensions=("clients/shop",)),
    ):
        mesh.apply(changes)
        seen.append(mesh.scope(client))
    assert [scope.name if scope is not None else None for scope in seen] == [None, "root", "all", "selecting", "root"]


def test_the_limits_of_a_workload() -> None:
    mesh, limits = Mesh(), WorkloadLimits(uid="a", concurrent=1)
    mesh.apply(Changes(extensions=(limits,)))
    assert (mesh.limits("a"), mesh.limits("b")) == (limits, None)


def test_an_extension_about_nobody_leaves_no_trace() -> None:
    mesh = Mesh()
    mesh.apply(Changes(extensions=(ServiceTraffic(service="shop/s.example"),)))
    assert mesh.changed("shop/s.example") == 0


def test_the_addresses_of_a_name_are_of_those_who_have_no_other() -> None:
    mesh = Mesh()
    named, own = workload("a", hostname="h", services=("shop/s.example",)), workload("b", A, hostname="h")
    mesh.apply(Changes(workloads=(named, own)))
    assert (set(mesh.names()), mesh.addresses(named), mesh.addresses(own)) == ({"h"}, (), (A,))

    before = mesh.changed("shop/s.example")
    mesh.apply(Changes(names=(ResolvedName(hostname="h", addresses=(V,)),)))
    assert (mesh.addresses(named), mesh.addresses(own)) == ((V,), (A,))
    assert mesh.changed("shop/s.example") != before
    assert found(mesh, V) is None, "who owns an address says so itself"

    mesh.apply(Changes(removed_names=("h",)))
    assert mesh.addresses(named) == ()
    mesh.apply(Changes(removed_workloads=("a",)))
    assert set(mesh.names()) == set()


def test_a_service_is_found_by_what_its_endpoints_name_means_for_its_own_ports() -> None:
    mesh = Mesh(network="n")
    ports = (ServicePort(Port(443), 8443), ServicePort(Port(80), 0))
    entry = Service(name="s", namespace="shop", hostname="s.example", ports=ports)
    outside = Workload(uid="a", name="a", namespace="shop", network="n", hostname="h", services={entry.key: ()})
    mesh.apply(Changes(services=(entry,), workloads=(outside,)))
    mesh.apply(Changes(names=(ResolvedName(hostname="h", addresses=(A,), former=(B,)),)))
    mesh.take_news()
    assert [mesh.services_by_name("n", ip, 443) for ip in (A, B, V)] == [(entry,), (entry,), ()]
    assert mesh.services_by_name("n", A, 8443) == mesh.services_by_name("", A, 443) == ()
    assert set(mesh.named_places("n")) == {(A, 443), (A, 80), (B, 443), (B, 80)}
    assert set(mesh.known_addresses("n")) == set(), "connections that began before go on"

    tunnelled = msgspec.structs.replace(outside, protocol=TunnelProtocol.HBONE)
    mesh.apply(Changes(workloads=(tunnelled,)))
    assert set(mesh.named_places("n")) == set()
    mesh.apply(Changes(workloads=(outside,), removed_services=(entry.key,)))
    assert mesh.services_by_name("n", A, 443) == ()
    assert set(mesh.named_places("n")) == set()
