# SPDX-License-Identifier: Apache-2.0
"""The name in a client's first bytes: looked at as they come, never taken away, never waited for without end."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from nodeagent.proxy.loop import FAILED, HUNG_UP, Loop
from nodeagent.proxy.server_name import SECONDS, ServerName
from tests.unit.proxy.conftest import Clock
from tests.unit.proxy.workers import joined_by_tcp
from tests.unit.tls.test_client_hello import NAME, hello, record


class Scene:
    """Of the client's socket, and of the proxy's connection that owns it."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.loop = clock, Loop(clock)
        self.ours, self.client = joined_by_tcp()
        self.told: list[str] = []
        self.events: list[int] = []
        self.loop.watch(self.ours.fileno(), 0, self)
        self.waiting = ServerName(self.loop, self.ours, self, self.told.append)

    def ready(self, events: int) -> None:
        self.events.append(events)

    def crashed(self) -> None:
        raise AssertionError

    def turn_until_told(self) -> None:
        while not self.told:
            self.loop.turn(1)

    def sends(self, data: bytes) -> None:
        """Returns when the proxy has seen all of it."""
        self.client.sendall(data)
        self.loop.turn(1)

    def close(self) -> None:
        self.loop.forget(self.ours.fileno())
        self.ours.close()
        self.client.close()


@pytest.fixture
def scene(clock: Clock) -> Iterator[Scene]:
    with contextlib.closing(Scene(clock)) as made:
        yield made


def test_the_name_is_told_and_every_byte_is_still_there(scene: Scene) -> None:
    data = hello() + b"and more"
    scene.client.sendall(data)
    scene.turn_until_told()
    assert scene.told == [NAME]
    assert scene.ours.recv(1 << 16) == data
    assert scene.loop.bugs == 0


def test_it_may_come_in_many_segments_and_what_came_is_not_looked_at_again_and_again(scene: Scene) -> None:
    whole = hello()
    for at in range(0, len(whole), 50):
        scene.sends(whole[at : at + 50])
        assert scene.told == ([NAME] if at + 50 >= len(whole) else [])
        assert scene.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == (1 if scene.told else at + 51)
    assert scene.ours.recv(1 << 16) == whole


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1", hello(None)], ids=["a byte", "a request", "no name"])
def test_what_has_no_name_is_told_at_once(scene: Scene, data: bytes) -> None:
    scene.client.sendall(data)
    scene.turn_until_told()
    assert scene.told == [""]
    assert scene.ours.recv(1 << 16) == data


def test_a_client_that_ends_in_the_middle_has_no_name(scene: Scene) -> None:
    part = hello()[:40]
    scene.sends(part)
    scene.client.shutdown(socket.SHUT_WR)
    scene.turn_until_told()
    assert scene.told == [""]
    assert scene.ours.recv(1 << 16) == part


def test_a_client_that_ends_without_a_byte_has_no_name(scene: Scene) -> None:
    scene.client.shutdown(socket.SHUT_WR)
    scene.turn_until_told()
    assert scene.told == [""]


def test_a_client_that_waits_for_the_server_is_not_waited_for_without_end(scene: Scene) -> None:
    scene.clock.seconds += SECONDS - 0.1
    scene.loop.turn(0)
    assert scene.told == []
    scene.clock.seconds += 0.2
    scene.loop.turn(0)
    assert scene.told == [""]


def test_a_hello_without_an_end_is_not_read_without_end(scene: Scene) -> None:
    scene.client.settimeout(None)
    scene.client.sendall(record(b"\x01\x00\xff\xff" + bytes(8000)) + record(bytes(16000)))
    scene.turn_until_told()
    assert scene.told == [""]


def test_a_client_that_is_gone_is_its_owners_affair(scene: Scene) -> None:
    scene.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    scene.client.close()
    while not scene.events:
        scene.loop.turn(1)
    assert scene.events[0] & (FAILED | HUNG_UP)
    assert scene.told == []


def test_one_that_is_cancelled_tells_nothing_and_gives_the_socket_back(scene: Scene) -> None:
    scene.sends(hello()[:40])
    for _ in range(2):
        scene.waiting.cancel()
    scene.sends(hello()[40:])
    scene.clock.seconds += 2 * SECONDS
    scene.loop.turn(0)
    assert scene.told == []
    assert scene.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
