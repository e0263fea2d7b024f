# SPDX-License-Identifier: Apache-2.0
"""Visitors: who says Hello is introduced, everybody else is turned away, and nothing of theirs stays."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from nodeagent.agent import rendezvous as module
from nodeagent.agent.rendezvous import Guest, Rendezvous
from nodeagent.errors import NotPossible
from nodeagent.model.identity import Identity
from nodeagent.proxy.framing import encode_frame
from nodeagent.proxy.messages import Hello, Ready
from tests.open_files import open_files

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
HELLO = encode_frame(Hello(os.getpid(), 0, 7, (Identity("cluster.local", "shop", "web"),)))


class Door:
    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "workers.sock"
        self.guests: list[Guest] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """With a check that nothing is left open when the guests are gone."""
        before = open_files()
        with Rendezvous(self.path, os.getuid(), self.guests.append).open():
            yield
        for guest in self.guests:
            guest.send_away()
        assert not open_files() - before

    def knock(self) -> socket.socket:
        visitor = socket.socket(socket.AF_UNIX)
        visitor.connect(str(self.path))
        visitor.settimeout(0)
        return visitor


@pytest.fixture
def door(run_dir: Path) -> Door:
    return Door(run_dir)


def is_over(visitor: socket.socket) -> bool:
    try:
        return visitor.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:  # it was closed with something unread
        return True


def test_who_says_hello_is_introduced_with_what_it_brought(door: Door, eventually: Eventually) -> None:
    async def scenario() -> None:
        async with door.open():
            with door.knock() as visitor, socket.socket() as listener, socket.socket(socket.AF_UNIX) as report:
                owned = [listener.fileno()] * 3 + [report.fileno()]
                for byte in HELLO[:1], HELLO[1:]:  # cut where descriptors are already there
                    socket.send_fds(visitor, [byte], owned if byte == HELLO[:1] else [])
                await eventually(lambda: len(door.guests) == 1)
                (guest,) = door.guests
                assert guest.pid == os.getpid()
                assert (guest.hello.slot, guest.hello.generation) == (0, 7)
                assert [sock.family for sock in (*guest.listeners, guest.report)] == [socket.AF_INET] * 3 + [
                    socket.AF_UNIX
                ]
                assert not is_over(visitor)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("payload", "owned", "words"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 0, "is announced", id="another protocol"),
        pytest.param(b"\0\0\0\4abcd", 0, "cannot be decoded", id="no message"),
        pytest.param(encode_frame(Ready(1)), 0, "Ready instead of Hello", id="another message"),
        pytest.param(HELLO, 0, "0 of 4 descriptors", id="without sockets"),
        pytest.param(HELLO, 4, "no socket", id="with files"),
    ],
)
def test_anything_else_is_turned_away(
    door: Door, caplog: pytest.LogCaptureFixture, eventually: Eventually, payload: bytes, owned: int, words: str
) -> None:
    async def scenario() -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        async with door.open():
            with door.knock() as visitor:
                socket.send_fds(visitor, [payload], [null] * owned)
                await eventually(lambda: is_over(visitor))
        os.close(null)
        assert door.guests == []

    asyncio.run(scenario())
    assert caplog.text.count(words) == 1


def test_more_descriptors_than_a_hello_owns_are_closed(door: Door, eventually: Eventually) -> None:
    async def scenario() -> None:
        async with door.open():
            with door.knock() as visitor, socket.socket() as listener:
                socket.send_fds(visitor, [HELLO], [listener.fileno()] * 9)
                await eventually(lambda: len(door.guests) == 1)

    asyncio.run(scenario())


def test_silence_has_an_end(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    monkeypatch.setattr(module, "HELLO_SECONDS", 0.05)

    async def scenario() -> None:
        async with door.open():
            with door.knock() as silent, door.knock() as slow:
                slow.send(HELLO[:10])
                await eventually(lambda: is_over(silent) and is_over(slow))

    asyncio.run(scenario())
    assert caplog.text.count("no Hello in time") == 1, "the same visitor's same fault is told once"


def test_a_flood_of_visitors_uses_up_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    monkeypatch.setattr(module, "MOST_VISITORS", 3)

    async def scenario() -> None:
        async with door.open():
            visitors = [door.knock() for _ in range(6)]
            await eventually(lambda: sum(map(is_over, visitors)) == 3)
            for visitor in visitors:
                visitor.close()
            # Places become free, and a worker finds one.
            with socket.socket() as listener:
                while not door.guests:
                    with door.knock() as visitor:
                        socket.send_fds(visitor, [HELLO], [listener.fileno()] * 4)
                        await eventually(lambda: bool(door.guests) or is_over(visitor))

    asyncio.run(scenario())
    assert "too many" in caplog.text


def test_another_user_is_no_worker(door: Door, monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    monkeypatch.setattr(os, "chown", lambda *_arguments: None)

    async def scenario() -> None:
        with Rendezvous(door.path, os.getuid() + 1, door.guests.append).open(), door.knock() as visitor:
            await eventually(lambda: is_over(visitor))

    asyncio.run(scenario())
    assert door.guests == []


def test_the_socket_is_for_the_workers_alone(door: Door) -> None:
    async def scenario() -> None:
        async with door.open():
            assert door.path.stat().st_mode & 0o777 == 0o600
            assert door.path.stat().st_uid == os.getuid()

    asyncio.run(scenario())


def test_a_former_agents_socket_is_replaced(door: Door) -> None:
    async def scenario() -> None:
        for _ in range(2):
            async with door.open():
                door.knock().close()

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["missing/workers.sock", "x" * 120])
def test_a_path_that_cannot_be_is_named(run_dir: Path, name: str) -> None:
    async def scenario() -> None:
        with (
            pytest.raises(NotPossible, match=name[:10]) as caught,
            Rendezvous(run_dir / name, os.getuid(), lambda _guest: None).open(),
        ):
            pytest.fail("it is open")
        assert "None" not in str(caught.value)

    asyncio.run(scenario())
