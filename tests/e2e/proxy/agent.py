# SPDX-License-Identifier: Apache-2.0
"""The other end of a worker's sockets, where its agent would be."""

import os
import socket
import time
from collections.abc import Callable

from nodeagent.lab.ready import readable
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.policy import Policy
from nodeagent.model.record import ConnectionRecord
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.traffic import Extension
from nodeagent.model.workload import Service, Workload
from nodeagent.proxy.framing import FrameReader, encode_frame
from nodeagent.proxy.messages import (
    Applied,
    Apply,
    Certificate,
    Closed,
    Connections,
    Counters,
    FromWorker,
    HandedOver,
    Hello,
    ListConnections,
    Lost,
    Opened,
    Report,
    ToWorker,
)
from tests.e2e.proxy.authority import Authority, memfd
from tests.e2e.proxy.wires import PATIENCE_SECONDS


class Agent:
    """The other end of a worker's sockets. Reads only when it waits for something, so a test controls what it saw."""

    def __init__(self, control: socket.socket, report: socket.socket | None = None) -> None:
        self.control, self.report = control, report
        self.answers: list[FromWorker] = []
        self.opened: list[ConnectionRecord] = []
        self.closed: list[ConnectionRecord] = []
        self.counters: dict[str, int] = {}
        self.lost = 0
        """Reports for which there was no room."""
        self.handed_over: list[tuple[int, int]] = []
        """To which worker, and the record's id."""
        self.descriptors: list[int] = []
        self.listeners: list[socket.socket] = []
        self._answers: FrameReader[FromWorker] = FrameReader(FromWorker)
        self._reports: FrameReader[Report] = FrameReader(Report)
        self.generation = 0
        self._ended: list[socket.socket] = []
        self._requests = 0

    def send(self, message: ToWorker, *descriptors: int) -> None:
        frame = encode_frame(message)
        sent = socket.send_fds(self.control, [frame], descriptors) if descriptors else 0
        self.control.sendall(frame[sent:])

    def certify(
        self, identity: Identity, authority: Authority, names: tuple[str, ...] = (), roots: bytes = b""
    ) -> None:
        """`names` instead of the identity's own; `roots` instead of the authority's."""
        pair = [memfd(authority.issue(*(names or (str(identity),)))), memfd(roots or authority.roots)]
        self.send(Certificate(identity, "1", time.time() + 3600), *pair)
        for fd in pair:
            os.close(fd)

    def apply(
        self,
        *,
        workloads: tuple[Workload, ...] = (),
        services: tuple[Service, ...] = (),
        policies: tuple[Policy, ...] = (),
        extensions: tuple[Extension, ...] = (),
        names: tuple[ResolvedName, ...] = (),
        removed_policies: tuple[str, ...] = (),
        removed_extensions: tuple[str, ...] = (),
    ) -> None:
        """Returns when the worker has applied it."""
        self.generation += 1
        changes = Changes(
            policies=policies,
            extensions=extensions,
            names=names,
            services=services,
            workloads=workloads,
            removed_policies=removed_policies,
            removed_extensions=removed_extensions,
        )
        self.send(Apply(changes, self.generation, is_last=True))
        self.eventually(lambda: Applied(self.generation) in self.answers)

    def connections(self) -> list[ConnectionRecord]:
        self._requests += 1
        self.send(ListConnections(self._requests))
        parts: list[Connections] = []

        def arrived() -> bool:
            parts[:] = [one for one in self.answers if isinstance(one, Connections) and one.request == self._requests]
            return bool(parts) and parts[-1].is_last

        self.eventually(arrived)
        return [record for part in parts for record in part.records]

    def ended(self, count: int = 1) -> list[ConnectionRecord]:
        """The records of the first `count` connections that ended."""
        self.eventually(lambda: len(self.closed) >= count)
        return self.closed[:count]

    def adopt(self) -> Hello:
        """Waits for the worker's Hello and takes what it hands over."""
        self.eventually(lambda: bool(self.answers))
        hello = self.answers[0]
        assert isinstance(hello, Hello)
        *self.listeners, self.report = (socket.socket(fileno=fd) for fd in self.descriptors)
        return hello

    def close(self) -> None:
        for sock in (self.control, self.report, *self.listeners):
            if sock is not None:
                sock.close()

    def eventually(self, holds: Callable[[], bool], within_seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + within_seconds
        while not holds():
            left = deadline - time.monotonic()
            assert left > 0, f"not within {within_seconds} s; ended: {self.closed}; answers: {self.answers}"
            self.listen(left)

    def listen(self, seconds: float) -> None:
        """Reads what comes next, or waits."""
        socks = self._open_socks()
        assert socks, "the worker is gone"
        for sock in readable(socks, seconds):
            payload, descriptors, _, _ = socket.recv_fds(sock, 1 << 18, 16)
            if not payload:
                self._ended.append(sock)
            elif sock is self.control:
                for answer, owned in self._answers.received(payload, descriptors):
                    self.answers.append(answer)
                    self.descriptors += owned
            else:
                for report, _ in self._reports.received(payload):
                    self._take(report)

    def hear_what_came(self) -> None:
        """Every report of what was over a turn of the worker ago, which it sends at the end of one."""
        self.connections()
        while readable(self._open_socks(), 0):
            self.listen(0)

    def hear_out(self, within_seconds: float = PATIENCE_SECONDS) -> None:
        """Everything up to the worker's end."""
        deadline = time.monotonic() + within_seconds
        while self.report not in self._ended or self.control not in self._ended:
            left = deadline - time.monotonic()
            assert left > 0, f"it did not end within {within_seconds} s"
            self.listen(left)

    def _open_socks(self) -> list[socket.socket]:
        return [sock for sock in (self.control, self.report) if sock is not None and sock not in self._ended]

    def _take(self, report: Report) -> None:
        match report:
            case Opened(record):
                self.opened.append(record)
            case Closed(record):
                self.closed.append(record)
            case Counters(totals):
                self.counters = totals
            case HandedOver(pid, ids):
                self.handed_over += [(pid, number) for number in ids]
            case Lost(reports):
                self.lost += reports
            case _:
                raise AssertionError(report)
