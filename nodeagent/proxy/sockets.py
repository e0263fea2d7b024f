# SPDX-License-Identifier: Apache-2.0
"""How the proxy's sockets are set up: everything that must be the same for every one of them, and the accepting.

SO_LINGER (1, 0) stands from the first moment until a connection has ended as TCP means it: whatever ends it earlier,
also a kill -9 of this process, the other end reads as a reset and never as a clean end of file in mid-stream.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from nodeagent.model.address import Ip, is_ipv6, socket_ip
from nodeagent.proxy.loop import READ, Loop

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_DEFAULT_CLOSE = struct.pack("ii", 0, 0)
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; Python has no name for it
_KEEPALIVE_SECONDS = 180
"""Idle time and interval. The application's own keepalives reach only us, so ours must find a dead peer; ztunnel's
numbers."""
_KEEPALIVE_PROBES = 9

_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; Python has a name for it since 3.12
_UNSENT_BYTES = 1 << 20
"""What the kernel takes of a tunnel's bytes beyond those that are on their way: two flushes. By default it takes all of
the send buffer, 4 MiB, and whatever a small stream says waits behind that of a large one: over 200 Mbit/s its median
answer took 160 ms beside an upload, and takes 80. Less than this costs fast links CPU (docs/performance.md)."""

_FAR_MICROSECONDS = 1000
"""Longer than within a data centre, shorter than between two of them."""
_U32 = struct.Struct("I")
_INFO_BYTES, _RTT_OFFSET = 72, 68
"""tcpi_rtt of linux/tcp.h's struct tcp_info, and what lies before it."""

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
"""Without the second it takes a call more."""
_ACCEPTS_PER_TURN = 8
"""Each costs some hundred microseconds, so a flood of connections holds up others by less than one of its turns."""
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_SECONDS = 0.1
"""Out of descriptors the listener stays readable: without a pause the loop would spin on it."""


def prepare(sock: socket.socket) -> None:
    """For each dialled socket before its first byte, and for listeners."""
    if sock.gettimeout() != 0:
        sock.settimeout(0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


class ListeningSocket(socket.socket):
    """Whose `accept` does not ask two enums what it is for each connection, which takes half as long as the call."""

    def __init__(self, fd: int) -> None:
        super().__init__(fileno=fd)
        self._kind = int(self.family), int(self.type), self.proto

    def accept(self) -> tuple[socket.socket, Any]:
        # What the library's own calls, which sets a time-out as well that would be changed at once.
        fd, peer = self._accept()  # type: ignore[attr-defined]
        family, kind, protocol = self._kind
        return socket.socket(family, kind, protocol, fd), peer


def prepare_accepted(sock: socket.socket, *, has_inherited: bool) -> None:
    """Linux clones the listener's socket, options and all, which saves six calls; but not the time-out.

    A connection that came before its listener was prepared, which another process had made, has inherited nothing.
    """
    if has_inherited or sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
        sock.settimeout(0)
    else:
        prepare(sock)


def prepare_tunnel(sock: socket.socket, far_congestion: str) -> None:
    """For a connection that many streams share, beside `prepare`; it is connected.

    `far_congestion` is for a long way: pacing what a switch takes at once costs a quarter of the CPU, and a long or
    lossy way may need it (nodeagent/kernel/congestion.py).

    No TCP_USER_TIMEOUT: a tunnel's own PING finds a silent peer in half a minute, and pods that are gone are told by
    the agent. No SO_SNDBUF or SO_RCVBUF: they would end the kernel's own tuning, which follows the link.
    """
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    if far_congestion and round_trip_us(sock) >= _FAR_MICROSECONDS:
        with contextlib.suppress(OSError):  # it is not allowed here any more: then as near ones
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, far_congestion.encode())


def round_trip_us(sock: socket.socket) -> int:
    """As TCP has measured it so far: of a connection without a byte, in its handshake."""
    (microseconds,) = _U32.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES), _RTT_OFFSET)
    return int(microseconds)


def close_cleanly(sock: socket.socket) -> None:
    """After the last byte and both ends' shutdown: what is in the kernel's buffer is still delivered."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DEFAULT_CLOSE)
    sock.close()


def bound_socket(source: tuple[Ip, int]) -> socket.socket:
    """A prepared socket that will connect from `source`; port 0: any that is free for the destination.

    The address is a pod's and not ours: the proxy namespace has ip_nonlocal_bind. Raises OSError.
    """
    ip, port = source
    sock = socket.socket(socket.AF_INET6 if is_ipv6(ip) else socket.AF_INET, _STREAM)
    try:
        prepare(sock)
        # Connections of one pod port to several destinations are as legal here as in the pod.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if port == 0:
            # The port is chosen at connect, by 4-tuple; otherwise one address has 28,000 in all.
            sock.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((ip, port))
    except OSError:
        sock.close()
        raise
    return sock


def local_address(sock: socket.socket) -> tuple[Ip, int]:
    """Of an accepted socket: where its client connected to, since steering leaves addresses untouched."""
    name = sock.getsockname()
    return socket_ip(name[0]), name[1]


def receive_with_descriptors(sock: socket.socket, most_bytes: int, most_descriptors: int) -> tuple[bytes, list[int]]:
    """Of a Unix socket that does not wait. The descriptors are the caller's, and closed on exec.

    Raises BlockingIOError when nothing is there, and another OSError when nothing more can be understood: the other end
    is gone, or there was no room for a descriptor that came.
    """
    # Not socket.recv_fds, which forgets its flags (seen in CPython 3.11).
    room = socket.CMSG_LEN(most_descriptors * struct.calcsize("i"))
    payload, ancillary, flags, _ = sock.recvmsg(most_bytes, room, socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors += memoryview(content).cast("i")
    if payload and not flags & socket.MSG_CTRUNC:
        return payload, descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    if payload:
        raise OSError(errno.EMFILE, "out of descriptors")
    raise ConnectionResetError(errno.ECONNRESET, "the other end is gone")


class Listener:
    """Accepts until there is nothing left, in portions, and rests when the process is out of descriptors.

    Closed at first, so that what comes waits in the backlog until the worker knows whom it serves.
    """

    def __init__(self, loop: Loop, sock: socket.socket, accepted: Callable[[socket.socket, tuple[Ip, int]], None]):
        self.socket: socket.socket | None = sock
        self.failures = 0
        self.deferred = 0
        """Turns that ended before the backlog was empty."""
        self._loop, self._accepted = loop, accepted
        self._all_inherit = False
        """The queue has been empty since the listener was prepared, so what comes has its options."""
        prepare(sock)
        loop.watch(sock.fileno(), 0, self)

    def open(self) -> None:
        if self.socket is not None:
            self._loop.change(self.socket.fileno(), READ)

    def ready(self, events: int) -> None:
        del events
        for _ in range(_ACCEPTS_PER_TURN):
            if self.socket is None:
                return
            try:
                sock, peer = self.socket.accept()
            except BlockingIOError:
                self._all_inherit = True
                return
            except OSError as error:
                # Linux also passes on errors of the connection that was waiting: those concern nobody else.
                self.failures += 1
                if error.errno in _OUT_OF_RESOURCES:
                    self._pause()
                    return
                continue
            prepare_accepted(sock, has_inherited=self._all_inherit)
            self._loop.guarded(self, self._accepted, sock, (socket_ip(peer[0]), peer[1]))
            self._loop.share()
        self.deferred += 1

    def close(self) -> None:
        """Closes this process's copy. The agent has another, so that what waits in the backlog is not reset."""
        if self.socket is not None:
            self._loop.forget(self.socket.fileno())
            self.socket.close()
            self.socket = None

    def crashed(self) -> None:
        """One connection was lost to a defect; the next one is accepted all the same."""

    def _pause(self) -> None:
        if self.socket is not None:
            self._loop.change(self.socket.fileno(), 0)
            self._loop.after(_PAUSE_SECONDS, self, self._resume)

    def _resume(self) -> None:
        if self.socket is not None:
            self._loop.change(self.socket.fileno(), READ)
