# SPDX-License-Identifier: Apache-2.0
"""What a policy asks of one outbound connection: its place among those allowed, a time to connect, an end when idle.

Nothing of it is on the path of bytes: idleness is seen in the record's counts, which are looked at four times in the
time that is allowed.
"""

import socket

from nodeagent.model.reason import Reason
from nodeagent.model.traffic import Keepalive, TrafficPolicy
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.loop import Loop, Timer
from nodeagent.routing.balancing import Lease

_FAILURES = frozenset(
    {
        Reason.CONNECT_REFUSED,
        Reason.CONNECT_TIMEOUT,
        Reason.CONNECT_FAILED,
        Reason.HBONE_REFUSED,
        Reason.PEER_LOST,
        Reason.PING_TIMEOUT,
        Reason.TLS_FAILED,
        Reason.TLS_TIMEOUT,
        Reason.TLS_NOT_TLS,
    }
)
"""Why a connection was not made, as far as it speaks against the endpoint: no refusal by policy, no lack of our own."""
_LOOKS = 4
"""In the time that a connection may be idle."""

_MOST_PROBES, _LONGEST_KEEPALIVE_SECONDS = 127, 32767
"""MAX_TCP_KEEPCNT, MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL of Linux (include/net/tcp.h)."""


class Terms:
    """Held by the connection until it is established or refused, and by its guard until it ends."""

    def __init__(self, loop: Loop, guard: ConnectionGuard, lease: Lease, policy: TrafficPolicy) -> None:
        self._loop, self._guard, self._lease, self._policy = loop, guard, lease, policy
        self._timer: Timer | None = None
        self._seen, self._since = -1, 0.0
        guard.leases = (*guard.leases, self)
        if policy.connect_seconds:
            self._timer = loop.after(policy.connect_seconds, self, self._too_late)

    def connected(self, sock: socket.socket | None = None) -> None:
        """To the application; `sock`: if it is a connection of its own, and not a stream of a tunnel."""
        self._cancel()
        self._lease.connected()
        if sock is not None and self._policy.keepalive is not None:
            keep_alive(sock, self._policy.keepalive)
        if self._policy.idle_seconds:
            self._look()

    def refused(self, reason: Reason) -> None:
        if reason in _FAILURES:
            self._lease.failed()

    def release(self) -> None:
        """The connection has ended, or is another process's from now on."""
        self._cancel()
        self._lease.release()

    def crashed(self) -> None:
        self._guard.cut(Reason.BUG)

    def _too_late(self) -> None:
        self._guard.cut(Reason.CONNECT_TIMEOUT, f"connectTimeout is {self._policy.connect_seconds:g} s")

    def _look(self) -> None:
        record, idle = self._guard.record, self._policy.idle_seconds
        moved = record.sent_bytes + record.received_bytes
        if moved != self._seen:
            self._seen, self._since = moved, self._loop.now
        elif self._loop.now - self._since >= idle:
            self._guard.cut(Reason.IDLE_TIMEOUT, f"idleTimeout is {idle:g} s")
            return
        self._timer = self._loop.after(idle / _LOOKS, self, self._look)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def keep_alive(sock: socket.socket, keepalive: Keepalive) -> None:
    """tcp(7); what is 0 stays the kernel's default, and what is more than it takes is the most that it does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value, most in (
        (socket.TCP_KEEPCNT, keepalive.probes, _MOST_PROBES),
        (socket.TCP_KEEPIDLE, keepalive.idle_seconds, _LONGEST_KEEPALIVE_SECONDS),
        (socket.TCP_KEEPINTVL, keepalive.interval_seconds, _LONGEST_KEEPALIVE_SECONDS),
    ):
        if value:
            sock.setsockopt(socket.IPPROTO_TCP, option, min(value, most))
