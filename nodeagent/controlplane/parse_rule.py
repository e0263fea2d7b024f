# SPDX-License-Identifier: Apache-2.0
"""One rule of an AuthorizationPolicy: who (`from`), to what (`to`), under which conditions (`when`). Pure.

Attributes of layer 7 are kept by name: `authorization.py` decides what becomes of such rules, as istiod does; here the
operator is told, because a DENY rule may quietly never fire.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from nodeagent.controlplane.blocks import parse_written_block
from nodeagent.controlplane.fields import Fields, parse_port
from nodeagent.controlplane.objects import Condition, Operation, PolicyRule, Source
from nodeagent.controlplane.webhook import layer7_parser
from nodeagent.model.policy import Action, MatchKind, ServiceAccountMatch, StringMatch

API = "https://istio.io/latest/docs/reference/config/security/ lists the fields."
_SOURCE_LAYER7 = ("requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks")
_OPERATION_LAYER7 = ("hosts", "notHosts", "methods", "notMethods", "paths", "notPaths")
_MAX_SERVICE_ACCOUNTS = 16
_MAX_ACCOUNT_LENGTH = 320
_LAYER7_KEYS = frozenset(
    {
        "remote.ip",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "connection.sni",
        # Of layer 4, and still treated like the others by istiod.
        "source.serviceAccount",
        "source.trustDomain",
    }
)
_LAYER7_MAP_KEY = re.compile(r"(?:request\.headers|request\.auth\.claims|experimental\.envoy\.filters\.[^\[]*)\[.+\]")
_REPLACED_KEYS = {
    "destination.namespace": "metadata.namespace says it",
    "destination.labels": "the selector says it",
    "destination.name": "it existed in v1alpha1 only",
    "destination.user": "it existed in v1alpha1 only",
}
_Entry = TypeVar("_Entry")


class Judged(NamedTuple):
    """By whom a policy will be read, as far as layer 7 is concerned."""

    action: Action | None
    """None: a waypoint, which is told nothing about layer 7."""
    is_strict: bool = False


def parse_rule(entry: Fields, namespace: str, judged: Judged) -> PolicyRule:
    rule = PolicyRule(
        sources=_entries(entry, "from", "source", lambda fields: _source(fields, namespace, judged)),
        operations=_entries(entry, "to", "operation", lambda fields: _operation(fields, judged)),
        conditions=tuple(_condition(fields, judged) for fields in entry.each("when")),
    )
    entry.refuse_others(API)
    if judged.action is Action.ALLOW:
        _tell_about_allow(rule, entry)
    return rule


def _entries(entry: Fields, name: str, inner: str, read: Callable[[Fields], _Entry]) -> tuple[_Entry, ...]:
    found: list[_Entry] = []
    for outer in entry.each(name):
        fields = outer.within(inner)
        outer.refuse_others(API)
        if fields is None or not fields.mapping.entries:
            outer.wrong(inner, "is missing or empty", check=f"An entry of `{name}` has a `{inner}` with fields.")
            continue
        value = read(fields)
        found.append(value)
        if value == type(value)() and not fields.report.is_rejected:
            # An entry of empty lists would match nothing, so that a DENY would never fire.
            outer.wrong(inner, "has no value in any of its fields", check="Fill one in, or leave out the entry.")
    if entry.has(name) and not found:
        entry.wrong(name, "is empty", check="Leave it out to match everything.")
    return tuple(found)


def _source(fields: Fields, namespace: str, judged: Judged) -> Source:
    def account(text: str) -> ServiceAccountMatch:
        return _parse_account(text, namespace)

    source = Source(
        principals=_principals(fields, "principals"),
        not_principals=_principals(fields, "notPrincipals"),
        namespaces=fields.parsed("namespaces", parse_match),
        not_namespaces=fields.parsed("notNamespaces", parse_match),
        service_accounts=fields.parsed("serviceAccounts", account),
        not_service_accounts=fields.parsed("notServiceAccounts", account),
        ip_blocks=fields.parsed("ipBlocks", parse_written_block),
        not_ip_blocks=fields.parsed("notIpBlocks", parse_written_block),
        trust_domains=_trust_domains(fields, "trustDomains"),
        not_trust_domains=_trust_domains(fields, "notTrustDomains"),
        layer7=_layer7(fields, _SOURCE_LAYER7),
    )
    _check_service_accounts(fields)
    fields.refuse_others(API)
    _tell_about_deny(source.layer7, source == Source(layer7=source.layer7), fields, judged)
    return source


def _trust_domains(fields: Fields, name: str) -> tuple[StringMatch, ...]:
    """As Istio's webhook has them, but for what no principal can say."""
    found = fields.parsed(name, _parse_trust_domain)
    if any(match.kind is MatchKind.SUFFIX for match in found):
        words = "a trust domain that begins with a star cannot be told to node agents"
        fields.wrong(name, words, check="Write out the trust domains.", code="MN0205")
    return found


def _parse_trust_domain(text: str) -> StringMatch:
    if not text or "/" in text:
        raise ValueError(f"{text!r} is no trust domain")
    return parse_match(text)


def _check_service_accounts(fields: Fields) -> None:
    for name in ("serviceAccounts", "notServiceAccounts"):
        if not fields.has(name):
            continue
        clashing = [
            other for other in ("principals", "notPrincipals", "namespaces", "notNamespaces") if fields.has(other)
        ]
        if clashing:
            fields.wrong(name, f"cannot stand beside {clashing[0]}", check="Use two entries, or principals alone.")
        if len(fields.parsed(name, str)) > _MAX_SERVICE_ACCOUNTS:
            fields.wrong(name, f"more than {_MAX_SERVICE_ACCOUNTS} values", check="Use two entries.")


def _operation(fields: Fields, judged: Judged) -> Operation:
    operation = Operation(
        ports=fields.parsed("ports", parse_port),
        not_ports=fields.parsed("notPorts", parse_port),
        layer7=_layer7(fields, _OPERATION_LAYER7),
    )
    fields.refuse_others(API)
    _tell_about_deny(operation.layer7, not operation.ports and not operation.not_ports, fields, judged)
    return operation


def _layer7(fields: Fields, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if fields.parsed(name, layer7_parser(name)))


def _condition(fields: Fields, judged: Judged) -> Condition:
    key = fields.text("key")
    if not fields.parsed("values", str) and not fields.parsed("notValues", str):
        fields.wrong("values", "values or notValues are missing")
    match key:
        case "source.ip":
            blocks = fields.parsed("values", parse_written_block), fields.parsed("notValues", parse_written_block)
            condition = Condition(key=key, source=Source(ip_blocks=blocks[0], not_ip_blocks=blocks[1]))
        case "source.namespace":
            names = fields.parsed("values", parse_match), fields.parsed("notValues", parse_match)
            condition = Condition(key=key, source=Source(namespaces=names[0], not_namespaces=names[1]))
        case "source.principal":
            names = _principals(fields, "values"), _principals(fields, "notValues")
            condition = Condition(key=key, source=Source(principals=names[0], not_principals=names[1]))
        case "destination.ip":
            blocks = fields.parsed("values", parse_written_block), fields.parsed("notValues", parse_written_block)
            condition = Condition(key=key, destination_ips=blocks[0], not_destination_ips=blocks[1])
        case "destination.port":
            ports = fields.parsed("values", parse_port), fields.parsed("notValues", parse_port)
            condition = Condition(key=key, operation=Operation(ports=ports[0], not_ports=ports[1]))
        case _:
            condition = _layer7_condition(fields, key, judged)
    fields.refuse_others(API)
    return condition


def _layer7_condition(fields: Fields, key: str, judged: Judged) -> Condition:
    parse = _parse_account_key if key == "source.serviceAccount" else layer7_parser(key)
    fields.parsed("values", parse), fields.parsed("notValues", parse)
    if key.partition("[")[0] in _REPLACED_KEYS:
        fields.wrong("key", f"{key!r} is not possible: {_REPLACED_KEYS[key.partition('[')[0]]}")
    elif key not in _LAYER7_KEYS and not _LAYER7_MAP_KEY.fullmatch(key):
        fields.wrong("key", f"{key!r} is not an attribute", check=API)
    else:
        _tell_about_deny((key,), True, fields, judged)  # noqa: FBT003 - a condition has one key, so nothing else is left
    return Condition(key=key, is_layer7=True)


def parse_match(text: str) -> StringMatch:
    """`*`, `prefix*`, `*suffix` or exact. Raises ValueError for any other place of a star.

    istiod reads `*x*` as the suffix `x*` and `a*b` as exact: neither can match a name, so a DENY would never fire.
    """
    if text == "*":
        return StringMatch(MatchKind.PRESENCE)
    if "*" in text[1:-1] or (text.startswith("*") and text.endswith("*")):
        raise ValueError(f"{text!r}: a star stands alone, first or last")
    if text.startswith("*"):
        return StringMatch(MatchKind.SUFFIX, text[1:])
    if text.endswith("*"):
        return StringMatch(MatchKind.PREFIX, text[:-1])
    return StringMatch(MatchKind.EXACT, text)


def _parse_account(text: str, namespace: str) -> ServiceAccountMatch:
    """`namespace/name`, or a name in the policy's own namespace. Raises ValueError."""
    first, slash, last = text.partition("/")
    if len(text) > _MAX_ACCOUNT_LENGTH:
        raise ValueError(f"a service account of more than {_MAX_ACCOUNT_LENGTH} characters")
    if "*" in text or "/" in last or not first or (slash and not last):
        raise ValueError(f"{text!r} is not a service account or namespace/service account")
    return ServiceAccountMatch(first, last) if slash else ServiceAccountMatch(namespace, first)


def _parse_account_key(text: str) -> ServiceAccountMatch:
    return _parse_account(text, "")


def _principals(fields: Fields, name: str) -> tuple[StringMatch, ...]:
    found = fields.parsed(name, parse_match)
    for at, match in enumerate(found):
        if match.value.startswith("spiffe:"):
            fields.report.warn(
                fields.line_in(name, at),
                f"{match.value!r} never matches: principals are written without spiffe://",
                f"Write {match.value.removeprefix('spiffe://')!r}.",
                "MN0203",
                field=f"{fields.below(name)}[{at}]",
            )
    return found


def _tell_about_deny(layer7: tuple[str, ...], is_nothing_left: bool, fields: Fields, judged: Judged) -> None:  # noqa: FBT001
    if not layer7 or judged.action is not Action.DENY:
        return
    names = ", ".join(layer7)
    if is_nothing_left and not judged.is_strict:
        fields.report.error(
            fields.mapping.line,
            f"this never matches, so nothing is denied by it: {names} is only seen by a waypoint",
            "Deny by principal, namespace, address or port.",
            "MN0201",
            field=fields.path,
        )
    else:
        rest = "it counts as met" if judged.is_strict else "the rest of the entry denies without it"
        fields.report.warn(
            fields.mapping.line,
            f"{names} is only seen by a waypoint; {rest}",
            "More is denied than is written.",
            "MN0218",
            field=fields.path,
        )


def _tell_about_allow(rule: PolicyRule, entry: Fields) -> None:
    if rule.layer7:
        entry.report.warn(
            entry.mapping.line,
            f"this rule is left out: {', '.join(rule.layer7)} is only seen by a waypoint",
            "Less is allowed than is written; a policy without rules left allows nothing.",
            "MN0202",
            field=entry.path,
        )
    sources = (*rule.sources, *(condition.source for condition in rule.conditions))
    if any(_excludes_only(source) for source in rule.sources) and not any(
        _names_somebody(source) for source in sources
    ):
        entry.report.warn(
            entry.mapping.line,
            "allows by exclusion only, so clients outside the mesh, who have no identity, are allowed",
            "Add principals: ['*'] to ask for an identity.",
            "MN0204",
            field=entry.path,
        )


def _excludes_only(source: Source) -> bool:
    excludes = (source.not_principals, source.not_namespaces, source.not_service_accounts, source.not_trust_domains)
    return any(excludes) and not _names_somebody(source)


def _names_somebody(source: Source) -> bool:
    return bool(source.principals or source.namespaces or source.service_accounts or source.trust_domains)
