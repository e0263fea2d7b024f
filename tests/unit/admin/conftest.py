# SPDX-License-Identifier: Apache-2.0
"""A mesh of two namespaces on two nodes, and the state of the agent on one of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nodeagent.admin.state import (
    AgentState,
    Captured,
    CertificateState,
    CertificateView,
    ComponentState,
    Health,
    KernelCount,
    OpenConnection,
    PodView,
    WorkerView,
)
from nodeagent.model.address import Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import (
    Action,
    Clause,
    Match,
    MatchKind,
    Policy,
    PolicyScope,
    Rule,
    StringMatch,
)
from nodeagent.model.record import ConnectionRecord, Direction, Party, Transport
from nodeagent.model.workload import Service, ServicePort, TunnelProtocol, Vip, Workload

StateOf = Callable[..., AgentState]

NOW = 1_787_233_553.0
DB = "shop/db.shop.svc.cluster.local"
WEB_ID = Identity("cluster.local", "shop", "web")


def _workload(name: str, ip: str, node: str, **more: Any) -> Workload:
    more.setdefault("protocol", TunnelProtocol.HBONE)
    more.setdefault("namespace", "shop")
    return Workload(
        uid=f"Kubernetes//Pod/{more['namespace']}/{name}",
        name=name,
        addresses=(Ip(ip), Ip(f"fd00::{ip.rsplit('.', 1)[1]}")),
        node=node,
        service_account=name.split("-", maxsplit=1)[0],
        **more,
    )


def _exactly(text: str) -> tuple[StringMatch, ...]:
    return (StringMatch(MatchKind.EXACT, text),)


def _rule(**match: Any) -> Rule:
    """One clause per field, as istiod translates `from` and `to`."""
    return Rule(tuple(Clause((Match(**{field: value}),)) for field, value in match.items()))


def _service(name: str, ip: str, port: int, target: int) -> Service:
    return Service(
        name=name,
        namespace="shop",
        hostname=f"{name}.shop.svc.cluster.local",
        vips=(Vip("", Ip(ip)),),
        ports=(ServicePort(Port(port), target),),
    )


@pytest.fixture
def mesh() -> Mesh:
    built = Mesh()
    built.apply(
        Changes(
            policies=(
                Policy(
                    name="istio_converted_static_strict",
                    namespace="istio-system",
                    scope=PolicyScope.WORKLOAD_SELECTOR,
                    action=Action.DENY,
                    rules=(_rule(not_principals=(StringMatch(MatchKind.PRESENCE),)),),
                ),
                Policy(
                    name="db-allow",
                    namespace="shop",
                    scope=PolicyScope.WORKLOAD_SELECTOR,
                    action=Action.ALLOW,
                    rules=(_rule(principals=_exactly(WEB_ID.principal), destination_ports=(Port(5432),)),),
                ),
            ),
            services=(_service("db", "10.96.0.5", 5432, 5432), _service("empty", "10.96.0.6", 80, 80)),
            workloads=(
                _workload("web", "10.241.0.12", "node-a"),
                _workload("job", "10.241.0.13", "node-a", namespace="batch"),
                *(
                    _workload(
                        f"db-{number}",
                        f"10.242.0.{number + 1}",
                        "node-b",
                        services={DB: (ServicePort(Port(5432), 5432),)},
                        policies=("istio-system/istio_converted_static_strict", "shop/db-allow"),
                    )
                    for number in (0, 1)
                ),
                _workload("legacy", "10.242.0.9", "node-b", namespace="old", protocol=TunnelProtocol.TCP),
                _workload("late", "10.242.0.10", "node-b", policies=("shop/not-yet",)),
            ),
        )
    )
    return built


@pytest.fixture
def state_of(mesh: Mesh) -> StateOf:
    """The state with some of its members changed."""
    state = AgentState(
        version="1.2.3",
        node="node-a",
        network="",
        started=NOW - 3600,
        now=NOW,
        mesh=mesh,
        components=(ComponentState("xds", Health.OK, NOW - 60, "https://istiod:15012"),),
        pods=(
            PodView(
                namespace="shop",
                pod="web",
                ips=(Ip("10.241.0.12"),),
                netns="/run/netns/web",
                captured=Captured.YES,
                identity=WEB_ID,
                mode="kernel",
                device="veth3",
                hits=812,
                direct=7,
                dropped=3,
            ),
            PodView(namespace="old", pod="cron", captured=Captured.NO, reason="NOT_IN_MESH"),
        ),
        certificates=(
            CertificateView(
                identity=WEB_ID,
                state=CertificateState.AVAILABLE,
                serial="0a1b",
                not_before=NOW - 100,
                not_after=NOW + 86300,
                rotates=NOW + 43100,
            ),
        ),
        workers=(
            WorkerView(slot=0, pid=101, state="ready", since=NOW - 3000, connections=2, generation=1),
            WorkerView(slot=1, pid=102, state="ready", since=NOW - 30, restarts=1, generation=1),
        ),
        kernel=(
            KernelCount("STEERED", 812, "sent to the proxy", is_drop=False),
            KernelCount("SPOOFED_SOURCE", 3, "source address is not this pod's", is_drop=True),
        ),
    )

    def make(**changes: Any) -> AgentState:
        return replace(state, **changes)

    return make


@pytest.fixture
def connection() -> OpenConnection:
    return OpenConnection(
        1,
        ConnectionRecord(
            id=9,
            direction=Direction.OUTBOUND,
            started=NOW - 12.5,
            source_ip=Ip("10.241.0.12"),
            source_port=40000,
            original_ip=Ip("10.96.0.5"),
            original_port=5432,
            destination_ip=Ip("10.242.0.1"),
            destination_port=5432,
            hop="10.242.0.1:15008",
            service=DB,
            source=Party("web", "shop"),
            destination=Party("db-0", "shop"),
            source_identity=WEB_ID,
            destination_identity=Identity("cluster.local", "shop", "db"),
            transport=Transport.HBONE,
            sent_bytes=10,
            received_bytes=2000,
        ),
    )
