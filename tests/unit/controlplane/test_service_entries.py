# SPDX-License-Identifier: Apache-2.0
"""ServiceEntries as Services: hosts, addresses, resolutions, visibility."""

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from nodeagent.controlplane.entry_spec import Resolution
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.hints import AppProtocol
from nodeagent.controlplane.objects import Key, MeshObject, Meta, Origin, ServiceEntry
from nodeagent.controlplane.service_entries import allocate
from nodeagent.controlplane.translate import Translation, translate
from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.workload import BalancingMode, LoadBalancing, Scope, ServicePort, Vip

Translated = Callable[[str], Translation]
Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]
KEPT_ADDRESS = LoadBalancing(BalancingMode.PASSTHROUGH, takes_unhealthy=True)


def entry(name: str = "ext", *, spec: str, metadata: str = "", status: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop{metadata}}}
spec: {{{spec}}}
status: {{{status}}}
---
"""


def ips(translation: Translation, host: str) -> list[str]:
    return [str(vip.ip or vip.block) for vip in translation.services[f"shop/{host}"].vips]


def test_each_host_is_a_service(translated: Translated) -> None:
    text = entry(
        spec="hosts: [a.test, '*.b.test'], resolution: NONE, subjectAltNames: [spiffe://x/ns/y/sa/z], "
        "ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: web, protocol: HTTP, targetPort: 8080}]"
    )
    translation = translated(text)
    assert list(translation.services) == ["shop/a.test", "shop/*.b.test"]
    service = translation.services["shop/a.test"]
    assert service.ports == (ServicePort(Port(443), 443), ServicePort(Port(80), 8080))
    assert service.subject_alt_names == ("spiffe://x/ns/y/sa/z",)
    assert translation.hints["shop/a.test"].app_protocols == (AppProtocol.TLS, AppProtocol.HTTP11)


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        ("NONE", KEPT_ADDRESS),
        ("STATIC", LoadBalancing()),
        ("DNS", LoadBalancing()),
        ("DNS_ROUND_ROBIN", LoadBalancing()),
    ],
)
def test_with_resolution_none_connections_keep_their_address(
    translated: Translated, resolution: str, expected: LoadBalancing
) -> None:
    text = entry(spec=f"hosts: [a.test], resolution: {resolution}, ports: [{{number: 80, name: http, protocol: HTTP}}]")
    assert translated(text).services["shop/a.test"].balancing == expected


def test_traffic_distribution_is_that_of_the_annotation_or_of_the_namespace(translated: Translated) -> None:
    annotated = "annotations: {networking.istio.io/traffic-distribution: PreferSameNode}"
    text = entry("a", spec="hosts: [a.test], resolution: DNS", metadata=f", {annotated}")
    text += entry("b", spec="hosts: [b.test], resolution: DNS")
    text += entry("c", spec="hosts: [c.test], resolution: NONE", metadata=f", {annotated}")
    text += "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, "
    text += "annotations: {networking.istio.io/traffic-distribution: PreferClose}}\n---\n"
    services = translated(text).services
    assert services["shop/a.test"].balancing.scopes[-1] is Scope.NODE
    assert services["shop/b.test"].balancing.scopes[-1] is Scope.ZONE
    assert services["shop/c.test"].balancing == KEPT_ADDRESS


def test_addresses_and_blocks_are_those_of_every_host(translated: Translated) -> None:
    text = "kind: MeshConfig\nnetwork: net-1\n---\n" + entry(
        spec="hosts: [a.test, b.test], resolution: STATIC, "
        "addresses: [10.9.0.1, 10.8.0.5/16, 'fd00::/64', 10.7.0.1/32], "
        "ports: [{number: 80, name: http, protocol: HTTP}]"
    )
    expected = (
        Vip("net-1", Ip("10.9.0.1")),
        Vip("net-1", block=Cidr.parse("10.8.0.0/16")),
        Vip("net-1", block=Cidr.parse("fd00::/64")),
        Vip("net-1", Ip("10.7.0.1")),
    )
    services = translated(text).services
    assert services["shop/a.test"].vips == services["shop/b.test"].vips == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(entry(spec="hosts: [a.test], resolution: DNS"), ["240.240.0.1", "2001:2::1"], id="by name"),
        pytest.param(entry(spec="hosts: [a.test], resolution: STATIC"), ["240.240.0.1", "2001:2::1"], id="static"),
        pytest.param(entry(spec="hosts: [a.test], resolution: NONE"), [], id="connections keep their address"),
        pytest.param(
            entry(spec="hosts: [a.test], resolution: DNS, addresses: [10.9.0.1]"), ["10.9.0.1"], id="it has its own"
        ),
        pytest.param(
            entry(
                spec="hosts: [a.test], resolution: DNS",
                metadata=", labels: {networking.istio.io/enable-autoallocate-ip: 'False'}",
            ),
            [],
            id="it wants none",
        ),
        pytest.param(
            entry(
                spec="hosts: [a.test], resolution: DNS",
                status="addresses: [{host: a.test, value: 240.240.7.7}, {host: b.test, value: 240.240.8.8}]",
            ),
            ["240.240.7.7"],
            id="a cluster has given one",
        ),
        pytest.param(
            entry(spec="hosts: [a.test], resolution: NONE", status="addresses: [{host: a.test, value: 240.240.7.7}]"),
            [],
            id="what a cluster has given once is not wanted any more",
        ),
    ],
)
def test_which_hosts_are_given_addresses(translated: Translated, text: str, expected: list[str]) -> None:
    assert ips(translated(text), "a.test") == expected


def test_a_wildcard_is_given_an_address_only_if_it_is_resolved_dynamically(translated: Translated) -> None:
    text = entry("a", spec="hosts: ['*.a.test'], resolution: STATIC")
    text += entry("b", spec="hosts: ['*.b.test'], resolution: DYNAMIC_DNS, location: MESH_EXTERNAL")
    translation = translated(text)
    assert ips(translation, "*.a.test") == []
    assert ips(translation, "*.b.test") == ["240.240.0.1", "2001:2::1"]


def test_the_oldest_is_numbered_first_and_nothing_is_given_twice(translated: Translated) -> None:
    text = entry("b", spec="hosts: [b.test], resolution: DNS", metadata=", creationTimestamp: '2026-01-02T00:00:00Z'")
    text += entry("a", spec="hosts: [a.test], resolution: DNS", metadata=", creationTimestamp: '2026-01-03T00:00:00Z'")
    text += entry("c", spec="hosts: [c.test], resolution: STATIC, addresses: [240.240.0.1, '2001:2::2']")
    translation = translated(text)
    assert ips(translation, "b.test") == ["240.240.0.2", "2001:2::1"]
    assert ips(translation, "a.test") == ["240.240.0.3", "2001:2::3"]


def test_an_address_stays_and_is_never_given_to_another_host(read: Read) -> None:
    a, b, c = (entry(name, spec=f"hosts: [{name}.test], resolution: DNS") for name in "abc")
    first = translate(read(a + b)[0])
    second = translate(read(b)[0], first.allocated)
    third = translate(read(b + c + a)[0], second.allocated)
    assert ips(second, "b.test") == ips(first, "b.test")
    assert ips(third, "a.test") == ips(first, "a.test")
    assert ips(third, "c.test") == ["240.240.0.3", "2001:2::3"]


def test_what_is_written_wins_over_what_was_given(read: Read) -> None:
    a = entry("a", spec="hosts: [a.test], resolution: DNS")
    first = translate(read(a)[0])
    second = translate(read(a + entry("b", spec="hosts: [b.test], addresses: [240.240.0.1]"))[0], first.allocated)
    assert (ips(first, "a.test"), ips(second, "a.test")) == (["240.240.0.1", "2001:2::1"], ["240.240.0.2", "2001:2::2"])


def test_of_two_that_were_given_the_same_the_older_entry_keeps_it(read: Read) -> None:
    times = {"a": "2026-01-02T00:00:00Z", "b": "2026-01-01T00:00:00Z", "c": "2026-01-03T00:00:00Z"}
    text = "".join(
        entry(name, spec=f"hosts: [{name}.test], resolution: DNS", metadata=f", creationTimestamp: '{time}'")
        for name, time in times.items()
    )
    same = (Ip("240.240.0.9"), Ip("2001:2::9"))
    kept = {("shop", name, f"{name}.test"): same for name in "ab"} | {("shop", "c", "c.test"): (Ip("240.240.0.1"),)}
    given = translate(read(text)[0], kept)
    assert ips(given, "b.test") == list(same)
    assert ips(given, "a.test") == ["240.240.0.2", "2001:2::1"], "and not what a third one has"
    assert ips(given, "c.test") == ["240.240.0.1"]


def test_a_host_that_went_without_is_given_one_when_there_is_room(read: Read) -> None:
    kept = {("shop", "a", "a.test"): tuple[Ip, ...]()}
    given = translate(read(entry("a", spec="hosts: [a.test], resolution: DNS"))[0], kept)
    assert ips(given, "a.test") == ["240.240.0.1", "2001:2::1"]


def test_a_host_goes_without_when_a_range_is_used_up() -> None:
    everything = {("n", "x", str(number)): (Ip(str(number)),) for number in ip_network("240.240.0.0/16").hosts()}
    meta = Meta(key=Key("ServiceEntry", "shop", "a"), origin=Origin("a.yaml", 1))
    wanting = ServiceEntry(meta=meta, hosts=("a.test",), resolution=Resolution.DNS)
    assert allocate([wanting], everything)["shop", "a", "a.test"] == ("2001:2::1",)


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        pytest.param("{}", False, id="everybody may know it"),
        pytest.param("{defaultVisibility: NAMESPACE}", True, id="the default"),
        pytest.param("{defaultVisibility: NONE}", None, id="nobody"),
        pytest.param(
            "{defaultVisibility: NONE, policies: [{visibility: PUBLIC, matchingRules: "
            "[{namespaceSelector: {matchLabels: {team: a}}}]}]}",
            False,
            id="a policy that matches goes before it",
        ),
        pytest.param(
            "{defaultVisibility: PUBLIC, policies: [{visibility: NONE, matchingRules: "
            "[{namespaceSelector: {matchLabels: {team: a}}}, {namespaceSelector: {matchLabels: {env: x}}}]}]}",
            False,
            id="all of its rules have to match",
        ),
        pytest.param("{policies: [{visibility: NONE}]}", None, id="without rules it matches"),
        pytest.param("{policies: [{visibility: NONE, matchingRules: [{}]}]}", False, id="an unknown rule does not"),
        pytest.param(
            "{policies: [{visibility: NAMESPACE}, {visibility: NONE}]}", True, id="the first that matches counts"
        ),
    ],
)
def test_who_may_know_a_service_entry(*, translated: Translated, mesh: str, expected: bool | None) -> None:
    text = f"kind: MeshConfig\nserviceEntryVisibility: {mesh}\n---\n"
    text += "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}\n---\n"
    text += entry(spec="hosts: [a.test], resolution: STATIC, endpoints: [{address: 192.0.2.1}]")
    translation = translated(text)
    found = [service.is_namespace_private for service in translation.services.values()]
    assert found == ([] if expected is None else [expected])
    assert len(translation.workloads) == len(found)


def test_export_to_is_ignored(translated: Translated) -> None:
    assert "shop/a.test" in translated(entry(spec="hosts: [a.test], resolution: DNS, exportTo: ['.']")).services
