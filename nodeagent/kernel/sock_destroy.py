# SPDX-License-Identifier: Apache-2.0
"""Ends TCP connections from outside (SOCK_DESTROY of sock_diag(7)), in the network namespace that holds them.

For direct connections that are no longer allowed and send nothing: a busy one is reset at its next packet by from_pod.
The kernel needs CONFIG_INET_DIAG_DESTROY (Linux 4.5), which every distribution has; without it, idle ends stay until
they send. `struct inet_diag_req_v2` of linux/inet_diag.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from nodeagent.errors import KernelError
from nodeagent.kernel.netns import enter_netns
from nodeagent.model.address import Ip, is_ipv6

_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 4, 20, 21
_REQUEST, _ACK, _ERROR = 0x1, 0x4, 0x2
_HEADER_BYTES, _COOKIE_AT = 16, 44
"""Of struct nlmsghdr; of idiag_cookie in struct inet_diag_msg."""
_LISTEN = 10
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
    cookie = _find_cookie(link, end)
    if cookie is None:
        return False
    kind, body = _ask(link, _SOCK_DESTROY, _REQUEST | _ACK, end, cookie)
    return _result(kind, body) == 0


def _find_cookie(link: socket.socket, end: End) -> bytes | None:
    """The number by which the kernel knows this very socket; None when there is none.

    For a connection that is gone the kernel finds the listener on its port instead, and would destroy that.
    """
    kind, body = _ask(link, _SOCK_DIAG_BY_FAMILY, _REQUEST, end, _NO_COOKIE)
    if kind == _ERROR:
        _result(kind, body)
        return None
    state, _, _, port, peer_port = struct.unpack_from("!BBBHH", body, 1)
    is_it = state != _LISTEN and (port, peer_port) == (end.port, end.peer_port)
    return body[_COOKIE_AT : _COOKIE_AT + 8] if is_it else None


def _result(kind: int, body: bytes) -> int:
    """0, or ENOENT for a socket that is gone. Raises OSError for anything else."""
    if kind != _ERROR:
        raise OSError(errno.EBADMSG, f"sock_diag answered with message {kind}")
    number = -int(struct.unpack_from("=i", body)[0])
    if number not in {0, errno.ENOENT, errno.ESTALE}:
        raise OSError(number, os.strerror(number))
    return number


def _ask(link: socket.socket, kind: int, flags: int, end: End, cookie: bytes) -> tuple[int, bytes]:
    """Kind and body of the answer."""
    family = socket.AF_INET6 if is_ipv6(end.ip) else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, ip).ljust(16, b"\0") for ip in (end.ip, end.peer))
    wanted = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
    name = struct.pack("!HH", end.port, end.peer_port) + addresses + struct.pack("=I", 0) + cookie
    body = wanted + name
    link.send(struct.pack("=IHHII", _HEADER_BYTES + len(body), kind, flags, 1, 0) + body)
    answer = link.recv(8192)
    (answered,) = struct.unpack_from("=H", answer, 4)
    return int(answered), answer[_HEADER_BYTES:]
