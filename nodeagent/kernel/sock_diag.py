# SPDX-License-Identifier: Apache-2.0
"""Asks the kernel what open TCP connections have carried (sock_diag(7)), in the network namespace that holds them.

Nothing on a packet's way counts for us: TCP does. One question for each connection that is asked about, so what else is
open in the namespace costs nothing. `struct inet_diag_req_v2` and `inet_diag_msg` of linux/inet_diag.h, `struct
tcp_info` of linux/tcp.h.
"""

import errno
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from nodeagent.errors import KernelError
from nodeagent.kernel.netns import enter_netns
from nodeagent.kernel.sock_destroy import End
from nodeagent.model.address import is_ipv6

_SOCK_DIAG, _BY_FAMILY, _ERROR = 4, 20, 2
_REQUEST = 0x1
_WITH_INFO = 1 << 1
"""INET_DIAG_INFO - 1."""
_INFO = 2
_ALL_STATES = 0xFFFFFFFF
_TIMEOUT_SECONDS = 5
"""An answer comes with the call; only a broken kernel lets it wait."""
_MESSAGE, _ATTRIBUTES = 16, 16 + 72
"""Where the message and what follows it begin."""
_GONE = frozenset({errno.ENOENT, errno.ESTALE, errno.ENODEV})
_FIN_WAIT2, _CLOSE_WAIT, _LAST_ACK, _CLOSING = 5, 8, 9, 11


class Carried(NamedTuple):
    """By one connection so far, as the end that was asked sees it."""

    sent: int
    """Bytes that the other end's stack has acknowledged."""
    received: int
    round_trip_us: int
    """Smoothed."""
    retransmissions: int


def read_sockets(netns: str, ends: Iterable[tuple[int, End]]) -> dict[int, Carried]:
    """Of each end that is named with its socket's cookie, by that; those that are gone are left out.

    Raises KernelError when the namespace cannot be asked.
    """
    found = {}
    try:
        with enter_netns(netns):
            link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)
        with link:
            link.settimeout(_TIMEOUT_SECONDS)
            for cookie, end in ends:
                link.send(request(cookie, end))
                carried = read_answer(link.recv(8192))
                if carried is not None:
                    found[cookie] = carried
    except OSError as error:
        raise KernelError(
            f"connections in {netns} cannot be looked at: {error.strerror or error}",
            check="Is the pod gone? Does the kernel have CONFIG_INET_DIAG (modprobe tcp_diag)?",
        ) from error
    return found


def request(cookie: int, end: End) -> bytes:
    family = socket.AF_INET6 if is_ipv6(end.ip) else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, ip).ljust(16, b"\0") for ip in (end.ip, end.peer))
    wanted = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, _WITH_INFO, 0, _ALL_STATES)
    name = struct.pack("!HH", end.port, end.peer_port) + addresses + struct.pack("=I", 0) + _halves(cookie)
    body = wanted + name
    return struct.pack("=IHHII", _MESSAGE + len(body), _BY_FAMILY, _REQUEST, 1, 0) + body


def read_answer(answer: bytes) -> Carried | None:
    """None when there is no such socket (any more). Raises OSError for what else the kernel says."""
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind == _ERROR:
        (negative,) = struct.unpack_from("=i", answer, _MESSAGE)
        if -negative in _GONE:
            return None
        raise OSError(-negative, "sock_diag refused to tell of a socket")
    if kind != _BY_FAMILY:
        raise OSError(errno.EBADMSG, f"sock_diag answered with message {kind}")
    (whole,) = struct.unpack_from("=I", answer)
    at = _ATTRIBUTES
    while at + 4 <= min(whole, len(answer)):
        length, attribute = struct.unpack_from("=HH", answer, at)
        if attribute == _INFO:
            return _carried(answer[at + 4 : at + length])
        at += max(length, 4) + 3 & ~3
    return None  # TIME_WAIT: it is over


def _carried(info: bytes) -> Carried:
    """A SYN counts as a byte that was acknowledged, and a FIN of either end as a byte of its sender."""
    state = info[0]
    (round_trip_us,) = struct.unpack_from("=I", info, 68)
    (retransmissions,) = struct.unpack_from("=I", info, 100)
    acknowledged, received = struct.unpack_from("=QQ", info, 120)
    acknowledged -= 1 + (state == _FIN_WAIT2)
    received -= state in {_CLOSE_WAIT, _LAST_ACK, _CLOSING}
    return Carried(max(acknowledged, 0), max(received, 0), round_trip_us, retransmissions)


def _halves(cookie: int) -> bytes:
    return struct.pack("=II", cookie & 0xFFFFFFFF, cookie >> 32)
