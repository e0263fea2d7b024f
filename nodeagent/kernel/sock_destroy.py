# SPDX-License-Identifier: Apache-2.0
"""Ends TCP connections from outside (SOCK_DESTROY of sock_diag(7)), in the network namespace that holds them.

For direct connections that are no longer allowed and send nothing: a busy one is reset at its next packet by from_pod.
The kernel needs CONFIG_INET_DIAG_DESTROY (Linux 4.5), which every distribution has; without it, idle ends stay until
they send. `struct inet_diag_req_v2` of linux/inet_diag.h.
"""

import errno
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from nodeagent.errors import KernelError
from nodeagent.kernel.netns import enter_netns
from nodeagent.model.address import Ip, is_ipv6

_SOCK_DIAG, _SOCK_DESTROY = 4, 21
_REQUEST, _ACK, _ERROR = 0x1, 0x4, 0x2
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = b"\xff" * 8
_TIMEOUT_SECONDS = 5
"""An answer comes with the call; only a broken kernel lets it wait."""


class End(NamedTuple):
    """One end of a connection, as its own socket sees it."""

    ip: Ip
    port: int
    peer: Ip
    peer_port: int


def destroy_sockets(netns: str, ends: Iterable[End]) -> int:
    """How many were ended; those that are gone already are none. Raises KernelError."""
    try:
        with enter_netns(netns):
            link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)
        with link:
            link.settimeout(_TIMEOUT_SECONDS)
            return sum(_destroy(link, end) for end in ends)
    except OSError as error:
        raise KernelError(
            f"connections in {netns} cannot be ended: {error.strerror or error}",
            check="Is the pod gone? Does the kernel have CONFIG_INET_DIAG_DESTROY (modprobe tcp_diag)?",
        ) from error


def _destroy(link: socket.socket, end: End) -> bool:
    link.send(_request(end))
    answer = link.recv(4096)
    (kind,) = struct.unpack_from("=H", answer, 4)
    (negative,) = struct.unpack_from("=i", answer, 16)
    if kind != _ERROR:
        raise OSError(errno.EBADMSG, f"sock_diag answered with message {kind}")
    if negative in {0, -errno.ENOENT}:
        return bool(negative == 0)
    raise OSError(-negative, "SOCK_DESTROY was refused")


def _request(end: End) -> bytes:
    family = socket.AF_INET6 if is_ipv6(end.ip) else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, ip).ljust(16, b"\0") for ip in (end.ip, end.peer))
    wanted = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
    name = struct.pack("!HH", end.port, end.peer_port) + addresses + struct.pack("=I", 0) + _NO_COOKIE
    body = wanted + name
    return struct.pack("=IHHII", 16 + len(body), _SOCK_DESTROY, _REQUEST | _ACK, 1, 0) + body
