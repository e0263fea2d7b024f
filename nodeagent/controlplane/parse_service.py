# SPDX-License-Identifier: Apache-2.0
"""Services and EndpointSlices. Pure.

A Service's ports of other protocols are told as istiod tells them; of a slice only those of TCP are taken, since the
mesh carries nothing else.
"""

from nodeagent.controlplane.fields import Fields, parse_address
from nodeagent.controlplane.objects import Endpoint, EndpointSlice, Meta, PortSpec, Service
from nodeagent.model.address import Ip, Port

_PROTOCOLS = {name: name for name in ("TCP", "UDP", "SCTP")}
_TYPES = {name: name for name in ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")}


def parse_service(fields: Fields, meta: Meta) -> Service:
    spec = fields.within("spec")
    if spec is None:
        fields.wrong("spec", "a Service has a spec with ports")
        return Service(meta=meta)
    is_external = spec.choice("type", _TYPES, "ClusterIP") == "ExternalName"
    ips, is_headless = _ips(spec)
    if not ips and not is_headless and not is_external:
        fields.report.warn(
            spec.mapping.line,
            "without a clusterIP only its name says what it is: nobody assigns addresses here",
            "Write clusterIP, or `clusterIP: None` for a headless Service.",
            "MN0215",
            field="spec.clusterIP",
        )
    return Service(
        meta=meta,
        is_external_name=is_external,
        is_headless=is_headless,
        selector=spec.texts("selector"),
        ips=ips,
        ip_families=_families(spec),
        ports=_ports(spec),
        is_node_local=spec.choice("internalTrafficPolicy", {"Cluster": False, "Local": True}, default=False),
        traffic_distribution=spec.text("trafficDistribution") if spec.has("trafficDistribution") else None,
        publishes_not_ready=spec.flag("publishNotReadyAddresses"),
    )


def _families(spec: Fields) -> tuple[str, ...]:
    def family(text: str) -> str:
        if text not in {"IPv4", "IPv6"}:
            raise ValueError(f"{text!r} is not IPv4 or IPv6")
        return text

    return spec.parsed("ipFamilies", family)


def _ips(spec: Fields) -> tuple[tuple[Ip, ...], bool]:
    """The addresses, and whether the Service is headless."""
    texts = spec.parsed("clusterIPs", str)
    single = spec.text("clusterIP")
    if not texts and single:
        texts = (single,)
    if texts == ("None",):
        return (), True
    found: list[Ip] = []
    for text in texts:
        try:
            found.append(parse_address(text))
        except ValueError as error:
            spec.wrong("clusterIPs" if spec.has("clusterIPs") else "clusterIP", str(error))
    return tuple(found), False


def _ports(spec: Fields) -> tuple[PortSpec, ...]:
    found: dict[tuple[Port, str], PortSpec] = {}
    for entry in spec.each("ports"):
        port, target = entry.port("port"), entry.port_or_name("targetPort")
        if port is None:
            entry.wrong("port", "a port number is missing")
            continue
        protocol = entry.choice("protocol", _PROTOCOLS, "TCP")
        if (port, protocol) in found:
            entry.wrong("port", f"port {port} of {protocol} occurs twice")
        name, hint, is_udp = entry.text("name"), entry.text("appProtocol"), protocol == "UDP"
        if isinstance(target, str):
            found[port, protocol] = PortSpec(name, port, 0, target, hint, is_udp)
        else:
            found[port, protocol] = PortSpec(name, port, target or port, "", hint, is_udp)
    return tuple(found.values())


def parse_endpoint_slice(fields: Fields, meta: Meta) -> EndpointSlice:
    if fields.text("addressType", "IPv4") == "FQDN":
        fields.report.warn(
            fields.line("addressType"),
            "endpoints by name are not supported",
            "Write IPv4 or IPv6.",
            "MN0216",
            field="addressType",
        )
        return EndpointSlice(meta=meta)
    ports = [(entry.text("name"), entry.port("port")) for entry in fields.each("ports") if _is_tcp(entry)]
    return EndpointSlice(
        meta=meta,
        ports=tuple((name, port) for name, port in ports if port is not None),
        endpoints=tuple(_endpoint(entry, meta.namespace) for entry in fields.each("endpoints")),
    )


def _is_tcp(entry: Fields) -> bool:
    return entry.text("protocol", "TCP") == "TCP"


def _endpoint(entry: Fields, namespace: str) -> Endpoint:
    conditions, target = entry.within("conditions"), entry.within("targetRef")
    # Ready when not said otherwise: discovery.k8s.io/v1, EndpointConditions.
    is_ready = conditions.flag("ready") if conditions and conditions.has("ready") else True
    addresses = entry.parsed("addresses", parse_address)
    if not addresses:
        entry.wrong("addresses", "an endpoint has an address")
    written = next(iter(entry.parsed("addresses", str)), "")
    if target is not None and target.text("kind") == "Pod":
        name = f"{target.text('namespace', namespace)}/{target.text('name')}"
        return Endpoint(addresses, written, is_ready, name, target.text("uid"))
    return Endpoint(addresses, written, is_ready)
