# SPDX-License-Identifier: Apache-2.0
"""A process behind its pidfd: when it is gone, when it talks nonsense, and when it is killed."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from nodeagent.agent.channel import Channel
from nodeagent.agent.worker import Worker
from nodeagent.proxy.framing import encode_frame
from nodeagent.proxy.messages import Applied, Counters, FromWorker, Lost, Report

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


class Watched:
    """A worker that is a sleeping process, with our hands on its ends of the sockets."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.worker = Worker(0, process.pid, os.pidfd_open(process.pid), (), process)
        self.told: list[FromWorker] = []
        self.reported: list[Report] = []
        self.control, self.report = self.connect()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        control, their_control = socket.socketpair()
        report, their_report = socket.socketpair()
        self.worker.listen(
            Channel(control),
            Channel(report),
            lambda _worker, message: self.told.append(message),
            lambda _worker, message: self.reported.append(message),
        )
        return their_control, their_report

    def close(self) -> None:
        self.worker.let_go()
        self.control.close()
        self.report.close()


@contextmanager
def sleeping() -> Iterator[Watched]:
    with subprocess.Popen(["sleep", "60"]) as process:
        watched = Watched(process)
        try:
            yield watched
        finally:
            watched.close()
            process.kill()


def test_it_is_heard_on_both_channels_and_its_end_is_noticed(eventually: Eventually) -> None:
    async def scenario() -> None:
        with sleeping() as one:
            one.control.send(encode_frame(Applied(7)))
            one.report.send(encode_frame(Lost(3)))
            await eventually(lambda: one.told == [Applied(7)] and one.reported == [Lost(3)])
            assert not one.worker.gone.is_set()
            assert not one.worker.is_adopted
            one.process.terminate()
            await asyncio.wait_for(one.worker.gone.wait(), 60)
            assert one.process.returncode == -signal.SIGTERM
            assert one.worker.broken == ""

    asyncio.run(scenario())


def test_who_talks_nonsense_is_killed_with_the_reason(eventually: Eventually) -> None:
    async def scenario() -> None:
        for channel in ("control", "report"):
            with sleeping() as one:
                getattr(one, channel).send(b"HTTP/1.1 400 Bad Request\r\n")
                await asyncio.wait_for(one.worker.gone.wait(), 60)
                assert "is announced" in one.worker.broken
                one.worker.kill("again")
                assert "is announced" in one.worker.broken

    asyncio.run(scenario())


def test_the_last_reports_are_heard_when_it_is_let_go() -> None:
    async def scenario() -> None:
        with sleeping() as one:
            one.report.send(encode_frame(Counters({"bugs": 0})) * 1000)
            one.process.kill()
            await asyncio.wait_for(one.worker.gone.wait(), 60)

        assert len(one.reported) == 1000

    asyncio.run(scenario())


def test_letting_go_leaves_the_process_alone() -> None:
    async def scenario(process: "subprocess.Popen[bytes]") -> None:
        Watched(process).close()

    with subprocess.Popen(["sleep", "60"]) as process:
        asyncio.run(scenario(process))
        assert process.poll() is None
        process.kill()


def test_new_channels_replace_the_old_ones(eventually: Eventually) -> None:
    async def scenario() -> None:
        with sleeping() as one:
            former = one.control, one.report
            former[1].send(encode_frame(Lost(1)))
            one.control, one.report = one.connect()
            assert one.reported == [Lost(1)]
            for sock in former:
                assert sock.recv(1) == b""
                sock.close()
            one.control.send(encode_frame(Applied(8)))
            await eventually(lambda: one.told == [Applied(8)])
            assert not one.worker.gone.is_set()

    asyncio.run(scenario())
