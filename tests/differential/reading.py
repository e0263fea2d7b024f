# SPDX-License-Identifier: Apache-2.0
"""The naive evaluator: what Istio's YAML says of one connection, read from the objects themselves.

There are no groups, clauses and matches here, no scopes and no generated policies: an AuthorizationPolicy is asked
whether it applies to the pod and whether it fires, a PeerAuthentication which mode it gives to a port. Nothing is
shared with the control plane or the evaluator. It is slow and says each rule once, with the letters of the rules in
`test_rules.py`.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

Plain = dict[str, Any]

_NOT_AT_LAYER_4 = {"requestPrincipals", "remoteIpBlocks", "methods", "paths", "hosts"}
_KEYS_AT_LAYER_4 = {
    "source.ip": "ipBlocks",
    "source.namespace": "namespaces",
    "source.principal": "principals",
    "destination.ip": "destinationIps",
    "destination.port": "ports",
}


class Expected(NamedTuple):
    words: str
    policies: frozenset[str]
    """Names of which one has to be told; none: nothing is named."""


def read_verdict(objects: list[Plain], pod: str, connection: Plain) -> Expected:
    mesh = next(written for written in objects if written["kind"] == "MeshConfig")
    root = mesh.get("rootNamespace", "istio-system")
    # T3: an identity of an alias is as good as that of the mesh's own trust domain.
    aliases = mesh.get("trustDomainAliases", [])
    same = [mesh.get("trustDomain", "cluster.local"), *aliases] if aliases else []
    connection = connection | {"same": same}
    target = next(written for written in objects if written["kind"] == "Pod" and name_of(written) == pod)
    applying = [
        written
        for written in objects
        if written["kind"] == "AuthorizationPolicy" and _is_enforced(written) and _applies(written, target, root)
    ]
    denying = {name_of(policy) for policy in applying if _action(policy) == "DENY" and _fires(policy, connection)}
    denying |= _refuses_plaintext(objects, target, root, connection)
    if denying:
        return Expected("denied", frozenset(denying))
    allowing = [policy for policy in applying if _action(policy) == "ALLOW"]
    if not allowing:
        return Expected("allowed", frozenset({"None"}))
    matching = {name_of(policy) for policy in allowing if _fires(policy, connection)}
    return Expected("allowed", frozenset(matching)) if matching else Expected("not allowed", frozenset())


def name_of(written: Plain) -> str:
    return f"{_namespace(written)}/{written['metadata']['name']}"


def _namespace(written: Plain) -> str:
    return str(written["metadata"].get("namespace", "default"))


# ---- AuthorizationPolicy -----------------------------------------------------------------------------------------


def _action(policy: Plain) -> str:
    return str(policy["spec"].get("action", "ALLOW"))  # R4


def _is_enforced(policy: Plain) -> bool:
    is_dry_run = policy["metadata"].get("annotations", {}).get("istio.io/dry-run") == "true"  # R5
    is_for_waypoint = "targetRefs" in policy["spec"] or "targetRef" in policy["spec"]  # R1
    return _action(policy) in {"ALLOW", "DENY"} and not is_dry_run and not is_for_waypoint


def _applies(policy: Plain, pod: Plain, root: str) -> bool:
    """R2, R3, and for an empty selector our own choice: as if there were none (T7).

    Of a pod without labels istiod does not look at selectors at all.
    """
    is_in_reach = _namespace(policy) in {root, _namespace(pod)}
    labels = policy["spec"].get("selector", {}).get("matchLabels", {})
    return is_in_reach and (_has(pod, labels) or not pod["metadata"].get("labels"))


def _has(pod: Plain, labels: Plain) -> bool:
    return all(pod["metadata"].get("labels", {}).get(name) == value for name, value in labels.items())


def _fires(policy: Plain, connection: Plain) -> bool:
    """R6, R7: rules are alternatives; none never fires."""
    namespace = _namespace(policy)
    is_strict = policy["metadata"].get("annotations", {}).get("nodeagent/strict-deny") == "true"
    rules = [_without_layer_7(rule) if is_strict else rule for rule in policy["spec"].get("rules") or []]
    if _action(policy) == "ALLOW":
        rules = policy["spec"].get("rules") or []
    return any(_rule_fires(rule, _action(policy), namespace, connection) for rule in rules)


def _without_layer_7(rule: Plain) -> Plain:
    """What is left of a DENY for which layer 7 counts as met: an entry that is met meets all of its list."""
    left = dict(rule)
    for entries, inner in (("from", "source"), ("to", "operation")):
        if any(all(_positive(name) in _NOT_AT_LAYER_4 for name in entry[inner]) for entry in rule.get(entries, [])):
            del left[entries]
    left["when"] = [condition for condition in rule.get("when", []) if condition["key"] in _KEYS_AT_LAYER_4]
    return left


def _rule_fires(rule: Plain, action: str, namespace: str, connection: Plain) -> bool:
    sources = [entry["source"] for entry in rule.get("from", [])]
    operations = [entry["operation"] for entry in rule.get("to", [])]
    conditions = rule.get("when", [])
    if action == "ALLOW" and _needs_layer_7(sources, operations, conditions):
        return False  # the whole rule is left out
    if sources and not any(_entry_holds(source, namespace, connection) for source in sources):
        return False
    if operations and not any(_entry_holds(operation, namespace, connection) for operation in operations):
        return False
    return all(_condition_holds(condition, namespace, connection) for condition in conditions)


def _needs_layer_7(sources: list[Plain], operations: list[Plain], conditions: list[Plain]) -> bool:
    names = {_positive(name) for entry in (*sources, *operations) for name in entry}
    return bool(names & _NOT_AT_LAYER_4) or any(one["key"] not in _KEYS_AT_LAYER_4 for one in conditions)


def _entry_holds(entry: Plain, namespace: str, connection: Plain) -> bool:
    """Every field has to hold; one of which only layer 7 fields are written never does (DENY: it never fires)."""
    told = {name: values for name, values in entry.items() if _positive(name) not in _NOT_AT_LAYER_4}
    return bool(told) and all(_field_holds(name, values, namespace, connection) for name, values in told.items())


def _condition_holds(condition: Plain, namespace: str, connection: Plain) -> bool:
    field = _KEYS_AT_LAYER_4.get(condition["key"])
    if field is None:
        return False
    wanted, unwanted = condition.get("values", []), condition.get("notValues", [])
    return (not wanted or _is_among(field, wanted, namespace, connection)) and not (
        unwanted and _is_among(field, unwanted, namespace, connection)
    )


def _positive(name: str) -> str:
    return name[3].lower() + name[4:] if name.startswith("not") else name


def _field_holds(name: str, values: list[str], namespace: str, connection: Plain) -> bool:
    is_among = _is_among(_positive(name), values, namespace, connection)
    return not is_among if name.startswith("not") else is_among


def _is_among(field: str, values: Iterable[str], namespace: str, connection: Plain) -> bool:
    """A client without identity has neither principal nor account, and the empty namespace."""
    principal = connection["identity"].removeprefix("spiffe://")
    client_namespace, account = _parts(principal)
    match field:
        case "principals":
            return bool(principal) and any(_names(value, principal, connection["same"]) for value in values)
        case "trustDomains":
            domain, same = principal.partition("/")[0], connection["same"]
            return bool(principal) and any(
                domain in same if value in same else _fits(value, domain) for value in values
            )
        case "namespaces":
            return any(_fits(value, client_namespace) for value in values)
        case "serviceAccounts":
            full = [value if "/" in value else f"{namespace}/{value}" for value in values]
            return bool(principal) and f"{client_namespace}/{account}" in full
        case "ipBlocks":
            return any(_contains(value, connection["source_ip"]) for value in values)
        case "destinationIps":
            return any(_contains(value, connection["destination_ip"]) for value in values)
        case "ports":
            return str(connection["port"]) in values
        case _:
            raise AssertionError(field)


def _names(value: str, principal: str, same: list[str]) -> bool:
    parts = value.split("/")
    if len(parts) == 5 and parts[0] != "*" and _is_own(parts[0], same):
        domain, _, rest = principal.partition("/")
        return (domain in same or ("*" in parts[0] and _fits(parts[0], domain))) and _fits("/".join(parts[1:]), rest)
    return _fits(value, principal)


def _is_own(domain: str, same: list[str]) -> bool:
    return bool(same) and (domain == "cluster.local" or any(_fits(domain, one) for one in same))


def _parts(principal: str) -> tuple[str, str]:
    found = re.fullmatch(r"[^/]+/ns/([^/]+)/sa/([^/]+)", principal)
    return (found[1], found[2]) if found else ("", "")


def _fits(pattern: str, text: str) -> bool:
    if pattern == "*":
        return bool(text)
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text) is not None


def _contains(block: str, ip: str) -> bool:
    return ipaddress.ip_address(ip) in ipaddress.ip_network(block, strict=False)


# ---- PeerAuthentication ------------------------------------------------------------------------------------------


def _refuses_plaintext(objects: list[Plain], pod: Plain, root: str, connection: Plain) -> set[str]:
    """Name of the policy that refuses a client without identity; the words say which, since people read them."""
    if connection["identity"]:
        return set()
    peers = sorted((one for one in objects if one["kind"] == "PeerAuthentication"), key=_age)
    own = _own(peers, pod, root)
    is_strict = _mode_on(own, str(connection["port"]), _inherited(peers, pod, root)) == "STRICT"
    if not is_strict:
        return set()
    names = {f"{root}/istio_converted_static_strict"}
    return names | ({f"{_namespace(own)}/converted_peer_authentication_{own['metadata']['name']}"} if own else set())


def _age(peer: Plain) -> tuple[bool, str, str]:
    created = peer["metadata"].get("creationTimestamp", "")
    return (not created, created, peer["metadata"]["name"])  # P1; of one file, so the name decides


def _own(peers: list[Plain], pod: Plain, root: str) -> Plain | None:
    """P1: the oldest that selects the pod. A selector in the root namespace counts for nobody."""
    if _namespace(pod) == root:
        return None
    selecting = [one for one in peers if _namespace(one) == _namespace(pod) and _labels(one)]
    return next((one for one in selecting if _has(pod, _labels(one))), None)


def _labels(peer: Plain) -> Plain:
    labels = peer["spec"].get("selector", {}).get("matchLabels", {})
    assert isinstance(labels, dict)
    return labels


def _inherited(peers: list[Plain], pod: Plain, root: str) -> str:
    """P2: the namespace's, else the mesh's, else PERMISSIVE."""
    for namespace in (_namespace(pod), root):
        level = [one for one in peers if _namespace(one) == namespace and not _labels(one)]
        mode = _mode(level[0]["spec"].get("mtls")) if level else "UNSET"
        if mode != "UNSET":
            return mode
    return "PERMISSIVE"


def _mode(mtls: Plain | None) -> str:
    return str((mtls or {}).get("mode", "UNSET"))


def _mode_on(own: Plain | None, port: str, inherited: str) -> str:
    if own is None:
        return inherited
    written = _mode(own["spec"].get("mtls"))
    mode = inherited if written == "UNSET" else written
    ports = {str(number): _mode(mtls) for number, mtls in own["spec"].get("portLevelMtls", {}).items()}
    if written == "UNSET" and inherited == "STRICT" and "PERMISSIVE" not in ports.values():
        return "STRICT"  # P9: without a PERMISSIVE port the DISABLE ones are overlooked
    return mode if ports.get(port, "UNSET") == "UNSET" else ports[port]
