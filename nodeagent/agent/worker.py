# SPDX-License-Identifier: Apache-2.0
"""One worker process as the agent sees it, and one that knocks at the rendezvous socket and is nobody yet."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable

from nodeagent.agent.channel import Channel
from nodeagent.model.identity import Identity
from nodeagent.proxy.framing import FrameBroken, FrameReader, encode_frame
from nodeagent.proxy.messages import FromWorker, Hello, Report, ToWorker


class Worker:
    """`told` and `reported` get its messages; `gone` is set when the process has ended."""

    def __init__(
        self, slot: int, pid: int, listeners: tuple[socket.socket, ...], child: subprocess.Popen[bytes] | None
    ) -> None:
        """`child` is the process when it is ours to reap. Raises ProcessLookupError when it is gone already."""
        self.slot, self.pid, self.listeners = slot, pid, listeners
        self.started = time.time()
        self.is_ready = False
        self.generation = 0
        """The last one that it has applied whole."""
        self.reports_lost = 0
        self.is_outdated = False
        """Adopted, and not told anything yet: it serves from what its former agent told it."""
        self.held: frozenset[Identity] = frozenset()
        """Certificates that it brought along from a former agent."""
        self.gone = asyncio.Event()
        self.broken = ""
        """Why it had to be killed; empty when it ended by itself."""
        self._child = child
        self._channels: list[Channel] = []
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._died)

    def listen(
        self,
        control: Channel,
        report: Channel,
        told: Callable[["Worker", FromWorker], None],
        reported: Callable[["Worker", Report], None],
    ) -> None:
        self._channels = [control, report]
        answers: FrameReader[FromWorker] = FrameReader(FromWorker)
        reports: FrameReader[Report] = FrameReader(Report)

        def on_control(payload: bytes, descriptors: list[int]) -> None:
            try:
                for message, _ in answers.received(payload, descriptors):
                    told(self, message)
            except FrameBroken as error:
                self.kill(str(error))

        def on_report(payload: bytes, descriptors: list[int]) -> None:
            try:
                for message, _ in reports.received(payload, descriptors):
                    reported(self, message)
            except FrameBroken as error:
                self.kill(str(error))

        control.listen(on_control, answers.close)
        report.listen(on_report, reports.close)

    def send(self, message: ToWorker, descriptors: tuple[int, ...] = ()) -> None:
        self.send_frame(encode_frame(message), descriptors)

    def send_frame(self, frame: bytes, descriptors: tuple[int, ...] = ()) -> None:
        if self._channels:
            self._channels[0].send(frame, descriptors)

    def kill(self, why: str) -> None:
        """For a worker that cannot be understood; its slot's keeper replaces it when it is gone."""
        self.broken = why
        with contextlib.suppress(ProcessLookupError):  # it died already: the pidfd will tell
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def let_go(self) -> None:
        """Closes our ends; the process, if it lives, goes on."""
        asyncio.get_running_loop().remove_reader(self._pidfd)
        for channel in self._channels:
            channel.close()
        os.close(self._pidfd)

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if self._child is not None:
            self._child.wait()  # it is dead: this only reaps it
        self.gone.set()


class Visitor:
    """Somebody at the rendezvous socket, until the Hello that names its slot."""

    def __init__(
        self, sock: socket.socket, pid: int, introduced: Callable[["Visitor", Hello, list[int]], None]
    ) -> None:
        self.pid = pid
        self.channel = Channel(sock)
        self.complaint: Callable[[str], None] = lambda _words: None
        reader: FrameReader[FromWorker] = FrameReader(FromWorker)

        def on_bytes(payload: bytes, descriptors: list[int]) -> None:
            try:
                for message, owned in reader.received(payload, descriptors):
                    if isinstance(message, Hello):
                        introduced(self, message, owned)
                    else:
                        self._turn_away(f"{type(message).__name__} instead of Hello")
                    return
            except FrameBroken as error:
                self._turn_away(str(error))

        self._close_reader = reader.close
        self.channel.listen(on_bytes, reader.close)

    def _turn_away(self, why: str) -> None:
        self.complaint(why)
        self._close_reader()
        self.channel.close()
