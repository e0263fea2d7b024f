# SPDX-License-Identifier: Apache-2.0
"""explain() says of 10,000 random pairs what the kernel's table and the workers' own code do with them.

Meshes are random: pods in and out of the mesh on two nodes, in two families, Services, policies of every kind, some of
which have not arrived. What a worker draws at random is drawn several times.
"""

import json
import random
import re
from collections import Counter
from typing import Any

import pytest

from nodeagent.admin import outcome
from nodeagent.admin.explain import Question, explain
from nodeagent.admin.state import AgentState
from nodeagent.agent import verdicts
from nodeagent.controlplane.documents import parse_documents
from nodeagent.controlplane.parse import parse_document
from nodeagent.controlplane.translate import translate
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip, is_ipv6, join_host_port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.workload import Service, Workload
from nodeagent.policy.evaluate import Allow, ConnectionFacts
from nodeagent.policy.rehearse import Basis
from nodeagent.proxy import outbound
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import WorkerConfig
from nodeagent.routing.route import Target
from tests.differential.comparison import Plain
from tests.differential.decided import Decided, Nodes, nothing_is_dialled
from tests.differential.mesh import ROOT, make_objects

PAIRS = 10_000
PAIRS_OF_A_MESH = 100
DRAWS = 3
_NODES = ("n0", "n1")
_NAMESPACES = ("shop", "shop-db", ROOT)
_PORTS = (80, 443, 5432, 8080, 9, 15001, 15006, 15008)
_STRANGERS = ("192.0.2.7", "2001:db8::7")


def _config(same_node: str) -> WorkerConfig:
    return WorkerConfig(
        node="n0",
        cluster="Kubernetes",
        network="",
        trust_domain="cluster.local",
        drain_seconds=5,
        policy_wait_seconds=1,
        pool_idle_seconds=300,
        pool_streams=100,
        connect_seconds=3,
        handshake_seconds=2,
        max_connections=100,
        same_node=same_node,
    )


def random_mesh(rng: random.Random) -> Mesh:
    objects: list[Plain] = make_objects(rng)
    for number, pod in enumerate(written for written in objects if written["kind"] == "Pod"):
        pod["spec"] = {"nodeName": rng.choice(_NODES), "serviceAccountName": rng.choice(["web", "db", "default"])}
        ips = [f"10.9.0.{number + 1}", f"fd00:9::{number + 1}"]
        pod["status"] = {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
        pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    for name in _NAMESPACES:
        labels = {"istio.io/dataplane-mode": "ambient"} if rng.random() < 0.75 else {}
        objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    for number in range(3):
        metadata = {"name": f"svc-{number}", "namespace": rng.choice(_NAMESPACES)}
        ports = [{"port": port, "targetPort": rng.choice([80, 443, 5432])} for port in rng.sample([80, 443], 1)]
        selector = rng.choice([{"app": "web"}, {"app": "db"}, {"tier": "back"}])
        ips = [f"10.96.0.{number + 1}", f"fd00:96::{number + 1}"]
        spec = {"clusterIP": ips[0], "clusterIPs": ips, "selector": selector, "ports": ports}
        objects.append({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    values = [
        parsed.value
        for document in parse_documents("\n---\n".join(json.dumps(written) for written in objects))
        for parsed in parse_document(document, "mesh.d/a.yaml")
        if parsed.value is not None
    ]
    assert len(values) == len(objects)
    told = translate(values)
    policies = [policy for policy in told.policies.values() if rng.random() > 0.2]  # the others have not arrived
    mesh = Mesh()
    mesh.apply(
        Changes(
            policies=tuple(policies),
            extensions=tuple(told.extensions.values()),
            services=tuple(told.services.values()),
            workloads=tuple(told.workloads.values()),
        )
    )
    return mesh


def _explained(answer: dict[str, Any], decided: Decided) -> bool:
    """Whether one of the routes says just this, and the whole nothing else."""
    if answer["verdict"] not in {"MIXED", decided.verdict}:
        return False
    return any(_says(route, decided) for route in answer["routes"])


def _says(route: dict[str, Any], decided: Decided) -> bool:
    if (route["verdict"], route["reason"]) != (decided.verdict, decided.reason):
        return False
    if decided.policy and not route["words"].endswith(f" by {decided.policy}"):
        return False
    pattern = re.compile(rf"(^|\(){re.escape(decided.endpoint)}($|\)|,)")
    return not decided.endpoint or any(pattern.search(endpoint) for endpoint in route["endpoints"])


def _endpoints(mesh: Mesh, service: Service, port: int, *, wants_ipv6: bool) -> list[Target]:
    """Of whom kube-proxy draws one, in the family that was dialled."""
    found = []
    for workload in mesh.workloads.values():
        for listed in workload.services.get(service.key, ()):
            if listed.service_port == port:
                ip = next(ip for ip in workload.addresses if is_ipv6(ip) is wants_ipv6)
                found.append(Target(ip, listed.target_port))
    return found


class Case:
    """One question, and what really becomes of the connection."""

    def __init__(self, rng: random.Random, mesh: Mesh, nodes: Nodes) -> None:
        self.mesh, self.nodes = mesh, nodes
        self.source: Workload | Ip = rng.choice([*mesh.workloads.values()] * 2 + [Ip(ip) for ip in _STRANGERS])
        destinations: list[Workload | Service] = [*mesh.workloads.values(), *mesh.services.values()]
        self.destination = rng.choice(destinations)
        self.port = rng.choice(_PORTS[:5] * 4 + _PORTS)
        if isinstance(self.destination, Service):
            self.port = rng.choice([80, 443])
        is_workload = isinstance(self.source, Workload)
        self.is_plaintext = rng.random() < 0.2 and is_workload
        captured = nodes.is_captured(self.source) if isinstance(self.source, Workload) else False
        self.is_captured = captured and not self.is_plaintext
        addresses = (
            self.destination.addresses
            if isinstance(self.destination, Workload)
            else tuple(vip.ip for vip in self.destination.vips)
        )
        wants_ipv6 = is_ipv6(self.source) if isinstance(self.source, str) else rng.random() < 0.5
        self.ip = next(ip for ip in addresses if is_ipv6(ip) is wants_ipv6)
        self.question = Question(
            source=self.source if isinstance(self.source, str) else f"{self.source.namespace}/{self.source.name}",
            destination=self.ip,
            port=self.port,
            is_plaintext=self.is_plaintext,
        )

    def decided(self) -> Decided:
        target = Target(self.ip, self.port)
        if self.is_captured:
            assert isinstance(self.source, Workload)
            return self.nodes.connects(self.source, target)
        if isinstance(self.source, Workload):
            if self.ip in self.source.addresses:
                return Decided("PASSES", by="nobody")
            source = next(ip for ip in self.source.addresses if is_ipv6(ip) is is_ipv6(self.ip))
        else:
            source = self.source
        if isinstance(self.destination, Service):
            reached = _endpoints(self.mesh, self.destination, self.port, wants_ipv6=is_ipv6(self.ip))
            if not reached:
                is_listed = any(listed.service_port == self.port for listed in self.destination.ports)
                return Decided("REFUSED", "no_healthy_endpoint" if is_listed else "no_service_port", by="kube-proxy")
            target = random.choice(reached)
        decided = self.nodes.comes_in_plaintext(source, target)
        return decided._replace(endpoint=decided.endpoint or join_host_port(target.ip, target.port))


def _compare(pairs: int) -> Counter[tuple[str, str]]:
    """How many ended how, and by whom. Raises AssertionError at the first difference."""
    seed = random.randrange(1 << 31)
    rng, seen, loop = random.Random(seed), Counter[tuple[str, str]](), Loop()
    with nothing_is_dialled():
        for _ in range(pairs // PAIRS_OF_A_MESH):
            mesh, same_node = random_mesh(rng), rng.choice(["kernel", "tunnel"])
            nodes = Nodes(mesh, _NODES, same_node, _config(same_node), loop)
            state = AgentState(
                version="", node=rng.choice(_NODES), network="", started=0, now=1, mesh=mesh, same_node=same_node
            )
            for _ in range(PAIRS_OF_A_MESH):
                case = Case(rng, mesh, nodes)
                answer = explain(state, case.question)
                for _ in range(DRAWS):
                    decided = case.decided()
                    assert _explained(answer, decided), f"seed {seed}: {case.question}: {decided}\n{json.dumps(answer)}"
                    seen[decided.verdict, decided.by] += 1
    return seen


def test_ten_thousand_random_pairs_are_explained_as_they_are_decided() -> None:
    """The seed is that of the test run, which pytest prints."""
    seen = _compare(PAIRS)
    for verdict in ("ALLOWED", "DENIED", "PENDING", "REFUSED", "PASSES"):
        assert sum(count for (found, _), count in seen.items() if found == verdict) > PAIRS / 100, seen
    assert seen["ALLOWED", "kernel"] > PAIRS / 100, seen


@pytest.mark.parametrize(
    ("module", "name", "defect"),
    [
        pytest.param(
            outcome,
            "ConnectionFacts",
            lambda _identity, *rest: ConnectionFacts(None, *rest),
            id="explain forgets who the client is",
        ),
        pytest.param(outbound, "PROXY_PORTS", frozenset(), id="the worker lets pods reach the proxy's ports"),
        pytest.param(Basis, "evaluate", lambda _basis, _facts: Allow(None), id="the worker allows everything"),
    ],
)
def test_a_defect_of_either_is_a_difference(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, defect: object
) -> None:
    monkeypatch.setattr(module, name, defect)
    with pytest.raises(AssertionError, match="seed"):
        _compare(PAIRS)


def test_what_the_table_does_not_allow_the_worker_answers_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "is_reached_directly", lambda _workload, _mesh: False)
    assert _compare(PAIRS // 10)["ALLOWED", "kernel"] == 0


def test_another_identity_is_judged_as_if_it_were_the_clients_own() -> None:
    """--identity: the same as what is said of a pod that has it, of the same addresses."""
    rng, compared = random.Random(random.randrange(1 << 31)), 0
    while compared < 300:
        mesh = random_mesh(rng)
        state = AgentState(version="", node="n0", network="", started=0, now=1, mesh=mesh, same_node="tunnel")
        for source in [one for one in mesh.workloads.values() if one.protocol.value == "HBONE"]:
            other = Identity(source.trust_domain, source.namespace, rng.choice(["web", "db", "else"]))
            for destination in mesh.workloads.values():
                names = f"{source.namespace}/{source.name}", destination.addresses[0]
                asked = explain(state, Question(source=names[0], destination=names[1], port=80, identity=other))
                changed = Mesh()
                changed.apply(mesh.everything())
                fields = {name: getattr(source, name) for name in source.__struct_fields__}
                twin = Workload(**fields | {"service_account": other.service_account})
                changed.apply(Changes(workloads=(twin,)))
                same = AgentState(version="", node="n0", network="", started=0, now=1, mesh=changed, same_node="tunnel")
                expected = explain(same, Question(source=names[0], destination=names[1], port=80))
                assert asked["verdict"] == expected["verdict"]
                compared += 1


def test_a_stranger_has_no_identity_to_exchange() -> None:
    mesh = random_mesh(random.Random(1))
    state = AgentState(version="", node="n0", network="", started=0, now=1, mesh=mesh)
    with pytest.raises(ConfigError, match="plain text"):
        explain(
            state,
            Question(source=_STRANGERS[0], destination="10.9.0.1", port=80, identity=Identity("a", "b", "c")),
        )
