# SPDX-License-Identifier: Apache-2.0
"""What namespaces, pods and Services say of the mesh: annotations, sidecars, ports. As Istio's analyzers do. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.objects import Key, Meta, PortSpec, Service
from nodeagent.controlplane.view import View, about, warn


def _each(text: str, *kinds: str, prefix: str = "") -> Mapping[str, tuple[str, ...]]:
    """The same kinds for each annotation of a text."""
    return {prefix + name: kinds for name in text.split()}


_ANNOTATIONS: Mapping[str, tuple[str, ...]] = {
    # istio/api, annotation/annotations.yaml; those of a Gateway are left out, since it is not judged here.
    **_each(
        "ambient.istio.io/bypass-inbound-capture ambient.istio.io/dns-capture ambient.istio.io/redirection"
        " inject.istio.io/templates istio.io/reroute-virtual-interfaces istio.io/rev prometheus.istio.io/merge-metrics"
        " proxy.istio.io/config proxy.istio.io/overrides status.sidecar.istio.io/port",
        "Pod",
    ),
    **_each(
        "applicationPorts failureThreshold initialDelaySeconds periodSeconds",
        "Pod",
        prefix="readiness.status.sidecar.istio.io/",
    ),
    **_each(
        "agentLogLevel bootstrapOverride componentLogLevel discoveryAddress extraStatTags inject interceptionMode"
        " logLevel nativeSidecar proxyCPU proxyCPULimit proxyImage proxyImageType proxyMemory proxyMemoryLimit"
        " rewriteAppHTTPProbers statsCompression statsEvictionInterval statsFlushInterval statsHistogramBins"
        " statsHistogramBuckets statsInclusionPrefixes statsInclusionRegexps statsInclusionSuffixes status userVolume"
        " userVolumeMount",
        "Pod",
        prefix="sidecar.istio.io/",
    ),
    **_each(
        "excludeInboundPorts excludeInterfaces excludeOutboundIPRanges excludeOutboundPorts includeInboundPorts"
        " includeOutboundIPRanges includeOutboundPorts kubevirtInterfaces",
        "Pod",
        prefix="traffic.sidecar.istio.io/",
    ),
    **_each("alpha.istio.io/canonical-serviceaccounts alpha.istio.io/kubernetes-serviceaccounts", "Service"),
    **_each("networking.istio.io/exportTo traffic.istio.io/nodeSelector", "Service"),
    **_each(
        "networking.istio.io/traffic-distribution istio.io/use-waypoint-canary-weight",
        "Namespace",
        "Service",
        "ServiceEntry",
    ),
    **_each("topology.istio.io/controlPlaneClusters", "Namespace"),
    **_each("istio.io/dry-run", "AuthorizationPolicy"),
    **_each("galley.istio.io/analyze-suppress gateway.istio.io/controller-version"),
}
"""The kinds that each belongs on; none: any."""
_PROTOCOLS = frozenset(
    {"http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "mongo", "mysql", "redis", "udp", "hbone"}
)
_WELL_KNOWN = frozenset({25, 53, 3306, 27017})
"""SMTP, DNS, MySQL, MongoDB: Istio takes them for TCP without being told."""


def analyze_kubernetes(view: View) -> Iterator[Finding]:
    metas: list[Meta] = [value.meta for value in view.namespaces.values()]
    metas += [pod.meta for pod in view.pods] + [service.meta for service in view.services]
    metas += [policy.meta for policy in view.policies]
    for meta in metas:
        yield from _annotations(meta)
    yield from _missing_sidecars(view)
    for service in view.services:
        yield from _port_names(service)
    yield from _target_ports(view)


def _annotations(meta: Meta) -> Iterator[Finding]:
    for name in meta.annotations:
        if not name.partition("/")[0].endswith("istio.io"):
            continue
        field = f"metadata.annotations[{name}]"
        where = _ANNOTATIONS.get(name)
        if where is None:
            yield warn(meta, "IST0108", f"Istio has no annotation {name}", "Is it misspelt, or a label?", field)
        elif where and meta.key.kind not in where:
            places = " or ".join(where)
            yield warn(meta, "IST0107", f"{name} means nothing here", f"It belongs on a {places}.", field)


def _missing_sidecars(view: View) -> Iterator[Finding]:
    injecting = {
        name
        for name, value in view.namespaces.items()
        if value.meta.labels.get("istio-injection") == "enabled" or "istio.io/rev" in value.meta.labels
    }
    for pod in view.pods if injecting else ():
        labels, annotations = pod.meta.labels, pod.meta.annotations
        is_excused = pod.is_host_network or labels.get("sidecar.istio.io/inject") == "false" or not view.is_outside(pod)
        if pod.meta.namespace in injecting and "sidecar.istio.io/status" not in annotations and not is_excused:
            yield warn(
                pod.meta,
                "IST0103",
                "its namespace asks for a sidecar, and it has none and is not captured either",
                "Restart it, or label the namespace with istio.io/dataplane-mode: ambient instead.",
            )


def _port_names(service: Service) -> Iterator[Finding]:
    for port in service.ports:
        prefix = port.name.partition("-")[0]
        is_told = port.name in _PROTOCOLS or prefix in _PROTOCOLS or port.port in _WELL_KNOWN
        if not port.app_protocol and not is_told:
            yield about(
                service.meta,
                Severity.INFO,
                "IST0118",
                f"the name of port {port.port}, {port.name!r}, does not begin with a protocol",
                "A waypoint would have to guess; write tcp-… or appProtocol. At layer 4 it makes no difference.",
                "spec.ports",
            )


def _target(port: PortSpec) -> str:
    return port.target_name or str(port.target_port)


def _target_ports(view: View) -> Iterator[Finding]:
    """Two Services send to one port of the same pods, from ports of different numbers: said of the second one."""
    sending: dict[tuple[Key, str], tuple[Service, int]] = {}
    told: set[tuple[Key, Key, str]] = set()
    for service, port in _sending_alike(view.services):
        target = _target(port)
        for pod in view.select(service.meta.namespace, service.selector):
            other, number = sending.setdefault((pod.meta.key, target), (service, port.port))
            pair = (service.meta.key, other.meta.key, target)
            if other is not service and number != port.port and pair not in told:
                told.add(pair)
                yield warn(
                    service.meta,
                    "IST0137",
                    f"port {port.port} sends to port {target} of {pod.meta.key}, as port {number} of "
                    f"{other.meta.key} does",
                    "Use one port for both, or two of the pod.",
                    "spec.ports",
                )


def _sending_alike(services: Iterable[Service]) -> Iterator[tuple[Service, PortSpec]]:
    """Those that send to a port to which another number of their namespace sends, too: a few, if any."""
    by_target: dict[tuple[str, str], list[tuple[Service, PortSpec]]] = defaultdict(list)
    for service in services:
        for port in service.ports if service.selector else ():
            by_target[service.meta.namespace, _target(port)].append((service, port))
    for same in by_target.values():
        if len({port.port for _, port in same}) > 1:
            yield from same
