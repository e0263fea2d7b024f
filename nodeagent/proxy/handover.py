# SPDX-License-Identifier: Apache-2.0
"""What a worker and its successor say to each other while open connections pass from one to the other.

A Unix stream socket that the agent has made for them. Frames of two words (length and number of descriptors, big
endian) and a message, msgpack-encoded; the descriptors travel with the frame's first bytes, in the order that the
message's docstring gives.

- The former worker says Offer, and gives nothing away before the successor has said Accept: who speaks another version
  refuses, and everything drains.
- Then each tunnel, and each pair of sockets, is one message with all that is known of it. It is made in one turn of the
  loop; before it nobody else has the keys, behind it their former owner has none. No nonce can be used twice.
- What was sent belongs to the successor. The former worker keeps its copies of the sockets until it hears Taken, so
  that nothing ends by chance on the way. If it hears NotTaken, or nothing any more, it resets them, with a record: it
  cannot go on without keys, and nobody would know how far the successor has come.

Few are on their way at once, so that the pause of a stream is the time to pack and to unpack some of them.
"""

import msgspec

from nodeagent.hbone.snapshot import VERSION as HBONE_VERSION
from nodeagent.hbone.snapshot import Snapshot
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.record import ConnectionRecord
from nodeagent.policy.evaluate import ConnectionFacts
from nodeagent.tls.state import VERSION as TLS_VERSION
from nodeagent.tls.state import State

VERSION = f"2.{HBONE_VERSION}.{TLS_VERSION}"
"""The first number changes with the meaning of anything in this file."""


class GuardState(msgspec.Struct, frozen=True, array_like=True):
    """Of guard.py: the record goes on, with its id, its start and its bytes."""

    record: ConnectionRecord
    seconds: float
    """Age at the moment of the handover."""
    facts: ConnectionFacts | None
    """The successor judges at once by its own policies, so what it was judged by stays behind."""
    is_established: bool


class StreamState(msgspec.Struct, frozen=True, array_like=True):
    """Of stream.py."""

    id: int
    is_outbound: bool
    backlog: tuple[bytes, ...]
    is_ended: bool
    is_shut: bool
    is_read_out: bool
    guard: GuardState


class AcceptedState(msgspec.Struct, frozen=True, tag=True):
    """Of inbound.py."""

    guard: GuardState
    """Its record has the tunnel's addresses, also when the guard itself is done with."""
    is_guarded: bool
    """No stream has come yet, so the tunnel's end would leave a record of its own."""
    identity: Identity | None
    trust: bytes
    is_over_limit: bool


class DialledState(msgspec.Struct, frozen=True, tag=True):
    """Of pool.py; all but `trust` is the PoolKey."""

    source_ip: Ip
    identity: Identity
    ip: Ip
    port: int
    expected: frozenset[Identity]
    trust: bytes


class TunnelState(msgspec.Struct, frozen=True):
    """Of tunnel.py. It has the traffic secrets, in `channel`, which does not show them."""

    owner: AcceptedState | DialledState
    peer: Identity
    peer_certificates: tuple[bytes, ...]
    """Names of its chain, for lists of revoked ones that are still to come."""
    channel: State
    connection: Snapshot
    unanswered: int
    awaits_last_pong: bool
    streams: tuple[StreamState, ...]


class EndState(msgspec.Struct, frozen=True, array_like=True):
    """One of the two sockets of relay.py."""

    backlog: bytes
    is_shut: bool
    is_read_out: bool


class PairState(msgspec.Struct, frozen=True, array_like=True):
    """Of relay.py."""

    client: EndState
    server: EndState
    guard: GuardState


# ---- from the former worker ----------------------------------------------------------------------------------------


class Offer(msgspec.Struct, frozen=True, tag=True):
    version: str


class GiveTunnel(msgspec.Struct, frozen=True, tag=True):
    """Descriptors: the tunnel's socket, then that of each stream."""

    number: int
    tunnel: TunnelState


class GivePair(msgspec.Struct, frozen=True, tag=True):
    """Descriptors: the client's socket, the server's."""

    number: int
    pair: PairState


FromFormer = Offer | GiveTunnel | GivePair

# ---- from the successor --------------------------------------------------------------------------------------------


class Accept(msgspec.Struct, frozen=True, tag=True):
    pid: int


class Refuse(msgspec.Struct, frozen=True, tag=True):
    why: str


class Taken(msgspec.Struct, frozen=True, tag=True):
    """It goes on at the successor, which alone has it now."""

    number: int


class NotTaken(msgspec.Struct, frozen=True, tag=True):
    """A defect of either: the versions were the same."""

    number: int
    why: str


FromSuccessor = Accept | Refuse | Taken | NotTaken
