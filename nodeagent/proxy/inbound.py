# SPDX-License-Identifier: Apache-2.0
"""HBONE connections to local pods: accepted, TLS as the pod, trust domain checked. Streams are in inbound_stream.py.

Each accepted connection has a guard of its own until its first stream, whose records tell the rest.
"""

import socket

from nodeagent.errors import PeerError
from nodeagent.hbone.events import Request
from nodeagent.hbone.limits import Role
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction, Party, Transport
from nodeagent.model.set_up import Phase
from nodeagent.proxy.admission import Admission
from nodeagent.proxy.authorizer import Authorizer
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.handover import AcceptedState, TunnelState
from nodeagent.proxy.holds import Hold
from nodeagent.proxy.inbound_stream import InboundStream
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.loop import HALF_CLOSED
from nodeagent.proxy.shared import Shared
from nodeagent.proxy.sockets import local_address, prepare_tunnel
from nodeagent.proxy.sources import ATTEMPT_SECONDS, HANDSHAKE_SECONDS, STREAM_SECONDS
from nodeagent.proxy.tls import Handshake, is_of_domain, is_revoked, require_not_revoked, require_trust_domain
from nodeagent.proxy.tunnel import Tunnel

_FAULTS = frozenset({Reason.H2_FAILED.flag, Reason.TLS_FAILED.flag})
"""What a peer does wrong."""
_PATIENCE_SECONDS = 1.0
"""Whoever gives up later than that may have waited for us."""
_OURS = frozenset({Reason.DRAINED, Reason.POD_REMOVED, Reason.BUG})
"""Ends for which a peer, whose tunnel had no request yet, can do nothing."""


class Inbound:
    """Owner of the HBONE listener's connections."""

    def __init__(self, shared: Shared, authorizer: Authorizer) -> None:
        self.shared, self.authorizer = shared, authorizer
        self.tunnels: set[InboundTunnel] = set()
        self.admission = Admission(shared.loop, shared.counters, lambda: shared.state.config.handshake_seconds)

    def accepted(self, sock: socket.socket, peer: tuple[Ip, int]) -> None:
        is_wasteful = self.admission.refuses(peer[0])
        if is_wasteful and not self.admission.records(peer[0]):
            sock.close()
            return
        is_full = self.shared.is_full
        try:
            local = local_address(sock)
        except OSError:  # reset before we looked
            local = (Ip(""), 0)
        guard = self.shared.connections.begin(Direction.INBOUND, peer, local)
        tunnel = InboundTunnel(self, sock, guard)
        if is_wasteful:
            tunnel.fail(Reason.SOURCE_WASTEFUL, "")
        elif is_full:
            tunnel.fail(Reason.CONNECTION_LIMIT, "")
        else:
            self.admission.enter(peer[0], tunnel)

    def state_changed(self) -> None:
        """Tunnels to pods that left end with them: a successor's streams must not come by what promised another.

        Guards are reviewed, but idle tunnels have none.
        """
        for tunnel in tuple(self.tunnels):
            tunnel.look_again()

    def drain(self) -> None:
        for tunnel in tuple(self.tunnels):
            tunnel.drain()

    def resume(self, state: TunnelState, owner: AcceptedState, sock: socket.socket) -> "InboundTunnel":
        """One that another process has had, without its streams. Raises ValueError, and nothing was begun then."""
        guard = self.shared.connections.resume(owner.guard)
        accepted = InboundTunnel(self, None, guard)
        try:
            accepted.resume(state, owner, sock)
        except ValueError:
            self.tunnels.discard(accepted)
            guard.discard()
            raise
        return accepted


class InboundTunnel:
    """One accepted connection on port 15008; its own guard ends when its streams have theirs."""

    def __init__(self, inbound: Inbound, sock: socket.socket | None, guard: ConnectionGuard) -> None:
        """Without a socket it is to `resume`."""
        self.inbound, self._shared = inbound, inbound.shared
        self.peer_ip, self.local_ip = guard.record.source_ip, guard.record.original_ip
        self.identity: Identity | None = None
        """As whom we answered: the pod's that had the address then."""
        self._trust = b""
        self._guard = guard
        self._socket = sock
        self._tunnel: Tunnel | None = None
        self._hold: Hold | None = None
        self._is_over_limit = False
        self._shakes_hands = False
        self._begun = 0.0
        self._charged: tuple[float, float] | None = None
        """For its handshake, until it has a request: the debt, and when."""
        guard.ender = self.fail
        inbound.tunnels.add(self)
        if sock is not None:
            self._shared.loop.watch(sock.fileno(), HALF_CLOSED, self)

    # ---- going on in another process -------------------------------------------------------------------------------

    @property
    def tunnel(self) -> Tunnel | None:
        """From the handshake on."""
        return self._tunnel

    @property
    def guards(self) -> tuple[ConnectionGuard, ...]:
        """Its own, beside those of its streams."""
        return (self._guard,)

    def surrender(self) -> tuple[TunnelState, list[socket.socket]]:
        """As Tunnel.surrender, when its tunnel can move."""
        tunnel = self._tunnel
        assert tunnel is not None
        self.inbound.tunnels.discard(self)
        is_guarded = self._guard.is_open
        owner = AcceptedState(self._guard.leave(), is_guarded, self.identity, self._trust, self._is_over_limit)
        return tunnel.surrender(owner)

    def resume(self, state: TunnelState, owner: AcceptedState, sock: socket.socket) -> None:
        self.identity, self._trust, self._is_over_limit = owner.identity, owner.trust, owner.is_over_limit
        self._tunnel = Tunnel.resume(self._shared.loop, sock, state, self)
        if not owner.is_guarded:
            self._guard.discard()

    # ----------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Called by the admission."""
        self._shakes_hands, self._begun = True, self._shared.loop.now
        self._hold = self._shared.holds.wait(
            self, self._shared.state.config.policy_wait_seconds, self._with_certificate, self._without_certificate
        )
        if self._hold is not None:
            self._shaken()  # it waits for us, and others of its source shall not

    def too_late(self) -> None:
        """Called by the admission."""
        self._shared.counters["handshakes_failed"] += 1
        self.fail(Reason.TLS_TIMEOUT, "others of its source were before it for as long as it may take")

    def drain(self) -> None:
        if self._tunnel is not None:
            self._tunnel.drain()
        else:
            self.fail(Reason.DRAINED, "")

    def look_again(self) -> None:
        """Whether the pod is still here, and the peer believed by roots that are still in force, and not revoked.

        One that was believed by others may come again, and streams go on; of one that is revoked everything ends.
        """
        if self._shared.state.has_left(self.local_ip, self.identity):
            self.fail(Reason.POD_REMOVED, "")
            return
        if self._tunnel is None or self._tunnel.peer is None:
            return
        if is_revoked(self._tunnel.peer_certificates, self._shared.state.mesh.security.revoked):
            self.fail(Reason.CERTIFICATE_REVOKED, f"the certificate of {self._tunnel.peer}")
            return
        if self._tunnel.connection.is_draining:
            return
        if self.identity is not None and not self._believes(self.identity, self._tunnel.peer):
            self._tunnel.drain()

    def _believes(self, own: Identity, peer: Identity) -> bool:
        """By the roots and the trust domains of this moment."""
        state = self._shared.state
        return state.certificates.trust(own) == self._trust and is_of_domain(
            peer, own, state.mesh.security.trust_domains
        )

    def fail(self, reason: Reason, error: str) -> None:
        if self._tunnel is not None:
            self._tunnel.fail(reason, error)
        else:
            self._over(reason, error)

    def ready(self, events: int) -> None:
        """The peer left while it waited for its turn, or for our certificate."""
        del events
        self.inbound.admission.charge(self.peer_ip, self._wasted_by_leaving(self._guard.age))
        self.fail(Reason.TLS_FAILED, "the peer left before the handshake")

    def crashed(self) -> None:
        self.fail(Reason.BUG, "")

    def _with_certificate(self) -> bool:
        workload = self._shared.state.local_workload(self.local_ip)
        if workload is None or self._socket is None:
            return False
        try:
            context = self._shared.state.certificates.server_context(workload.identity)
        except PeerError:
            return False
        self.identity = workload.identity
        self._trust = self._shared.state.certificates.trust(workload.identity)
        self._guard.record.destination = Party.of(workload)
        sock, self._socket = self._socket, None
        self._shared.loop.forget(sock.fileno())
        config = self._shared.state.config
        prepare_tunnel(sock, config.far_congestion)
        handshake = Handshake(context, is_server=True, pipe=self._shared.secrets)
        self._tunnel = Tunnel(self._shared.loop, sock, handshake, Role.SERVER, self, config.handshake_seconds)
        return True

    def _without_certificate(self) -> None:
        is_known = self._shared.state.local_workload(self.local_ip) is not None
        self.fail(Reason.CERTIFICATE_MISSING if is_known else Reason.UNKNOWN_DESTINATION, "")

    # ---- TunnelOwner -----------------------------------------------------------------------------------------------

    @property
    def kernel_records(self) -> KernelRecords:
        return self._shared.kernel_records

    def established(self, tunnel: Tunnel, peer: Identity) -> None:
        self._charged = self.inbound.admission.charge(self.peer_ip, HANDSHAKE_SECONDS), self._shared.loop.now
        self._shaken()
        security = self._shared.state.mesh.security
        require_not_revoked(tunnel.peer_certificates, security.revoked)
        workload = self._shared.state.local_workload(self.local_ip)
        if workload is not None:
            require_trust_domain(peer, workload.identity, security.trust_domains)
        self._guard.record.source_identity = peer
        self._shared.counters["tunnels_accepted"] += 1
        self._shared.connections.times.add(Phase.TUNNEL_ACCEPT, self._guard.age)

    def requested(self, tunnel: Tunnel, request: Request) -> None:
        # From the first stream on the tunnel's own end is told by its streams.
        self._guard.discard()
        if not request.problem:
            self._came_to_something()
        is_full = self._shared.is_full
        guard = self._begin_stream(tunnel)
        stream = InboundStream(self._shared, self.inbound.authorizer, tunnel, request, guard)
        tunnel.adopt(request.stream_id, stream)
        if is_full:
            stream.refuse_one_too_many()
        else:
            self._shared.loop.guarded(stream, stream.begin)

    def _begin_stream(self, tunnel: Tunnel) -> ConnectionGuard:
        record = self._guard.record
        guard = self._shared.connections.begin(
            Direction.INBOUND, (record.source_ip, record.source_port), (record.original_ip, record.original_port)
        )
        guard.record.source_identity = tunnel.peer
        guard.record.transport = Transport.HBONE
        return guard

    def refused(self, tunnel: Tunnel, streams: int) -> None:
        self._shared.counters["streams_refused"] += streams
        if not self._is_over_limit:  # one record per tunnel: a peer must not fill the log
            self._is_over_limit = True
            self._begin_stream(tunnel).close(Reason.H2_TOO_MANY_STREAMS)

    def changed(self, tunnel: Tunnel) -> None:
        tunnel.close_if_drained()

    def ended(self, tunnel: Tunnel, reason: Reason, error: str) -> None:
        if tunnel.peer is None or reason.flag == "TLS_FAILURE":
            self._shared.counters["handshakes_failed"] += 1
        if reason is Reason.CERTIFICATE_REVOKED:
            self._shared.counters["tunnels_revoked"] += 1
        if reason.flag == "H2_HANDSHAKE_FAILURE" and not self._guard.is_open:
            # Its streams may all be over, and were reset by the peer as far as their records say.
            self._begin_stream(tunnel).close(reason, error)
        if reason.flag in _FAULTS:
            self.inbound.admission.charge(self.peer_ip, self._wasted_by_fault(tunnel, reason))
        elif reason in _OURS:
            self._came_to_something()
        self._over(reason, error)

    def _wasted_by_fault(self, tunnel: Tunnel, reason: Reason) -> float:
        if tunnel.peer is None:
            if reason is Reason.TLS_TIMEOUT:
                return 0  # it may have waited for us, and there is a bound for the number of those
            is_cut, seconds = tunnel.was_cut, self._shared.loop.now - self._begun
            return self._wasted_by_leaving(seconds) if is_cut else ATTEMPT_SECONDS
        handshake = HANDSHAKE_SECONDS if self._charged is None else 0
        return handshake + len(tunnel.streams) * STREAM_SECONDS

    def _wasted_by_leaving(self, seconds: float) -> float:
        """After so many in which it was our turn to say something."""
        return ATTEMPT_SECONDS if seconds < _PATIENCE_SECONDS else 0

    def charge(self, seconds: float) -> float:
        self.inbound.admission.charge(self.peer_ip, seconds)
        rest_seconds = self.rest()
        if rest_seconds:
            self._shared.counters["tunnels_rested"] += 1
        return rest_seconds

    def rest(self) -> float:
        return self.inbound.admission.rest(self.peer_ip)

    def _came_to_something(self) -> None:
        if self._charged is not None:
            self.inbound.admission.pay_back(self.peer_ip, *self._charged)
            self._charged = None

    def _shaken(self) -> None:
        if self._shakes_hands:
            self._shakes_hands = False
            self.inbound.admission.shaken(self.peer_ip)

    def _over(self, reason: Reason, error: str) -> None:
        self.inbound.tunnels.discard(self)
        self._tunnel = None  # and with it the circle: a flood of connections would wait for the collector
        self.inbound.admission.leave(self.peer_ip, self)
        self._shaken()
        if self._hold is not None:
            self._hold.release()
            self._hold = None
        if self._socket is not None:
            sock, self._socket = self._socket, None
            self._shared.loop.forget(sock.fileno())
            sock.close()
        if reason is Reason.CLOSED:
            self._guard.discard()  # an established tunnel that carried nothing
        else:
            self._guard.close(reason, error)
