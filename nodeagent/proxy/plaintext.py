# SPDX-License-Identifier: Apache-2.0
"""Inbound connections that are not HBONE: judged without an identity, then relayed to the application they were for.

Nothing distinguishes them for the application from a connection without a mesh: it sees the client's address and port.
"""

import socket

from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction, Party
from nodeagent.model.workload import Workload
from nodeagent.policy.evaluate import ConnectionFacts
from nodeagent.proxy.authorizer import Authorizer
from nodeagent.proxy.dial import Dial
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.holds import Hold
from nodeagent.proxy.relay import SocketRelay
from nodeagent.proxy.shared import Shared
from nodeagent.proxy.sockets import local_address
from nodeagent.routing.route import PROXY_PORTS


class Plaintext:
    """Owner of the plaintext listener's connections."""

    def __init__(self, shared: Shared, authorizer: Authorizer) -> None:
        self.shared, self.authorizer = shared, authorizer

    def accepted(self, sock: socket.socket, client: tuple[Ip, int]) -> None:
        is_full = self.shared.is_full
        try:
            target = local_address(sock)
        except OSError:  # reset before we looked
            target = (Ip(""), 0)
        guard = self.shared.connections.begin(Direction.INBOUND, client, target)
        connection = PlaintextConnection(self, sock, guard)
        if is_full:
            connection.refuse(Reason.CONNECTION_LIMIT)
        else:
            self.shared.loop.guarded(connection, connection.begin)


class PlaintextConnection:
    """Until the relay takes over."""

    def __init__(self, plaintext: Plaintext, sock: socket.socket, guard: ConnectionGuard) -> None:
        self._plaintext, self._shared = plaintext, plaintext.shared
        self._guard, self._record = guard, guard.record
        self._socket: socket.socket | None = sock
        self._hold: Hold | None = None
        self._dial: Dial | None = None
        guard.ender = self.refuse
        self._shared.loop.watch(sock.fileno(), 0, self)

    def begin(self) -> None:
        record = self._record
        record.destination_ip, record.destination_port = record.original_ip, record.original_port
        if record.original_port in PROXY_PORTS:
            self.refuse(Reason.SELF_CALL)
            return
        self._hold = self._shared.holds.wait(
            self, self._shared.state.config.policy_wait_seconds, self._judge, self._not_judged
        )

    def _judge(self) -> bool:
        """Whether there is nothing left to wait for."""
        record = self._record
        workload = self._shared.state.local_workload(record.original_ip)
        if workload is None:
            return False
        self._describe(workload)
        facts = ConnectionFacts(None, record.source_ip, record.original_ip, record.original_port)
        return self._plaintext.authorizer.settle(self._guard, workload, facts, self._dial_application, self.refuse)

    def _not_judged(self) -> None:
        is_known = self._shared.state.local_workload(self._record.original_ip) is not None
        self.refuse(Reason.POLICY_PENDING if is_known else Reason.UNKNOWN_DESTINATION)

    def _describe(self, workload: Workload) -> None:
        self._record.destination = Party.of(workload)
        source = self._shared.state.mesh.workload_at(workload.network, self._record.source_ip)
        if source is not None:  # by address alone: good enough for a label, never for a decision
            self._record.source = Party.of(source)

    def _dial_application(self) -> None:
        record = self._record
        self._dial = Dial(
            self._shared.loop,
            (record.source_ip, record.source_port),
            (record.original_ip, record.original_port),
            self._shared.state.config.connect_seconds,
            self,
        )

    def connected(self, sock: socket.socket, keeps_port: bool) -> None:  # noqa: FBT001 - Dialler's signature
        client, self._socket = self._socket, None
        if client is None:
            sock.close()
            return
        self._let_go()
        self._shared.loop.forget(client.fileno())
        self._record.keeps_source_port = keeps_port
        SocketRelay(self._shared.loop, client, sock, self._guard)
        self._guard.established()

    def not_connected(self, reason: Reason, error: str) -> None:
        self.refuse(reason, error)

    def ready(self, events: int) -> None:
        """The client gave up."""
        del events
        self.refuse(Reason.RESET, "the client left before it was connected")

    def crashed(self) -> None:
        self.refuse(Reason.BUG)

    def refuse(self, reason: Reason, error: str = "") -> None:
        self._let_go()
        if self._socket is not None:
            sock, self._socket = self._socket, None
            self._shared.loop.forget(sock.fileno())
            sock.close()
        self._guard.close(reason, error)

    def _let_go(self) -> None:
        """Of what refers back to us: a circle would stay until the collector comes."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
