# SPDX-License-Identifier: Apache-2.0
"""What the agent and a worker say to each other.

Two Unix stream sockets. On the *control* socket both write frames: 4 bytes length (big endian), then one message,
msgpack-encoded. File descriptors travel as SCM_RIGHTS with the first byte of the frame that owns them, in the order
that the message's docstring gives; every other message carries none. On the *report* socket only the worker writes,
without ever blocking: what does not fit is dropped and counted in the next `Lost`.

State is compiled: the agent has decoded, checked and encoded it once, the worker only applies it.

A worker outlives its agent. It goes on with the state it has and keeps knocking at the rendezvous socket that
`--reconnect` named; the connection that is accepted there is its control socket from then on. It says Hello; when the
agent's own picture is complete it answers with Resync, certificates as far as it has them, the whole mesh in pieces,
and LocalPods.
"""

import msgspec

from nodeagent.logs.levels import LogLevels
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.record import ConnectionRecord
from nodeagent.proxy.kernel_trial import KernelTls


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's part of Config; durations in seconds. Field meanings are those of nodeagent.config."""

    node: str
    cluster: str
    network: str
    trust_domain: str
    drain_seconds: float
    policy_wait_seconds: float
    pool_idle_seconds: float
    pool_streams: int
    connect_seconds: float
    handshake_seconds: float
    max_connections: int
    max_held_mib: int = 512
    compiled: str = "auto"
    spin_microseconds: int = 0
    far_congestion: str = ""
    """Congestion control of tunnels with a long way, by the kernel's name; empty: that of all sockets."""
    same_node: str = "kernel"
    log_format: str = "text"
    log_level: str = "info"
    traced_share: float = 0.0


# ---- agent to worker ---------------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, tag=True):
    """First message. Descriptors: listening sockets for outbound, HBONE, inbound plaintext, in this order."""

    config: WorkerConfig
    program: str = ""
    """Version of the package that the worker is started from."""
    kernel_tls: KernelTls | None = None
    """What the agent found of it; None: it is not asked for. In the proxy namespace nothing can be tried, since no
    address is local there for who dials."""


class Apply(msgspec.Struct, frozen=True, tag=True):
    """A piece of a change; the last piece of a generation has `is_last`, and is answered by Applied."""

    changes: Changes
    generation: int
    is_last: bool


class Resync(msgspec.Struct, frozen=True, tag=True):
    """Answer to Hello: the pieces up to the next `is_last` are the whole mesh; what is not in them is gone.

    Certificates are left alone: an agent that has just started has no keys yet, and those of the worker are valid.
    """

    config: WorkerConfig


class LocalPods(msgspec.Struct, frozen=True, tag=True):
    """Replaces the set of addresses of enrolled pods of this node: only these are served, as source or destination.

    A new worker accepts nothing before its first one, which therefore comes behind its mesh and its certificates.
    """

    addresses: frozenset[Ip]


class Certificate(msgspec.Struct, frozen=True, tag=True):
    """Descriptors: a memfd with the private key and the chain (PEM), a memfd with the roots (PEM)."""

    identity: Identity
    serial: str
    not_after: float
    """Unix time, seconds."""


class ForgetCertificate(msgspec.Struct, frozen=True, tag=True):
    identity: Identity


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Stop accepting (close the listeners' descriptors), GOAWAY, end at the deadline at the latest, then exit 0."""

    seconds: float


class ListConnections(msgspec.Struct, frozen=True, tag=True):
    request: int


class HandOver(msgspec.Struct, frozen=True, tag=True):
    """As Drain, but give what is open to the successor. Descriptor: a socket to it, see handover.py."""

    seconds: float


class TakeOver(msgspec.Struct, frozen=True, tag=True):
    """Go on with what is open at a former worker. Descriptor: a socket to it, see handover.py."""


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Answered by Pong from the worker's loop: it serves."""


class SetLogLevels(msgspec.Struct, frozen=True, tag=True):
    levels: LogLevels


class Cut(msgspec.Struct, frozen=True, tag=True):
    """End the connection of this record id, if it is here: its record says that an operator did."""

    id: int


ToWorker = (
    Start
    | Apply
    | Resync
    | LocalPods
    | Certificate
    | ForgetCertificate
    | Drain
    | ListConnections
    | HandOver
    | TakeOver
    | Ping
    | SetLogLevels
    | Cut
)
ORDERS = ("Ping", "SetLogLevels", "Cut")
"""Messages that a worker of another release may not know: it is sent those only that it names in Ready or Hello."""

# ---- worker to agent, control socket -----------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Privileges dropped, listeners taken, loop running."""

    pid: int
    handover: str = ""
    """Version of handover.py; empty: it knows neither HandOver nor TakeOver."""
    kernel_tls: bool = False
    """The kernel makes the records of its tunnels, where it can."""
    kernel_tls_found: str = ""
    """What was found of the kernel's TLS, for people; empty: it was not asked for."""
    orders: tuple[str, ...] = ()
    """Of ORDERS, those that it knows."""
    is_compiled: bool = False
    """Compiled code carries payload."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """First message after a reconnect.

    Descriptors: the three listening sockets as in Start, then the agent's end of a fresh report socket.
    """

    pid: int
    slot: int
    generation: int
    """The last one that was applied whole; 0 before the first."""
    identities: tuple[Identity, ...]
    """For which it holds certificates, so that the agent can have the superfluous ones forgotten."""
    handover: str = ""
    """As in Ready."""
    program: str = ""
    """As in Start."""
    kernel_tls: bool = False
    kernel_tls_found: str = ""
    """Both as in Ready."""
    orders: tuple[str, ...] = ()
    is_compiled: bool = False
    """Both as in Ready."""


class Applied(msgspec.Struct, frozen=True, tag=True):
    generation: int


class Connections(msgspec.Struct, frozen=True, tag=True):
    """A part of the answer to ListConnections; the last part has `is_last`."""

    request: int
    records: tuple[ConnectionRecord, ...]
    is_last: bool


class Pong(msgspec.Struct, frozen=True, tag=True):
    pass


FromWorker = Ready | Hello | Applied | Connections | Pong

# ---- worker to agent, report socket ------------------------------------------------------------------------------


class Opened(msgspec.Struct, frozen=True, tag=True):
    record: ConnectionRecord


class Closed(msgspec.Struct, frozen=True, tag=True):
    record: ConnectionRecord


class Counters(msgspec.Struct, frozen=True, tag=True):
    """Totals since the worker started, sent about once a second: tunnels opened, handshakes failed, bugs caught..."""

    totals: dict[str, int]


class Lost(msgspec.Struct, frozen=True, tag=True):
    """Reports that did not fit, or found no agent for too long, since the worker started."""

    reports: int


class HandedOver(msgspec.Struct, frozen=True, tag=True):
    """These connections are open, at the worker `pid` from now on; so their records go on."""

    pid: int
    ids: tuple[int, ...]


Report = Opened | Closed | Counters | Lost | HandedOver

MAX_FRAME_BYTES = 16 << 20
"""A bound against a corrupt length, far above one policy or one piece of a change."""
