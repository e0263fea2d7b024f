# SPDX-License-Identifier: Apache-2.0
"""What one connection leaves behind: the single source of metrics, access log, open-connections table."""

import enum
from typing import NamedTuple, Self

import msgspec

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Workload


class Direction(enum.StrEnum):
    OUTBOUND = "outbound"
    INBOUND = "inbound"


class Transport(enum.StrEnum):
    """How the bytes crossed the network."""

    HBONE = "HBONE"
    TCP = "TCP"


class Path(enum.StrEnum):
    """Who carried the bytes on this node."""

    TUNNEL = "tunnel"
    """The proxy, encrypted."""
    PROXY = "proxy"
    """The proxy, as plain TCP: between two pods of this node, or where one end speaks no HBONE."""
    KERNEL = "kernel"
    """The kernel alone, between two pods of this node."""


class Verdict(enum.StrEnum):
    """What a connection came to, in one word."""

    ALLOWED = "allowed"
    """Also one that an application or a drain ended."""
    DENIED = "denied"
    """By a policy or a limit that somebody has written for this source."""
    FAILED = "failed"


class Party(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One end, as far as it is known. Labels of metrics and log come from here and nowhere else."""

    workload: str = ""
    """Pod name, as the log names it."""
    namespace: str = ""
    workload_name: str = ""
    """Owner's name, the `*_workload` label."""
    canonical_name: str = ""
    canonical_revision: str = ""
    cluster: str = ""
    region: str = ""
    zone: str = ""

    @classmethod
    def of(cls, workload: Workload) -> Self:
        return cls(
            workload.name,
            workload.namespace,
            workload.workload_name,
            workload.canonical_name,
            workload.canonical_revision,
            workload.cluster,
            workload.region,
            workload.zone,
        )


PID_SHIFT = 32
"""Of a record's id, below the pid of the worker that has begun it."""


class ConnectionRecord(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One accepted connection (for HBONE inbound: one stream). Written to while it lives, immutable once emitted."""

    id: int
    """Begins with the pid of the worker that accepted it, since another may go on with it; of one in the kernel, the
    cookie of its client's socket."""
    direction: Direction
    started: float
    """Unix time in seconds."""
    source_ip: Ip
    source_port: int
    original_ip: Ip
    original_port: int
    """Where the client connected to: a pod, a Service address, or, inbound, this pod."""
    destination_ip: Ip = Ip("")
    destination_port: int = 0
    """The endpoint that was chosen; the application's real port."""
    hop: str = ""
    """`ip:15008` of the tunnel, when there is one."""
    service: str = ""
    """`ns/hostname` when a Service was addressed."""
    source: Party = Party()
    destination: Party = Party()
    source_identity: Identity | None = None
    """Only what was proved: by TLS or, between pods of one node, by the device that the packets came from."""
    destination_identity: Identity | None = None
    transport: Transport = Transport.TCP
    sent_bytes: int = 0
    """Client to application."""
    received_bytes: int = 0
    """Application to client."""
    seconds: float = 0.0
    """Age at the end."""
    reason: str = ""
    """Value of a Reason; empty while open."""
    policy: str = ""
    """`ns/name` of the policy that decided, when one did."""
    dry_run: str = ""
    """`allowed` or `denied`: what would have become of it with dry runs enforced; empty when none is about it."""
    dry_run_policy: str = ""
    """`ns/name` of the policy that would have decided, when one would."""
    is_dry_run_other: bool = False
    """That would not have been what was decided."""
    error: str = ""
    """One line for the log when `reason` alone does not tell enough."""
    keeps_source_port: bool = True
    """False when the application sees another port than the client's (it was taken)."""
    is_in_kernel: bool = False
    """No worker has it: the kernel carries it by the table of verdicts."""
    round_trip_us: int = 0
    """Smoothed, as the client's kernel has it; only of those in the kernel, as is the next."""
    retransmissions: int = 0
    set_up_seconds: float = -1.0
    """Until it was open; negative of one that never was, and of those in the kernel."""
    traceparent: str = ""
    """Of a tunnelled one where connections are traced: as it was sent with CONNECT, or as it came."""

    @property
    def is_established(self) -> bool:
        return self.set_up_seconds >= 0

    @property
    def has_both_ends(self) -> bool:
        """Between two pods of this node without a tunnel: nobody else will tell of the destination's side.

        There alone the client's side proves the destination's identity without TLS.
        """
        return (
            self.direction is Direction.OUTBOUND
            and self.transport is Transport.TCP
            and self.destination_identity is not None
        )

    @property
    def name(self) -> str:
        """For people: `PID-NUMBER`, the pid of the worker that began it, or `kernel-COOKIE`. Unique on the node."""
        if self.is_in_kernel:
            return f"{_IN_KERNEL}-{self.id}"
        return f"{self.id >> PID_SHIFT}-{self.id & ((1 << PID_SHIFT) - 1)}"

    @property
    def path(self) -> Path:
        if self.is_in_kernel:
            return Path.KERNEL
        return Path.TUNNEL if self.transport is Transport.HBONE else Path.PROXY

    @property
    def verdict(self) -> Verdict:
        reason = reason_of(self)
        match OPEN_FLAG if reason is None else reason.flag:
            case "-":
                return Verdict.ALLOWED
            case "DENY" | "RL":
                return Verdict.DENIED
            case _:
                return Verdict.FAILED


_IN_KERNEL = "kernel"


class ConnectionId(NamedTuple):
    is_in_kernel: bool
    id: int

    @classmethod
    def parse(cls, name: str) -> Self:
        """From a record's `name`. Raises ValueError."""
        begun_by, dash, number = name.partition("-")
        is_in_kernel = begun_by == _IN_KERNEL
        if not dash or not _is_number(number) or not (is_in_kernel or _is_number(begun_by)):
            raise ValueError(f"{name!r} is not a connection's id")
        return cls(is_in_kernel, int(number) + (0 if is_in_kernel else int(begun_by) << PID_SHIFT))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


class PolicyHits(NamedTuple):
    """Connections that ended or were refused, as far as one policy decided them."""

    connections: int
    last: float
    """Unix time of the latest end."""


NO_HITS = PolicyHits(0, 0.0)


class FlowPage(NamedTuple):
    """Some of the connections that are over."""

    records: tuple[ConnectionRecord, ...]
    """In the order in which they ended."""
    cursor: str
    """For what comes after these."""
    has_more: bool
    """Whether something is there already."""
    lost: int
    """Records behind the cursor that was given which are not kept any more."""


OPEN_FLAG = "-"
"""Istio's response_flags of a connection that did not fail (yet)."""

_REASONS: dict[str, Reason] = {reason.value: reason for reason in Reason}


def reason_of(record: ConnectionRecord) -> Reason | None:
    """None while the connection is open. A name that this release does not know (a worker of another one) is a bug."""
    if not record.reason:
        return None
    return _REASONS.get(record.reason, Reason.BUG)
