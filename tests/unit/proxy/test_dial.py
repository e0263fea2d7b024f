# SPDX-License-Identifier: Apache-2.0
"""Connecting without blocking, on loopback: done, refused, silent, and when the port cannot be kept."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nodeagent.lab.ready import readable
from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.proxy.dial import Dial
from nodeagent.proxy.loop import Loop

LOCAL = Ip("127.0.0.1")


class Dialler:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.socket: socket.socket | None = None
        self.keeps_port: bool | None = None
        self.failure: tuple[Reason, str] | None = None

    def connected(self, sock: socket.socket, keeps_port: bool) -> None:  # noqa: FBT001 - Dialler's signature
        self.socket, self.keeps_port = sock, keeps_port

    def not_connected(self, reason: Reason, error: str) -> None:
        self.failure = (reason, error)

    def crashed(self) -> None:
        raise AssertionError

    def settle(self) -> None:
        deadline = time.monotonic() + 60
        while not (self.socket or self.failure):
            assert time.monotonic() < deadline, "it never came"
            self.loop.turn(0.01)

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()


@pytest.fixture
def dialler() -> Iterator[Dialler]:
    made = Dialler(Loop())
    yield made
    made.close()
    assert made.loop.bugs == 0
    assert made.loop.watched == 0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((LOCAL, 0)) as made:
        yield made


def test_from_the_ports_own_number(dialler: Dialler, listener: socket.socket, held_port: int) -> None:
    Dial(dialler.loop, (LOCAL, held_port), listener.getsockname(), 5, dialler)
    dialler.settle()
    accepted, seen = listener.accept()
    accepted.close()
    assert seen == (LOCAL, held_port)
    assert dialler.keeps_port


def test_from_any_port(dialler: Dialler, listener: socket.socket) -> None:
    Dial(dialler.loop, (LOCAL, 0), listener.getsockname(), 60, dialler)
    dialler.settle()
    assert dialler.keeps_port is False


def test_a_taken_4_tuple_means_another_port(dialler: Dialler, listener: socket.socket, held_port: int) -> None:
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind((LOCAL, held_port))
        first.connect(listener.getsockname())
        Dial(dialler.loop, (LOCAL, held_port), listener.getsockname(), 60, dialler)
        dialler.settle()
    assert dialler.keeps_port is False


def test_one_port_may_reach_two_destinations(dialler: Dialler, listener: socket.socket, held_port: int) -> None:
    with socket.create_server((LOCAL, 0)) as other, socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind((LOCAL, held_port))
        first.connect(other.getsockname())
        Dial(dialler.loop, (LOCAL, held_port), listener.getsockname(), 60, dialler)
        dialler.settle()
    assert dialler.keeps_port


def test_nobody_listens(dialler: Dialler, held_port: int) -> None:
    Dial(dialler.loop, (LOCAL, 0), (LOCAL, held_port), 60, dialler)
    dialler.settle()
    assert dialler.failure == (Reason.CONNECT_REFUSED, f"127.0.0.1:{held_port}: Connection refused")


def silent_destination() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose backlog is full drops SYNs, as a blackhole does."""
    listener = socket.socket()
    listener.bind((LOCAL, 0))
    listener.listen(0)
    fillers = []
    for _ in range(2):
        filler = socket.socket()
        filler.setblocking(False)  # noqa: FBT003 - the standard library's signature
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
        assert readable([listener], 60), "the first is in its queue: then that is full"
    return listener, fillers


def test_silence_has_a_deadline_and_the_kept_port_gets_half_of_it(clock: Any, dialler: Dialler, held_port: int) -> None:
    loop = dialler.loop = Loop(clock)
    listener, fillers = silent_destination()
    Dial(loop, (LOCAL, held_port), listener.getsockname(), 10, dialler)
    loop.turn(0)
    for seconds, still_waits in ((4.9, True), (0.2, True), (4.7, True), (0.3, False)):
        clock.seconds += seconds
        loop.turn(0)
        assert (dialler.failure is None) is still_waits
    assert dialler.failure is not None
    assert dialler.failure[0] is Reason.CONNECT_TIMEOUT
    for sock in (listener, *fillers):
        sock.close()


def test_an_answer_that_is_not_there_at_once_is_waited_for(dialler: Dialler) -> None:
    listener, fillers = silent_destination()
    Dial(dialler.loop, (LOCAL, 0), listener.getsockname(), 60, dialler)
    dialler.loop.turn(0)
    assert dialler.loop.watched == 1
    for filler in fillers:
        filler.close()  # none of them shall take the place
    accepted = [listener.accept()[0]]  # now there is one: the kernel sends our SYN again within a second
    dialler.settle()
    assert dialler.keeps_port is False
    for sock in (listener, *fillers, *accepted):
        sock.close()


def test_a_cancelled_dial_says_nothing(dialler: Dialler) -> None:
    listener, fillers = silent_destination()
    for turns in (0, 1):
        dial = Dial(dialler.loop, (LOCAL, 0), listener.getsockname(), 60, dialler)
        for _ in range(turns):
            dialler.loop._run_ends()
        dial.cancel()
        dialler.loop.turn(0.01)
    assert dialler.socket is None
    assert dialler.failure is None
    for sock in (listener, *fillers):
        sock.close()
