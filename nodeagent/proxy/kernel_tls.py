# SPDX-License-Identifier: Apache-2.0
"""The kernel's TLS on a socket (Documentation/networking/tls.rst): keys in, records of another kind out and in.

A socket that has both keys takes plaintext and gives plaintext. It keeps them wherever it goes, and seals or opens one
record after another with the next number, so no nonce can be used twice.

Never silent: who asks for the kernel's help gets it on this socket, or OSError.
"""

import contextlib
import ctypes
import os
import socket
import struct

from nodeagent.tls.crypto_info import SEQUENCE_BYTES, info_bytes, pack_crypto_info, read_sequence
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import APPLICATION_DATA
from nodeagent.tls.traffic_key import TrafficKey

# linux/tcp.h, linux/socket.h, linux/tls.h
_TCP_ULP, _SOL_TLS = 31, 282
TLS_TX, TLS_RX = 1, 2
_SET_RECORD_TYPE, _GET_RECORD_TYPE = 1, 2
_RX_EXPECT_NO_PAD = 4

_ANCILLARY_BYTES = socket.CMSG_SPACE(1)

_getsockopt = ctypes.CDLL(None, use_errno=True).getsockopt
_getsockopt.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


def attach(sock: socket.socket) -> None:
    """Before the keys; changes nothing by itself. Raises OSError: ENOENT when the kernel has no TLS, or not yet.

    For who has CAP_NET_ADMIN the kernel loads its module by this call, even if the socket is not connected (ENOTCONN).
    """
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")


def load_module() -> None:
    """For who may: has the kernel load its module, if it is none yet. Whether it works is for others to find out."""
    with socket.socket() as sock, contextlib.suppress(OSError):
        attach(sock)


def install(sock: socket.socket, direction: int, key: TrafficKey) -> None:
    """From the next byte on in that direction. Raises OSError: EBUSY for a second key before Linux 6.14."""
    info = pack_crypto_info(key)
    try:
        sock.setsockopt(_SOL_TLS, direction, info)
    finally:
        info[:] = bytes(len(info))


def expect_no_padding(sock: socket.socket) -> None:
    """Records are opened into the reader's buffer at once (Linux 6.0); one that is padded costs a second time.

    Raises OSError before.
    """
    sock.setsockopt(_SOL_TLS, _RX_EXPECT_NO_PAD, struct.pack("=I", 1))


def sequence(sock: socket.socket, direction: int, cipher: Cipher) -> int:
    """Number of the next record. Raises OSError."""
    # The kernel tells it together with the key, which must not stay behind in an object that nobody can overwrite.
    info = ctypes.create_string_buffer(info_bytes(cipher))
    size = ctypes.c_uint32(len(info))
    try:
        if _getsockopt(sock.fileno(), _SOL_TLS, direction, info, ctypes.byref(size)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return read_sequence(memoryview(info)[-SEQUENCE_BYTES:])
    finally:
        ctypes.memset(info, 0, len(info))


def send_record(sock: socket.socket, kind: int, content: bytes) -> None:
    """One record that is no application data. Raises OSError; BlockingIOError, and nothing was sent."""
    sock.sendmsg([content], [(_SOL_TLS, _SET_RECORD_TYPE, bytes((kind,)))])


def receive_records(sock: socket.socket, buffer: memoryview) -> tuple[int | None, int]:
    """Type and size of what lies in `buffer` now: as many records of application data as are there, or one other.

    The type is None at the end of the stream. Raises OSError: EBADMSG for a record that was forged or damaged.
    """
    size, ancillary, _, _ = sock.recvmsg_into((buffer,), _ANCILLARY_BYTES)
    for level, kind, value in ancillary:
        if level == _SOL_TLS and kind == _GET_RECORD_TYPE:
            return value[0], size
    return (APPLICATION_DATA if size else None), size
