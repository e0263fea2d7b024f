# SPDX-License-Identifier: Apache-2.0
"""Who has which waypoint."""

from collections.abc import Callable

import pytest

from nodeagent.controlplane.translate import Translation
from nodeagent.controlplane.waypoints import Binding, Weighted
from nodeagent.model.address import Ip, Port
from nodeagent.model.workload import GatewayAddress

Translated = Callable[[str], Translation]
SERVICE_KEY, POD_UID = "shop/web.shop.svc.cluster.local", "Kubernetes//Pod/shop/web"


def gateway(  # what the rows below vary
    name: str = "wp",
    namespace: str = "shop",
    *,
    metadata: str = "",
    listener: str = "port: 15008, protocol: HBONE",
    status: str | None = None,
) -> str:
    status = f"{{type: Hostname, value: {name}}}" if status is None else status
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}{metadata}}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, {listener}}}]}}
status: {{addresses: [{status}]}}
---
"""


def traffic(kind: str) -> str:
    return f", labels: {{istio.io/waypoint-for: {kind}}}"


def mesh(*, service: str = "", pod: str = "", namespace: str = "", annotations: str = "") -> str:
    """Labels of each, and annotations of the Service."""
    return f"""
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{team: a, {namespace}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop, labels: {{{service}}}, annotations: {{{annotations}}}}}
spec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: shop, labels: {{{pod}}}}}
status: {{podIP: 10.244.1.7}}
---
"""


def named(waypoint: GatewayAddress | None) -> str:
    return "" if waypoint is None else waypoint.service


USE, NONE = "istio.io/use-waypoint: wp", "istio.io/use-waypoint: none"


@pytest.mark.parametrize(
    ("text", "service", "pod"),
    [
        pytest.param(mesh() + gateway(), "", "", id="nobody names it"),
        pytest.param(mesh(service=USE) + gateway(), "shop/wp", "", id="the Service"),
        pytest.param(mesh(namespace=USE) + gateway(), "shop/wp", "", id="the namespace, for services by default"),
        pytest.param(mesh(namespace=USE, service=NONE) + gateway(), "", "", id="the Service opts out"),
        pytest.param(mesh(namespace=USE) + gateway(metadata=traffic("workload")), "", "shop/wp", id="for workloads"),
        pytest.param(mesh(namespace=USE) + gateway(metadata=traffic("all")), "shop/wp", "shop/wp", id="for all"),
        pytest.param(mesh(namespace=USE) + gateway(metadata=traffic("none")), "", "", id="for nothing"),
        pytest.param(
            mesh(namespace=USE, pod=NONE) + gateway(metadata=traffic("all")), "shop/wp", "", id="the pod opts out"
        ),
        pytest.param(mesh(pod=USE) + gateway(), "", "", id="a pod cannot have one for services"),
        pytest.param(mesh(service=USE) + gateway(status=""), "", "", id="it is not ready"),
        pytest.param(
            mesh(namespace=USE, service="istio.io/use-waypoint: nosuch") + gateway(),
            "",
            "",
            id="a missing one does not fall back to the namespace's",
        ),
        pytest.param(
            mesh(service="istio.io/use-waypoint: wp, gateway.istio.io/managed: istio.io-mesh-controller") + gateway(),
            "",
            "",
            id="a waypoint's Service has none",
        ),
        pytest.param(
            mesh(namespace=USE, service="gateway.istio.io/managed: istio.io-eastwest-controller") + gateway(),
            "",
            "",
            id="an east-west gateway's Service has none",
        ),
    ],
)
def test_who_has_a_waypoint(translated: Translated, text: str, service: str, pod: str) -> None:
    translation = translated(text)
    assert named(translation.services[SERVICE_KEY].waypoint) == service
    assert named(translation.workloads[POD_UID].waypoint) == pod


ELSEWHERE = "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra"


def listener(namespaces: str) -> str:
    return f"port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{{namespaces}}}}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(gateway(namespace="infra"), "", id="the same namespace alone, by default"),
        pytest.param(gateway(namespace="infra", listener=listener("from: Same")), "", id="the same alone"),
        pytest.param(gateway(namespace="infra", listener=listener("from: All")), "infra/wp", id="all"),
        pytest.param(
            gateway(namespace="infra", listener=listener("from: Selector, selector: {matchLabels: {team: a}}")),
            "infra/wp",
            id="selected",
        ),
        pytest.param(
            gateway(namespace="infra", listener=listener("from: Selector, selector: {matchLabels: {team: b}}")),
            "",
            id="not selected",
        ),
        pytest.param(
            gateway(namespace="infra", listener=listener("from: Selector, selector: {}")), "infra/wp", id="any selected"
        ),
        pytest.param(gateway(namespace="infra", listener=listener("from: Selector")), "", id="without a selector"),
        pytest.param(
            gateway(namespace="infra", listener=listener("from: All").replace("HBONE", "HTTP")),
            "",
            id="only the HBONE listener opens it",
        ),
        pytest.param(gateway(), "", id="none there"),
    ],
)
@pytest.mark.parametrize("where", ["service", "namespace"])
def test_a_waypoint_of_another_namespace_has_to_allow_it(
    translated: Translated, text: str, expected: str, where: str
) -> None:
    labels = {where: ELSEWHERE}
    assert named(translated(mesh(**labels) + text).services[SERVICE_KEY].waypoint) == expected


def test_its_class_says_what_a_waypoint_is_for_unless_it_says_so_itself(translated: Translated) -> None:
    of_class = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio-waypoint, labels: {istio.io/waypoint-for: workload}}
---
"""
    text = mesh(namespace=USE) + of_class
    assert translated(text + gateway()).workloads[POD_UID].waypoint is not None
    assert translated(text + gateway(metadata=traffic("service"))).workloads[POD_UID].waypoint is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(
            "{type: IPAddress, value: 10.0.0.9}, {type: Hostname, value: wp.test}",
            GatewayAddress(Port(15008), service="shop/wp.test"),
            id="by name rather than by address",
        ),
        pytest.param(
            "{value: 10.0.0.9}", GatewayAddress(Port(15008), network="net-1", ip=Ip("10.0.0.9")), id="by address"
        ),
        pytest.param("{type: x.io/other, value: z}", None, id="by something that nobody knows"),
    ],
)
def test_where_a_waypoint_is(translated: Translated, status: str, expected: GatewayAddress | None) -> None:
    text = "kind: MeshConfig\nnetwork: net-1\n---\n" + mesh(service=USE) + gateway(status=status)
    assert translated(text).services[SERVICE_KEY].waypoint == expected


BINDING = ", annotations: {ambient.istio.io/waypoint-inbound-binding: %s}"
INSTANCE = "gateway.networking.k8s.io/gateway-name: wp"


@pytest.mark.parametrize(
    ("binding", "expected", "port"),
    [
        ("PROXY/15088", Binding(speaks_proxy_protocol=True, port=15088), 15088),
        ("PROXY", Binding(speaks_proxy_protocol=True, port=0), 0),
        ("NONE", Binding(speaks_proxy_protocol=False, port=0), 0),
        ("PROXY/x", Binding(speaks_proxy_protocol=True, port=0), 0),
        ("HTTP", None, 0),
        ("PROXY/1/2", None, 0),
    ],
)
def test_a_waypoints_own_pods_have_none_and_say_how_they_are_reached(
    translated: Translated, binding: str, expected: Binding | None, port: int
) -> None:
    text = mesh(namespace=USE, pod=INSTANCE) + gateway(
        metadata=", labels: {istio.io/waypoint-for: all}" + BINDING % binding
    )
    translation = translated(text)
    workload, hints = translation.workloads[POD_UID], translation.workload_hints.get(POD_UID)
    assert (workload.waypoint, workload.application_tunnel_port) == (None, port)
    assert (hints.binding if hints is not None else None) == expected


def test_the_listener_of_its_binding_opens_a_waypoint(translated: Translated) -> None:
    bound = "port: 15088, protocol: istio.io/PROXY, allowedRoutes: {namespaces: {from: All}}"
    text = mesh(service=ELSEWHERE)
    for binding in ("PROXY", "PROXY/15088"):
        opened = gateway(namespace="infra", metadata=BINDING % binding, listener=bound)
        assert translated(text + opened).services[SERVICE_KEY].waypoint is not None
    assert translated(text + gateway(namespace="infra", listener=bound)).services[SERVICE_KEY].waypoint is None


@pytest.mark.parametrize(
    ("service", "namespace", "expected"),
    [
        ("", "", False),
        ("istio.io/ingress-use-waypoint: 'true'", "", True),
        ("", "istio.io/ingress-use-waypoint: 'True'", True),
        ("istio.io/ingress-use-waypoint: 'false'", "istio.io/ingress-use-waypoint: 'true'", False),
        ("istio.io/ingress-use-waypoint: 'yes'", "", False),
    ],
)
def test_ingress_uses_a_waypoint_if_it_is_said(
    *, translated: Translated, service: str, namespace: str, expected: bool
) -> None:
    text = mesh(service=f"{USE}, {service}", namespace=namespace)
    assert translated(text + gateway()).hints[SERVICE_KEY].wants_ingress is expected
    assert not translated(text).hints[SERVICE_KEY].wants_ingress, "without a waypoint there is none to use"


CANARY, WEIGHT = "istio.io/use-waypoint-canary: new", "istio.io/use-waypoint-canary-weight"


def told(weighted: tuple[Weighted, ...]) -> list[tuple[str, int]]:
    return [(named(one.waypoint), one.weight) for one in weighted]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(mesh(service=f"{USE}, {CANARY}", annotations=f"{WEIGHT}: '10'"), [90, 10], id="a tenth"),
        pytest.param(mesh(service=f"{USE}, {CANARY}", annotations=f"{WEIGHT}: '+7'"), [93, 7], id="with a sign"),
        pytest.param(mesh(service=f"{USE}, {CANARY}"), [100, 0], id="no weight is none of it"),
        pytest.param(mesh(service=f"{USE}, {CANARY}", annotations=f"{WEIGHT}: '101'"), [], id="no percentage"),
        pytest.param(mesh(service=f"{USE}, istio.io/use-waypoint-canary: wp"), [], id="the primary itself"),
        pytest.param(mesh(service=f"{USE}, istio.io/use-waypoint-canary: nosuch"), [], id="not ready"),
        pytest.param(mesh(service=CANARY), [], id="no primary"),
        pytest.param(mesh(namespace=f"{USE}, {CANARY}"), [100, 0], id="both from the namespace"),
        pytest.param(mesh(namespace=USE, service=CANARY), [100, 0], id="the canary alone on the Service"),
        pytest.param(
            mesh(namespace=f"{USE}, {CANARY}", service=USE), [], id="the namespace's canary is not for others' primary"
        ),
    ],
)
def test_a_canary_takes_its_weight(translated: Translated, text: str, expected: list[int]) -> None:
    found = told(translated(text + gateway() + gateway("new")).hints[SERVICE_KEY].weighted)
    assert found == list(zip(("shop/wp", "shop/new"), expected, strict=False))


def test_entries_have_waypoints_too(translated: Translated) -> None:
    text = (
        mesh(namespace=USE)
        + gateway(metadata=traffic("all"))
        + """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: shop}
spec: {address: 10.50.0.20}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: shop}
spec:
  hosts: [ext.test]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}, {address: 192.0.2.2, labels: {istio.io/use-waypoint: none}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: implicit, namespace: shop}
spec: {hosts: [implicit.test], resolution: DNS}
"""
    )
    translation = translated(text)
    assert named(translation.services["shop/ext.test"].waypoint) == "shop/wp"
    found = {uid.rpartition("/")[2]: named(one.waypoint) for uid, one in translation.workloads.items()}
    assert found == {"web": "shop/wp", "vm": "shop/wp", "192.0.2.1": "shop/wp", "192.0.2.2": "", "implicit.test": ""}


def test_what_only_its_namespace_may_know_has_no_waypoint_elsewhere(translated: Translated) -> None:
    text = "kind: MeshConfig\nserviceEntryVisibility: {defaultVisibility: NAMESPACE}\n---\n" + mesh(namespace=ELSEWHERE)
    text += gateway(namespace="infra", listener=listener("from: All"))
    text += """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: shop}
spec: {hosts: [ext.test], resolution: DNS}
"""
    translation = translated(text)
    assert named(translation.services[SERVICE_KEY].waypoint) == "infra/wp"
    assert translation.services["shop/ext.test"].waypoint is None
