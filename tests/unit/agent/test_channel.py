# SPDX-License-Identifier: Apache-2.0
"""Frames and descriptors through a socket pair: whole, in order, however slow the reader is, and none is left open."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nodeagent.agent.channel import Channel
from tests.open_files import open_files

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
LARGE = os.urandom(1 << 20)


class Listening:
    """A channel, its far end, and what came."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.far.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self.channel = Channel(near)
        self.received = b""
        self.descriptors: list[int] = []
        self.closed = 0
        self.channel.listen(self._on_bytes, self._on_closed)

    def _on_bytes(self, payload: bytes, descriptors: list[int]) -> None:
        self.received += payload
        self.descriptors += descriptors

    def _on_closed(self) -> None:
        self.closed += 1

    async def read(self, length: int) -> bytes:
        loop, payload = asyncio.get_running_loop(), b""
        while len(payload) < length:
            payload += await loop.sock_recv(self.far, length - len(payload))
        return payload

    def end(self) -> None:
        self.channel.close()
        self.far.close()


def test_a_slow_reader_gets_everything_and_holds_nobody_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = Listening()
        with (tmp_path / "file").open("wb") as file:
            for number in range(3):
                pair.channel.send(LARGE, (file.fileno(),) if number == 1 else ())
        assert pair.channel.stalled_seconds >= 0
        assert await pair.read(3 * len(LARGE)) == LARGE * 3
        assert pair.channel.stalled_seconds == 0
        pair.channel.send(b"small")
        assert await pair.read(5) == b"small"
        pair.end()

    asyncio.run(scenario())


def test_descriptors_come_with_the_first_byte_of_their_frame(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = Listening()
        path = tmp_path / "file"
        path.write_bytes(b"contents")
        with path.open("rb") as file:
            pair.channel.send(LARGE)
            pair.channel.send(b"with", (file.fileno(),))
        # The caller's copy is closed, ours waits in the queue.
        assert await pair.read(len(LARGE)) == LARGE
        payload, got, _, _ = socket.recv_fds(pair.far, 100, 4)
        assert payload == b"with"
        assert os.read(got[0], 100) == b"contents"
        os.close(got[0])
        pair.end()

    asyncio.run(scenario())


def test_what_arrives_is_not_inherited_by_children(eventually: Eventually) -> None:
    async def scenario() -> None:
        pair = Listening()
        socket.send_fds(pair.far, [b"word"], [0])
        await eventually(lambda: pair.received == b"word")
        assert not os.get_inheritable(pair.descriptors[0])
        os.close(pair.descriptors[0])
        pair.end()

    asyncio.run(scenario())


def test_the_other_ends_end_is_told_once(eventually: Eventually) -> None:
    async def scenario() -> None:
        pair = Listening()
        pair.far.send(b"last")
        pair.far.close()
        await eventually(lambda: pair.closed == 1)
        assert pair.received == b"last"
        assert not pair.channel.is_open
        pair.channel.send(b"nobody hears it")
        pair.channel.close()
        assert pair.closed == 1

    asyncio.run(scenario())


def test_a_send_to_nobody_is_an_end_too() -> None:
    async def scenario() -> None:
        pair = Listening()
        pair.far.close()
        pair.channel.send(b"word")
        assert pair.closed == 1

    asyncio.run(scenario())


def test_drain_hears_the_last_words_at_once() -> None:
    async def scenario() -> None:
        pair = Listening()
        pair.far.setblocking(True)  # noqa: FBT003 - the standard library's signature
        pair.far.send(LARGE[:200_000])
        pair.channel.drain()
        assert pair.received == LARGE[:200_000]
        assert pair.closed == 0
        pair.far.close()
        pair.channel.drain()
        assert pair.closed == 1

    asyncio.run(scenario())


def test_no_descriptor_is_left() -> None:
    async def scenario() -> None:
        before = open_files()
        pair = Listening()
        pair.channel.send(LARGE)
        for _ in range(5):
            pair.channel.send(b"waits", (0, 1))
        assert len(open_files() - before) == 2 + 10
        pair.end()
        assert not open_files() - before

    asyncio.run(scenario())


def test_who_takes_nothing_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        pair = Listening()
        pair.channel.send(LARGE)
        loop = asyncio.get_running_loop()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now + 100)
        assert 99 < pair.channel.stalled_seconds <= 101
        monkeypatch.undo()
        pair.end()

    asyncio.run(scenario())
