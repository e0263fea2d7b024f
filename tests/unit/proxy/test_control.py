# SPDX-License-Identifier: Apache-2.0
"""The control socket: messages in and out, an agent that dies, and the next one."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.model.address import Ip
from nodeagent.proxy.control import Control, Greeting
from nodeagent.proxy.framing import FrameReader, encode_frame
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import Applied, Connections, Drain, FromWorker, Hello, LocalPods, ToWorker


class HelloWithPipe:
    """A greeting that hands over one end of a pipe four times."""

    message = Hello(1, 2, 3, ())

    def __init__(self, told: list[str]) -> None:
        self._ends = os.pipe()
        self.descriptors = [self._ends[0]] * 4
        self._told = told

    def said(self) -> None:
        self._close("said")

    def unsaid(self) -> None:
        self._close("unsaid")

    def _close(self, what: str) -> None:
        self._told.append(what)
        for fd in self._ends:
            os.close(fd)


class Worker:
    def __init__(self) -> None:
        self.messages: list[ToWorker] = []
        self.told: list[str] = []
        self.waits = True

    def received(self, message: ToWorker, descriptors: list[int]) -> None:
        self.messages.append(message)
        assert descriptors == []

    def greeting(self) -> Greeting | None:
        return HelloWithPipe(self.told) if self.waits else None

    def agent_lost(self) -> None:
        self.told.append("lost")


class Line:
    def __init__(self, clock: Any, path: Path) -> None:
        self.loop, self.worker, self.clock = Loop(clock), Worker(), clock
        ours, self.agent = socket.socketpair()
        self.control = Control(self.loop, ours, str(path), self.worker)

    def pass_time(self, seconds: float) -> None:
        self.clock.seconds += seconds
        self.loop.turn(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "workers.sock"


@pytest.fixture
def line(clock: Callable[[], float], path: Path) -> Iterator[Line]:
    made = Line(clock, path)
    yield made
    made.agent.close()
    made.worker.waits = False
    made.loop.turn(0)
    assert made.loop.bugs == 0
    assert made.loop.watched == 0


def read(sock: socket.socket) -> list[FromWorker]:
    sock.settimeout(60)
    reader: FrameReader[FromWorker] = FrameReader(FromWorker)
    payload, descriptors, _, _ = socket.recv_fds(sock, 1 << 20, 16)
    got = [message for message, _ in reader.received(payload, descriptors)]
    for fd in descriptors:
        os.close(fd)
    return got


def test_messages_go_both_ways(line: Line) -> None:
    sent: list[ToWorker] = [LocalPods(frozenset({Ip("10.0.0.1")})), Drain(1)]
    line.agent.sendall(b"".join(map(encode_frame, sent)))
    line.loop.turn(0)
    assert line.worker.messages == sent
    line.control.send(Applied(1))
    line.control.send(Applied(2))
    line.loop.turn(0)
    assert read(line.agent) == [Applied(1), Applied(2)]


def test_an_agent_that_does_not_read_gets_everything_later(line: Line) -> None:
    answer = Connections(1, (), is_last=True)
    for _ in range(20_000):
        line.control.send(answer)
    line.loop.turn(0)
    got, reader = 0, FrameReader[FromWorker](FromWorker)
    line.agent.settimeout(60)
    while got < 20_000:
        got += len(list(reader.received(line.agent.recv(1 << 20))))
        line.loop.turn(0)


@pytest.mark.parametrize("last", [b"", b"\xff\xff\xff\xff", b"\0\0\0\1\xc1"], ids=["closed", "length", "garbage"])
def test_a_lost_agent_is_looked_for_until_there_is_another(line: Line, path: Path, last: bytes) -> None:
    line.agent.sendall(last)
    line.agent.close()
    line.loop.turn(0)
    line.control.send(Applied(1))  # nobody hears it, and nobody waits for it
    for _ in range(3):
        line.pass_time(1.1)
    assert line.worker.told == ["lost", "unsaid", "unsaid", "unsaid"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        line.pass_time(1.1)
        line.agent, _ = listener.accept()
    assert read(line.agent) == [HelloWithPipe.message]
    assert line.worker.told[-1] == "said"
    line.agent.sendall(encode_frame(Drain(2)))
    line.loop.turn(0)
    assert line.worker.messages == [Drain(2)]


def test_a_worker_on_its_way_out_looks_for_nobody(line: Line, path: Path) -> None:
    line.worker.waits = False
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0)
        line.agent.close()
        line.loop.turn(0)
        line.pass_time(1.1)
        with contextlib.suppress(BlockingIOError):
            pytest.fail(f"somebody came: {listener.accept()}")


def test_without_a_path_this_agent_is_the_only_one(clock: Any) -> None:
    line = Line(clock, Path())
    line.control._path = ""
    line.agent.close()
    line.loop.turn(0)
    assert line.worker.told == ["lost"]
    assert not line.loop._timers
