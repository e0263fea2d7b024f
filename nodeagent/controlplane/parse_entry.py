# SPDX-License-Identifier: Apache-2.0
"""WorkloadEntry, WorkloadGroup and ServiceEntry (networking.istio.io). Pure.

Refused is what Istio's webhook refuses, as far as it concerns what is read here.
"""

import re
from collections.abc import Collection

from nodeagent.controlplane.entry_spec import EntryPort, EntrySpec, Resolution
from nodeagent.controlplane.fields import Fields, parse_address, parse_block
from nodeagent.controlplane.objects import Meta, ServiceEntry, WorkloadEntry, WorkloadGroup
from nodeagent.model.address import Ip, Port

_API = "https://istio.io/latest/docs/reference/config/networking/ lists the fields."
_HOST = re.compile(r"(?=.{2,255}\Z)\*?[A-Za-z0-9_.-]+", re.ASCII)
_NAME = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?", re.ASCII)
_PORT_NAME = re.compile(r"(?=.{1,62}\Z)[A-Za-z0-9](?:[-A-Za-z0-9]*[A-Za-z0-9])?", re.ASCII)
_MAX_WEIGHT = 2**32 - 1
_RESOLUTIONS = {str(value): value for value in Resolution}
_BY_NAME = frozenset({Resolution.DNS, Resolution.DNS_ROUND_ROBIN})
_BY_HOST_FIELD = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY", "HTTPS", "TLS"})
"""Protocols in which a connection says which host it is for."""


def parse_workload_entry(fields: Fields, meta: Meta) -> WorkloadEntry:
    spec = fields.within("spec")
    if spec is None:
        fields.wrong("spec", "a WorkloadEntry has a spec with an address")
        return WorkloadEntry(meta=meta, spec=EntrySpec())
    return WorkloadEntry(meta=meta, spec=_entry(spec))


def parse_workload_group(fields: Fields, meta: Meta) -> WorkloadGroup:
    spec = fields.within("spec")
    template = spec.within("template") if spec is not None else None
    if spec is None or template is None:
        fields.wrong("spec", "a WorkloadGroup has a spec.template")
        return WorkloadGroup(meta=meta, template=EntrySpec())
    for name in ("metadata", "probe"):
        spec.has(name)
    spec.refuse_others(_API)
    return WorkloadGroup(meta=meta, template=_entry(template, is_template=True))


def parse_service_entry(fields: Fields, meta: Meta) -> ServiceEntry:
    spec = fields.within("spec")
    if spec is None:
        fields.wrong("spec", "a ServiceEntry has a spec with hosts")
        return ServiceEntry(meta=meta)
    selector = spec.within("workloadSelector")
    resolution = spec.choice("resolution", _RESOLUTIONS, Resolution.NONE)
    ports = _ports(spec)
    endpoints = tuple(_entry(entry, {port.name for port in ports}) for entry in spec.each("endpoints"))
    entry = ServiceEntry(
        meta=meta,
        hosts=tuple(dict.fromkeys(spec.parsed("hosts", _parse_host))),
        addresses=spec.parsed("addresses", parse_block),
        ports=ports,
        resolution=resolution,
        endpoints=endpoints,
        selector=_selector(selector) if selector is not None else None,
        subject_alt_names=spec.parsed("subjectAltNames", str),
        allocated=_allocated(fields.within("status")),
    )
    for name in ("location", "exportTo"):
        spec.has(name)
    spec.refuse_others(_API)
    _check(entry, spec)
    _doubt(entry, spec)
    return entry


def _selector(fields: Fields) -> dict[str, str]:
    labels, below = fields.texts("labels"), fields.within("labels")
    for name, value in labels.items():
        if below is not None and (not name or "*" in name or "*" in value):
            below.wrong(name, "a label is matched exactly: no wildcard, no empty name")
    fields.refuse_others(_API)
    return labels


def _entry(fields: Fields, port_names: Collection[str] | None = None, *, is_template: bool = False) -> EntrySpec:
    """`port_names`: of the ServiceEntry that it stands in."""
    address, network = fields.text("address"), fields.text("network")
    if not address and not network and not is_template:
        fields.wrong("address", "is missing", check="Write an address, or the network by whose gateway it is reached.")
    elif address and not _is_address(address) and not _NAME.fullmatch(address):
        fields.wrong("address", f"{address!r} is neither an IP address nor a name")
    elif not address and network and not is_template:
        words = "without an address it is reached by the gateway of its network alone"
        fields.report.warn(fields.mapping.line, words, "Is that meant?", "IST0133", field=fields.below("address"))
    locality = (*fields.text("locality").split("/"), "", "")[:3]
    entry = EntrySpec(
        address=address,
        ports=_entry_ports(fields, port_names),
        labels=fields.texts("labels"),
        network=network,
        locality=(locality[0], locality[1], locality[2]),
        weight=fields.number("weight", most=_MAX_WEIGHT),
        service_account=fields.text("serviceAccount"),
    )
    fields.refuse_others(_API)
    return entry


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def _entry_ports(fields: Fields, port_names: Collection[str] | None) -> dict[str, Port]:
    below = fields.within("ports")
    if below is None:
        return {}
    found: dict[str, Port] = {}
    for name in below.mapping.entries:
        port = below.port(name)
        if port_names is not None and name not in port_names:
            below.wrong(name, f"the ServiceEntry has no port {name!r}")
        elif not _PORT_NAME.fullmatch(name):
            below.wrong(name, f"{name!r} is no name of a port", check="Letters, digits and dashes, at most 62.")
        elif port is not None:
            found[name] = port
    return found


def _ports(spec: Fields) -> tuple[EntryPort, ...]:
    by_number: dict[Port, EntryPort] = {}
    names: set[str] = set()
    for entry in spec.each("ports"):
        number, target, name = entry.port("number"), entry.port("targetPort"), entry.text("name")
        protocol = entry.text("protocol")
        entry.refuse_others(_API)
        if number is None:
            entry.wrong("number", "a port number is missing")
            continue
        if number in by_number:
            entry.wrong("number", f"port {number} occurs twice")
        if not name or name in names:
            entry.wrong("name", f"the name {name!r} occurs twice" if name else "is missing")
        names.add(name)
        by_number[number] = EntryPort(name, number, target or number, protocol)
    return tuple(by_number.values())


def _parse_host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is not a host")
    return text


def _allocated(status: Fields | None) -> dict[str, tuple[Ip, ...]]:
    found: dict[str, tuple[Ip, ...]] = {}
    for entry in status.each("addresses") if status is not None else ():
        host, value = entry.text("host"), entry.text("value")
        if _is_address(value):
            found[host] = (*found.get(host, ()), parse_address(value))
    return found


def _check(entry: ServiceEntry, spec: Fields) -> None:
    if not spec.has("hosts"):
        spec.wrong("hosts", "at least one host is needed")
    if entry.selector is not None and entry.endpoints:
        spec.wrong("workloadSelector", "cannot stand beside endpoints")
    has_blocks = any(block.bits < 128 for block in entry.addresses)
    if has_blocks and entry.resolution not in {Resolution.NONE, Resolution.STATIC}:
        spec.wrong("addresses", f"no CIDR block is possible with resolution {entry.resolution}")
    _check_endpoints(entry, spec)
    if entry.resolution is Resolution.DYNAMIC_DNS:
        _check_dynamic(entry, spec)
    elif entry.resolution is not Resolution.NONE and len(entry.hosts) > 1:
        for port in entry.ports:
            if port.protocol.upper() not in _BY_HOST_FIELD:
                spec.wrong(
                    "hosts",
                    f"port {port.port} of protocol {port.protocol or 'TCP'} cannot tell several hosts apart",
                    check="Write a ServiceEntry for each host.",
                )


def _doubt(entry: ServiceEntry, spec: Fields) -> None:
    """Of what Istio's webhook warns of, and takes."""
    if entry.selector is not None:
        words = ""
        if not entry.selector:
            words = "without labels it selects every workload of the namespace"
        elif entry.resolution is Resolution.NONE:
            words = "nobody is selected with resolution NONE: connections keep their address"
        if words:
            where = spec.below("workloadSelector")
            spec.report.warn(spec.line("workloadSelector"), words, "Is that meant?", "IST0133", field=where)
    for at, host in enumerate(entry.hosts):
        if host.startswith("*") and not host.startswith("*.") and entry.resolution is not Resolution.DYNAMIC_DNS:
            words = f"{host!r} is no pattern for whole labels of a name"
            spec.report.warn(
                spec.line_in("hosts", at), words, "Write *. first.", "IST0133", field=f"{spec.below('hosts')}[{at}]"
            )


def _check_endpoints(entry: ServiceEntry, spec: Fields) -> None:
    resolution = entry.resolution
    if entry.endpoints and resolution is Resolution.NONE:
        spec.wrong("endpoints", "there are none with resolution NONE: connections keep their address")
    if resolution is Resolution.DNS_ROUND_ROBIN and len(entry.endpoints) > 1:
        spec.wrong("endpoints", "only one is possible with resolution DNS_ROUND_ROBIN")
    if resolution is Resolution.STATIC and any(
        endpoint.address and endpoint.ip is None for endpoint in entry.endpoints
    ):
        spec.wrong("endpoints", "resolution STATIC needs IP addresses", check="For names, write resolution: DNS.")
    if resolution in _BY_NAME and not entry.endpoints and any(host.startswith("*") for host in entry.hosts):
        spec.wrong("hosts", f"a wildcard cannot be resolved with resolution {resolution}", check="Write endpoints.")


def _check_dynamic(entry: ServiceEntry, spec: Fields) -> None:
    if not all(host.startswith("*") for host in entry.hosts):
        spec.wrong("hosts", "resolution DYNAMIC_DNS is for wildcards")
    for name, written in (("addresses", entry.addresses), ("endpoints", entry.endpoints)):
        if written:
            spec.wrong(name, "there are none with resolution DYNAMIC_DNS")
