# SPDX-License-Identifier: Apache-2.0
"""What the two applications of a test say to each other; every byte that arrives is compared with the one sent."""

import contextlib
import hashlib
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

_DEADLINE_SECONDS = 60
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def exchange(one: socket.socket, other: socket.socket, size: int) -> None:
    """`size` random bytes each way at the same time; digests are compared. `one` is the first to end."""
    there, back = os.urandom(size), os.urandom(size)
    with ThreadPoolExecutor(4) as pool:
        sent, sent_back = pool.submit(_send, one, there), pool.submit(_send, other, back)
        arrived, arrived_back = pool.submit(_digest, other), pool.submit(_digest, one)
        sent.result()
        one.shutdown(socket.SHUT_WR)
        assert arrived.result() == (size, hashlib.sha256(there).hexdigest())
        sent_back.result()
        other.shutdown(socket.SHUT_WR)
        assert arrived_back.result() == (size, hashlib.sha256(back).hexdigest())


def _send(sock: socket.socket, payload: bytes) -> None:
    sock.settimeout(_DEADLINE_SECONDS)
    view = memoryview(payload)
    for start in range(0, len(view), 1 << 20):  # the deadline is for a piece, not for the whole
        sock.sendall(view[start : start + (1 << 20)])


def _digest(sock: socket.socket) -> tuple[int, str]:
    digest, buffer, size = hashlib.sha256(), bytearray(1 << 18), 0
    while got := sock.recv_into(buffer):
        digest.update(memoryview(buffer)[:got])
        size += got
    return size, digest.hexdigest()


def converse(sock: socket.socket, rounds: int = 1, size: int = 1000) -> None:
    """Says something to an Echo and hears it again, `rounds` times."""
    for _ in range(rounds):
        said = os.urandom(size)
        sock.sendall(said)
        assert read_exactly(sock, size) == said


def fill(*socks: socket.socket) -> None:
    """Sends until every buffer and window on the way is full."""
    with ThreadPoolExecutor(len(socks)) as pool:
        for filled in [pool.submit(_fill, sock) for sock in socks]:
            filled.result()


def _fill(sock: socket.socket) -> None:
    sock.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while True:
            sock.send(bytes(1 << 20))
    sock.settimeout(_DEADLINE_SECONDS)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        piece = sock.recv(size - len(got))
        assert piece, f"ended after {len(got)} of {size} bytes"
        got += piece
    return bytes(got)


def read_to_end(sock: socket.socket) -> bytes:
    got = bytearray()
    while piece := sock.recv(1 << 16):
        got += piece
    return bytes(got)


def accept(listener: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
    """With a deadline for all that follows; the peer's address without the IPv6 form of IPv4."""
    sock, peer = listener.accept()
    sock.settimeout(_DEADLINE_SECONDS)
    return sock, (peer[0].removeprefix("::ffff:"), peer[1])


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


class Echo:
    """An application that says what it hears, to everybody at once, until the block ends."""

    def __init__(self, listener: socket.socket) -> None:
        self.peers: list[tuple[str, int]] = []
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() would not
        self._acceptor.join()

    def _accept(self) -> None:
        with ThreadPoolExecutor(64) as pool:
            while True:
                try:
                    sock, peer = accept(self._listener)
                except TimeoutError:
                    continue
                except OSError:  # the block ended
                    return
                self.peers.append(peer)
                pool.submit(_echo, sock)


def _echo(sock: socket.socket) -> None:
    with sock:
        while heard := sock.recv(1 << 16):
            sock.sendall(heard)
