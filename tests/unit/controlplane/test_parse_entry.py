# SPDX-License-Identifier: Apache-2.0
"""What is refused of WorkloadEntry, WorkloadGroup, ServiceEntry and Gateway, and where the finding points."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.gateway_spec import AddressType, RoutesFrom
from nodeagent.controlplane.objects import Gateway, MeshObject, WorkloadGroup

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]


def written(kind: str, *spec: str) -> str:
    group = "gateway.networking.k8s.io" if kind == "Gateway" else "networking.istio.io"
    lines = "\n".join(f"  {line}" for line in spec)
    return f"apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n{lines}\n"


PORT = "ports: [{number: 80, name: http, protocol: HTTP}]"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (written("WorkloadEntry", "weight: 1"), 5, "spec.address: is missing"),
        (written("WorkloadEntry", "address: 'a b'"), 5, "spec.address: 'a b' is neither"),
        (written("WorkloadEntry", "address: 10.0.0.1", "weight: -1"), 6, "spec.weight: '-1' is not a whole number"),
        (written("WorkloadEntry", "address: 10.0.0.1", "weight: 4294967296"), 6, "spec.weight"),
        (written("WorkloadEntry", "address: 10.0.0.1", "ports: {http: 0}"), 6, "spec.ports.http: '0' is not a port"),
        (
            written("WorkloadEntry", "address: 10.0.0.1", "ports: {'@': 80}"),
            6,
            "spec.ports.@: '@' is no name of a port",
        ),
        (written("WorkloadEntry", "address: 10.0.0.1", "addr: 10.0.0.2"), 6, "spec.addr: there is no such field"),
        (written("WorkloadGroup", "probe: {}"), 4, "spec: a WorkloadGroup has a spec.template"),
        (written("WorkloadGroup", "template: {weight: x}"), 5, "spec.template.weight"),
        (written("ServiceEntry", PORT), 5, "spec.hosts: at least one host"),
        (written("ServiceEntry", "hosts: ['*']"), 5, "spec.hosts[0]: '*' is not a host"),
        (written("ServiceEntry", "hosts: [a.test]", "ports: [{number: 80}]"), 6, "spec.ports[0].name: is missing"),
        (
            written("ServiceEntry", "hosts: [a.test]", "ports:", "- {number: 80, name: a}", "- {number: 80, name: b}"),
            8,
            "spec.ports[1].number: port 80 occurs twice",
        ),
        (
            written("ServiceEntry", "hosts: [a.test]", "ports:", "- {number: 80, name: a}", "- {number: 81, name: a}"),
            8,
            "spec.ports[1].name: the name 'a' occurs twice",
        ),
        (
            written(
                "ServiceEntry",
                "hosts: [a.test]",
                "workloadSelector: {labels: {a: b}}",
                "resolution: STATIC",
                "endpoints: [{address: 192.0.2.1}]",
            ),
            6,
            "spec.workloadSelector: cannot stand beside endpoints",
        ),
        (
            written("ServiceEntry", "hosts: [a.test]", "endpoints: [{address: 192.0.2.1}]"),
            6,
            "spec.endpoints: there are none with resolution NONE",
        ),
        (
            written("ServiceEntry", "hosts: [a.test]", "resolution: STATIC", "endpoints: [{address: b.test}]"),
            7,
            "spec.endpoints: resolution STATIC needs IP addresses",
        ),
        (
            written(
                "ServiceEntry",
                "hosts: [a.test]",
                "resolution: DNS_ROUND_ROBIN",
                "endpoints: [{address: b.test}, {address: c.test}]",
            ),
            7,
            "spec.endpoints: only one is possible",
        ),
        (
            written("ServiceEntry", "hosts: [a.test]", "resolution: DNS", "addresses: [10.0.0.0/8]"),
            7,
            "spec.addresses: no CIDR block is possible with resolution DNS",
        ),
        (
            written("ServiceEntry", "hosts: ['*.a.test']", "resolution: DNS"),
            5,
            "spec.hosts: a wildcard cannot be resolved",
        ),
        (
            written("ServiceEntry", "hosts: [a.test]", "resolution: DYNAMIC_DNS"),
            5,
            "spec.hosts: resolution DYNAMIC_DNS is for wildcards",
        ),
        (
            written(
                "ServiceEntry",
                "hosts: [a.test, b.test]",
                "resolution: STATIC",
                "ports: [{number: 5432, name: db, protocol: TCP}]",
            ),
            5,
            "spec.hosts: port 5432 of protocol TCP cannot tell several hosts apart",
        ),
        (
            written(
                "ServiceEntry",
                "hosts: [a.test]",
                "resolution: STATIC",
                PORT,
                "endpoints: [{address: 192.0.2.1, ports: {https: 1}}]",
            ),
            8,
            "spec.endpoints[0].ports.https: the ServiceEntry has no port 'https'",
        ),
        (
            written("ServiceEntry", "hosts: [a.test]", "workloadSelector: {labels: {a: 'b*'}}"),
            6,
            "spec.workloadSelector.labels.a: a label is matched exactly",
        ),
        (written("ServiceEntry", "hosts: [a.test]", "resolution: dns"), 6, "spec.resolution: 'dns' is not one of"),
        (
            written("ServiceEntry", "hosts: [a.test]", "workloadselector: {}"),
            6,
            "spec.workloadselector: there is no such field",
        ),
        (written("Gateway", "listeners: [{protocol: HBONE}]"), 5, "spec.listeners[0].port: a port number is missing"),
        (
            written("Gateway", "listeners:", "- port: 15008", "  allowedRoutes: {namespaces: {from: Everywhere}}"),
            7,
            "spec.listeners[0].allowedRoutes.namespaces.from: 'Everywhere' is not one of",
        ),
        (
            written(
                "Gateway",
                "listeners:",
                "- port: 1",
                "  allowedRoutes: {namespaces: {selector: {matchExpressions: [{key: a, operator: In}]}}}",
            ),
            7,
            "values: In has values",
        ),
    ],
)
def test_what_is_refused(read: Read, text: str, line: int, message: str) -> None:
    objects, findings = read(text)
    assert objects == []
    told = [finding for finding in findings if message in f"{finding.field}: {finding.message}"]
    assert told, [f"{finding.field}: {finding.message}" for finding in findings]
    assert (told[0].line, told[0].is_rejected) == (line, True)


@pytest.mark.parametrize(
    "text",
    [
        written("WorkloadEntry", "network: net-2", "address: 10.0.0.1"),
        written("ServiceEntry", "hosts: ['*a.test']", "resolution: DYNAMIC_DNS"),
        written("ServiceEntry", "hosts: [a.test, b.test]", "ports: [{number: 5432, name: db, protocol: TCP}]"),
        written(
            "ServiceEntry",
            "hosts: [a.test, b.test]",
            "resolution: DNS",
            PORT,
            "location: MESH_EXTERNAL",
            "exportTo: ['*']",
        ),
        written("ServiceEntry", "hosts: ['*.a.test']", "resolution: DNS", "endpoints: [{address: b.test}]"),
    ],
)
def test_what_is_not(read: Read, text: str) -> None:
    objects, findings = read(text)
    assert (len(objects), findings) == (1, [])


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (written("WorkloadEntry", "network: net-2"), "spec.address"),
        (
            written("ServiceEntry", "hosts: [a.test]", "resolution: STATIC", "workloadSelector: {}"),
            "spec.workloadSelector",
        ),
        (
            written("ServiceEntry", "hosts: [a.test]", "resolution: NONE", "workloadSelector: {labels: {a: b}}"),
            "spec.workloadSelector",
        ),
        (written("ServiceEntry", "hosts: [b.test, '*a.test']", "resolution: NONE"), "spec.hosts[1]"),
    ],
)
def test_what_is_possible_and_hardly_meant(read: Read, text: str, field: str) -> None:
    objects, findings = read(text)
    assert [(finding.code, finding.field, finding.is_rejected) for finding in findings] == [("IST0133", field, False)]
    assert len(objects) == 1


def test_a_group_is_a_template(read: Read) -> None:
    (group,), _ = read(
        written("WorkloadGroup", "metadata: {labels: {app: vm}}", "template: {serviceAccount: vm, ports: {http: 80}}")
    )
    assert isinstance(group, WorkloadGroup)
    assert (group.template.service_account, group.template.ports) == ("vm", {"http": 80})


def test_a_gateway_is_read_with_an_api_servers_defaults(read: Read) -> None:
    text = written(
        "Gateway", "gatewayClassName: istio-waypoint", "listeners: [{name: x, port: 15008, protocol: HBONE}]"
    )
    (gateway,), findings = read(text + "status: {addresses: [{value: 10.0.0.1}, {type: x.io/y, value: z}]}\n")
    assert isinstance(gateway, Gateway)
    assert gateway.listeners[0].routes_from is RoutesFrom.SAME
    assert [address.type for address in gateway.addresses] == [AddressType.IP, AddressType.OTHER]
    assert findings == []
