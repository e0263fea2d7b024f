# SPDX-License-Identifier: Apache-2.0
"""One stream of an HBONE connection to a local pod: understood, judged, dialled, answered.

200 is said only after policy allowed it and the application accepted. The address of the client is that of the tunnel;
the port in `forwarded` counts only beside the same address, so a peer can choose nothing but its own port.
"""

import functools
import socket

from nodeagent.hbone.authority import parse_authority
from nodeagent.hbone.baggage import Baggage, build_baggage, parse_baggage
from nodeagent.hbone.events import Request, Response
from nodeagent.hbone.forwarded import Forwarded, parse_forwarded
from nodeagent.hbone.frames import ErrorCode
from nodeagent.model.reason import Reason
from nodeagent.model.record import Party
from nodeagent.model.workload import Workload
from nodeagent.policy.evaluate import ConnectionFacts
from nodeagent.proxy.authorizer import Authorizer
from nodeagent.proxy.backlog import Backlog
from nodeagent.proxy.carried import reset_reason
from nodeagent.proxy.dial import Dial
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.holds import Hold
from nodeagent.proxy.shared import Shared
from nodeagent.proxy.stream import StreamRelay
from nodeagent.proxy.tunnel import Tunnel
from nodeagent.routing.inbound import resolve_inbound
from nodeagent.routing.route import InboundRoute, Refuse

_TRACEPARENT_CHARACTERS = 55
"""What it has in the version that is spoken (W3C Trace Context): a peer's words must not fill reports."""
_BAD_REQUEST, _DENIED, _UNAVAILABLE = 400, 401, 503


class InboundStream:
    """Until the relay takes over. What the client sends early waits here, bounded by the stream's window."""

    def __init__(
        self, shared: Shared, authorizer: Authorizer, tunnel: Tunnel, request: Request, guard: ConnectionGuard
    ) -> None:
        """`guard`'s record has the addresses of the tunnel: whose it is, and which pod it reached."""
        self._shared, self._authorizer = shared, authorizer
        self._tunnel, self._request, self._guard, self._record = tunnel, request, guard, guard.record
        self._peer_ip, self._local_ip = guard.record.source_ip, guard.record.original_ip
        self._port = 0
        self._early = Backlog()
        self._is_ended = self._is_over = False
        self._hold: Hold | None = None
        self._dial: Dial | None = None
        guard.ender = self._cut

    def begin(self) -> None:
        self._record.source = _party_of(self._request.baggage)
        if self._shared.state.config.traced_share:
            self._record.traceparent = self._request.traceparent[:_TRACEPARENT_CHARACTERS]
        workload = self._shared.state.local_workload(self._local_ip)
        if workload is None:
            self._refuse(_UNAVAILABLE, Reason.UNKNOWN_DESTINATION)
            return
        self._record.destination = Party.of(workload)
        self._record.destination_identity = workload.identity
        try:
            route = self._understand(workload)
        except ValueError as error:
            self._refuse(_BAD_REQUEST, Reason.HBONE_BAD_REQUEST, str(error))
            return
        if route.service is not None:
            self._record.service = route.service.key
        if isinstance(route, Refuse):
            is_bad = route.reason is Reason.HBONE_BAD_REQUEST
            self._refuse(_BAD_REQUEST if is_bad else _UNAVAILABLE, route.reason, route.detail)
            return
        self._port = route.port
        self._record.destination_ip, self._record.destination_port = self._local_ip, route.port
        self._hold = self._shared.holds.wait(
            self, self._shared.state.config.policy_wait_seconds, self._judge, self._not_judged
        )

    def refuse_one_too_many(self) -> None:
        self._refuse(_UNAVAILABLE, Reason.CONNECTION_LIMIT)

    def _understand(self, workload: Workload) -> InboundRoute:
        """Raises ValueError for a request that makes no sense, whoever it reached."""
        request = self._request
        if request.problem:
            raise ValueError(request.problem)
        authority = parse_authority(request.authority)
        forwarded = parse_forwarded(request.forwarded) if request.forwarded else Forwarded(None)
        self._record.keeps_source_port = forwarded.ip == self._peer_ip and bool(forwarded.port)
        self._record.source_port = forwarded.port or 0 if self._record.keeps_source_port else 0
        return resolve_inbound(
            authority.ip or authority.hostname,
            authority.port,
            self._local_ip,
            workload,
            self._shared.state.mesh,
            forwarded.host or "",
        )

    def _judge(self) -> bool:
        """Whether there is nothing left to wait for."""
        workload = self._shared.state.local_workload(self._local_ip)
        if workload is None:
            return False
        facts = ConnectionFacts(self._tunnel.peer, self._peer_ip, self._local_ip, self._port)
        refused = functools.partial(self._refuse, _DENIED)
        return self._authorizer.settle(self._guard, workload, facts, self._dial_application, refused)

    def _not_judged(self) -> None:
        self._refuse(_DENIED, Reason.POLICY_PENDING)

    def _dial_application(self) -> None:
        port = self._record.source_port if self._record.keeps_source_port else 0
        self._dial = Dial(
            self._shared.loop,
            (self._peer_ip, port),
            (self._local_ip, self._port),
            self._shared.state.config.connect_seconds,
            self,
        )

    # ---- Dialler ---------------------------------------------------------------------------------------------------

    def connected(self, sock: socket.socket, keeps_port: bool) -> None:  # noqa: FBT001 - Dialler's signature
        if self._is_over or not self._tunnel.is_open:  # `gone` tells of the latter
            sock.close()
            return
        self._is_over = True
        self._let_go()
        self._record.keeps_source_port = keeps_port
        stream_id, tunnel = self._request.stream_id, self._tunnel
        workload = self._shared.state.local_workload(self._local_ip)
        baggage = build_baggage(workload, self._shared.state.config.cluster) if workload else ""
        tunnel.connection.respond(stream_id, 200, (("baggage", baggage),) if baggage else ())
        relay = StreamRelay(self._shared.loop, tunnel, stream_id, sock, self._guard, is_outbound=False)
        tunnel.adopt(stream_id, relay)
        tunnel.flush_later()
        self._guard.established()
        relay.payload_before(self._early)
        if self._is_ended:
            relay.ended()

    def not_connected(self, reason: Reason, error: str) -> None:
        self._refuse(_UNAVAILABLE, reason, error)

    # ---- Carried, until the answer ---------------------------------------------------------------------------------

    def responded(self, response: Response) -> None:
        """A client sends none."""

    def payload(self, views: list[memoryview], is_last: bool = False) -> None:  # noqa: FBT001, FBT002 - Carried's
        del is_last
        if not self._is_over:
            self._early.add(views)

    def ended(self) -> None:
        self._is_ended = True

    def was_reset(self, code: int) -> None:
        self._close(*reset_reason(code))

    def gone(self, reason: Reason, error: str) -> None:
        self._close(reason, error)

    def can_send(self) -> None:
        """Nothing is sent before the answer."""

    def can_flush(self) -> None:
        """As can_send."""

    def crashed(self) -> None:
        self._cut(Reason.BUG, "")

    # ---- ends ------------------------------------------------------------------------------------------------------

    def _refuse(self, status: int, reason: Reason, error: str = "") -> None:
        if not self._is_over:
            self._close(reason, error)
            self._tunnel.refuse(self._request.stream_id, status)

    def _cut(self, reason: Reason, error: str) -> None:
        """From outside: POLICY_CHANGED while it was dialled is a denial, the rest is an end without an answer."""
        if self._is_over:
            return
        if reason is Reason.POLICY_CHANGED:
            self._refuse(_DENIED, reason, error)
            return
        self._close(reason, error)
        self._tunnel.reset(self._request.stream_id, ErrorCode.CANCEL)

    def _close(self, reason: Reason, error: str) -> None:
        self._is_over = True
        self._early.clear()
        self._let_go()
        self._guard.close(reason, error)

    def _let_go(self) -> None:
        """Of what refers back to us: a circle would stay until the collector comes."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None


def _party_of(text: str) -> Party:
    """Labels only: nothing that is decided depends on what a peer says of itself."""
    return _party(parse_baggage(text))


@functools.lru_cache(maxsize=256)  # as many as are parsed once
def _party(baggage: Baggage) -> Party:
    return Party(
        namespace=baggage.namespace,
        workload_name=baggage.workload_name,
        canonical_name=baggage.canonical_name,
        canonical_revision=baggage.canonical_revision,
        cluster=baggage.cluster,
        region=baggage.region,
        zone=baggage.zone,
    )
