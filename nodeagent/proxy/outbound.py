# SPDX-License-Identifier: Apache-2.0
"""Connections of local pods: who is it, where does it go, a stream or a socket there, then the relay.

To a pod of this node no tunnel is needed unless `same_node` says so: both ends are identified by their devices, the
policy of the destination is asked here, and nothing leaves the kernel's memory. What comes here is what the kernel's
table of verdicts does not allow: to be refused by name, to be waited for, or addressed to a Service.

The kernel steers only what the mesh knows. An address that we do not know is one that we do not know yet, or no more:
it is waited for and then refused, since plain text would be a guess. So is a name that has not been resolved yet.

The client was accepted by steering's grace and waits; nothing is read from it before the other end has answered, so a
stream that the peer never processed can be tried again, and every refusal is a reset. Where a route asks for the name
in its ClientHello, that is looked at, and not read.
"""

import functools
import socket
from collections.abc import Callable
from random import getrandbits
from typing import assert_never

from nodeagent.errors import PeerError
from nodeagent.hbone.baggage import build_baggage
from nodeagent.hbone.events import Response
from nodeagent.hbone.forwarded import build_forwarded
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.model.address import Ip, join_host_port
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction, Party, Transport
from nodeagent.model.set_up import Phase
from nodeagent.model.trace import begin_trace
from nodeagent.model.workload import Service, Workload
from nodeagent.policy.evaluate import ConnectionFacts
from nodeagent.proxy.authorizer import Authorizer
from nodeagent.proxy.carried import reset_reason
from nodeagent.proxy.dial import Dial
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.holds import Hold
from nodeagent.proxy.loop import Timer
from nodeagent.proxy.pool import Pool, PoolKey
from nodeagent.proxy.relay import SocketRelay
from nodeagent.proxy.server_name import ServerName
from nodeagent.proxy.shared import Shared, pick_by_weight
from nodeagent.proxy.sockets import local_address
from nodeagent.proxy.stream import StreamRelay
from nodeagent.proxy.terms import Terms
from nodeagent.proxy.tunnel import Tunnel
from nodeagent.routing.balancing import Chooser
from nodeagent.routing.candidates import Balancer
from nodeagent.routing.candidates import Terms as WrittenTerms
from nodeagent.routing.decide import decide, server_names
from nodeagent.routing.route import PROXY_PORTS, Direct, Refuse, Route, Target
from nodeagent.routing.route import Tunnel as ToTunnel

_ATTEMPTS = 3
"""Streams that the peer says it has not processed (RFC 9113 §8.7), or a tunnel that died before any answer."""
_MOST_TUNNELS = 8
"""Asked for in vain, before a peer that takes no streams at all is given up."""
_ANSWER_SECONDS = 1.0
"""Beyond the peer's own deadlines for its policy and its application."""


class Outbound:
    """Owner of the outbound listener's connections."""

    def __init__(self, shared: Shared, authorizer: Authorizer) -> None:
        self.shared, self.authorizer = shared, authorizer
        self.pool = Pool(shared)
        self.balancer = Balancer()
        self.chooser = Chooser(pick_by_weight, lambda: shared.loop.now)

    def accepted(self, sock: socket.socket, client: tuple[Ip, int]) -> None:
        is_full = self.shared.is_full
        try:
            target = local_address(sock)
        except OSError:  # reset before we looked
            target = (Ip(""), 0)
        guard = self.shared.connections.begin(Direction.OUTBOUND, client, target)
        connection = OutboundConnection(self, sock, guard)
        if is_full:
            connection.refuse(Reason.CONNECTION_LIMIT)
        else:
            self.shared.loop.guarded(connection, connection.begin)


class OutboundConnection:
    """Until the relay takes over."""

    def __init__(self, outbound: Outbound, sock: socket.socket, guard: ConnectionGuard) -> None:
        self._outbound, self._shared = outbound, outbound.shared
        self._guard, self._record = guard, guard.record
        self._socket: socket.socket | None = sock
        self._key: PoolKey | None = None
        self._request: ConnectRequest | None = None
        self._tunnel: Tunnel | None = None
        self._stream_id = 0
        self._attempts = self._asked = 0
        self._asked_at = 0.0
        self._is_boarding = False
        """The pool has been asked and has not answered."""
        self._hold: Hold | None = None
        self._naming: ServerName | None = None
        self._server_name: str | None = None
        """None: not asked for."""
        self._terms: Terms | None = None
        self._dial: Dial | None = None
        self._timer: Timer | None = None
        guard.ender = self.refuse
        # Only to hear that the client has given up: errors and hang-ups are told without asking.
        self._shared.loop.watch(sock.fileno(), 0, self)

    # ---- the way to the peer ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._wait(self._identified, Reason.UNKNOWN_SOURCE)

    def _wait(self, attempt: Callable[[], bool], reason: Reason) -> None:
        """For what may be on its way, and refuses in the end. An attempt that succeeds may wait for the next thing."""
        if not attempt():
            give_up = functools.partial(self._gave_up, reason)
            self._hold = self._shared.holds.hold(self, self._shared.state.config.policy_wait_seconds, attempt, give_up)

    def _gave_up(self, reason: Reason) -> None:
        # With a key all that is left to wait for is the certificate.
        self.refuse(reason, "" if self._key is None else f"for {self._key.identity}")

    def _identified(self) -> bool:
        """A pod that has just been enrolled may be faster than the news of it."""
        source = self._shared.state.local_workload(self._record.source_ip)
        if source is None:
            return False
        self._record.source = Party.of(source)
        self._route(source)
        return True

    def _route(self, source: Workload) -> None:
        self._wait(functools.partial(self._routed, source), Reason.UNKNOWN_DESTINATION)

    def _routed(self, source: Workload) -> bool:
        mesh, ip = self._shared.state.mesh, self._record.original_ip
        is_known = (
            mesh.workload_at(source.network, ip) is not None
            or mesh.services_at(source.network, ip)
            or mesh.services_by_name(source.network, ip, self._record.original_port)
        )
        if not is_known:
            return False
        target = Target(ip, self._record.original_port, self._server_name or "")
        if self._server_name is None and self._socket is not None and server_names(target, source, mesh):
            named = functools.partial(self._named, source)
            self._naming = ServerName(self._shared.loop, self._socket, self, named)
            return True
        route = self._decided(source, target)
        if isinstance(route, Refuse) and route.is_pending:  # the agent asks its resolver for that name
            attempt = functools.partial(self._resolved, source, target)
            give_up = functools.partial(self._go, source, route)
            self._hold = self._shared.holds.hold(self, self._shared.state.config.policy_wait_seconds, attempt, give_up)
        else:
            self._go(source, route)
        return True

    def _resolved(self, source: Workload, target: Target) -> bool:
        """Decides anew, since the mesh may have changed in other ways meanwhile."""
        route = self._decided(source, target)
        if isinstance(route, Refuse) and route.is_pending:
            return False
        self._go(source, route)
        return True

    def _decided(self, source: Workload, target: Target) -> Route:
        choose = functools.partial(self._outbound.chooser.choose, self._record.source_ip)
        mesh, find_candidates = self._shared.state.mesh, self._outbound.balancer.candidates
        return decide(target, source, mesh, pick_by_weight, find_candidates, choose)

    def _named(self, source: Workload, name: str) -> None:
        """Asks anew, since the mesh may have changed meanwhile."""
        self._naming, self._server_name = None, name
        self._route(source)

    def _go(self, source: Workload, route: Route) -> None:
        if not isinstance(route, Refuse) and route.terms is not None and not self._accepts(route, route.terms):
            return
        match route:
            case Refuse():
                self._describe(None, route.service)
                self.refuse(route.reason, route.detail)
            case Direct():
                self._describe(route.destination, route.service)
                if route.ip in self._shared.state.local:  # it has just left the mesh; its guard is still there, and we
                    self._go_locally(source, (route.ip, route.port))
                else:
                    self._record.destination_ip, self._record.destination_port = route.ip, route.port
                    self._go_directly((route.ip, route.port))
            case ToTunnel():
                self._describe(route.destination, route.service)
                is_tunnelled = route.is_to_waypoint or self._shared.state.config.same_node == "tunnel"
                if is_tunnelled or self._shared.state.local_workload(route.ip) is None:
                    self._go_by_tunnel(source, route)
                else:
                    self._go_locally(source, (route.ip, route.port_at_destination))
            case unreachable:
                assert_never(unreachable)

    def _accepts(self, route: Direct | ToTunnel, terms: WrittenTerms) -> bool:
        """False when there are as many connections as may be: then this one was refused."""
        if route.destination is None:
            return True
        lease = self._outbound.chooser.take(terms, route.destination.uid)
        if lease is None:
            self._describe(route.destination, route.service)
            self.refuse(Reason.UPSTREAM_OVERFLOW, f"maxConnections is {terms.policy.max_connections}")
            return False
        self._terms = Terms(self._shared.loop, self._guard, lease, terms.policy)
        return True

    def _describe(self, destination: Workload | None, service: Service | None) -> None:
        if destination is not None:
            self._record.destination = Party.of(destination)
        if service is not None:
            self._record.service = service.key

    def _go_directly(self, destination: tuple[Ip, int]) -> None:
        source = (self._record.source_ip, self._record.source_port)
        if destination[0] == source[0]:
            # A pod that its own Service led back to itself. No host takes a packet with its own address from outside,
            # so it comes from the Service's, as kube-proxy's hairpins come from an address that is not the pod's.
            source = (self._record.original_ip, 0)
        self._dial = Dial(self._shared.loop, source, destination, self._shared.state.config.connect_seconds, self)

    def _go_locally(self, source: Workload, destination: tuple[Ip, int]) -> None:
        record = self._record
        record.destination_ip, record.destination_port = destination
        if destination[1] in PROXY_PORTS:  # as a peer's proxy would answer
            self.refuse(Reason.SELF_CALL, f"port {destination[1]} is the proxy's own")
            return
        record.source_identity = source.identity
        facts = ConnectionFacts(source.identity, record.source_ip, *destination)
        self._wait(functools.partial(self._judge, facts), Reason.POLICY_PENDING)

    def _judge(self, facts: ConnectionFacts) -> bool:
        """Whether there is nothing left to wait for."""
        destination = self._shared.state.local_workload(facts.destination_ip)
        if destination is None:
            return False
        self._record.destination_identity = destination.identity
        allowed = functools.partial(self._go_directly, (facts.destination_ip, facts.destination_port))
        return self._outbound.authorizer.settle(self._guard, destination, facts, allowed, self.refuse)

    def _go_by_tunnel(self, source: Workload, route: ToTunnel) -> None:
        record, config = self._record, self._shared.state.config
        record.destination_ip, record.destination_port = route.ip, route.port_at_destination
        record.hop = join_host_port(route.ip, route.port)
        record.transport = Transport.HBONE
        if config.traced_share:
            record.traceparent = str(begin_trace(config.traced_share, getrandbits))
        self._key = PoolKey(record.source_ip, source.identity, route.ip, route.port, route.expected)
        self._request = ConnectRequest(
            authority=route.authority,
            baggage=build_baggage(source, config.cluster),
            forwarded=build_forwarded(record.source_ip, record.source_port, route.host),
            traceparent=record.traceparent,
        )
        self._wait(self._with_certificate, Reason.CERTIFICATE_MISSING)

    def _with_certificate(self) -> bool:
        if self._key is None:
            return True
        try:
            self._shared.state.certificates.client_context(self._key.identity)
        except PeerError:
            return False
        self._ask_pool(self._key)
        return True

    def _ask_pool(self, key: PoolKey) -> None:
        self._asked += 1
        if self._asked > _MOST_TUNNELS:
            self.refuse(Reason.HBONE_REFUSED, "the peer takes no streams")
        else:
            self._is_boarding = True
            self._outbound.pool.request(key, self)

    def tunnel_ready(self, tunnel: Tunnel) -> None:
        self._is_boarding = False
        if self._socket is None or self._request is None or self._key is None:
            return
        stream_id = tunnel.open(self._request, self)
        if stream_id is None:  # the peer takes fewer streams than we had thought
            self._ask_pool(self._key)
            return
        self._attempts += 1
        self._tunnel, self._stream_id = tunnel, stream_id
        self._asked_at = self._shared.loop.now
        self._record.source_identity, self._record.destination_identity = self._key.identity, tunnel.peer
        config = self._shared.state.config
        seconds = config.connect_seconds + config.policy_wait_seconds + _ANSWER_SECONDS
        self._timer = self._shared.loop.after(seconds, self, self._not_answered)

    def tunnel_failed(self, reason: Reason, error: str) -> None:
        self._is_boarding = False
        if not self._try_again(reason):
            self.refuse(reason, error)

    def tunnel_cut(self, reason: Reason, error: str) -> None:
        """A worker that died, or its namespace; its successor may be there already."""
        self._is_boarding = False
        if self._socket is None or self._key is None:
            return
        if self._asked >= _ATTEMPTS:
            self.refuse(reason, error)
            return
        self._shared.counters["streams_retried"] += 1
        self._ask_pool(self._key)

    # ---- Dialler, for a direct connection --------------------------------------------------------------------------

    def connected(self, sock: socket.socket, keeps_port: bool) -> None:  # noqa: FBT001 - Dialler's signature
        self._record.keeps_source_port = keeps_port
        client = self._hand_over()
        if client is None:
            sock.close()
            return
        self._shared.loop.forget(client.fileno())
        SocketRelay(self._shared.loop, client, sock, self._guard)
        self._guard.established()
        self._connected(sock)

    def _connected(self, sock: socket.socket | None = None) -> None:
        """Its guard holds the terms from now on."""
        terms, self._terms = self._terms, None
        if terms is not None:
            terms.connected(sock)

    def not_connected(self, reason: Reason, error: str) -> None:
        self.refuse(reason, error)

    # ---- Carried, until the answer ---------------------------------------------------------------------------------

    def responded(self, response: Response) -> None:
        tunnel, stream_id = self._tunnel, self._stream_id
        if tunnel is None:
            return
        self._shared.connections.times.add(Phase.REQUEST, self._shared.loop.now - self._asked_at)
        if not 200 <= response.status < 300:
            reason = Reason.HBONE_DENIED if response.status == 401 else Reason.HBONE_REFUSED
            self.refuse(reason, f"http status: {response.status}")
            return
        client = self._hand_over()
        if client is None:
            return
        relay = StreamRelay(
            self._shared.loop, tunnel, stream_id, client, self._guard, is_outbound=True, is_watched=True
        )
        tunnel.adopt(stream_id, relay)
        self._guard.established()
        self._connected()

    def payload(self, views: list[memoryview], is_last: bool = False) -> None:  # noqa: FBT001, FBT002 - Carried's
        """Only after an answer, and then the relay has taken over, or the connection was refused."""

    def ended(self) -> None:
        """As payload."""

    def was_reset(self, code: int) -> None:
        self._tunnel = None
        if code == ErrorCode.REFUSED_STREAM and self._try_again(Reason.PEER_LOST):
            return
        self.refuse(*reset_reason(code))

    def gone(self, reason: Reason, error: str) -> None:
        self._tunnel = None
        if not self._try_again(reason):
            self.refuse(reason, error)

    def can_send(self) -> None:
        """Nothing is sent before the answer."""

    def can_flush(self) -> None:
        """As can_send."""

    # ---- ends ------------------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """The client gave up."""
        del events
        self.refuse(Reason.RESET, "the client left before it was connected")

    def crashed(self) -> None:
        self.refuse(Reason.BUG)

    def refuse(self, reason: Reason, error: str = "") -> None:
        """Also what `cut` does at this stage: the client is reset, whatever was on its way is called off."""
        self._call_off()
        if self._socket is not None:
            sock, self._socket = self._socket, None
            self._shared.loop.forget(sock.fileno())
            sock.close()
        terms, self._terms = self._terms, None
        if terms is not None:
            terms.refused(reason)
        self._guard.close(reason, error)

    def _try_again(self, reason: Reason) -> bool:
        """Nothing of the client's was sent yet, so another tunnel is as good; a dial that failed is an answer."""
        if reason is not Reason.PEER_LOST or not 0 < self._attempts < _ATTEMPTS or self._socket is None:
            return False
        self._call_off()
        if self._key is not None:
            self._shared.counters["streams_retried"] += 1
            self._ask_pool(self._key)
        return True

    def _not_answered(self) -> None:
        self.refuse(Reason.CONNECT_TIMEOUT, "the peer's proxy did not answer CONNECT")

    def _hand_over(self) -> socket.socket | None:
        """The client's socket. It is still watched, for whoever takes it over."""
        sock, self._socket = self._socket, None
        self._tunnel = None
        self._call_off()
        return sock

    def _call_off(self) -> None:
        """Also lets go of them: they refer back to us, and a circle would stay until the collector comes."""
        if self._timer is not None:
            self._timer.cancel()
        if self._hold is not None:
            self._hold.release()
            self._hold = None
        if self._naming is not None:
            self._naming.cancel()
            self._naming = None
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._is_boarding and self._key is not None:
            self._is_boarding = False
            self._outbound.pool.withdraw(self._key, self)
        if self._tunnel is not None:
            tunnel, self._tunnel = self._tunnel, None
            tunnel.reset(self._stream_id, ErrorCode.CANCEL)
