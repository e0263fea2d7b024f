# SPDX-License-Identifier: Apache-2.0
"""Takes a former worker's open connections, and goes on with each where it was. handover.py has the rules.

They were allowed by what the former worker knew. What is known here is the same or newer, so each is looked at again at
once, as after every change.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterable
from typing import assert_never

from nodeagent.proxy.authorizer import Authorizer
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.handover import (
    VERSION,
    Accept,
    AcceptedState,
    DialledState,
    FromFormer,
    GivePair,
    GiveTunnel,
    GuardState,
    NotTaken,
    Offer,
    PairState,
    Refuse,
    Taken,
    TunnelState,
)
from nodeagent.proxy.handover_socket import HandoverSocket
from nodeagent.proxy.inbound import Inbound, InboundTunnel
from nodeagent.proxy.pool import Pool, PooledTunnel
from nodeagent.proxy.relay import SocketRelay
from nodeagent.proxy.shared import Shared
from nodeagent.proxy.stream import StreamRelay

log = logging.getLogger(__name__)


class Arrival:
    def __init__(
        self, shared: Shared, authorizer: Authorizer, inbound: Inbound, pool: Pool, sock: socket.socket
    ) -> None:
        self._shared, self._authorizer = shared, authorizer
        self._inbound, self._pool = inbound, pool
        self._socket: HandoverSocket[FromFormer] = HandoverSocket(shared.loop, sock, FromFormer, self)

    @property
    def is_over(self) -> bool:
        return not self._socket.is_open

    # ---- Partner ---------------------------------------------------------------------------------------------------

    def told(self, message: FromFormer, descriptors: list[int]) -> None:
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        match message:
            case Offer(version):
                self._socket.send(self._answer(version))
            case GiveTunnel(number, state):
                self._take(number, sockets, lambda: self._take_tunnel(state, sockets))
            case GivePair(number, pair):
                self._take(number, sockets, lambda: self._take_pair(pair, sockets))
            case unreachable:
                assert_never(unreachable)

    def lost(self, why: str) -> None:
        """The former worker has ended, or will not be understood. What it gave is ours."""
        log.info("no more connections are taken over: %s", why)

    # ----------------------------------------------------------------------------------------------------------------

    def _answer(self, version: str) -> Accept | Refuse:
        if version != VERSION:
            return Refuse(f"version {version} is not {VERSION}")
        if not self._shared.state.is_complete:  # by what is not known yet every connection would be cut
            return Refuse("it does not know its pods yet")
        return Accept(os.getpid())

    def _take(self, number: int, sockets: list[socket.socket], take: Callable[[], None]) -> None:
        for sock in sockets:
            sock.settimeout(0)
        try:
            take()
        except ValueError as error:
            log.error("a connection cannot go on here: %s", error)
            for sock in sockets:
                sock.close()
            self._socket.send(NotTaken(number, str(error)))
        else:
            self._socket.send(Taken(number))

    def _take_tunnel(self, state: TunnelState, sockets: list[socket.socket]) -> None:
        """Raises ValueError, and nothing was begun then."""
        if len(sockets) != 1 + len(state.streams):
            raise ValueError(f"{len(sockets)} sockets for a tunnel with {len(state.streams)} streams")
        guards = self._resume_guards(stream.guard for stream in state.streams)
        try:
            owner = self._resume_owner(state, sockets[0])
        except ValueError:
            for guard in guards:
                guard.discard()
            raise
        tunnel = owner.tunnel
        assert tunnel is not None
        for stream, sock, guard in zip(state.streams, sockets[1:], guards, strict=True):
            tunnel.adopt(stream.id, StreamRelay.resume(self._shared.loop, tunnel, stream, sock, guard))
        owner.look_again()
        self._judge(guards)
        if tunnel.is_open:
            tunnel.go_on()
        if tunnel.is_open:
            owner.changed(tunnel)

    def _resume_owner(self, state: TunnelState, sock: socket.socket) -> InboundTunnel | PooledTunnel:
        match state.owner:
            case AcceptedState() as accepted:
                return self._inbound.resume(state, accepted, sock)
            case DialledState() as dialled:
                return self._pool.resume(state, dialled, sock)
            case unreachable:
                assert_never(unreachable)

    def _take_pair(self, state: PairState, sockets: list[socket.socket]) -> None:
        """Raises ValueError, and nothing was begun then."""
        client, server = sockets
        guards = self._resume_guards([state.guard])
        SocketRelay.resume(self._shared.loop, state, client, server, guards[0])
        self._judge(guards)

    def _resume_guards(self, states: Iterable[GuardState]) -> list[ConnectionGuard]:
        """All or none."""
        guards: list[ConnectionGuard] = []
        try:
            for state in states:
                guards.append(self._shared.connections.resume(state))  # noqa: PERF401 - those before a bad one go
        except ValueError:
            for guard in guards:
                guard.discard()
            raise
        return guards

    def _judge(self, guards: list[ConnectionGuard]) -> None:
        for guard in guards:
            self._authorizer.look_again(guard)
