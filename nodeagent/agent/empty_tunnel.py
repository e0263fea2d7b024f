# SPDX-License-Identifier: Apache-2.0
"""A tunnel that carries nothing, for `nodeagent probe`: TCP, mutual TLS, some HTTP/2 PINGs, and the end.

It is what a worker would open: from a captured pod's address, out of the proxy namespace, so through the same programs,
with that pod's certificate. There is no CONNECT, so no application is reached and no policy is asked, and a tunnel that
ends well leaves no record at either end. Blocks; for a thread.
"""

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from nodeagent.admin.state import ProbedNode
from nodeagent.agent.state import in_memory
from nodeagent.certs.bundle import CertificateBundle
from nodeagent.errors import PeerError
from nodeagent.hbone.connection import Connection
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.limits import Role
from nodeagent.kernel.netns import enter_netns
from nodeagent.model.address import Ip, join_host_port
from nodeagent.model.reason import Reason
from nodeagent.model.security import Security
from nodeagent.model.workload import Workload
from nodeagent.proxy.sockets import bound_socket, close_cleanly
from nodeagent.proxy.tls import (
    RECORD_BYTES,
    Channel,
    Handshake,
    Sending,
    make_context,
    require_identity,
    require_not_revoked,
)
from nodeagent.routing.route import HBONE_PORT

PINGS = 3
"""The shortest counts: one that waited for a busy worker says nothing of the way."""
LOOK_SECONDS = 0.5
"""Between looks, while a tunnel waits, whether anybody still wants to know."""
_BATCH_BYTES = 4 * RECORD_BYTES
_NOTHING = memoryview(b"")
_REASONS = {errno.EADDRNOTAVAIL: Reason.OUT_OF_PORTS, errno.ETIMEDOUT: Reason.CONNECT_TIMEOUT}


@dataclass(frozen=True)
class Attempt:
    """One tunnel: between two pods, by one address family."""

    source: Workload
    source_ip: Ip
    destination: Workload
    ip: Ip


def try_tunnel(
    attempt: Attempt,
    bundle: CertificateBundle,
    security: Security,
    *,
    netns: str,
    seconds: float,
    stop: threading.Event,
) -> ProbedNode:
    """Takes so many seconds at most, and not longer than a moment when `stop` is set: its result means nothing then."""
    times: dict[str, float] = {}
    reason: Reason | None = None
    error = ""
    try:
        _open(attempt, bundle, security, times, netns=netns, until=time.monotonic() + seconds, stop=stop)
    except PeerError as failure:
        reason, error = failure.reason, str(failure)
    except TimeoutError:
        late = Reason.TLS_TIMEOUT if "connect" in times else Reason.CONNECT_TIMEOUT
        late = Reason.PING_TIMEOUT if "handshake" in times else late
        reason, error = late, f"nothing within {seconds:g} s"
    except ConnectionError as failure:
        was_there = "connect" in times
        reason, error = (Reason.PEER_LOST if was_there else Reason.CONNECT_REFUSED), _words(attempt, failure)
    except OSError as failure:
        reason = _REASONS.get(failure.errno or 0, Reason.CONNECT_FAILED)
        error = _words(attempt, failure)
    return result(attempt, times, reason, error)


def result(attempt: Attempt, times: Mapping[str, float], reason: Reason | None, error: str) -> ProbedNode:
    return ProbedNode(
        here=attempt.source.node,
        node=attempt.destination.node,
        source=f"{attempt.source.namespace}/{attempt.source.name}",
        destination=f"{attempt.destination.namespace}/{attempt.destination.name}",
        address=attempt.ip,
        connect_seconds=times.get("connect", 0.0),
        handshake_seconds=times.get("handshake", 0.0),
        round_trip_seconds=times.get("round_trip", 0.0),
        reason=reason,
        error=error,
    )


def _words(attempt: Attempt, failure: OSError) -> str:
    return f"{join_host_port(attempt.ip, HBONE_PORT)}: {failure.strerror or failure}"


def _open(
    attempt: Attempt,
    bundle: CertificateBundle,
    security: Security,
    times: dict[str, float],
    *,
    netns: str,
    until: float,
    stop: threading.Event,
) -> None:
    """Fills `times` as far as it comes. Raises PeerError, TimeoutError, OSError."""
    with in_memory(attempt.source.identity, bundle) as (_, descriptors):
        key, roots = (f"/proc/self/fd/{descriptor}" for descriptor in descriptors)
        context = make_context(key, roots, is_server=False)
    with enter_netns(netns):
        sock = bound_socket((attempt.source_ip, 0))
    with contextlib.closing(sock):
        wire = _Wire(sock, until, stop)
        began = time.monotonic()
        wire.connect((attempt.ip, HBONE_PORT))
        connected = time.monotonic()
        times["connect"] = connected - began
        handshake = Handshake(context, is_server=False)
        channel = wire.shake_hands(handshake)
        require_not_revoked(handshake.peer_certificates(), security.revoked)
        expected = frozenset({attempt.destination.identity})
        require_identity(handshake.peer_identity(), expected, security.trust_domains)
        connection = Connection(Role.CLIENT)
        wire.ping(channel, connection)  # with the SETTINGS: the end of the handshake, as far as a client can tell
        times["handshake"] = time.monotonic() - connected
        times["round_trip"] = min(wire.ping(channel, connection) for _ in range(PINGS))
        wire.leave(channel, connection)


class _Wire:
    """A socket that waits, until a moment that does not move or until it is stopped: TimeoutError."""

    def __init__(self, sock: socket.socket, until: float, stop: threading.Event) -> None:
        self._sock, self._until, self._stop = sock, until, stop
        sock.settimeout(0)

    def connect(self, address: tuple[Ip, int]) -> None:
        self._left()
        error = self._sock.connect_ex(address)
        if error == errno.EINPROGRESS:
            self._wait(select.POLLOUT)
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    def shake_hands(self, handshake: Handshake) -> Channel:
        while True:
            try:
                channel = handshake.shake_hands()
            except PeerError:
                with contextlib.suppress(OSError):  # the alert, for the peer's log
                    self._send(handshake)
                raise
            if channel is not None:
                self._send(channel)
                return channel
            self._send(handshake)
            handshake.received(self._receive())

    def ping(self, channel: Channel, connection: Connection) -> float:
        """Seconds until it came back."""
        opaque = os.urandom(8)
        connection.ping(opaque)
        self._send_pending(channel, connection)
        began = time.monotonic()
        buffer = memoryview(bytearray(_BATCH_BYTES))
        while True:
            while size := channel.open_into(buffer):
                try:
                    events = connection.received(buffer[:size])
                except H2Error as error:
                    raise PeerError(str(error), reason=Reason.H2_FAILED) from error
                self._send_pending(channel, connection)
                if opaque in events.pongs:
                    return time.monotonic() - began
            if channel.is_closed:
                raise PeerError("the peer closed the tunnel", reason=Reason.PEER_LOST)
            channel.received(self._receive())

    def leave(self, channel: Channel, connection: Connection) -> None:
        """As a tunnel ends that is not needed: GOAWAY, close_notify, and what the peer says is still read."""
        connection.goaway()
        with contextlib.suppress(OSError):
            self._send_pending(channel, connection)
            channel.close()
            self._send(channel)
            self._sock.shutdown(socket.SHUT_WR)
            while self._take():
                pass
        close_cleanly(self._sock)

    def _send_pending(self, channel: Channel, connection: Connection) -> None:
        while connection.has_pending:
            plain = connection.pending()
            size = len(plain)
            with contextlib.suppress(ConnectionError):  # it has gone, and what it said before tells more: an alert
                self._send(channel, plain)
            connection.taken(size)

    def _send(self, sending: Sending, plain: memoryview = _NOTHING) -> None:
        while plain or sending.unsent or sending.has_control:
            if not sending.unsent:
                plain = plain[sending.seal(plain) :]
            self._wait(select.POLLOUT)
            sending.sent(self._sock.send(sending.unsent))

    def _receive(self) -> memoryview:
        received = self._take()
        if not received:
            raise PeerError("the peer closed the connection", reason=Reason.PEER_LOST)
        return memoryview(received)

    def _take(self) -> bytes:
        """Empty at the end."""
        self._wait(select.POLLIN)
        return self._sock.recv(_BATCH_BYTES)

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._sock, event)
        while not poll.poll(1000 * min(self._left(), LOOK_SECONDS)):
            pass

    def _left(self) -> float:
        """Seconds; raises TimeoutError when there are none."""
        seconds = self._until - time.monotonic()
        if seconds <= 0 or self._stop.is_set():
            raise TimeoutError
        return seconds
