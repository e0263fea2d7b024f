# SPDX-License-Identifier: Apache-2.0
"""A mesh as its author writes it, from YAML to the verdict: our way through parser, translation and evaluator, compared
with `reading.py`, which reads the objects themselves.

Random meshes are small and their vocabulary too, so that selectors select, exceptions apply and rules meet. Objects are
written as JSON, which is YAML, and read by the control plane's own parser.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

from nodeagent.controlplane.documents import parse_documents
from nodeagent.controlplane.objects import MeshObject
from nodeagent.controlplane.parse import parse_document
from nodeagent.controlplane.translate import translate
from nodeagent.model.address import parse_ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Workload
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Pending, evaluate_for
from tests.differential.comparison import Comparison, Plain
from tests.differential.reading import read_verdict

ROOT = "istio-system"
CONNECTIONS = 50
"""Of one mesh: reading it costs as much as judging as many."""
_NAMESPACES = ["shop", "shop-db", ROOT]
_ACCOUNTS = ["web", "db", "web.api"]
_DOMAINS = ["cluster.local", "td1", "td2"]
_LABELS = [{"app": "web"}, {"app": "db"}, {"tier": "back"}, {"app": "web", "tier": "back"}]
_SOURCES = ["10.0.0.1", "10.0.1.7", "192.168.3.4", "fd00::1", "2001:db8::2"]
_BLOCKS = ["10.0.0.0/8", "10.0.1.7", "0.0.0.0/0", "::/0", "fd00::/16", "10.0.1.9/24", "2001:db8::2"]
_PORTS = [80, 443, 5432, 8080]
_MODES = ["STRICT", "PERMISSIVE", "DISABLE", "UNSET"]


class OurMesh:
    """The objects as agents know them. Raises ValueError for an object that was refused."""

    def __init__(self, objects: list[Plain]) -> None:
        values: list[MeshObject] = []
        for document in parse_documents("\n---\n".join(json.dumps(written) for written in objects)):
            for parsed in parse_document(document, "mesh.d/a.yaml"):
                if parsed.value is None:
                    raise ValueError(f"refused: {[str(finding) for finding in parsed.findings]}")
                values.append(parsed.value)
        translation = translate(values)
        self._mesh = Mesh()
        policies, workloads = translation.policies.values(), translation.workloads.values()
        self._mesh.apply(Changes(policies=tuple(policies), workloads=tuple(workloads)))
        self._pods: dict[str, Workload] = {f"{one.namespace}/{one.name}": one for one in workloads}

    def verdict(self, pod: str, connection: Plain) -> str:
        facts = ConnectionFacts(
            Identity.parse(connection["identity"]) if connection["identity"] else None,
            parse_ip(connection["source_ip"]),
            parse_ip(connection["destination_ip"]),
            connection["port"],
        )
        match evaluate_for(self._mesh, self._pods[pod], facts):
            case Allow(policy):
                return f"allowed by {policy}"
            case Deny(None, Reason.POLICY_NOT_ALLOWED):
                return "not allowed"
            case Deny(policy):
                return f"denied by {policy}"
            case Pending(missing):
                return f"pending {list(missing)}"


class MeshPart:
    name = "mesh"

    def compare(self, rng: random.Random) -> Iterator[Comparison]:
        objects = make_objects(rng)
        mesh = OurMesh(objects)
        pods = [written for written in objects if written["kind"] == "Pod"]
        for _ in range(CONNECTIONS):
            pod = rng.choice(pods)
            yield _compare(mesh, objects, f"{pod['metadata']['namespace']}/{pod['metadata']['name']}", _connection(rng))

    def replay(self, case: Plain) -> Comparison:
        return _compare(OurMesh(case["objects"]), case["objects"], case["pod"], case["connection"])

    def without(self, case: Plain, number: int) -> Plain | None:
        objects = [written for written in case["objects"] if written["kind"] in {"MeshConfig", "Pod"}]
        others = [written for written in case["objects"] if written not in objects]
        if number >= len(others):
            return None
        return case | {"objects": objects + others[:number] + others[number + 1 :]}


def _compare(mesh: OurMesh, objects: list[Plain], pod: str, connection: Plain) -> Comparison:
    case = {"objects": objects, "pod": pod, "connection": connection}
    expected, found = read_verdict(objects, pod, connection), mesh.verdict(pod, connection)
    words, _, policy = found.partition(" by ")
    # Of several policies that match, which one is named depends on their order, which means nothing.
    agrees = words == expected.words and (not expected.policies or policy in expected.policies)
    names = " or ".join(sorted(expected.policies))
    return Comparison(case, f"{expected.words} by {names}" if names else expected.words, found, agrees)


# ---- random meshes -----------------------------------------------------------------------------------------------


def make_objects(rng: random.Random) -> list[Plain]:
    return [
        {"kind": "MeshConfig", "trustDomain": rng.choice(_DOMAINS), "rootNamespace": ROOT, **_aliases(rng)},
        *(_pod(rng, number) for number in range(4)),
        *(_authorization(rng, number) for number in range(rng.choice([0, 1, 2, 3, 5]))),
        *(_peer(rng, number) for number in range(rng.choice([0, 0, 1, 3, 5]))),
    ]


def _aliases(rng: random.Random) -> Plain:
    return {"trustDomainAliases": rng.sample([*_DOMAINS, "old-td"], 1)} if rng.random() < 0.2 else {}


def _written(kind: str, version: str, metadata: Plain, spec: Any) -> Plain:
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _pod(rng: random.Random, number: int) -> Plain:
    metadata = {"name": f"pod-{number}", "namespace": rng.choice(_NAMESPACES), "labels": rng.choice([{}, *_LABELS])}
    return _written("Pod", "v1", metadata, {"nodeName": "n"}) | {"status": {"podIP": f"10.9.0.{number}"}}


def _selector(rng: random.Random) -> Plain:
    return {"matchLabels": rng.choice(_LABELS)}


def _authorization(rng: random.Random, number: int) -> Plain:
    action = rng.choice(["", "ALLOW", "ALLOW", "DENY", "DENY", "AUDIT", "CUSTOM"])
    rules = [_rule(rng) for _ in range(rng.choice([0, 1, 1, 2]))]
    spec: Plain = {}
    if action:
        spec["action"] = action
    if action == "CUSTOM":
        # What else CUSTOM may ask does not matter here: node agents never see it.
        spec["provider"], rules = {"name": "x"}, [{}]
    if rules or action in {"DENY", "CUSTOM"} or rng.random() < 0.5:
        spec["rules"] = rules or ([{}] if action in {"DENY", "CUSTOM"} else [])
    choice = rng.random()
    if choice < 0.4:
        spec["selector"] = _selector(rng)
    elif choice < 0.45:
        spec["selector"] = rng.choice([{}, {"matchLabels": {}}])
    elif choice < 0.5:
        spec["targetRefs"] = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "w"}]
    metadata: Plain = {"name": f"ap-{number}", "namespace": rng.choice(_NAMESPACES)}
    if rng.random() < 0.1:
        metadata["annotations"] = {"istio.io/dry-run": rng.choice(["true", "false"])}
    elif rng.random() < 0.2:
        metadata["annotations"] = {"nodeagent/strict-deny": rng.choice(["true", "false"])}
    return _written("AuthorizationPolicy", "security.istio.io/v1", metadata, spec)


def _rule(rng: random.Random) -> Plain:
    rule: Plain = {}
    if rng.random() < 0.6:
        rule["from"] = [{"source": _source(rng)} for _ in range(rng.choice([1, 1, 2]))]
    if rng.random() < 0.5:
        rule["to"] = [{"operation": _operation(rng)} for _ in range(rng.choice([1, 1, 2]))]
    if rng.random() < 0.35:
        rule["when"] = [_condition(rng) for _ in range(rng.choice([1, 1, 2]))]
    return rule


def _some(rng: random.Random, make: Any) -> list[Any]:
    return [make(rng) for _ in range(rng.choice([1, 1, 2]))]


def _pattern(rng: random.Random, text: str) -> str:
    cut = rng.randrange(1, len(text) + 1)
    return rng.choice(["*", text, text, text[:cut] + "*", "*" + text[-cut:]])


def _principal(rng: random.Random) -> str:
    return f"{rng.choice(_DOMAINS)}/ns/{rng.choice(_NAMESPACES)}/sa/{rng.choice(_ACCOUNTS)}"


def _principals(rng: random.Random) -> str:
    return _pattern(rng, rng.choice(["", "", "", "spiffe://"]) + _principal(rng))


def _trust_domains(rng: random.Random) -> str:
    domain = rng.choice(_DOMAINS)
    return rng.choice(["*", domain, domain, domain[: rng.randrange(1, len(domain))] + "*"])


def _namespaces(rng: random.Random) -> str:
    return _pattern(rng, rng.choice(_NAMESPACES))


def _account(rng: random.Random) -> str:
    return rng.choice(["", f"{rng.choice(_NAMESPACES)}/"]) + rng.choice(_ACCOUNTS)


def _block(rng: random.Random) -> str:
    return rng.choice(_BLOCKS)


def _port(rng: random.Random) -> str:
    return str(rng.choice(_PORTS))


def _named(rng: random.Random, name: str) -> str:
    return rng.choice([name, f"not{name[0].upper()}{name[1:]}"])


def _source(rng: random.Random) -> Plain:
    if rng.random() < 0.2:
        source = {_named(rng, "serviceAccounts"): _some(rng, _account)}
    else:
        fields = {"principals": _principals, "namespaces": _namespaces, "ipBlocks": _block}
        fields |= {"trustDomains": _trust_domains}
        chosen = rng.sample(sorted(fields), rng.choice([0, 1, 1, 2]))
        source = {_named(rng, name): _some(rng, fields[name]) for name in chosen}
    if not source or rng.random() < 0.15:
        source[_named(rng, rng.choice(["requestPrincipals", "remoteIpBlocks"]))] = ["*"]
        source = {name: (["10.0.0.0/8"] if "emoteIp" in name else values) for name, values in source.items()}
    return source


def _operation(rng: random.Random) -> Plain:
    operation = {_named(rng, "ports"): _some(rng, _port) for _ in range(rng.choice([0, 1, 1, 2]))}
    if not operation or rng.random() < 0.15:
        operation[_named(rng, rng.choice(["methods", "paths", "hosts"]))] = ["GET"]
    return operation


def _condition(rng: random.Random) -> Plain:
    makers = {
        "source.ip": _block,
        "source.namespace": _namespaces,
        "source.principal": _principals,
        "destination.ip": _block,
        "destination.port": _port,
        "request.headers[x-a]": _account,
        "connection.sni": _account,
        "source.serviceAccount": _account,
    }
    key = rng.choice(sorted(makers))
    names = rng.choice([["values"], ["values"], ["notValues"], ["values", "notValues"]])
    return {"key": key} | {name: _some(rng, makers[key]) for name in names}


def _peer(rng: random.Random, number: int) -> Plain:
    spec: Plain = {}
    has_selector = rng.random() < 0.5
    if rng.random() < 0.8:
        # What selects is often UNSET and what it inherits from often STRICT: there the exceptions of the rules are.
        spec["mtls"] = {"mode": rng.choice([*_MODES, "UNSET" if has_selector else "STRICT"])}
    if has_selector:
        spec["selector"] = _selector(rng)
        if rng.random() < 0.7:
            ports = rng.sample(_PORTS, rng.choice([1, 2, 2]))
            spec["portLevelMtls"] = {str(port): {"mode": rng.choice(_MODES)} for port in ports}
    elif rng.random() < 0.1:
        spec["selector"] = {}
    metadata: Plain = {"name": f"pa-{number}", "namespace": rng.choice(_NAMESPACES)}
    if rng.random() < 0.5:
        metadata["creationTimestamp"] = f"2026-0{rng.randrange(1, 10)}-01T00:00:0{number}Z"
    return _written("PeerAuthentication", "security.istio.io/v1", metadata, spec)


def _connection(rng: random.Random) -> Plain:
    return {
        "identity": "" if rng.random() < 0.3 else f"spiffe://{_principal(rng)}",
        "source_ip": rng.choice(_SOURCES),
        "destination_ip": rng.choice(_SOURCES),
        "port": rng.choice([*_PORTS, 9]),
    }
