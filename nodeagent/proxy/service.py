# SPDX-License-Identifier: Apache-2.0
"""A worker's parts put together, and what it does with each of the agent's messages: start, learn, tell, drain."""

import functools
import os
import signal
import socket
import time
from collections import Counter
from itertools import islice
from typing import assert_never

from nodeagent.logs.levels import put_in_force
from nodeagent.logs.process import set_up_logging
from nodeagent.model.reason import Reason
from nodeagent.model.record import PID_SHIFT, ConnectionRecord
from nodeagent.proxy import lane
from nodeagent.proxy.arrival import Arrival
from nodeagent.proxy.authorizer import Authorizer
from nodeagent.proxy.backlog import HELD
from nodeagent.proxy.control import Control, Greeting
from nodeagent.proxy.departure import Departure
from nodeagent.proxy.guard import OpenConnections
from nodeagent.proxy.handover import VERSION
from nodeagent.proxy.holds import Holds
from nodeagent.proxy.inbound import Inbound, InboundTunnel
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.loop import READ, Loop
from nodeagent.proxy.messages import (
    ORDERS,
    Apply,
    Certificate,
    Connections,
    Counters,
    Cut,
    Drain,
    ForgetCertificate,
    HandOver,
    Hello,
    ListConnections,
    LocalPods,
    Ping,
    Pong,
    Ready,
    Resync,
    SetLogLevels,
    Start,
    TakeOver,
    ToWorker,
)
from nodeagent.proxy.outbound import Outbound
from nodeagent.proxy.plaintext import Plaintext
from nodeagent.proxy.pool import PooledTunnel
from nodeagent.proxy.reports import Reports
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.proxy.shared import Shared
from nodeagent.proxy.sockets import Listener, ListeningSocket
from nodeagent.proxy.state import State
from nodeagent.proxy.tunnel_port import pick_port, read_port_range

_COUNTERS_SECONDS = 1.0
_RECORDS_PER_PART = 200
"""Of an answer to ListConnections: a tenth of a megabyte."""
_DRAIN_LOOKS_SECONDS = 0.02
_STANDSTILL_SECONDS = 2.0
"""Without a connection that was handed over; a busy machine may need long for all of them."""
_GRACE_SECONDS = 4.0
"""Beyond the deadline, for as long as connections are being handed over; the agent kills 5 s behind it."""
_LAST_REPORTS_SECONDS = 0.5
"""For the records of connections that ended by the drain; a slow agent must not keep the worker."""


class Service:
    """Until Start only the control socket is listened to."""

    def __init__(self, loop: Loop, control: socket.socket, report: socket.socket, *, slot: int, reconnect: str) -> None:
        self._loop, self._slot = loop, slot
        self._reports = Reports(loop, report)
        self._control = Control(loop, control, reconnect, self)
        self._signals = _Signals(loop, self)
        self._running: _Running | None = None
        self._program = ""

    # ---- Receiver --------------------------------------------------------------------------------------------------

    def received(self, message: ToWorker, descriptors: list[int]) -> None:
        running = self._running
        match message:
            case Start():
                if running is None:
                    self._program = message.program
                    self._start(message, descriptors)
            case _ if running is None:
                raise RuntimeError(f"{type(message).__name__} before Start")  # a defect of the agent
            case Apply() | Resync() | LocalPods() | Certificate() | ForgetCertificate():
                running.state.submit(message, descriptors)
            case ListConnections() | Ping() | SetLogLevels() | Cut():
                self._asked(message, running)
            case Drain():
                running.drain(message.seconds)
            case HandOver():
                running.hand_over(socket.socket(fileno=descriptors[0]), message.seconds)
            case TakeOver():
                running.take_over(socket.socket(fileno=descriptors[0]))
            case unreachable:
                assert_never(unreachable)

    def greeting(self) -> Greeting | None:
        running = self._running
        if running is None or running.is_draining:
            return None
        return _Greeting(self._slot, self._program, running, self._reports)

    def agent_lost(self) -> None:
        if self._running is None:
            self._loop.stop()  # nothing to serve, and nobody who will say what

    # ----------------------------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """SIGTERM: as Drain, with the configured deadline."""
        if self._running is None:
            self._loop.stop()
        else:
            self._running.drain(self._running.state.config.drain_seconds)

    def close(self) -> None:
        """After the loop: sends the last reports as far as the agent takes them."""
        deadline = time.monotonic() + _LAST_REPORTS_SECONDS
        while self._reports.has_waiting and time.monotonic() < deadline:
            self._loop.turn(_DRAIN_LOOKS_SECONDS)

    def _start(self, message: Start, descriptors: list[int]) -> None:
        set_up_logging(message.config.log_format, message.config.log_level, part=f"worker{self._slot}")
        self._running = _Running(self._loop, message, descriptors, self._control, self._reports, slot=self._slot)
        records = self._running.shared.kernel_records
        self._control.send(Ready(os.getpid(), VERSION, records.is_wanted, records.found, ORDERS, lane.is_compiled()))

    def _asked(self, message: ListConnections | Ping | SetLogLevels | Cut, running: "_Running") -> None:
        match message:
            case ListConnections(request):
                self._list(request, running.shared.connections)
            case Ping():
                self._control.send(Pong())
            case SetLogLevels(levels):
                put_in_force(levels)
            case Cut(number):
                running.cut(number)
            case unreachable:
                assert_never(unreachable)

    def _list(self, request: int, connections: OpenConnections) -> None:
        records = connections.records()
        part: tuple[ConnectionRecord, ...] = tuple(islice(records, _RECORDS_PER_PART))
        while True:
            following = tuple(islice(records, _RECORDS_PER_PART))
            self._control.send(Connections(request, part, is_last=not following))
            if not following:
                return
            part = following


class _Running:
    """The parts that need a configuration and listeners."""

    def __init__(
        self, loop: Loop, start: Start, descriptors: list[int], control: Control, reports: Reports, *, slot: int
    ) -> None:
        self._loop, self._reports = loop, reports
        HELD.most = start.config.max_held_mib << 20
        loop.spin_seconds = start.config.spin_microseconds / 1e6
        if start.config.compiled == "off":
            lane.switch_off()
        self.state = State(loop, start.config, control.send)
        # Behind the pid, so that the record of a connection keeps its id at the worker's successor.
        connections = OpenConnections(reports.emit, lambda: loop.now, time.time, os.getpid() << PID_SHIFT)
        counters: Counter[str] = Counter()
        records = KernelRecords(start.kernel_tls, counters)
        ports = functools.partial(pick_port, slot, read_port_range())
        self.shared = Shared(loop, self.state, connections, Holds(loop), SecretsPipe(), records, counters, ports)
        self._authorizer = authorizer = Authorizer(loop, self.state, connections)
        self._outbound = Outbound(self.shared, authorizer)
        self._inbound = Inbound(self.shared, authorizer)
        self._plaintext = Plaintext(self.shared, authorizer)
        # In this order: what is held is tried with the new state, then what is open is looked at again.
        self.state.observers = [self.shared.holds, authorizer, self._inbound, self._outbound.pool, self]
        self._is_open = False
        accepted = (self._outbound.accepted, self._inbound.accepted, self._plaintext.accepted)
        self.listeners = [
            Listener(loop, ListeningSocket(fd), accept) for fd, accept in zip(descriptors, accepted, strict=True)
        ]
        self._told: dict[str, int] = {}
        self._drain_deadline = self._settle_deadline = 0.0
        self._departure: Departure | None = None
        self._arrivals: list[Arrival] = []
        loop.after(_COUNTERS_SECONDS, self, self._count)

    def state_changed(self) -> None:
        """Opens the listeners once there is something to serve from: before, every connection would be refused."""
        if self.state.is_complete and not self._is_open:
            self._is_open = True
            for listener in self.listeners:
                listener.open()

    def crashed(self) -> None:
        """A timer of ours broke: the one that counts or the one that drains. Both start again."""
        self._loop.after(_COUNTERS_SECONDS, self, self._count)
        if self.is_draining:
            self._loop.after(_DRAIN_LOOKS_SECONDS, self, self._look)

    @property
    def is_draining(self) -> bool:
        return self._drain_deadline > 0

    def drain(self, seconds: float) -> None:
        """A second order may only shorten it."""
        deadline = self._loop.now + seconds
        if self.is_draining:
            self._drain_deadline = min(self._drain_deadline, deadline)
            return
        self._begin_to_leave(deadline)
        self._inbound.drain()
        self._outbound.pool.drain()
        self._look()

    def hand_over(self, sock: socket.socket, seconds: float) -> None:
        """What is open goes to the successor; what cannot drains, after half of the time if there is no progress."""
        if self.is_draining:
            sock.close()
            return
        self._begin_to_leave(self._loop.now + seconds)
        self._settle_deadline = self._loop.now + seconds / 2
        pool = self._outbound.pool
        self._departure = Departure(self.shared, self._inbound, pool, sock, self._reports.emit)
        owners: list[InboundTunnel | PooledTunnel] = [*self._inbound.tunnels, *pool.all()]
        for owner in owners:
            if owner.tunnel is not None and owner.tunnel.peer is not None and not owner.tunnel.is_portable:
                owner.drain()
        self._look()

    def cut(self, number: int) -> None:
        """Not one that is on its way to a successor, who will be asked then."""
        reference = self.shared.connections.guards.get(number)
        guard = reference() if reference is not None else None
        if guard is not None:
            guard.cut(Reason.OPERATOR_KILLED)

    def take_over(self, sock: socket.socket) -> None:
        self._arrivals = [one for one in self._arrivals if not one.is_over]
        self._arrivals.append(Arrival(self.shared, self._authorizer, self._inbound, self._outbound.pool, sock))

    def _begin_to_leave(self, deadline: float) -> None:
        self._drain_deadline = deadline
        for listener in self.listeners:
            listener.close()

    def _settle(self) -> None:
        """Drains what was not handed over, once it is clear that it will not be."""
        departure = self._departure
        if departure is None or self._settle_deadline == 0:
            return
        is_late = self._loop.now >= max(self._settle_deadline, departure.progressed + _STANDSTILL_SECONDS)
        if departure.is_over or is_late:
            self._settle_deadline = 0.0
            departure.stop()
            self._inbound.drain()
            self._outbound.pool.drain()

    @property
    def _is_moving(self) -> bool:
        """Connections are between two workers, or still to come."""
        is_leaving = self._departure is not None and self._departure.has_sent
        return is_leaving or not all(arrival.is_over for arrival in self._arrivals)

    @property
    def _is_giving(self) -> bool:
        """The successor takes one after another: to cut the rest because that takes long would be the worst of all."""
        departure = self._departure
        return (
            departure is not None
            and not departure.is_over  # as at a standstill, see _settle
            and self._loop.now < self._drain_deadline + _GRACE_SECONDS
        )

    def _look(self) -> None:
        self._settle()
        has_tunnels = self._inbound.tunnels or self._outbound.pool.all() or self._is_moving
        if self._loop.now >= self._drain_deadline and not self._is_giving:
            for guard in self.shared.connections.all():
                guard.cut(Reason.DRAINED)
            for accepted in tuple(self._inbound.tunnels):
                accepted.fail(Reason.DRAINED, "")
            for dialled in self._outbound.pool.all():
                dialled.fail(Reason.DRAINED, "")
            if self._departure is not None:
                self._departure.close()
        elif has_tunnels or len(self.shared.connections):
            self._loop.after(_DRAIN_LOOKS_SECONDS, self, self._look)
            return
        if self._departure is not None:
            self._departure.tell_result()
        self._count()
        self._loop.stop()

    def _count(self) -> None:
        totals = dict(self.shared.counters)
        totals["bugs"] = self._loop.bugs
        totals["accept_failures"] = sum(listener.failures for listener in self.listeners)
        totals["accepts_deferred"] = sum(listener.deferred for listener in self.listeners)
        totals["handshake_steps_deferred"] = self._loop.slow_steps_deferred
        totals["turns_shared"] = self._loop.turns_shared
        totals["spins_in_vain"] = self._loop.spins_in_vain
        totals["certificates_refused"] = self.state.certificates.refused
        totals["endpoints_ejected"] = self._outbound.chooser.ejections
        totals.update(self.shared.connections.times.totals())
        if totals != self._told:
            self._told = totals
            self._reports.emit(Counters(totals))
        self._loop.after(_COUNTERS_SECONDS, self, self._count)


class _Greeting:
    """Hello, with the listeners and one end of a fresh report socket."""

    def __init__(self, slot: int, program: str, running: _Running, reports: Reports) -> None:
        self._reports = reports
        self._ours, self._theirs = socket.socketpair()
        listeners = [listener.socket.fileno() for listener in running.listeners if listener.socket is not None]
        self.descriptors = [*listeners, self._theirs.fileno()]
        state = running.state
        records = running.shared.kernel_records
        self.message = Hello(
            os.getpid(),
            slot,
            state.generation,
            state.certificates.identities,
            VERSION,
            program,
            records.is_wanted,
            records.found,
            ORDERS,
            lane.is_compiled(),
        )

    def said(self) -> None:
        self._theirs.close()
        self._reports.attach(self._ours)

    def unsaid(self) -> None:
        self._theirs.close()
        self._ours.close()


class _Signals:
    """SIGTERM in the loop. SIGINT is the terminal's word to the agent, which will tell us."""

    def __init__(self, loop: Loop, service: Service) -> None:
        self._service = service
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)
        signal.set_wakeup_fd(self._writer.fileno())
        signal.signal(signal.SIGTERM, lambda _number, _frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.watch(self._reader.fileno(), READ, self)

    def ready(self, events: int) -> None:
        del events
        try:
            arrived = self._reader.recv(64)
        except BlockingIOError:
            return
        if signal.SIGTERM in arrived:
            self._service.terminate()

    def crashed(self) -> None:
        """The next signal is heard all the same."""
