# SPDX-License-Identifier: Apache-2.0
"""Every way from one place of a cluster to another, and what must come of it: one table, read by test_reach.py.

node-a   web  api  batch  legacy2      web, api, db: shop, batch: backoffice; legacy, legacy2: outside the mesh
node-b   db   legacy                   outside: neither node nor pod

A target is `pod`, `service`, `host` (a node, by its own address), `gateway` (of the client's own pod network) or
`outside`, with a name. A client is seen by its own address (`itself`), by a node's address on the link (`host`) or by
the one that the node has towards its own pods (`inward`).
"""

import dataclasses
import enum
from collections.abc import Iterator, Mapping

from tests.e2e.reach.surroundings import NODE_SERVICE, PERMISSIVE, STRICT

DENIED = 7070
"""A policy denies this port of db and api to everybody of the mesh."""
NODES = {"web": "node-a", "api": "node-a", "batch": "node-a", "legacy2": "node-a", "db": "node-b", "legacy": "node-b"}
ITSELF = "itself"

Counters = Mapping[str, frozenset[str]]


class Outcome(enum.Enum):
    SERVED = "served"
    REFUSED = "refused"
    """Reset, and no application has heard of it."""


@dataclasses.dataclass(frozen=True)
class Record:
    """A line of the access log, by whom it must be told."""

    node: str
    direction: str
    reason: str = ""
    source_identity: str = ""


@dataclasses.dataclass(frozen=True)
class Way:
    name: str
    source: str
    target: str
    port: int
    application: tuple[str, int]
    """Where it must arrive, or must not."""
    outcome: Outcome = Outcome.SERVED
    seen_as: str = ITSELF
    counters: Counters = dataclasses.field(default_factory=dict)
    """Of each node, what must have moved."""
    records: tuple[Record, ...] = ()
    is_plain_on_wire: bool = False
    """Whether its bytes cross the link between the nodes in plain text; said of what is served only."""


# ---- what the kernel counts ----------------------------------------------------------------------------------------

_GUARDED = frozenset({"INBOUND", "ASSIGNED_PLAINTEXT"})
_INTO_POD = frozenset({"INTO_POD", "PROXY_ANSWERED"})
_STEERED = frozenset({"STEERED", "ASSIGNED_OUTBOUND"})
_PROBED = frozenset({"NODE_PROBE"})
_SAME_NODE_ALLOWED = frozenset({"LOCAL_ALLOWED", "LOCAL_FLOW", "LOCAL_DELIVERED"})
_SAME_NODE_DENIED = frozenset({"LOCAL_STEERED", "ASSIGNED_OUTBOUND"})
_WEB = "spiffe://cluster.local/ns/shop/sa/web"


# ---- who comes without an identity: guarded by the plaintext listener ----------------------------------------------


def _guarded(
    name: str, source: str, target: str, ports: tuple[int, int], pod: str, *, seen_as: str = ITSELF
) -> Iterator[Way]:
    """`ports`: those that lead to the strict and to the permissive port of `pod`."""
    node = NODES[pod]
    # Who sends from the pod's own node stays on it; what a node translates for somebody else has crossed.
    is_plain = NODES.get(source, source) != node
    common = {"source": source, "target": target, "seen_as": seen_as}
    yield Way(
        name=f"{name}, refused",
        port=ports[0],
        application=(pod, STRICT),
        outcome=Outcome.REFUSED,
        counters={node: _GUARDED},
        records=(Record(node, "inbound", "policy_denied"),),
        **common,  # type: ignore[arg-type]
    )
    yield Way(
        name=f"{name}, permitted",
        port=ports[1],
        application=(pod, PERMISSIVE),
        counters={node: _GUARDED | _INTO_POD},
        records=(Record(node, "inbound"),),
        is_plain_on_wire=is_plain,
        **common,  # type: ignore[arg-type]
    )


_DIRECT, _SERVICE = (STRICT, PERMISSIVE), (STRICT, PERMISSIVE)

_GUARDED_WAYS = (
    *_guarded("outside to a pod", "outside", "pod db", _DIRECT, "db"),
    *_guarded("an unenrolled pod of the same node to a pod", "legacy2", "pod api", _DIRECT, "api"),
    *_guarded("an unenrolled pod of db's node to db", "legacy", "pod db", _DIRECT, "db"),
    *_guarded("an unenrolled pod of another node to a pod", "legacy2", "pod db", _DIRECT, "db"),
    *_guarded("another node to a pod", "node-a", "pod db", _DIRECT, "db", seen_as="host node-a"),
    *_guarded("an unenrolled pod to a Service, same node", "legacy2", "service api-svc", _SERVICE, "api"),
    *_guarded("an unenrolled pod to a Service, another node", "legacy2", "service db-svc", _SERVICE, "db"),
    *_guarded("another node to a Service", "node-a", "service db-svc", _SERVICE, "db", seen_as="host node-a"),
    *_guarded("outside to a NodePort", "outside", "host node-b", (30080, 30090), "db"),
    *_guarded(
        "outside to a masquerading NodePort", "outside", "host node-b", (31080, 31090), "db", seen_as="inward node-b"
    ),
    *_guarded(
        "outside to a NodePort of another node", "outside", "host node-a", (31080, 31090), "db", seen_as="host node-a"
    ),
    *_guarded("another node to a NodePort", "node-a", "host node-b", (30080, 30090), "db", seen_as="host node-a"),
    *_guarded("an enrolled pod to a NodePort of another node", "web", "host node-b", (30080, 30090), "db"),
    *_guarded("an enrolled pod to a NodePort of its node", "web", "host node-a", (30180, 30190), "api"),
    *_guarded(
        "an enrolled pod to a masquerading NodePort of its node",
        "web",
        "host node-a",
        (31180, 31190),
        "api",
        seen_as="inward node-a",
    ),
    *_guarded("an unenrolled pod to a NodePort of its node", "legacy2", "host node-a", (30180, 30190), "api"),
    *_guarded(
        "a pod to itself by a NodePort of its node",
        "api",
        "host node-a",
        (30180, 30190),
        "api",
        seen_as="inward node-a",
    ),
    *_guarded("outside to a hostPort", "outside", "host node-a", (32080, 32090), "api"),
    *_guarded("another node to a hostPort", "node-b", "host node-a", (32080, 32090), "api", seen_as="host node-b"),
    *_guarded("an unenrolled pod to a hostPort of its node", "legacy2", "host node-a", (32080, 32090), "api"),
    *_guarded("an unenrolled pod to a hostPort of another node", "legacy", "host node-a", (32080, 32090), "api"),
    *_guarded("an enrolled pod to a hostPort of its node", "web", "host node-a", (32080, 32090), "api"),
)


# ---- who has an identity -------------------------------------------------------------------------------------------


def _tunnelled(name: str, source: str, target: str, port: int, pod: str, **more: object) -> Way:
    here, there = NODES[source], NODES[pod]
    identity = "spiffe://cluster.local/ns/" + {"web": "shop/sa/web", "batch": "backoffice/sa/batch"}.get(source, "")
    return Way(
        name=name,
        source=source,
        target=target,
        port=port,
        application=(pod, STRICT),
        counters={here: _STEERED, there: _INTO_POD},
        records=(Record(here, "outbound"), Record(there, "inbound", source_identity=identity)),
        **more,  # type: ignore[arg-type]
    )


_TUNNELLED_WAYS = (
    _tunnelled("through the tunnel", "web", "pod db", STRICT, "db"),
    _tunnelled("through the tunnel, from another namespace", "batch", "pod db", STRICT, "db"),
    _tunnelled("to a Service that the node would translate", "web", "service db-svc", STRICT, "db"),
    _tunnelled("to a Service that only the mesh knows", "web", "service db-bare", STRICT, "db"),
    Way(
        "denied at the end of the tunnel",
        "web",
        "pod db",
        DENIED,
        ("db", DENIED),
        Outcome.REFUSED,
        counters={"node-a": _STEERED},
        records=(
            Record("node-a", "outbound", "hbone_denied"),
            Record("node-b", "inbound", "policy_denied", source_identity=_WEB),
        ),
    ),
)


# ---- between pods of one node --------------------------------------------------------------------------------------

_SAME_NODE_WAYS = (
    Way(
        "same node, allowed",
        "web",
        "pod api",
        STRICT,
        ("api", STRICT),
        counters={"node-a": _SAME_NODE_ALLOWED},
    ),
    Way(
        "same node, allowed, from another namespace",
        "batch",
        "pod web",
        STRICT,
        ("web", STRICT),
        counters={"node-a": _SAME_NODE_ALLOWED},
    ),
    Way(
        "same node by a Service that the node would translate",
        "web",
        "service api-svc",
        STRICT,
        ("api", STRICT),
        counters={"node-a": _STEERED | _INTO_POD},
    ),
    Way(
        "same node, denied",
        "web",
        "pod api",
        DENIED,
        ("api", DENIED),
        Outcome.REFUSED,
        counters={"node-a": _SAME_NODE_DENIED},
        records=(Record("node-a", "outbound", "policy_denied", source_identity=_WEB),),
    ),
    Way(
        "to an unenrolled pod of the same node",
        "web",
        "pod legacy2",
        STRICT,
        ("legacy2", STRICT),
        counters={"node-a": _STEERED | {"INTO_NODE"}},
        records=(Record("node-a", "outbound"),),
    ),
)


# ---- with the node, and with what the mesh does not know -----------------------------------------------------------

_OTHER_WAYS = (
    Way(
        "to an unenrolled pod of another node",
        "web",
        "pod legacy",
        STRICT,
        ("legacy", STRICT),
        counters={"node-a": _STEERED | {"INTO_NODE"}},
        records=(Record("node-a", "outbound"),),
        is_plain_on_wire=True,
    ),
    *(
        Way(
            f"a kubelet to its pod {pod}",
            NODES[pod],
            f"pod {pod}",
            STRICT,
            (pod, STRICT),
            seen_as=f"inward {NODES[pod]}",
            counters={NODES[pod]: _PROBED},
        )
        for pod in ("web", "db")
    ),
    *(
        Way(
            f"a node to its own pod by {words}",
            "node-b",
            target,
            port,
            ("db", STRICT),
            seen_as="host node-b",
            counters={"node-b": _PROBED},
        )
        for words, target, port in (("a NodePort", "host node-b", 30080), ("a Service", "service db-svc", STRICT))
    ),
    *(
        Way(
            f"{pod} to its {word}",
            pod,
            f"{target} {NODES[pod]}",
            NODE_SERVICE,
            (NODES[pod], NODE_SERVICE),
            counters={NODES[pod]: frozenset({"NODE_ADDRESS", "NODE_ANSWER"})},
        )
        for pod in ("web", "db")
        for word, target in (("node", "host"), ("gateway", "gateway"))
    ),
    Way(
        "to another node",
        "web",
        "host node-b",
        NODE_SERVICE,
        ("node-b", NODE_SERVICE),
        counters={"node-a": frozenset({"UNKNOWN_DESTINATION", "INBOUND_OTHER"})},
        is_plain_on_wire=True,
    ),
    *(
        Way(
            f"{pod} to an address that the mesh does not know",
            pod,
            "outside outside",
            STRICT,
            ("outside", STRICT),
            seen_as=f"host {NODES[pod]}",
            counters={NODES[pod]: frozenset({"UNKNOWN_DESTINATION", "OUTSIDE_FLOW", "INBOUND_OTHER"})},
            is_plain_on_wire=True,
        )
        for pod in ("web", "db")
    ),
)

WAYS = (*_GUARDED_WAYS, *_TUNNELLED_WAYS, *_SAME_NODE_WAYS, *_OTHER_WAYS)
