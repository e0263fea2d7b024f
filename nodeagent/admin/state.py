# SPDX-License-Identifier: Apache-2.0
"""What the agent hands to the views: plain values, made anew for each question. Nothing here can be acted upon."""

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, FlowPage, PolicyHits
from nodeagent.routing.route import Target


class Health(enum.StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    """It works, and something is missing: the control plane is away, a pod is pending."""
    FAILED = "failed"
    """New connections of this node suffer."""


@dataclass(frozen=True)
class ComponentState:
    name: str
    """`kernel`, `bpf-programs`, `xds`, `ca`, `state-file`: what only the agent knows. The rest the views derive."""
    state: Health
    since: float
    """Unix time of the last change of `state`."""
    detail: str = ""


class Captured(enum.StrEnum):
    YES = "yes"
    PENDING = "pending"
    """It shall be and is not yet."""
    NO = "no"


@dataclass(frozen=True, kw_only=True)
class PodView:
    """A pod of this node, enrolled or not."""

    namespace: str
    pod: str
    ips: tuple[Ip, ...] = ()
    netns: str = ""
    captured: Captured
    reason: str = ""
    """Why it is not captured: a word of enrolment such as NOT_IN_MESH, NO_NETNS, ATTACH_FAILED."""
    identity: Identity | None = None
    device: str = ""
    """Host-side device, as `name` or `name (ifindex)`."""
    mode: str = ""
    """Who carries what it has with other pods of this node: one of MODES; empty when it is not captured."""
    hits: int = 0
    """Connections of this pod that were steered, both directions."""
    direct: int = 0
    """Connections that the kernel has carried alone, past the proxy, both directions, since the agent's start."""
    dropped: int = 0
    """Packets from and to this pod that were dropped."""


MODES = ("kernel", "proxy", "tunnel")
"""The kernel, what policies allow, and the proxy the rest; the proxy alone, since the table of verdicts has no room for
this pod; tunnels, by the agent's setting."""


class CertificateState(enum.StrEnum):
    """ztunnel's words."""

    AVAILABLE = "Available"
    INITIALIZING = "Initializing"
    UNAVAILABLE = "Unavailable"


@dataclass(frozen=True, kw_only=True)
class CertificateView:
    """The leaf of an identity of this node, or a root (`identity` empty)."""

    identity: Identity | None
    state: CertificateState
    serial: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    """Unix time; 0 when there is no certificate."""
    rotates: float = 0.0
    """Unix time of the next request."""
    last_error: str = ""
    subject: str = ""
    """Of a root: its name."""
    chain_pem: bytes = b""
    """Certificates alone, as are the roots: leaf first, then intermediates."""
    roots_pem: bytes = b""


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    slot: int
    pid: int
    state: str
    """`ready`, `silent` (it owes an answer for seconds), `starting`, `draining` or `gone`."""
    since: float
    restarts: int = 0
    connections: int = 0
    generation: int = 0
    """Of the mesh, as far as this worker has applied it."""


@dataclass(frozen=True, kw_only=True)
class ReplacedWorker:
    """A worker that left by order, and what became of its connections."""

    slot: int
    former_pid: int
    pid: int
    """Of its successor."""
    handed_over: int
    """Connections that go on at the successor."""
    drained: int
    """Those that came to their own end at the former worker meanwhile."""
    cut: int
    left: int
    """Those that the former worker still has, since nobody waits for it any longer."""
    seconds: float
    """From the order to the end of the former worker, or for as long as was waited."""


@dataclass(frozen=True, kw_only=True)
class ProbedNode:
    """What came of one tunnel to another node that carried nothing."""

    here: str
    """The node that tried."""
    node: str
    source: str
    """`ns/name` of the pod here in whose name it was opened."""
    destination: str
    """`ns/name` of the pod there that answered, or should have."""
    address: Ip
    """Of that pod."""
    connect_seconds: float
    """TCP; 0 if it was not reached, as are the others."""
    handshake_seconds: float
    """Mutual TLS, and both sides' first words of HTTP/2."""
    round_trip_seconds: float
    """Of an HTTP/2 PING, the shortest."""
    reason: Reason | None = None
    """Why it failed; None if it did not."""
    error: str = ""


@dataclass(frozen=True)
class LogView:
    part: str
    """`agent`, or `worker` and its slot."""
    level: str
    """Empty: an adopted worker's, which nobody here has told."""
    until: float = 0.0
    """Unix time of its end; 0: it stays."""


@dataclass(frozen=True)
class KernelCount:
    """Packets by what the kernel programs decided."""

    reason: str
    packets: int
    words: str
    """What the reason means, from bpf/reasons.h."""
    is_drop: bool
    """Dropped or answered with a reset, rather than passed or steered."""


@dataclass(frozen=True)
class OpenConnection:
    """A record as its worker has it at this moment."""

    worker: int | None
    """Its slot; None: the kernel carries it alone."""
    record: ConnectionRecord


@dataclass(frozen=True, kw_only=True)
class AgentState:
    version: str
    node: str
    network: str
    started: float
    now: float
    """Unix time of this snapshot."""
    mesh: Mesh
    same_node: str = "kernel"
    """The setting: where connections between pods of this node are decided, `kernel` or `tunnel`."""
    drawn: frozenset[Target] = frozenset()
    """Addresses and ports of Services whose endpoint is drawn in connect(2)."""
    components: tuple[ComponentState, ...] = ()
    pods: tuple[PodView, ...] = ()
    certificates: tuple[CertificateView, ...] = ()
    workers: tuple[WorkerView, ...] = ()
    kernel: tuple[KernelCount, ...] = field(default_factory=tuple)
    in_kernel: int = 0
    """Open connections that the kernel carries alone."""
    programs: str = ""
    """Hashes of the maps' layout and of the programs' C, whatever the marks; empty: of a release that does not tell."""
    rejected: tuple[str, ...] = ()
    """Resources that the control plane sent and that were refused (NACK), a line each."""
    logs: tuple[LogView, ...] = ()
    policy_hits: Mapping[str, PolicyHits] = field(default_factory=dict)
    """By `ns/name`, since the agent's start."""
    policy_since: Mapping[str, float] = field(default_factory=dict)
    """By `ns/name`, the Unix time at which it has come; not of dry runs."""


ReadState: TypeAlias = Callable[[], AgentState]
FetchConnections: TypeAlias = Callable[[], Awaitable[Sequence[OpenConnection]]]


class FlowSource(Protocol):
    """Connections that are over; `follow` waits for the next if there is none after the cursor."""

    def newest(self, count: int | None = None) -> FlowPage: ...

    def newest_first(self) -> Iterable[ConnectionRecord]:
        """All that are kept."""
        ...

    async def follow(self, cursor: str, wait_seconds: float) -> FlowPage: ...
