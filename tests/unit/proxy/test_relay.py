# SPDX-License-Identifier: Apache-2.0
"""Two sockets joined: bytes, half-closes, resets and backpressure in both directions."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction
from nodeagent.proxy.guard import OpenConnections
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import Closed, Opened
from nodeagent.proxy.relay import SocketRelay
from nodeagent.proxy.sockets import prepare


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a loopback connection; the first as the proxy prepares it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    prepare(ours)
    theirs.settimeout(0)
    return ours, theirs


class Joined:
    """`client` and `server` are what the relay stands between."""

    def __init__(self) -> None:
        self.loop, self.emitted = Loop(), list[Opened | Closed]()
        table = OpenConnections(self.emitted.append, lambda: self.loop.now, lambda: 0.0)
        guard = table.begin(Direction.OUTBOUND, (Ip("10.0.0.1"), 1), (Ip("10.0.0.2"), 2))
        near, self.client = tcp_pair()
        far, self.server = tcp_pair()
        self.relay = SocketRelay(self.loop, near, far, guard)
        self.record = guard.record

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "it never came"
            self.loop.turn(0.01)

    def receive(self, sock: socket.socket, size: int) -> bytes:
        got = bytearray()

        def complete() -> bool:
            try:
                got.extend(sock.recv(1 << 20))
            except BlockingIOError:
                return False
            return len(got) >= size

        self.until(complete)
        return bytes(got)

    def close(self) -> None:
        self.relay.close(Reason.DRAINED)
        self.client.close()
        self.server.close()


@pytest.fixture
def joined() -> Iterator[Joined]:
    made = Joined()
    yield made
    made.close()
    assert made.loop.bugs == 0
    assert made.loop.watched == 0
    assert len(made.emitted) == 1


def test_bytes_go_both_ways_and_are_counted(joined: Joined) -> None:
    joined.client.send(b"question")
    assert joined.receive(joined.server, 8) == b"question"
    joined.server.send(b"answer")
    assert joined.receive(joined.client, 6) == b"answer"
    assert (joined.record.sent_bytes, joined.record.received_bytes) == (8, 6)


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_half_close_leaves_the_other_direction_open(joined: Joined, first: str) -> None:
    one, other = joined.client, joined.server
    if first == "server":
        one, other = other, one
    one.send(b"last")
    one.shutdown(socket.SHUT_WR)
    assert joined.receive(other, 4) == b"last"
    assert joined.receive(other, 0) == b""
    other.send(b"still here")
    assert joined.receive(one, 10) == b"still here"
    other.shutdown(socket.SHUT_WR)
    joined.until(lambda: joined.record.reason == Reason.CLOSED.value)
    assert joined.receive(one, 0) == b""


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_reset_goes_through(joined: Joined, first: str) -> None:
    one, other = joined.client, joined.server
    if first == "server":
        one, other = other, one
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    with pytest.raises(ConnectionResetError):
        joined.receive(other, 1)
    assert joined.record.reason == Reason.RESET.value


def test_a_reader_that_stops_stops_the_sender_and_gets_everything_later(joined: Joined) -> None:
    sent, block = 0, bytes(range(256)) * 256
    idle = 0
    while idle < 20:
        try:
            sent += joined.client.send(block[sent % 65536 :])
            idle = 0
        except BlockingIOError:
            idle += 1
            joined.loop.turn(0.005)
    assert sent < 64 << 20
    joined.client.shutdown(socket.SHUT_WR)
    got = joined.receive(joined.server, sent)
    assert got == (block * (sent // 65536 + 1))[:sent]


def test_a_paused_end_that_hangs_up_does_not_spin(joined: Joined) -> None:
    """Both directions of the client's socket are over while its last bytes cannot be forwarded yet."""
    sent = 0
    while joined.relay.client._interest:  # until the relay stops reading; what was sent then has arrived
        with contextlib.suppress(BlockingIOError):
            sent += joined.client.send(b"x" * 65536)
        joined.loop.turn(0.005)
    joined.server.shutdown(socket.SHUT_WR)
    joined.client.shutdown(socket.SHUT_WR)
    joined.until(lambda: not joined.relay.client._is_watched)

    def rests() -> bool:
        started = time.monotonic()
        joined.loop.turn(0.05)
        return time.monotonic() - started > 0.04

    joined.until(rests)  # the first turns may still hear of what the server's end has acknowledged
    assert len(joined.receive(joined.server, sent)) == sent
    joined.until(lambda: joined.record.reason == Reason.CLOSED.value)
