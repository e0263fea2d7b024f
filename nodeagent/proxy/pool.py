# SPDX-License-Identifier: Apache-2.0
"""Tunnels, shared by connections of one source address and identity to one hop that expect the same identities there.

The address is part of the key because a tunnel carries it: replicas with one identity never share. Dialling is single
flight: who comes while a tunnel is being made waits for it, up to the streams that it will carry. `choose` is the whole
decision; the rest of this file dials, hands out and closes.
"""

import socket
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from nodeagent.errors import PeerError
from nodeagent.hbone.events import Request
from nodeagent.hbone.limits import Role
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.set_up import Phase
from nodeagent.proxy.dial import Dial
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.handover import DialledState, TunnelState
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.loop import Timer
from nodeagent.proxy.shared import Shared
from nodeagent.proxy.sockets import prepare_tunnel
from nodeagent.proxy.tls import Handshake, is_expected, is_revoked, require_identity, require_not_revoked
from nodeagent.proxy.tunnel import Tunnel


class PoolKey(NamedTuple):
    source_ip: Ip
    identity: Identity
    ip: Ip
    port: int
    expected: frozenset[Identity]


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A tunnel as `choose` sees it."""

    is_dialling: bool
    can_open: bool
    """It is established, not draining, and below the peer's own limit of streams."""
    streams: int
    """Open ones, and those that wait while it is dialled."""
    peer_limit: int = 0
    """Streams that the peer takes at once; 0: it is still dialled, or the peer takes none at the moment."""


def choose(tunnels: Sequence[Seen], most_streams: int) -> int | None:
    """Index of the tunnel for one more stream; None: dial another.

    The fullest usable one, so that the emptier ones run dry and close. What the peer has said of one tunnel is expected
    of the one that is still dialled: whoever waits for it in vain is refused, and has only a few attempts.
    """
    for tunnel in tunnels:
        if 0 < tunnel.peer_limit < most_streams:
            most_streams = tunnel.peer_limit
    best, fullest = None, (False, -1)
    for index, tunnel in enumerate(tunnels):
        if (tunnel.can_open or tunnel.is_dialling) and tunnel.streams < most_streams:
            found = tunnel.can_open, tunnel.streams
            if found > fullest:
                best, fullest = index, found
    return best


class Passenger(Protocol):
    """A connection that wants a stream. Exactly one of the three is called, unless it withdraws."""

    def tunnel_ready(self, tunnel: Tunnel) -> None:
        """May still find it full, and then asks the pool again."""

    def tunnel_failed(self, reason: Reason, error: str) -> None: ...

    def tunnel_cut(self, reason: Reason, error: str) -> None:
        """In the middle of the handshake, without a word: who answered the dial has gone since."""

    def crashed(self) -> None: ...


class Pool:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._tunnels: dict[PoolKey, dict[PooledTunnel, None]] = {}
        self._roomy: dict[PoolKey, dict[PooledTunnel, None]] = {}
        """Those of them that are not full by our own limit: of a hundred tunnels to one pod few are looked at."""
        self.retired: set[PooledTunnel] = set()
        """They take no new streams, and live until their last one has ended."""

    def request(self, key: PoolKey, passenger: Passenger) -> None:
        """Calls `tunnel_ready` at once when there is a tunnel, otherwise later."""
        most_streams = self._shared.state.config.pool_streams
        roomy = list(self._roomy.get(key, ()))
        chosen = choose([tunnel.seen for tunnel in roomy], most_streams)
        if chosen is None:
            tunnel = PooledTunnel(self._shared, self, key)
            self._add(tunnel)
            tunnel.dial()
        else:
            tunnel = roomy[chosen]
        tunnel.board(passenger)
        if tunnel.streams >= most_streams:
            self._take(self._roomy, tunnel)

    def withdraw(self, key: PoolKey, passenger: Passenger) -> None:
        """It waits no more."""
        for tunnel in self._tunnels.get(key, ()):
            if tunnel.withdraw(passenger):
                self.look_for_room(tunnel)

    def look_for_room(self, tunnel: "PooledTunnel") -> None:
        """A stream of it has ended perhaps, or a passenger waits no more."""
        is_full = tunnel.streams >= self._shared.state.config.pool_streams
        if not is_full and tunnel in self._tunnels.get(tunnel.key, ()):
            self._roomy.setdefault(tunnel.key, {})[tunnel] = None

    def forget(self, tunnel: "PooledTunnel") -> None:
        """Nobody boards it any more."""
        self._take(self._tunnels, tunnel)
        self._take(self._roomy, tunnel)

    def retire(self, tunnel: "PooledTunnel") -> None:
        """As forget, but it is not over."""
        self.forget(tunnel)
        self.retired.add(tunnel)

    def _add(self, tunnel: "PooledTunnel") -> None:
        for tunnels in (self._tunnels, self._roomy):
            tunnels.setdefault(tunnel.key, {})[tunnel] = None

    @staticmethod
    def _take(tunnels: "dict[PoolKey, dict[PooledTunnel, None]]", tunnel: "PooledTunnel") -> None:
        pooled = tunnels.get(tunnel.key)
        if pooled is not None and tunnel in pooled:
            del pooled[tunnel]
            if not pooled:
                del tunnels[tunnel.key]

    def resume(self, state: TunnelState, owner: DialledState, sock: socket.socket) -> "PooledTunnel":
        """One that another process has had, without its streams. Raises ValueError, and nothing was begun then."""
        key = PoolKey(owner.source_ip, owner.identity, owner.ip, owner.port, owner.expected)
        pooled = PooledTunnel(self._shared, self, key)
        if pooled.resume(state, owner, sock).connection.is_draining:
            self.retired.add(pooled)
        else:
            self._add(pooled)
        return pooled

    def state_changed(self) -> None:
        """Tunnels of pods that left end with them; those that believe outdated roots take no new streams.

        Those to a peer that is revoked end, also when nobody boards them any more.
        """
        for tunnel in tuple(self.retired):
            if tunnel.is_revoked:
                tunnel.look_again()
        for tunnel in self.all():
            tunnel.look_again()
            self.look_for_room(tunnel)  # the limit may have become another

    def drain(self) -> None:
        """No new streams; each tunnel closes after its last."""
        for tunnel in self.all():
            tunnel.drain()

    def all(self) -> list["PooledTunnel"]:
        return [tunnel for pooled in self._tunnels.values() for tunnel in pooled]


class PooledTunnel:
    """From the dial to the end. Owner of its Tunnel."""

    def __init__(self, shared: Shared, pool: Pool, key: PoolKey) -> None:
        self.key = key
        self._shared, self._pool = shared, pool
        self._waiting: dict[Passenger, None] = {}
        self._tunnel: Tunnel | None = None
        self._idle: Timer | None = None
        self._trust = b""
        self._is_over = False
        self._dial: Dial | None = None
        self._began = 0.0
        """When this phase did: the dial, then the handshake."""

    def dial(self) -> None:
        self._began = self._shared.loop.now
        seconds, key = self._shared.state.config.connect_seconds, self.key
        source = key.source_ip, self._shared.pick_tunnel_port()
        self._dial = Dial(self._shared.loop, source, (key.ip, key.port), seconds, self)

    # ---- going on in another process -------------------------------------------------------------------------------

    @property
    def tunnel(self) -> Tunnel | None:
        """From the handshake on."""
        return self._tunnel

    guards: tuple[ConnectionGuard, ...] = ()
    """It has none of its own."""

    def surrender(self) -> tuple[TunnelState, list[socket.socket]]:
        """As Tunnel.surrender, when its tunnel can move."""
        tunnel = self._tunnel
        assert tunnel is not None
        assert not self._waiting
        self._leave()
        return tunnel.surrender(DialledState(*self.key, self._trust))

    def resume(self, state: TunnelState, owner: DialledState, sock: socket.socket) -> Tunnel:
        self._trust = owner.trust
        self._tunnel = Tunnel.resume(self._shared.loop, sock, state, self)
        return self._tunnel

    # ----------------------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """Open ones, and those that wait while it is dialled."""
        return len(self._waiting) if self._tunnel is None or self._tunnel.peer is None else len(self._tunnel.streams)

    @property
    def seen(self) -> Seen:
        tunnel = self._tunnel
        if tunnel is None or tunnel.peer is None:
            return Seen(not self._is_over, False, len(self._waiting))  # noqa: FBT003 - by position, which is faster
        return Seen(False, tunnel.can_open, len(tunnel.streams), tunnel.connection.peer_limit)  # noqa: FBT003

    @property
    def is_outdated(self) -> bool:
        """Its peer was believed by roots, or an alias of its trust domain, that are in force no more."""
        if self._tunnel is None or self._tunnel.peer is None:
            return False
        state = self._shared.state
        is_expected_now = is_expected(self._tunnel.peer, self.key.expected, state.mesh.security.trust_domains)
        return not is_expected_now or state.certificates.trust(self.key.identity) != self._trust

    @property
    def is_revoked(self) -> bool:
        """Its peer is believed no more, for anything."""
        tunnel = self._tunnel
        return tunnel is not None and is_revoked(tunnel.peer_certificates, self._shared.state.mesh.security.revoked)

    def look_again(self) -> None:
        """Whether the pod is still here, and the peer believed by roots that are still in force, and not revoked."""
        if self._shared.state.has_left(self.key.source_ip, self.key.identity):
            self.fail(Reason.POD_REMOVED, "")
        elif self.is_revoked:
            self.fail(
                Reason.CERTIFICATE_REVOKED, f"the certificate of {', '.join(sorted(map(str, self.key.expected)))}"
            )
        elif self.is_outdated:
            self.drain()

    def board(self, passenger: Passenger) -> None:
        """After `choose`: established it can open a stream, or it is still dialled."""
        if self._tunnel is not None and self._tunnel.peer is not None:
            self._stay()
            passenger.tunnel_ready(self._tunnel)
        else:
            self._waiting[passenger] = None

    def withdraw(self, passenger: Passenger) -> bool:
        """Whether it has waited here."""
        was_here = passenger in self._waiting
        self._waiting.pop(passenger, None)
        return was_here

    def drain(self) -> None:
        self._pool.retire(self)
        if self._tunnel is not None:
            self._tunnel.drain()

    def fail(self, reason: Reason, error: str) -> None:
        if self._tunnel is not None:
            self._tunnel.fail(reason, error)
        else:
            if self._dial is not None:
                self._dial.cancel()
            self._over(reason, error)

    def crashed(self) -> None:
        self.fail(Reason.BUG, "")

    # ---- Dialler ---------------------------------------------------------------------------------------------------

    def connected(self, sock: socket.socket, keeps_port: bool) -> None:  # noqa: FBT001 - Dialler's signature
        del keeps_port  # any other than was picked is as good
        self._took(Phase.TUNNEL_CONNECT)
        state = self._shared.state
        try:
            context = state.certificates.client_context(self.key.identity)
        except PeerError as error:
            sock.close()
            self._over(error.reason, str(error))
            return
        self._trust = state.certificates.trust(self.key.identity)
        prepare_tunnel(sock, state.config.far_congestion)
        handshake = Handshake(context, is_server=False, pipe=self._shared.secrets)
        self._tunnel = Tunnel(self._shared.loop, sock, handshake, Role.CLIENT, self, state.config.handshake_seconds)

    def not_connected(self, reason: Reason, error: str) -> None:
        self._over(reason, error)

    # ---- TunnelOwner -----------------------------------------------------------------------------------------------

    @property
    def kernel_records(self) -> KernelRecords:
        return self._shared.kernel_records

    def established(self, tunnel: Tunnel, peer: Identity) -> None:
        security = self._shared.state.mesh.security
        require_not_revoked(tunnel.peer_certificates, security.revoked)
        require_identity(peer, self.key.expected, security.trust_domains)
        self._shared.counters["tunnels_opened"] += 1
        self._took(Phase.TUNNEL_HANDSHAKE)
        waiting, self._waiting = self._waiting, {}
        for passenger in waiting:
            self._shared.loop.guarded(passenger, passenger.tunnel_ready, tunnel)
        self.changed(tunnel)

    def requested(self, tunnel: Tunnel, request: Request) -> None:
        """A server cannot open streams; the codec ends the connection before this."""

    def refused(self, tunnel: Tunnel, streams: int) -> None:
        """As requested."""

    def changed(self, tunnel: Tunnel) -> None:
        if tunnel.connection.is_draining:
            self._pool.retire(self)
            tunnel.close_if_drained()
            return
        self._pool.look_for_room(self)
        if not tunnel.streams and self._idle is None:
            self._idle = self._shared.loop.after(self._shared.state.config.pool_idle_seconds, self, self._idle_long)

    def charge(self, _seconds: float) -> float:
        """We have chosen this peer, and need it."""
        return 0.0

    def rest(self) -> float:
        return 0.0

    def ended(self, tunnel: Tunnel, reason: Reason, error: str) -> None:
        if tunnel.peer is None or reason.flag == "TLS_FAILURE":
            self._shared.counters["handshakes_failed"] += 1
        elif reason is Reason.CLOSED:
            self._shared.counters["tunnels_closed"] += 1
        if reason is Reason.CERTIFICATE_REVOKED:
            self._shared.counters["tunnels_revoked"] += 1
        self._over(reason if reason is not Reason.CLOSED else Reason.PEER_LOST, error, was_cut=tunnel.was_cut)

    # ----------------------------------------------------------------------------------------------------------------

    def _took(self, phase: Phase) -> None:
        now = self._shared.loop.now
        self._shared.connections.times.add(phase, now - self._began)
        self._began = now

    def _over(self, reason: Reason, error: str, *, was_cut: bool = False) -> None:
        self._leave()
        self._tunnel = None  # and with it the circle
        waiting, self._waiting = self._waiting, {}
        for passenger in waiting:
            tell = passenger.tunnel_cut if was_cut else passenger.tunnel_failed
            self._shared.loop.guarded(passenger, tell, reason, error)

    def _leave(self) -> None:
        self._is_over = True
        self._stay()
        self._pool.forget(self)
        self._pool.retired.discard(self)

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _idle_long(self) -> None:
        self._idle = None
        if self._tunnel is not None and not self._tunnel.streams:
            self._pool.retire(self)
            self._tunnel.close()
