# SPDX-License-Identifier: Apache-2.0
"""The application that runs in the lab's pods: it does what the first line of a connection asks, and tells what it saw.

    WHO             answers with the peer's address and port as this application sees them
    WHERE           answers with its own end's address and port
    MET <ip>        answers how many connections from that address it has accepted so far, whatever came of them
    ECHO            sends back what it gets
    DIGEST          reads to the end of the stream, then answers with its length and SHA-256 (needs half-close)
    SOURCE <bytes>  sends that many pseudo-random bytes, then ends its direction, then waits for the peer's end
    RESET           answers one line, then resets the connection
    HOW             answers one line, then reads to the end; how it ended (`end` or `reset`) is told by the next ENDINGS
    LATE            answers one line and ends its direction, then reads to the end; told by ENDINGS as `late:<bytes>`
    ENDINGS         answers with the endings of HOW and LATE connections so far, oldest first, and forgets them

Run as `python -m nodeagent.lab.demo.application PORT...`; writes `ready` when it listens. It imports nothing of the
product: it stands for the pods' own programs.
"""

import contextlib
import functools
import hashlib
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Iterator

CHUNK = 1 << 18
Peer = tuple[str, int]
_endings: list[str] = []
_met: Counter[str] = Counter()


@functools.cache
def _block(seed: int) -> bytes:
    return b"".join(hashlib.sha256(struct.pack("!QQ", seed, i)).digest() for i in range(CHUNK // 32))


def pattern(seed: int, length: int) -> Iterator[bytes]:
    """`length` reproducible bytes in chunks; each is numbered, so none can be lost, doubled or swapped unnoticed."""
    rest = _block(seed)[8:]
    for number in range(length // CHUNK):
        yield struct.pack("!Q", number) + rest
    yield rest[: length % CHUNK]


def _first_line(connection: socket.socket) -> tuple[str, bytes]:
    received = b""
    while b"\n" not in received and len(received) < 200:
        some = connection.recv(4096)
        if not some:
            break
        received += some
    line, _, rest = received.partition(b"\n")
    return line.decode("ascii", "replace"), rest


def _plain(ip: str) -> str:
    return ip.removeprefix("::ffff:")


def _who(connection: socket.socket, peer: Peer, _rest: bytes) -> None:
    connection.sendall(f"{_plain(peer[0])} {peer[1]}\n".encode())


def _where(connection: socket.socket, _peer: Peer, _rest: bytes) -> None:
    ip, port = connection.getsockname()[:2]
    connection.sendall(f"{_plain(ip)} {port}\n".encode())


def _echo(connection: socket.socket, _peer: Peer, rest: bytes) -> None:
    connection.sendall(rest)
    while some := connection.recv(CHUNK):
        connection.sendall(some)


def _digest(connection: socket.socket, _peer: Peer, rest: bytes) -> None:
    digest, length = hashlib.sha256(rest), len(rest)
    while some := connection.recv(CHUNK):
        digest.update(some)
        length += len(some)
    connection.sendall(f"{length} {digest.hexdigest()}\n".encode())


def _reset(connection: socket.socket, _peer: Peer, _rest: bytes) -> None:
    connection.sendall(b"resetting\n")
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _how(connection: socket.socket, _peer: Peer, _rest: bytes) -> None:
    connection.sendall(b"watching\n")
    try:
        _drain(connection)
    except (ConnectionResetError, ConnectionAbortedError):  # by the other end, or from outside
        _endings.append("reset")
    else:
        _endings.append("end")


def _late(connection: socket.socket, _peer: Peer, _rest: bytes) -> None:
    connection.sendall(b"over\n")
    connection.shutdown(socket.SHUT_WR)
    try:
        _endings.append(f"late:{_drain(connection)}")
    except ConnectionResetError:
        _endings.append("reset")


def _tell_endings(connection: socket.socket, _peer: Peer, _rest: bytes) -> None:
    told, _endings[:] = " ".join(_endings), []
    connection.sendall(f"{told}\n".encode())


def _source(connection: socket.socket, length: int) -> None:
    for chunk in pattern(1, length):
        connection.sendall(chunk)
    connection.shutdown(socket.SHUT_WR)
    _drain(connection)


def _drain(connection: socket.socket) -> int:
    length = 0
    while some := connection.recv(CHUNK):
        length += len(some)
    return length


_ANSWERS = {
    "WHO": _who,
    "WHERE": _where,
    "ECHO": _echo,
    "DIGEST": _digest,
    "RESET": _reset,
    "HOW": _how,
    "LATE": _late,
    "ENDINGS": _tell_endings,
}


def _serve(connection: socket.socket, peer: Peer) -> None:
    with connection, contextlib.suppress(OSError):  # a peer that left: the tour looks at its own end
        asked, rest = _first_line(connection)
        match asked.split():
            case ["SOURCE", length]:
                _source(connection, int(length))
            case ["MET", ip]:
                connection.sendall(f"{_met[ip]}\n".encode())
            case [word] if word in _ANSWERS:
                _ANSWERS[word](connection, peer, rest)
            case _:
                connection.sendall(b"unknown request\n")


def _listen(port: int) -> None:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)

    def accept() -> None:
        while True:
            connection, peer = listener.accept()
            _met[_plain(peer[0])] += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(connection, peer), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def main() -> None:
    for port in sys.argv[1:]:
        _listen(int(port))
    print("ready", flush=True)  # noqa: T201 - the parent waits for this line
    threading.Event().wait()


if __name__ == "__main__":
    main()
