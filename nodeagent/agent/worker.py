# SPDX-License-Identifier: Apache-2.0
"""One worker process as the agent sees it, whoever started it: what it said, what it is told, and when it is gone."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable

from nodeagent.agent.channel import Channel
from nodeagent.agent.replacement import Replacement
from nodeagent.model.identity import Identity
from nodeagent.proxy.framing import FrameBroken, FrameReader, encode_frame
from nodeagent.proxy.messages import FromWorker, HandOver, Ping, Report, TakeOver, ToWorker


class Worker:
    """`told` and `reported` get its messages; `gone` is set when the process has ended."""

    def __init__(
        self,
        slot: int,
        pid: int,
        pidfd: int,
        listeners: tuple[socket.socket, ...],
        child: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        """`pidfd` is ours from here on; `child` is the process when it is ours to reap."""
        self.slot, self.pid, self.listeners = slot, pid, listeners
        self.started = time.time()
        self.said_ready = asyncio.Event()
        self.is_ready = False
        """It said so, and the kernel sends it connections."""
        self.generation = 0
        """The last one that it has applied whole."""
        self.reports_lost = 0
        self.is_outdated = False
        """Adopted, and not told anything yet: it serves from what its former agent told it."""
        self.is_stranger = False
        """It knocked, and no agent's roster has it: it drains with what it has."""
        self.held: frozenset[Identity] = frozenset()
        """Certificates that it brought along from a former agent."""
        self.handover = ""
        """Version in which it can give and take open connections; empty: it cannot."""
        self.has_kernel_tls, self.kernel_tls_found = False, ""
        self.is_compiled = False
        """As in Ready."""
        self._asked: float | None = None
        """When the Ping was sent that is not answered."""
        self.program = ""
        """Version of the package that an adopted one was started from."""
        self.orders: frozenset[str] = frozenset()
        """Messages that it knows and others may not."""
        self.log_levels = ""
        """That it was told last; empty: nothing since it was adopted."""
        self.heir: Worker | None = None
        """Who has its slot and its listeners now, and shall have what is open as well."""
        self.replacement: Replacement | None = None
        """By that heir, when it was ordered."""
        self.left = asyncio.Event()
        """Its slot is another's from here on: it is gone, or a successor has taken its place while it drains."""
        self.gone = asyncio.Event()
        self.broken = ""
        """Why it had to be killed; empty when it ended by itself."""
        self._child = child
        self._control: Channel | None = None
        self._report: Channel | None = None
        self._pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._died)

    @property
    def is_adopted(self) -> bool:
        return self._child is None

    @property
    def stalled_seconds(self) -> float:
        """For how long it has read nothing of what it was sent."""
        return self._control.stalled_seconds if self._control is not None else 0.0

    @property
    def silent_seconds(self) -> float:
        """For how long it has owed an answer; 0 of one that owes none, or that knows no Ping."""
        return time.monotonic() - self._asked if self._asked is not None else 0.0

    def ping(self) -> None:
        """Unless one is on its way already."""
        if Ping.__name__ in self.orders and self._asked is None:
            self._asked = time.monotonic()
            self.send(Ping())

    def answered(self) -> None:
        self._asked = None

    def listen(
        self,
        control: Channel,
        report: Channel,
        told: Callable[["Worker", FromWorker], None],
        reported: Callable[["Worker", Report], None],
    ) -> None:
        """May be called again: a worker that lost us comes back with channels of its own."""
        self._close_channels()
        self._asked = None  # a question of the former channel has no answer any more
        self._control, self._report = control, report
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

    @property
    def can_hand_over(self) -> bool:
        """To its heir, which speaks the same version and lives."""
        heir = self.heir
        return heir is not None and bool(heir.handover) and heir.handover == self.handover and not heir.gone.is_set()

    def hand_over(self, seconds: float) -> None:
        """When it `can_hand_over`: what is open to the heir, by a socket between the two. Raises OSError."""
        assert self.heir is not None
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.heir.send(TakeOver(), (theirs.fileno(),))
            self.send(HandOver(seconds), (ours.fileno(),))

    def hear(self) -> None:
        """Its reports up to now, without waiting for the loop."""
        if self._report is not None:
            self._report.drain()

    def send(self, message: ToWorker, descriptors: tuple[int, ...] = ()) -> None:
        self.send_frame(encode_frame(message), descriptors)

    def send_frame(self, frame: bytes, descriptors: tuple[int, ...] = ()) -> None:
        if self._control is not None:
            self._control.send(frame, descriptors)

    def kill(self, why: str) -> None:
        """For a worker that cannot be understood or does not listen; its slot's keeper replaces it when it is gone."""
        if self.gone.is_set() or self.broken:
            return
        self.broken = why
        with contextlib.suppress(ProcessLookupError):  # it died already: the pidfd will tell
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def let_go(self) -> None:
        """Closes our ends; the process, if it lives, goes on. What it had reported before is heard."""
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._close_channels()
        os.close(self._pidfd)

    def _close_channels(self) -> None:
        if self._report is not None:
            self._report.drain()
            self._report.close()
        if self._control is not None:
            self._control.close()

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if self._child is not None:
            self._child.wait()  # it is dead: this only reaps it
        self.gone.set()
        self.left.set()
