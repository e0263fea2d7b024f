# SPDX-License-Identifier: Apache-2.0
"""The workers' listening sockets: made inside the proxy namespace, reached through the SOCKMAP only.

A listener is `[::]` for both families (`[::1]` would be IPv6 alone, in silence, and its SYN cookies not checked) on a
port below 1024, its own: source ports that are carried over never meet it. It is transparent, so `getsockname` is the
original destination. No SO_REUSEPORT: since Linux 6.6 the kernel would choose again inside the group, before that
bpf_sk_assign refuses. The wildcard is not reachable from outside: at_proxy chooses by mark and port 15008,
and what it leaves to the stack is no SYN.
"""

import enum
import errno
import socket
from collections.abc import Iterator

from nodeagent.errors import KernelError
from nodeagent.kernel.netns import enter_netns

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
BACKLOG = 4096
"""Connections that wait while a worker is being replaced; somaxconn of the proxy namespace is the same."""
_FIRST_PORT, _LAST_PORT = 101, 1023


class ListenerKind(enum.IntEnum):
    """`value` is enum listener of bpf/maps.h."""

    OUTBOUND = 0
    HBONE = 1
    PLAINTEXT = 2


def make_listeners(netns: str) -> dict[ListenerKind, socket.socket]:
    """One non-blocking listener of each kind, in the network namespace `netns`. Raises KernelError."""
    made: dict[ListenerKind, socket.socket] = {}
    try:
        with enter_netns(netns):
            ports = iter(range(_FIRST_PORT, _LAST_PORT + 1))
            for kind in ListenerKind:
                made[kind] = _listen(ports)
    except BaseException as error:
        for sock in made.values():
            sock.close()
        if isinstance(error, OSError):
            raise KernelError(f"a listener in the proxy namespace: {error.strerror}") from error
        raise
    return made


def _listen(ports: Iterator[int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        for port in ports:
            try:
                sock.bind(("::", port))
                sock.listen(BACKLOG)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return sock
    except BaseException:
        sock.close()
        raise
    sock.close()
    raise KernelError("every port below 1024 of the proxy namespace is taken")
