# SPDX-License-Identifier: Apache-2.0
"""How sockets are set up, and a listener that accepts only when it may and can."""

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nodeagent.model.address import Ip
from nodeagent.proxy import sockets
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.sockets import (
    Listener,
    ListeningSocket,
    bound_socket,
    close_cleanly,
    local_address,
    prepare,
    receive_with_descriptors,
)
from tests.open_files import open_files


class Accepting:
    def __init__(self, clock: Any) -> None:
        self.clock, self.loop = clock, Loop(clock)
        sock = ListeningSocket(socket.create_server(("127.0.0.1", 0)).detach())
        self.address, self._listening = sock.getsockname(), sock
        self.listener = Listener(self.loop, sock, self.accepted)
        self.sockets: list[socket.socket] = []
        self.peers: list[tuple[Ip, int]] = []

    def accepted(self, sock: socket.socket, peer: tuple[Ip, int]) -> None:
        self.sockets.append(sock)
        self.peers.append(peer)

    def connect(self) -> tuple[str, int]:
        """Returns when it waits to be accepted, which the client may know a moment earlier than the listener."""
        waiting = self._waiting()
        client = socket.create_connection(self.address)
        self.sockets.append(client)
        while self._waiting() == waiting:
            time.sleep(0.001)
        name: tuple[str, int] = client.getsockname()
        return name

    def _waiting(self) -> int:
        """tcpi_unacked of a listener: how many connections are in its queue."""
        (count,) = struct.unpack_from("I", self._listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28), 24)
        return int(count)


@pytest.fixture
def accepting(clock: Any) -> Iterator[Accepting]:
    made = Accepting(clock)
    yield made
    made.listener.close()
    for sock in made.sockets:
        sock.close()
    assert made.loop.watched == 0


def test_a_listener_is_silent_until_it_is_opened(accepting: Accepting) -> None:
    name = accepting.connect()
    accepting.loop.turn(0.01)
    assert accepting.peers == []
    accepting.listener.open()
    accepting.loop.turn(60)
    assert accepting.peers == [name]


def test_many_that_wait_are_accepted_in_portions(accepting: Accepting) -> None:
    names = [accepting.connect() for _ in range(20)]
    accepting.listener.open()
    for accepted in (8, 16, 20):
        accepting.loop.turn(60)
        assert accepting.peers == names[:accepted]
    assert accepting.listener.deferred == 2


class Exhausted:
    """A listening socket whose accept fails as often as it is told."""

    def __init__(self, sock: socket.socket, error: int) -> None:
        self._sock, self.error = sock, error

    def accept(self) -> tuple[socket.socket, Any]:
        if self.error:
            raise OSError(self.error, "told so")
        return self._sock.accept()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


def test_without_descriptors_it_rests_instead_of_spinning(accepting: Accepting) -> None:
    assert accepting.listener.socket is not None
    exhausted = Exhausted(accepting.listener.socket, errno.EMFILE)
    accepting.listener.socket = exhausted  # type: ignore[assignment]
    accepting.listener.open()
    name = accepting.connect()
    for _ in range(5):
        accepting.loop.turn(0)
    assert accepting.listener.failures == 1
    exhausted.error = 0
    accepting.clock.seconds += 0.2
    accepting.loop.turn(0)
    accepting.loop.turn(60)
    assert accepting.peers == [name]


def test_errors_of_one_waiting_connection_concern_nobody_else(accepting: Accepting) -> None:
    assert accepting.listener.socket is not None
    accepting.listener.socket = Exhausted(accepting.listener.socket, errno.ECONNABORTED)  # type: ignore[assignment]
    accepting.listener.open()
    accepting.connect()
    accepting.loop.turn(60)
    assert accepting.listener.failures == 8
    assert accepting.loop.bugs == 0


@pytest.mark.parametrize(
    "origin", ["dialled", "accepted", "accepted later", "accepted from before the listener was prepared"]
)
def test_every_socket_resets_on_close_until_it_has_ended(accepting: Accepting, origin: str) -> None:
    if origin == "dialled":
        sock = bound_socket((Ip("127.0.0.1"), 0))
    else:
        assert accepting.listener.socket is not None
        if "before" in origin:
            accepting.listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            accepting.listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        accepting.connect()
        prepare(accepting.listener.socket)
        accepting.listener.open()
        if "later" in origin:
            accepting.loop.turn(60)
            accepting.connect()
        accepting.loop.turn(60)
        sock = accepting.sockets.pop()
    assert sock.gettimeout() == 0
    assert struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == (1, 0)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 180
    close_cleanly(sock)


def test_the_kinds_of_close() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for close, ends_cleanly in ((socket.socket.close, False), (close_cleanly, True)):
            with socket.create_connection(listener.getsockname()) as client:
                accepted, _ = listener.accept()
                prepare(accepted)
                assert local_address(accepted) == listener.getsockname()
                close(accepted)
                if ends_cleanly:
                    assert client.recv(1) == b""
                else:
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)


def test_an_address_that_cannot_be_bound() -> None:
    with pytest.raises(OSError, match="assign"):
        bound_socket((Ip("192.0.2.1"), 0))


def test_what_is_received_with_descriptors() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        with pytest.raises(BlockingIOError):
            receive_with_descriptors(ours, 100, 2)
        socket.send_fds(theirs, [b"two"], [theirs.fileno(), theirs.fileno()])
        payload, descriptors = receive_with_descriptors(ours, 100, 2)
        assert payload == b"two"
        assert [os.get_inheritable(descriptor) for descriptor in descriptors] == [False, False]
        for descriptor in descriptors:
            os.close(descriptor)
        theirs.close()
        with pytest.raises(OSError, match="the other end is gone"):
            receive_with_descriptors(ours, 100, 2)


def test_a_descriptor_that_found_no_room_is_an_error_and_none_is_left_behind() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        socket.send_fds(theirs, [b"two"], [theirs.fileno(), theirs.fileno()])
        before = open_files()
        with pytest.raises(OSError, match="out of descriptors"):
            receive_with_descriptors(ours, 100, 1)
        assert open_files() <= before


@pytest.mark.parametrize(
    ("microseconds", "far_congestion", "is_changed"),
    [
        (999, "reno", False),
        (1000, "reno", True),
        (50_000, "reno", True),
        (50_000, "", False),
        (50_000, "no-such", False),
    ],
)
def test_a_tunnel_with_a_long_way_takes_the_nodes_congestion_control(
    monkeypatch: pytest.MonkeyPatch, microseconds: int, far_congestion: str, *, is_changed: bool
) -> None:
    monkeypatch.setattr(sockets, "round_trip_us", lambda _sock: microseconds)
    with socket.socket() as sock:
        before = _congestion(sock)
        sockets.prepare_tunnel(sock, far_congestion)
        assert _congestion(sock) == (far_congestion if is_changed else before)


def _congestion(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def test_the_kernel_tells_the_round_trip_of_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        assert 0 < sockets.round_trip_us(client) < 1_000_000
