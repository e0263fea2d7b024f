# SPDX-License-Identifier: Apache-2.0
"""Gives this worker's open connections to its successor, one after another, while the others go on.

What cannot be moved at this moment (a handshake, a stream that is being judged or dialled) is looked at again. What
never can be (records that stay with OpenSSL) is drained. handover.py has the rules of the conversation.
"""

import functools
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias, assert_never

from nodeagent.model.reason import Reason
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.handover import (
    VERSION,
    Accept,
    FromSuccessor,
    GivePair,
    GiveTunnel,
    NotTaken,
    Offer,
    Refuse,
    Taken,
)
from nodeagent.proxy.handover_socket import HandoverSocket
from nodeagent.proxy.inbound import Inbound, InboundTunnel
from nodeagent.proxy.messages import HandedOver
from nodeagent.proxy.pool import Pool, PooledTunnel
from nodeagent.proxy.shared import Shared

log = logging.getLogger(__name__)

_SLICE_SECONDS = 0.001
_SHARE = 0.5
"""Of what the rest of a turn took, if that is longer: else a busy worker would take seconds to give what it has."""
_LOOK_SECONDS = 0.002
"""Until what could not be moved is looked at again: about as long as a stream is judged and dialled."""
_SOCKETS_ON_THE_WAY = 16
"""After so many the answer to some is awaited: packing and unpacking one takes some 60 us, so a pause stays a few ms.
A tunnel with more streams goes alone."""
_BYTES_ON_THE_WAY = 1 << 20

_PATIENT_ROUNDS, _HELD_ROUNDS, _ROUNDS = 8, 4, 64
"""A peer that opens streams all the time leaves no moment in which none is being judged or dialled. After 8 looks its
tunnel is not read for 4, about 8 ms, in which those that have begun are done; if not, again after 64."""

_Owner: TypeAlias = InboundTunnel | PooledTunnel
_Move: TypeAlias = Callable[[], None]


class _Parcel:
    """What was sent and not answered: the guards that nobody else ends, and our copies of its sockets."""

    def __init__(self, guards: list[ConnectionGuard]) -> None:
        self.guards = guards
        self.sockets: list[socket.socket] = []
        self.bytes = 0
        """0 while it is packed."""
        self.frozen = time.monotonic()

    def arrived(self) -> tuple[int, ...]:
        """Ids of the records that go on elsewhere."""
        ids = tuple(guard.record.id for guard in self.guards if guard.is_open)
        for guard in self.guards:
            guard.discard()
        self._close()
        return ids

    def failed(self, why: str) -> None:
        for guard in self.guards:
            guard.close(Reason.HANDOVER_FAILED, why)
        self._close()

    def _close(self) -> None:
        """A reset only for who has the last copy."""
        for sock in self.sockets:
            sock.close()


class Departure:
    """From the order to hand over until nothing is left to give, or nobody who takes it."""

    def __init__(
        self, shared: Shared, inbound: Inbound, pool: Pool, sock: socket.socket, tell: Callable[[HandedOver], None]
    ) -> None:
        """`tell` is for the agent."""
        self.is_over = False
        """Nobody takes any more: what is left has to drain."""
        self.progressed = shared.loop.now
        """When something was taken last, as the loop counts."""
        self._shared, self._inbound, self._pool, self._tell = shared, inbound, pool, tell
        self._heir = 0
        self._parcels: dict[int, _Parcel] = {}
        self._number = self._given = 0
        self._longest = 0.0
        """From the moment at which one was frozen to the news that it goes on, in seconds."""
        self._is_scheduled = False
        self._looks: Counter[_Owner] = Counter()
        self._round: Iterator[_Move | None] = self._walk()
        self._socket: HandoverSocket[FromSuccessor] = HandoverSocket(shared.loop, sock, FromSuccessor, self)
        self._socket.send(Offer(VERSION))

    @property
    def has_sent(self) -> bool:
        """Something is on its way, and its end not known."""
        return bool(self._parcels)

    def tell_result(self) -> None:
        """To the log, at the end."""
        pause = self._longest * 1000
        log.info("pid %d goes on with %d connections; the longest pause was %.1f ms", self._heir, self._given, pause)

    def stop(self) -> None:
        """Gives nothing more; what is on its way is still heard of."""
        self.is_over = True
        for owner in self._looks:
            if owner.tunnel is not None:
                owner.tunnel.hold(is_held=False)
        self._looks.clear()

    def close(self) -> None:
        """At the deadline: what is on its way has no end that we could wait for."""
        self.lost("no answer in time")
        self._socket.close()

    # ---- Partner ---------------------------------------------------------------------------------------------------

    def told(self, message: FromSuccessor, descriptors: list[int]) -> None:
        del descriptors  # no answer has any
        match message:
            case Accept(pid):
                self._heir = pid
                self._shared.counters["handovers"] += 1
                self._schedule(0)
            case Refuse(why):
                log.warning("the successor takes no connection (%s): they drain", why)
                self.stop()
            case Taken(number):
                self._taken(number)
            case NotTaken(number, why):
                log.error("the successor did not take a connection, which is reset: %s", why)
                parcel = self._parcels.pop(number, None)
                if parcel is not None:
                    parcel.failed(why)
                self._schedule(0)
            case unreachable:
                assert_never(unreachable)

    def lost(self, why: str) -> None:
        self.stop()
        parcels, self._parcels = self._parcels, {}
        for parcel in parcels.values():
            parcel.failed(why)

    def crashed(self) -> None:
        """Packing one broke. The round begins anew, without it."""
        for number in [number for number, parcel in self._parcels.items() if not parcel.bytes]:
            self._parcels.pop(number).failed("a defect")
        self._round = self._walk()
        self._is_scheduled = False
        self._schedule(_LOOK_SECONDS)

    # ----------------------------------------------------------------------------------------------------------------

    def _taken(self, number: int) -> None:
        parcel = self._parcels.pop(number, None)
        if parcel is None:
            return
        self.progressed = self._shared.loop.now
        self._longest = max(self._longest, time.monotonic() - parcel.frozen)
        ids = parcel.arrived()
        self._given += len(ids)
        if ids:
            self._tell(HandedOver(self._heir, ids))
            self._shared.counters["connections_handed_over"] += len(ids)
        self._schedule(0)

    def _schedule(self, seconds: float) -> None:
        if not self._is_scheduled and not self.is_over and self._heir:
            self._is_scheduled = True
            self._shared.loop.after(seconds, self, self._step)

    def _step(self) -> None:
        self._is_scheduled = False
        now = time.monotonic()
        deadline = now + max(_SLICE_SECONDS, _SHARE * (now - self._shared.loop.now))
        while not self.is_over and not self._is_full:
            move = next(self._round)
            if move is None:
                self._schedule(_LOOK_SECONDS)
                return
            move()
            if time.monotonic() > deadline:
                self._schedule(0)
                return
        # An answer goes on.

    @property
    def _is_full(self) -> bool:
        on_the_way = self._parcels.values()
        return (
            sum(len(parcel.sockets) for parcel in on_the_way) >= _SOCKETS_ON_THE_WAY
            or sum(parcel.bytes for parcel in on_the_way) >= _BYTES_ON_THE_WAY
        )

    def _walk(self) -> Iterator[_Move | None]:
        """What can be moved when its turn comes, over and over; None at the end of each round."""
        while True:
            owners: list[_Owner] = [*self._inbound.tunnels, *self._pool.all(), *self._pool.retired]
            for owner in owners:
                if owner.tunnel is not None and owner.tunnel.can_move:
                    yield functools.partial(self._give_tunnel, owner)
                elif isinstance(owner, InboundTunnel):
                    self._not_yet(owner)
            for guard in self._shared.connections.all():
                if guard.is_open and guard.pair is not None:
                    yield functools.partial(self._give_pair, guard)
            yield None

    def _not_yet(self, owner: InboundTunnel) -> None:
        tunnel = owner.tunnel
        if tunnel is None or not tunnel.is_portable:
            return
        self._looks[owner] += 1
        look = self._looks[owner] % _ROUNDS
        tunnel.hold(is_held=_PATIENT_ROUNDS <= look < _PATIENT_ROUNDS + _HELD_ROUNDS)

    def _give_tunnel(self, owner: _Owner) -> None:
        tunnel = owner.tunnel
        if tunnel is None:
            return
        tunnel.flush()  # the less is left, the shorter is the pause
        if not tunnel.can_move:
            return
        number, parcel = self._pack([*owner.guards, *tunnel.guards])
        self._looks.pop(owner, None)
        state, parcel.sockets = owner.surrender()
        parcel.bytes = self._socket.send(GiveTunnel(number, state), [sock.fileno() for sock in parcel.sockets])

    def _give_pair(self, guard: ConnectionGuard) -> None:
        pair = guard.pair
        if pair is None:
            return
        number, parcel = self._pack([guard])
        state, parcel.sockets = pair.surrender()
        parcel.bytes = self._socket.send(GivePair(number, state), [sock.fileno() for sock in parcel.sockets])

    def _pack(self, guards: list[ConnectionGuard]) -> tuple[int, _Parcel]:
        self._number += 1
        parcel = self._parcels[self._number] = _Parcel(guards)
        return self._number, parcel
