# SPDX-License-Identifier: Apache-2.0
"""The shapes of what commands answer with `-o json`.

Typed here, so that the views are checked, and the JSON Schema is made from the same words (`schema_of_answers`,
docs/nodeagent-v1.schema.json). A new field is no change of the version; one that goes or changes its meaning is
another SCHEMA (nodeagent/admin/schema.py).

Moments are RFC 3339 in UTC, ages and durations are seconds. What is absent is empty: "", 0, [].
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from nodeagent.admin.schema import SCHEMA
from nodeagent.admin.state import Captured, CertificateState, Health
from nodeagent.model.policy import Action, PolicyScope
from nodeagent.model.record import Direction, Path, Verdict
from nodeagent.model.workload import TunnelProtocol

Moment = Annotated[str, msgspec.Meta(description="RFC 3339 in UTC; empty: never.")]
Seconds = Annotated[float, msgspec.Meta(description="Seconds.")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Spiffe = Annotated[str, msgspec.Meta(description="spiffe://trust-domain/ns/namespace/sa/account; empty: none proved.")]
HostPort = Annotated[str, msgspec.Meta(description="ip:port; an IPv6 address in brackets.")]
NamespacedName = Annotated[str, msgspec.Meta(description="namespace/name.")]


class Answer(TypedDict):
    """`schema` comes to each where it is sent."""


# ---- status ------------------------------------------------------------------------------------------------------


class Component(TypedDict):
    component: str
    state: Health
    since: Moment
    age_seconds: Seconds
    detail: str


class Worker(TypedDict):
    slot: Count
    pid: Count
    state: str
    since: Moment
    age_seconds: Seconds
    restarts: Count
    connections: Count
    generation: Count


class KernelReason(TypedDict):
    reason: str
    packets: Count
    words: str
    drop: bool


class Status(Answer):
    """`nodeagent status`."""

    node: str
    version: str
    state: Health
    since: Moment
    summary: str
    in_kernel: Annotated[int, msgspec.Meta(ge=0, description="Open connections that the kernel carries alone.")]
    components: list[Component]
    workers: list[Worker]
    kernel: list[KernelReason]
    generation: Count
    rejected: list[str]


class Version(Answer):
    """`nodeagent version`."""

    command: str
    agent: str
    programs: Annotated[str, msgspec.Meta(description="Hashes of the command's kernel programs: layout/source.")]
    agent_programs: Annotated[str, msgspec.Meta(description="Of the agent's; empty: it does not tell.")]


# ---- the mesh as this node knows it --------------------------------------------------------------------------------


class Pod(TypedDict):
    namespace: str
    pod: str
    ips: list[str]
    netns: str
    captured: Captured
    reason: str
    mode: Annotated[
        str,
        msgspec.Meta(
            description="Who carries what it has with other pods of this node: kernel, proxy or tunnel; empty: it is "
            "not captured."
        ),
    ]
    identity: Spiffe
    device: str
    hits: Annotated[int, msgspec.Meta(ge=0, description="Connections that were steered to the proxy.")]
    direct: Annotated[int, msgspec.Meta(ge=0, description="Connections that the kernel carried, past the proxy.")]
    dropped: Annotated[int, msgspec.Meta(ge=0, description="Packets.")]


class Pods(Answer):
    """`nodeagent pods`."""

    pods: list[Pod]


class Workload(TypedDict):
    uid: str
    namespace: str
    name: str
    addresses: list[str]
    dns_name: Annotated[str, msgspec.Meta(description="By which alone it is known; empty: it has addresses.")]
    dns_error: Annotated[
        str, msgspec.Meta(description="Why that name has no answer; empty: it has, or was not asked for.")
    ]
    network: str
    node: str
    cluster: str
    waypoint: str
    protocol: TunnelProtocol
    identity: Spiffe
    healthy: bool
    host_network: bool
    workload_type: str
    workload_name: str
    canonical_name: str
    canonical_revision: str
    services: list[str]
    policies: list[str]
    capacity: Count


class Workloads(Answer):
    """`nodeagent workloads`."""

    workloads: list[Workload]


class Service(TypedDict):
    namespace: str
    name: str
    hostname: str
    vips: list[str]
    ports: dict[str, int]
    waypoint: str
    balancing: str
    endpoints: Count
    names: Annotated[
        dict[str, list[str]], msgspec.Meta(description="Endpoints that are known by a DNS name, with its addresses.")
    ]
    healthy_endpoints: Count
    endpoint_uids: list[str]


class Services(Answer):
    """`nodeagent services`."""

    services: list[Service]


class Policy(TypedDict):
    namespace: str
    name: str
    action: Action
    scope: PolicyScope
    rules: Count
    dry_run: bool
    origin: str
    attached: Count
    hits: Count
    """Connections that it decided and that are over, since the agent's start."""
    last_hit: Moment
    synced: Annotated[
        str, msgspec.Meta(description="RFC 3339 in UTC: when it came as it is; empty: not known, as of a dry run.")
    ]
    synced_seconds: Annotated[float, msgspec.Meta(description="Seconds since then.")]


class MissingPolicy(TypedDict):
    policy: NamespacedName
    attached: Count


class Policies(Answer):
    """`nodeagent policies`."""

    policies: list[Policy]
    missing: list[MissingPolicy]


class PolicyInWords(Policy):
    headline: str
    rules_in_words: list[str]
    cautions: list[str]
    attached_to: list[NamespacedName]


class PolicyShown(Answer):
    """`nodeagent policies show NAMESPACE/NAME`."""

    policy: PolicyInWords


class Certificate(TypedDict):
    name: str
    type: Literal["Leaf", "Root"]
    state: CertificateState
    valid: bool
    serial: str
    not_after: Moment
    not_before: Moment
    expires_in_seconds: Count
    rotates: Moment
    rotates_in_seconds: Count
    last_error: str


class Certificates(Answer):
    """`nodeagent certs`."""

    certificates: list[Certificate]


# ---- connections ---------------------------------------------------------------------------------------------------


class Party(TypedDict):
    namespace: str
    workload: str
    address: HostPort


class Told(TypedDict):
    """What an open connection and one that is over have in common."""

    id: str
    """The same while it is open and when it is over; `nodeagent connections --kill` takes it."""
    direction: Direction
    source: Party
    destination: Party
    original: HostPort
    service: str
    hop: str
    protocol: Literal["HBONE", "PLAIN"]
    path: Path
    tls_peer: Spiffe
    policy: str
    dry_run: str
    dry_run_policy: str
    sent_bytes: Count
    received_bytes: Count
    round_trip_us: Count
    retransmissions: Count
    source_identity: Spiffe
    destination_identity: Spiffe


class Connection(Told):
    started: Moment
    age_seconds: Seconds
    worker: int | None


class Connections(Answer):
    """`nodeagent connections`."""

    connections: list[Connection]


class Tracked(TypedDict):
    protocol: Literal["TCP"]
    source: HostPort
    destination: HostPort
    is_opener_known: Annotated[
        bool, msgspec.Meta(description="False: the source may be the end that was connected to.")
    ]
    kind: Annotated[str, msgspec.Meta(description="allowed, excluded, adopted or proxy; empty: no table tells.")]
    generation: Annotated[int, msgspec.Meta(ge=0, description="Of the policies when it was last judged.")]
    tables: Annotated[list[str], msgspec.Meta(description="Names of bpf/maps.h.")]
    state: Annotated[str, msgspec.Meta(description="open, closed or reset; empty: its client's socket tells nothing.")]
    cookie: Annotated[int, msgspec.Meta(ge=0, description="Of that socket; 0: none, and what follows is 0.")]
    netns: Annotated[int, msgspec.Meta(ge=0, description="Cookie of its network namespace; 0: the kernel has none.")]
    age_seconds: Seconds
    sent_bytes: Count
    received_bytes: Count
    round_trip_us: Count
    retransmissions: Count


class TrackedConnections(Answer):
    """`nodeagent connections --kernel`."""

    tracked: list[Tracked]


class Flow(Told):
    ended: Moment
    started: Moment
    seconds: Seconds
    verdict: Verdict
    reason: str
    error: str
    check: str


class Flows(Answer):
    """`nodeagent flows`; the agent's own answer has the last three fields, too."""

    flows: list[Flow]
    cursor: NotRequired[str]
    has_more: NotRequired[bool]
    lost: NotRequired[Count]


Secured = Literal["mtls", "node", "plain", "none"]
"""Mutual TLS; within this node between two pods that it vouches for; plain text; nothing was carried."""


class Edge(TypedDict):
    source: str
    destination: str
    source_identity: Spiffe
    destination_identity: Spiffe
    connections: Count
    ended: Count
    denied: Count
    failed: Count
    secured: Secured
    sent_bytes: Count
    received_bytes: Count


class Edges(Answer):
    """`nodeagent edges`."""

    edges: list[Edge]


class Rate(TypedDict):
    time: Moment
    name: str
    open: Count
    connections_per_second: float
    denied_per_second: float
    sent_per_second: Count
    received_per_second: Count
    round_trip_p50_us: Count
    round_trip_p99_us: Count
    mtls_percent: Count


class Rates(Answer):
    """`nodeagent top`, which writes rows only (`-o jsonl`), one set after the other."""

    rates: list[Rate]


# ---- questions and orders ------------------------------------------------------------------------------------------


class ExplainedSource(TypedDict):
    name: str
    addresses: list[str]
    node: str
    identity: Spiffe
    captured: str


class ExplainedDestination(TypedDict):
    asked: str
    service: str
    port: int


class ExplainedRoute(TypedDict):
    endpoints: list[str]
    transport: str
    path: list[str]
    verdict: str
    reason: str
    words: str
    policies: list[dict[str, Any]]
    """The whole working of each policy, as nodeagent/policy/judge.py has it."""
    missing: list[str]
    nearest_miss: dict[str, Any] | None
    working: list[str]
    dry_run: str
    to_allow: list[str]
    tunnel: Annotated[str, msgspec.Meta(description="Who dials it and who has to answer; empty: there is none.")]
    files: NotRequired[
        Annotated[
            dict[str, str],
            msgspec.Meta(description="file:line of each policy, of its rule with --policy-dir, as far as it is known."),
        ]
    ]


class LastSeen(TypedDict):
    ended: Moment
    direction: Direction
    path: Path
    verdict: Verdict
    reason: str
    policy: str
    recent: Count
    recent_seconds: Count


class Explanation(Answer):
    """`nodeagent explain`."""

    source: ExplainedSource
    destination: ExplainedDestination
    routes: list[ExplainedRoute]
    verdict: str
    last_seen: Annotated[
        LastSeen | None, msgspec.Meta(description="Such a connection; null: this node remembers none.")
    ]
    warnings: list[str]
    now: NotRequired[Annotated[str, msgspec.Meta(description="With --policy-dir: the verdict by what is in force.")]]


class Replaced(TypedDict):
    slot: Count
    former_pid: Count
    pid: Count
    handed_over: Count
    drained: Count
    cut: Count
    left: Count
    seconds: Seconds


class ReplacedWorkers(Answer):
    """`nodeagent workers replace`."""

    replaced: list[Replaced]


class Probed(TypedDict):
    from_node: str
    to_node: str
    path: Literal["hbone"]
    ok: bool
    source: NamespacedName
    destination: NamespacedName
    address: str
    connect_seconds: Annotated[float, msgspec.Meta(description="TCP, in seconds; 0: not reached.")]
    handshake_seconds: Annotated[float, msgspec.Meta(description="Mutual TLS and HTTP/2, in seconds; 0: not reached.")]
    round_trip_seconds: Annotated[float, msgspec.Meta(description="Of a PING, in seconds; 0: none came back.")]
    reason: str
    error: str
    check: str


class ProbedNodes(Answer):
    """`nodeagent probe`."""

    probes: list[Probed]


class Log(TypedDict):
    part: str
    level: str
    until: Moment


class Logs(Answer):
    """`nodeagent log`."""

    logs: list[Log]


class Killed(Answer):
    """`nodeagent connections --kill ID`."""

    killed: list[Flow]


class Hop(TypedDict):
    time: Moment
    place: Annotated[
        str, msgspec.Meta(description="from_pod, to_pod, from_proxy or at_proxy; proxy or kernel: of a connection.")
    ]
    device: str
    what: Annotated[str, msgspec.Meta(description="The packet; of a connection its direction.")]
    bytes: Count
    source: Party
    destination: Party
    outcome: Annotated[
        str, msgspec.Meta(description="Reason of the kernel programs or the proxy; accepted, connects, connected.")
    ]
    verdict: Annotated[
        str, msgspec.Meta(description="pass, drop, redirect; of a connection pass, allowed, denied or failed.")
    ]
    next: Annotated[str, msgspec.Meta(description="Where it goes from there; empty: it is over.")]
    words: str
    policy: str
    check: str
    id: Annotated[str, msgspec.Meta(description="Of a connection, as `nodeagent flows` has it.")]


class TraceEnd(TypedDict):
    why: Literal["asked", "time", "count"]
    hops: Count
    alike: Annotated[int, msgspec.Meta(ge=0, description="Packets like one that is told.")]
    lost: Annotated[int, msgspec.Meta(ge=0, description="Packets for which there was no room.")]


class Trace(Answer):
    """`nodeagent trace`."""

    hops: list[Hop]
    end: TraceEnd
    command_status: Annotated[
        int | None, msgspec.Meta(description="Of the command that was run; negative: the signal that ended it.")
    ]


# ---- what is found without an agent --------------------------------------------------------------------------------


class Check(TypedDict):
    id: Annotated[str, msgspec.Meta(description="Stays the same, whatever the name; an anchor of docs/checks.md.")]
    name: str
    ok: bool
    evidence: str
    advice: str
    is_needed: bool
    docs: Annotated[str, msgspec.Meta(description="Where it is explained; empty: nowhere.")]


class Checks(Answer):
    """`nodeagent check`."""

    ok: bool
    checks: list[Check]


class BpfProgram(TypedDict):
    name: str
    kind: str
    id: Count
    tag: str
    verified: Count
    is_current: bool
    pin: str
    runs: Annotated[int, msgspec.Meta(ge=0, description="While it was measured; 0 without --measure.")]
    average_nanoseconds: Annotated[int, msgspec.Meta(ge=0, description="Of a run, while it was measured.")]
    attached_to: Annotated[list[str], msgspec.Meta(description="Places and hooks, as `bpf attach` has them.")]


class BpfPrograms(Answer):
    """`nodeagent bpf progs`."""

    progs: list[BpfProgram]


class BpfMap(TypedDict):
    name: str
    id: Count
    kind: str
    key_bytes: Count
    value_bytes: Count
    rows: Count
    most: Count
    is_current: bool
    pin: str


class BpfMaps(Answer):
    """`nodeagent bpf maps`."""

    maps: list[BpfMap]


class BpfRow(TypedDict):
    key: str | int | list[int] | dict[str, Any]
    value: str | int | list[int] | dict[str, Any]


class BpfRows(Answer):
    """`nodeagent bpf maps NAME`."""

    map: str
    rows: list[BpfRow]


class BpfPlace(TypedDict):
    place: str
    hook: str
    order: Count
    program: str
    id: Count
    by: Literal["tcx", "clsact", "cgroup"]
    is_ours: bool


class BpfPlaces(Answer):
    """`nodeagent bpf attach`."""

    attached: list[BpfPlace]


class BpfComparison(TypedDict):
    what: str
    is_same: bool
    wanted: str
    found: str


class BpfComparisons(Answer):
    """`nodeagent bpf verify`."""

    compared: list[BpfComparison]


class Finding(TypedDict):
    file: str
    line: Count
    severity: Literal["error", "warning", "info"]
    code: str
    subject: str
    message: str
    check: str
    is_rejected: bool
    field: str


class Analysis(Answer):
    """`nodeagent analyze`."""

    ok: bool
    files: Count
    objects: Count
    counts: dict[str, int]
    findings: list[Finding]


class Message(TypedDict):
    nonce: str
    version: str


class Refusal(TypedDict):
    nonce: str
    version: str
    error: str
    resources: list[str]
    resource_count: Count


class Proxy(TypedDict):
    node: str
    id: str
    address: str
    connected: Moment
    connected_seconds: Seconds
    type: str
    state: str
    asks_for: Literal["everything", "names"]
    resources: Count
    sent: Message
    acknowledged: Message
    unanswered: Count
    unanswered_seconds: Seconds
    refusals: list[Refusal]
    refused: Count


class Proxies(Answer):
    """`nodeagent proxies`."""

    proxies: list[Proxy]
    clients: Count
    refused: Count
    replaced: Count


class Root(TypedDict):
    use: Literal["in use", "trusted"]
    not_after: Moment
    fingerprint: str


class Roots(Answer):
    """`nodeagent ca show`."""

    roots: list[Root]


class Made(TypedDict):
    kind: str
    path: str


class Run(TypedDict):
    number: Count
    pid: Count
    entries: list[Made]


class Runs(Answer):
    """`nodeagent lab list`."""

    runs: list[Run]


class Dump(Answer):
    """`nodeagent dump`. What is in `state`, `mesh`, `connections` and `flows` is the writing release's own."""

    kind: Literal["dump"]
    generation: Count
    state: dict[str, Any]
    mesh: dict[str, Any]
    connections: list[dict[str, Any]]
    flows: list[dict[str, Any]]


class ReportFile(TypedDict):
    name: str
    command: str
    exit_code: int
    size: Count
    redactions: Count
    is_cut: bool


class Report(Answer):
    """`nodeagent report`, and the manifest.json in what it writes."""

    kind: Literal["report"]
    path: str
    node: str
    taken: Moment
    version: str
    redacted: Literal["secrets", "strict"]
    since: Annotated[
        str, msgspec.Meta(description="The last while that logs and flows are of, such as 1h; empty: all.")
    ]
    files: list[ReportFile]


# ---- the schema ----------------------------------------------------------------------------------------------------

ANSWERS: tuple[type, ...] = (
    Status,
    Version,
    Pods,
    Workloads,
    Services,
    Policies,
    PolicyShown,
    Certificates,
    Connections,
    TrackedConnections,
    Flows,
    Edges,
    Rates,
    Explanation,
    ReplacedWorkers,
    ProbedNodes,
    Logs,
    Killed,
    Trace,
    Checks,
    BpfPrograms,
    BpfMaps,
    BpfRows,
    BpfPlaces,
    BpfComparisons,
    Analysis,
    Proxies,
    Roots,
    Runs,
    Dump,
    Report,
)


def schema_of_answers() -> dict[str, Any]:
    """JSON Schema (2020-12) of all answers; `$defs` has each by its name, and the rows of its lists."""
    _, shapes = msgspec.json.schema_components(ANSWERS, ref_template="#/$defs/{name}")
    names = [answer.__name__ for answer in ANSWERS]
    for name in names:
        shape = shapes[name]
        shape["properties"] = {"schema": {"const": SCHEMA}, **shape["properties"]}
        shape["required"] = ["schema", *shape["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        "description": "What nodeagent's commands print with -o json and -o yaml. A line of -o jsonl is a row of a "
        "list, with `schema` and the list's name as `kind`.",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in names],
        "$defs": dict(sorted(shapes.items())),
    }
