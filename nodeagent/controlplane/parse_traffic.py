# SPDX-License-Identifier: Apache-2.0
"""VirtualService, DestinationRule and Sidecar, as far as layer 4 goes, with the checks of Istio's webhook. Pure.

What only a layer 7 proxy can do is left out with a warning (MN0301), because the same objects may be there for sidecars
or waypoints. A match that cannot be judged here rejects the object: without it the route would match more.
"""

import re
from collections.abc import Sequence

from nodeagent.controlplane.fields import Fields, parse_block
from nodeagent.controlplane.objects import (
    DestinationRule,
    Meta,
    OutboundMode,
    RouteDestination,
    Sidecar,
    VirtualService,
    WrittenRoute,
)
from nodeagent.controlplane.parse_traffic_policy import API, leave_out, parse_policies
from nodeagent.model.traffic import EgressHosts, Subset, TcpMatch

_HOST = re.compile(r"(?:\*|[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_HOSTS = "Write it under spec.hosts too, as Istio demands."
_LABEL = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_SERVER_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:\*|(?:\*\.)?[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*)",
    re.ASCII,
)


def parse_virtual_service(fields: Fields, meta: Meta) -> VirtualService:
    spec = fields.within("spec")
    if spec is None:
        fields.wrong("spec", "hosts are missing")
        return VirtualService(meta=meta)
    hosts = spec.parsed("hosts", _parse_host)
    if not hosts and not spec.report.is_rejected:
        spec.wrong("hosts", "at least one is needed")
    gateways = spec.parsed("gateways", str)
    is_for_mesh = not gateways or "mesh" in gateways
    routes = tuple(_route(entry) for entry in spec.each("tcp"))
    tls_routes = tuple(_route(entry, hosts) for entry in spec.each("tls"))
    if spec.has("http") and is_for_mesh:
        leave_out(spec, "http", "HTTP routes need a waypoint")
    if spec.has("exportTo"):
        leave_out(spec, "exportTo", "a route is for every client of its hosts")
    spec.refuse_others(API)
    return VirtualService(meta=meta, hosts=hosts, is_for_mesh=is_for_mesh, routes=routes, tls_routes=tls_routes)


def _route(route: Fields, hosts: Sequence[str] | None = None) -> WrittenRoute:
    """`hosts`: of the VirtualService, for one of `tls`."""
    written = tuple(route.each("match"))
    if hosts is not None and not written:
        route.wrong("match", "at least one is needed, with sniHosts")
    matches = tuple(found for entry in written if (found := _match(entry, hosts)) is not None)
    is_never = route.has("match") and not matches and not route.report.is_rejected
    destinations = tuple(_destination(entry) for entry in route.each("route"))
    if not destinations:
        route.wrong("route", "at least one destination is needed")
    if len(destinations) > 1 and not any(destination.weight for destination in destinations):
        route.wrong("route", "the weights add up to 0")
    route.refuse_others(API)
    return WrittenRoute(matches=matches, destinations=() if is_never else destinations)


def _match(match: Fields, hosts: Sequence[str] | None) -> TcpMatch | None:
    """None for one that no client of the mesh can meet."""
    gateways = match.parsed("gateways", str)
    names = _server_names(match, hosts) if hosts is not None else ()
    found = TcpMatch(
        destination_blocks=match.parsed("destinationSubnets", parse_block),
        port=match.port("port") or 0,
        source_namespace=match.text("sourceNamespace"),
        source_labels=match.texts("sourceLabels"),
        server_names=names,
    )
    match.refuse_others(API)
    return None if gateways and "mesh" not in gateways else found


def _server_names(match: Fields, hosts: Sequence[str]) -> tuple[str, ...]:
    names = match.parsed("sniHosts", _parse_server_name)
    if not names and not match.report.is_rejected:
        match.wrong("sniHosts", "at least one is needed")
    for at, name in enumerate(names):
        if hosts and not any(_is_within(name, host.lower()) for host in hosts):
            words = f"{name} is none of the VirtualService's hosts"
            match.report.reject(match.line_in("sniHosts", at), words, _HOSTS, field=f"{match.below('sniHosts')}[{at}]")
    return names


def _is_within(name: str, host: str) -> bool:
    """Whether everything that `name` means, `host` means too."""
    return name == host or (host.startswith("*") and name.endswith(host[1:]))


def _parse_server_name(text: str) -> str:
    if not _SERVER_NAME.fullmatch(text.lower()):
        raise ValueError(f"{text!r} is not a server name; a wildcard is `*` or begins with `*.`")
    return text.lower()


def _destination(entry: Fields) -> RouteDestination:
    weight = entry.number("weight")
    destination = entry.within("destination")
    entry.refuse_others(API)
    if destination is None:
        entry.wrong("destination", "is missing")
        return RouteDestination(host="")
    port = destination.within("port")
    number = port.port("number") if port is not None else None
    if port is not None:
        port.refuse_others(API)
    host = _host(destination)
    subset = destination.text("subset")
    destination.refuse_others(API)
    return RouteDestination(host=host, weight=weight, port=number or 0, subset=subset)


def parse_destination_rule(fields: Fields, meta: Meta) -> DestinationRule:
    spec = fields.within("spec")
    if spec is None:
        fields.wrong("spec", "a host is missing")
        return DestinationRule(meta=meta, host="")
    host = _host(spec)
    written = spec.within("trafficPolicy")
    subsets = tuple(_subset(entry, written) for entry in spec.each("subsets"))
    names = [subset.name for subset in subsets]
    for name in sorted({name for name in names if names.count(name) > 1}):
        spec.wrong("subsets", f"{name!r} is defined twice")
    for name in ("exportTo", "workloadSelector"):
        if spec.has(name):
            leave_out(spec, name, "a rule is for every client of its host")
    spec.refuse_others(API)
    return DestinationRule(meta=meta, host=host, subsets=subsets, policies=parse_policies(written))


def _subset(entry: Fields, of_rule: Fields | None) -> Subset:
    name = entry.text("name")
    if not _LABEL.fullmatch(name):
        entry.wrong("name", f"{name!r} is no name of a subset", check="Letters, digits and dashes.")
    labels = entry.texts("labels")
    written = entry.within("trafficPolicy")
    entry.refuse_others(API)
    return Subset(name, labels, parse_policies(written, of_rule) if written is not None else ())


def parse_sidecar(fields: Fields, meta: Meta) -> Sidecar:
    spec = fields.within("spec")
    if spec is None:
        return Sidecar(meta=meta)
    selector = spec.within("workloadSelector")
    listeners = [found for entry in spec.each("egress") if (found := _egress(entry)) is not None]
    ports = [listener.port for listener in listeners]
    for port in sorted({port for port in ports if ports.count(port) > 1}):
        spec.wrong("egress", f"two listeners have the port {port}" if port else "two listeners have no port")
    sidecar = Sidecar(
        meta=meta,
        labels=selector.texts("labels") if selector is not None else {},
        egress=tuple(listeners) or None,
        outbound=parse_outbound(spec),
    )
    if selector is not None:
        selector.refuse_others(API)
    for name in ("ingress", "inboundConnectionPool"):
        if spec.has(name):
            leave_out(spec, name, "it is a sidecar's")
    spec.refuse_others(API)
    return sidecar


def _egress(entry: Fields) -> EgressHosts | None:
    """None for a listener of a sidecar that captured connections do not come to."""
    hosts = entry.parsed("hosts", _parse_egress_host)
    if not hosts and not entry.report.is_rejected:
        entry.wrong("hosts", "at least one is needed")
    port = entry.within("port")
    number = port.port("number") if port is not None else None
    for name in ("name", "protocol", "targetPort"):
        if port is not None:
            port.has(name)
    if port is not None:
        if number is None:
            port.wrong("number", "a number is needed")
        port.refuse_others(API)
    is_captured = entry.choice("captureMode", {"DEFAULT": True, "IPTABLES": True, "NONE": False}, default=True)
    for name, is_left_out in (("bind", entry.has("bind")), ("captureMode", not is_captured)):
        if is_left_out:
            leave_out(entry, name, "connections are captured, and come to no listener of their own")
            is_captured = False
    entry.refuse_others(API)
    return EgressHosts(hosts, number or 0) if is_captured else None


def _parse_egress_host(text: str) -> str:
    namespace, slash, name = text.partition("/")
    if not slash or not (namespace in {"*", ".", "~"} or _LABEL.fullmatch(namespace)):
        raise ValueError(f"{text!r} is not namespace/host, with `*`, `.` or `~` for the namespace")
    if name != "*" and not _HOST.fullmatch(name):
        raise ValueError(f"{name!r} is not a host")
    return text


def parse_outbound(fields: Fields) -> OutboundMode | None:
    """None when it is not written. As in Istio, a policy without mode is REGISTRY_ONLY."""
    policy = fields.within("outboundTrafficPolicy")
    if policy is None:
        return None
    mode = policy.choice("mode", {mode.value: mode for mode in OutboundMode}, OutboundMode.REGISTRY_ONLY)
    if policy.has("egressProxy"):
        leave_out(policy, "egressProxy", "there is none")
    policy.refuse_others(API)
    return mode


def _host(fields: Fields) -> str:
    text = fields.text("host")
    try:
        return _parse_host(text)
    except ValueError as error:
        fields.wrong("host", str(error), check="A host is `name`, or `name.namespace.svc.cluster.local`.")
    return ""


def _parse_host(text: str) -> str:
    if not _HOST.fullmatch(text) or len(text) > 253:
        raise ValueError(f"{text!r} is not a host")
    return text
