# SPDX-License-Identifier: Apache-2.0
"""VirtualServices and DestinationRules, judged as they are written: hosts, ports, subsets, rules never reached.

The codes mean what they mean in Istio's analyzers. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from nodeagent.controlplane.documents import Mapping as Tree
from nodeagent.controlplane.documents import Scalar, Sequence, Value
from nodeagent.controlplane.fields import Fields
from nodeagent.controlplane.view import View
from nodeagent.controlplane.written import Hosts, WrittenObject, number_of

_SECTIONS = ("http", "tls", "tcp")


def analyze_routing(by_kind: Mapping[str, list[WrittenObject]], view: View) -> None:
    """Findings go to the objects' reports."""
    if by_kind.keys() & {"VirtualService", "DestinationRule"}:
        hosts = Hosts(by_kind, view.mesh.cluster_domain)
        _virtual_services(by_kind, hosts)
        _destination_rules(by_kind.get("DestinationRule", ()), hosts, view)


def _virtual_services(by_kind: Mapping[str, list[WrittenObject]], hosts: Hosts) -> None:
    subsets: dict[str, set[str]] = defaultdict(set)
    for of_host in by_kind.get("DestinationRule", ()):
        names = {subset.text("name") for subset in of_host.spec.each("subsets")}
        subsets[hosts.full(of_host.spec.text("host"), of_host.key.namespace)] |= names
    gateways = {f"{one.key.namespace}/{one.key.name}" for one in by_kind.get("Gateway", ())}
    for one in by_kind.get("VirtualService", ()):
        _gateways(one, gateways)
        for section in _SECTIONS:
            rules = list(one.spec.each(section))
            _order(rules, section, one)
            for route in (route for rule in rules for route in rule.each("route")):
                destination = route.within("destination")
                if destination is not None:
                    _destination(destination, one, hosts, subsets)


def _gateways(one: WrittenObject, known: set[str]) -> None:
    for at, name in enumerate(one.spec.parsed("gateways", str)):
        full = name if "/" in name else f"{one.key.namespace}/{name}"
        if name != "mesh" and known and full not in known:
            one.report.error(
                one.spec.line("gateways"),
                f"gateway {name!r} does not exist",
                "Is the name right, with its namespace before a slash?",
                "IST0101",
                field=f"spec.gateways[{at}]",
            )


def _destination(
    fields: Fields,
    one: WrittenObject,
    hosts: Hosts,
    subsets: Mapping[str, set[str]],
) -> None:
    name = fields.text("host")
    host = hosts.find(name, one.key.namespace)
    if host is None:
        _missing(fields, one, "host", f"host {name!r} does not exist")
        return
    port = fields.within("port")
    number = number_of(port, "number") if port is not None else 0
    if not number and len(host.ports) > 1:
        one.report.error(
            fields.line("host"),
            f"{name} has the ports {', '.join(map(str, host.ports))}, and which one is meant is not said",
            "Write destination.port.number.",
            "IST0112",
            field=fields.below("host"),
        )
    if port is not None and number and number not in host.ports:
        _missing(port, one, "number", f"{name} has no port {number}")
    subset = fields.text("subset")
    if subset and subset not in subsets.get(hosts.full(name, one.key.namespace), set()):
        _missing(fields, one, "subset", f"no DestinationRule of {name} has the subset {subset!r}")


def _missing(fields: Fields, one: WrittenObject, name: str, words: str) -> None:
    one.report.error(fields.line(name), words, "Is the name right?", "IST0101", field=fields.below(name))


def _order(rules: list[Fields], section: str, one: WrittenObject) -> None:
    """The first match wins: what comes after everything, or again, is never reached."""
    everything: int | None = None
    seen: dict[object, int] = {}
    for number, rule in enumerate(rules):
        path = f"spec.{section}[{number}]"
        matches = list(rule.each("match"))
        repeated = [(match, seen[_plain(match.mapping)]) for match in matches if _plain(match.mapping) in seen]
        if everything is not None:
            words = f"this rule is never reached: rule {everything} before it matches everything"
            one.report.warn(rule.mapping.line, words, "Only the last rule may have no match.", "IST0130", field=path)
        elif matches and len(repeated) == len(matches):
            words = f"this rule is never reached: rule {repeated[0][1]} has the same match"
            one.report.warn(rule.mapping.line, words, "The first that matches wins.", "IST0130", field=path)
        else:
            for match, first in repeated:
                words = f"this match is never reached: rule {first} has the same"
                one.report.inform(match.mapping.line, words, "Remove it.", "IST0131", field=match.path)
        for match in matches:
            seen.setdefault(_plain(match.mapping), number)
        if everything is None and not matches:
            everything = number


def _plain(value: Value) -> object:
    """Equal for equal content, whatever the order of its keys."""
    match value:
        case Scalar():
            return value.value
        case Sequence():
            return tuple(_plain(entry) for entry in value.items)
        case Tree():
            return frozenset((name, _plain(entry)) for name, entry in value.entries.items())


def _destination_rules(rules: Iterable[WrittenObject], hosts: Hosts, view: View) -> None:
    for one in rules:
        name = one.spec.text("host")
        host = hosts.find(name, one.key.namespace)
        if host is None:
            if not name.startswith("*"):
                one.report.warn(
                    one.spec.line("host"),
                    f"no Service or ServiceEntry has the host {name!r}",
                    "Is the name right?",
                    "IST0174",
                    field="spec.host",
                )
            continue
        for subset in one.spec.each("subsets"):
            labels = {**host.selector, **subset.texts("labels")}
            if host.selector and not view.select(host.namespace, labels):
                one.report.error(
                    subset.mapping.line,
                    f"the subset {subset.text('name')!r} selects no pod",
                    "Compare its labels with the pods'.",
                    "IST0173",
                    field=subset.path,
                )
