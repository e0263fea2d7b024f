# SPDX-License-Identifier: Apache-2.0
"""WorkloadEntries and endpoints of ServiceEntries as workloads."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.translate import Translation
from nodeagent.model.address import Ip, Port
from nodeagent.model.workload import ServicePort, TunnelProtocol, Workload

Translated = Callable[[str], Translation]
PREFIX = "Kubernetes/networking.istio.io"


def workload_entry(spec: str = "address: 10.50.0.20", *, metadata: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: vm, namespace: shop{metadata}}}
spec: {{{spec}}}
---
"""


def service_entry(spec: str, *, name: str = "ext", metadata: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop{metadata}}}
spec: {{hosts: [{name}.test], ports: [{{number: 80, name: web, protocol: HTTP, targetPort: 8080}}], {spec}}}
---
"""


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: vms, namespace: shop}
spec:
  clusterIP: 10.0.0.1
  selector: {app: vm}
  ports: [{name: web, port: 80, targetPort: 8080}, {name: db, port: 5432, targetPort: pg}, {name: x, port: 7}]
---
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: vm}}
spec: {containers: [{ports: [{name: web, containerPort: 9090}]}]}
status: {podIP: 10.244.1.7}
---
"""


def one(translation: Translation) -> Workload:
    (workload,) = translation.workloads.values()
    return workload


def test_what_a_workload_entry_says_of_itself(translated: Translated) -> None:
    found = one(
        translated(
            workload_entry(
                "address: 10.50.0.20, serviceAccount: vm, locality: region/zone, weight: 5",
                metadata=", labels: {app: vm, version: v2}",
            )
        )
    )
    assert (found.uid, found.name) == (f"{PREFIX}/WorkloadEntry/shop/vm", "vm")
    assert (found.addresses, found.service_account, found.capacity) == ((Ip("10.50.0.20"),), "vm", 5)
    assert (found.region, found.zone, found.subzone) == ("region", "zone", "")
    assert (found.canonical_name, found.canonical_revision) == ("vm", "v2")
    assert (found.workload_type, found.is_healthy, found.protocol) == ("pod", True, TunnelProtocol.TCP)


def test_without_an_account_none_is_told(translated: Translated) -> None:
    assert one(translated(workload_entry())).service_account == ""


def test_an_address_that_is_a_name_is_a_hostname(translated: Translated) -> None:
    found = one(translated(workload_entry("address: vm.example.test")))
    assert (found.addresses, found.hostname) == ((), "vm.example.test")


def test_labels_of_the_spec_count_and_those_of_the_metadata_more(translated: Translated) -> None:
    text = SERVICE + workload_entry(
        "address: 10.50.0.20, labels: {app: vm, version: v1}", metadata=", labels: {version: v2}"
    )
    found = one(translated(text))
    assert (list(found.services), found.canonical_revision) == (["shop/vms.shop.svc.cluster.local"], "v2")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("", "vm"),
        (", labels: {service.istio.io/workload-name: db}", "db"),
        (", annotations: {istio.io/autoRegistrationGroup: group}", "group"),
        (", labels: {service.istio.io/workload-name: db}, annotations: {istio.io/autoRegistrationGroup: g}", "g"),
    ],
)
def test_the_workload_name_of_an_entry(translated: Translated, metadata: str, expected: str) -> None:
    assert one(translated(workload_entry(metadata=metadata))).workload_name == expected


@pytest.mark.parametrize(
    ("metadata", "expected", "is_native"),
    [
        ("", TunnelProtocol.TCP, False),
        (", labels: {networking.istio.io/tunnel: http}", TunnelProtocol.HBONE, True),
        (", labels: {networking.istio.io/tunnel: 'other,http'}", TunnelProtocol.HBONE, True),
        (", annotations: {ambient.istio.io/redirection: enabled}", TunnelProtocol.HBONE, False),
        (", labels: {istio.io/dataplane-mode: ambient}", TunnelProtocol.TCP, False),
    ],
)
def test_which_entries_speak_hbone(
    *, translated: Translated, metadata: str, expected: TunnelProtocol, is_native: bool
) -> None:
    found = one(translated(workload_entry(metadata=metadata)))
    assert (found.protocol, found.native_tunnel) == (expected, is_native)


def test_a_services_ports_on_an_entry_are_those_that_it_names(translated: Translated) -> None:
    """A named target port has to be among them; others may be."""
    labels = ", labels: {app: vm}"
    plain = one(translated(SERVICE + workload_entry(metadata=labels)))
    named = one(
        translated(SERVICE + workload_entry("address: 10.50.0.20, ports: {web: 1, pg: 2, db: 3}", metadata=labels))
    )
    key = "shop/vms.shop.svc.cluster.local"
    assert plain.services[key] == (ServicePort(Port(80), 8080), ServicePort(Port(7), 7))
    assert named.services[key] == (ServicePort(Port(80), 1), ServicePort(Port(5432), 2), ServicePort(Port(7), 7))


def test_policies_select_an_entry_by_its_labels(translated: Translated) -> None:
    text = (
        workload_entry("address: 10.50.0.20, labels: {app: vm}")
        + """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: vms, namespace: shop}
spec: {selector: {matchLabels: {app: vm}}}
"""
    )
    assert one(translated(text)).policies == ("shop/vms",)


def test_a_workload_selector_selects_pods_and_entries_of_its_namespace(translated: Translated) -> None:
    """A container port with the name of the ServiceEntry's port counts more than its target port."""
    text = service_entry("resolution: STATIC, workloadSelector: {labels: {app: vm}}") + POD
    text += POD.replace("namespace: shop", "namespace: other")
    text += workload_entry("address: 10.50.0.20, labels: {app: vm}")
    found = {uid: workload.services for uid, workload in translated(text).workloads.items()}
    assert found == {
        "Kubernetes//Pod/shop/web": {"shop/ext.test": (ServicePort(Port(80), 9090),)},
        "Kubernetes//Pod/other/web": {},
        f"{PREFIX}/WorkloadEntry/shop/vm": {"shop/ext.test": (ServicePort(Port(80), 8080),)},
    }


def test_an_empty_workload_selector_selects_nothing(translated: Translated) -> None:
    assert one(translated(service_entry("resolution: STATIC, workloadSelector: {}") + POD)).services == {}


def test_endpoints_serve_every_host(translated: Translated) -> None:
    text = service_entry(
        "resolution: STATIC, endpoints: [{address: 192.0.2.1}, {address: 192.0.2.2, ports: {web: 9}, weight: 1, "
        "serviceAccount: sa, locality: r/z/s}]",
        metadata=", labels: {app: ext}",
    ).replace("[ext.test]", "[a.test, b.test]")
    translation = translated(text)
    first, second = translation.workloads.values()
    assert first.uid == f"{PREFIX}/ServiceEntry/shop/ext/192.0.2.1"
    assert first.services == dict.fromkeys(("shop/a.test", "shop/b.test"), (ServicePort(Port(80), 8080),))
    assert second.services == dict.fromkeys(("shop/a.test", "shop/b.test"), (ServicePort(Port(80), 9),))
    assert (second.service_account, second.region, second.zone, second.subzone) == ("sa", "r", "z", "s")
    assert (first.name, first.workload_name, first.canonical_name) == ("ext", "ext", "ext")
    assert {uid: hints.has_capacity for uid, hints in translation.workload_hints.items()} == {second.uid: True}


@pytest.mark.parametrize("resolution", ["DNS", "DNS_ROUND_ROBIN"])
def test_a_host_that_is_resolved_is_its_own_endpoint_when_there_are_no_others(
    translated: Translated, resolution: str
) -> None:
    found = one(translated(service_entry(f"resolution: {resolution}")))
    assert (found.uid, found.hostname) == (f"{PREFIX}/ServiceEntry/shop/ext/ext.test", "ext.test")
    assert list(found.services) == ["shop/ext.test"]


def test_of_several_hosts_each_is_the_endpoint_of_itself(translated: Translated) -> None:
    text = service_entry("resolution: DNS").replace("[ext.test]", "[a.test, b.test]")
    found = {workload.hostname: list(workload.services) for workload in translated(text).workloads.values()}
    assert found == {"a.test": ["shop/a.test"], "b.test": ["shop/b.test"]}


def test_a_dynamic_wildcard_is_its_own_endpoint(translated: Translated) -> None:
    text = service_entry("resolution: DYNAMIC_DNS").replace("ext.test]", "'*.test']")
    assert one(translated(text)).hostname == "*.test"


@pytest.mark.parametrize(
    "spec", ["resolution: NONE", "resolution: STATIC", "resolution: DNS, workloadSelector: {labels: {app: x}}"]
)
def test_other_resolutions_have_no_endpoint_of_themselves(translated: Translated, spec: str) -> None:
    assert translated(service_entry(spec)).workloads == {}


def test_endpoints_are_judged_by_the_labels_of_the_service_entry(translated: Translated) -> None:
    policy = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: NAME, namespace: shop}
spec: {selector: {matchLabels: {app: NAME}}}
---
"""
    text = policy.replace("NAME", "outer") + policy.replace("NAME", "inner")
    text += service_entry(
        "resolution: STATIC, endpoints: [{address: 192.0.2.1, labels: {app: inner, networking.istio.io/tunnel: http}}]",
        metadata=", labels: {app: outer}",
    )
    found = one(translated(text))
    assert (found.policies, found.protocol) == (("shop/outer",), TunnelProtocol.TCP)


def test_an_endpoint_without_a_network_is_on_that_of_the_one_before(translated: Translated) -> None:
    """istiod's own reading; docs/istiod.md names it."""
    text = service_entry(
        "resolution: STATIC, "
        "endpoints: [{address: 192.0.2.1}, {address: 192.0.2.2, network: net-2}, {address: 192.0.2.3}]"
    )
    assert [workload.network for workload in translated(text).workloads.values()] == ["", "net-2", "net-2"]
