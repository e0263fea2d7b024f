# SPDX-License-Identifier: Apache-2.0
"""The fleet of workers: started, fed, watched, replaced, and adopted when they outlived another agent.

A slot is a worker's number and its place in the kernel's table of listeners. The agent keeps a copy of each slot's
listening sockets, so that a connection that arrives while a worker is being replaced waits in the backlog instead of
being refused. Workers go on when the agent dies, and knock at the rendezvous socket of the next one.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from nodeagent.agent.channel import Channel
from nodeagent.agent.roster import living_workers, write_roster
from nodeagent.agent.state import NodeState
from nodeagent.agent.worker import Visitor, Worker
from nodeagent.config import Config
from nodeagent.errors import NotPossible
from nodeagent.kernel.maps import SLOTS
from nodeagent.kernel.steering import ListenerKind, Steering
from nodeagent.model.identity import Identity
from nodeagent.model.record import ConnectionRecord
from nodeagent.proxy.framing import encode_frame
from nodeagent.proxy.messages import (
    Applied,
    Closed,
    Connections,
    Counters,
    Drain,
    ForgetCertificate,
    FromWorker,
    Hello,
    ListConnections,
    Lost,
    Opened,
    Ready,
    Report,
    Resync,
    Start,
    ToWorker,
    WorkerConfig,
)
from nodeagent.telemetry.open_connections import OpenConnections
from nodeagent.telemetry.totals import Totals

log = logging.getLogger(__name__)

ADOPTION_SECONDS = 4.0
"""A surviving worker knocks at least once a second; one that does not come within this is replaced."""
RESTART_SECONDS = (0.0, 0.05, 0.2, 1.0, 5.0)
"""Pause before the n-th start in a row that did not live for STABLE_SECONDS; the last one goes on."""
STABLE_SECONDS = 10.0
KINDS = (ListenerKind.OUTBOUND, ListenerKind.HBONE, ListenerKind.PLAINTEXT)
"""Order of the descriptors in Start and Hello."""


def decide_slots(wanted: int, cores: int) -> int:
    """How many workers: as many as are wanted; else one for two cores, but no more than the kernel has places for."""
    return wanted or min(max(1, cores // 2), SLOTS)


class WorkerFleet:
    def __init__(
        self, config: Config, steering: Steering, state: NodeState, connections: OpenConnections, totals: Totals
    ) -> None:
        self.workers: dict[int, Worker] = {}
        self.restarts: Counter[int] = Counter()
        """Workers that died, by slot."""
        self._config, self._steering, self._state = config, steering, state
        self._connections, self._totals = connections, totals
        self._settings = WorkerConfig(**{name: getattr(config, name) for name in WorkerConfig.__struct_fields__})
        self.slots = decide_slots(config.workers, os.cpu_count() or 1)
        self._arrivals: dict[int, asyncio.Future[Worker]] = {}
        self._progress = asyncio.Event()
        self._lists: dict[int, tuple[set[int], list[tuple[int, ConnectionRecord]]]] = {}
        self._last_request = 0
        self._is_state_complete = False
        state.subscribe(self._broadcast)

    async def run(self) -> None:
        """Ends only by cancellation, and then leaves the workers to a successor."""
        loop = asyncio.get_running_loop()
        survivors = {slot for slot, _ in living_workers(self._config.run_dir)}
        self._arrivals = {slot: loop.create_future() for slot in survivors}
        with self._rendezvous() as listener:
            loop.add_reader(listener, self._knocked, listener)
            try:
                async with asyncio.TaskGroup() as group:
                    for slot in range(self.slots):
                        group.create_task(self._keep(slot), name=f"worker {slot}")
            finally:
                loop.remove_reader(listener)
                for worker in self.workers.values():
                    worker.let_go()

    @property
    def is_ready(self) -> bool:
        return len(self.workers) == self.slots and all(worker.is_ready for worker in self.workers.values())

    async def started(self, timeout_seconds: float) -> bool:
        """Whether every slot has a worker that is ready, within the time."""
        return await self._progressed(lambda: self.is_ready, timeout_seconds)

    async def applied(self, generation: int, timeout_seconds: float) -> bool:
        """Whether every worker has applied `generation` within the time."""
        return await self._progressed(
            lambda: all(worker.generation >= generation or worker.is_outdated for worker in self.workers.values()),
            timeout_seconds,
        )

    async def connections(self, timeout_seconds: float = 2.0) -> list[tuple[int, ConnectionRecord]]:
        """Open connections with their worker's slot; of one that does not answer in time, what it had answered."""
        return await self._list({slot for slot, worker in self.workers.items() if worker.is_ready}, timeout_seconds)

    async def observe(self, timeout_seconds: float = 2.0) -> None:
        """Brings the bytes of long connections into the metrics."""
        for worker in tuple(self.workers.values()):
            if worker.is_ready:
                found = await self._list({worker.slot}, timeout_seconds)
                self._connections.observed(worker.pid, tuple(record for _, record in found), time.time())

    async def _list(self, asked: set[int], timeout_seconds: float) -> list[tuple[int, ConnectionRecord]]:
        self._last_request += 1
        request = self._last_request
        records: list[tuple[int, ConnectionRecord]] = []
        self._lists[request] = (asked, records)
        for slot in tuple(asked):
            self.workers[slot].send(ListConnections(request))
        if not await self._progressed(lambda: not asked & self.workers.keys(), timeout_seconds):
            log.warning("workers %s did not list their connections within %g s", sorted(asked), timeout_seconds)
        del self._lists[request]
        return records

    async def _progressed(self, done: Callable[[], bool], timeout_seconds: float) -> bool:
        try:
            async with asyncio.timeout(timeout_seconds):
                while not done():
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    # ---- one slot ------------------------------------------------------------------------------------------------

    async def _keep(self, slot: int) -> None:
        """Keeps a worker in this slot, for ever."""
        worker = await self._adopt(slot)
        if worker is not None:
            found = await self._list({slot}, ADOPTION_SECONDS)
            self._connections.observed(worker.pid, tuple(record for _, record in found), time.time())
        listeners = worker.listeners if worker else await asyncio.to_thread(self._make_listeners)
        failures = 0
        while True:
            if worker is None:
                worker = self._start(slot, listeners)
            self._write_roster()
            await worker.gone.wait()
            self._bury(worker)
            failures = 0 if time.time() - worker.started > STABLE_SECONDS else failures + 1
            worker = None
            await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)])

    def _make_listeners(self) -> tuple[socket.socket, ...]:
        made = self._steering.make_listeners()
        return tuple(made[kind] for kind in KINDS)

    def _start(self, slot: int, listeners: tuple[socket.socket, ...]) -> Worker:
        control, their_control = socket.socketpair()
        report, their_report = socket.socketpair()
        netns = os.open(self._steering.netns_path(), os.O_RDONLY | os.O_CLOEXEC)
        passed = {"--netns-fd": netns, "--control-fd": their_control.fileno(), "--report-fd": their_report.fileno()}
        arguments = [sys.executable, "-m", "nodeagent.proxy.worker", "--slot", str(slot)]
        arguments += ["--uid", str(self._config.worker_uid), "--reconnect", str(self._rendezvous_path)]
        arguments += [word for option, descriptor in passed.items() for word in (option, str(descriptor))]
        try:
            # A session of its own: a Ctrl-C on the agent's terminal is not meant for the worker.
            child = subprocess.Popen(
                arguments, pass_fds=tuple(passed.values()), stdin=subprocess.DEVNULL, start_new_session=True
            )
        finally:
            os.close(netns)
            their_control.close()
            their_report.close()
        worker = Worker(slot, child.pid, listeners, child)
        self._take_in(worker, Channel(control), report)
        worker.send(Start(self._settings), tuple(listener.fileno() for listener in listeners))
        self._state.send_everything(worker.send)
        log.info("worker %d started (pid %d)", slot, child.pid)
        return worker

    def _take_in(self, worker: Worker, control: Channel, report: socket.socket) -> None:
        self.workers[worker.slot] = worker
        worker.listen(control, Channel(report), self._told, self._reported)

    def _bury(self, worker: Worker) -> None:
        worker.let_go()
        del self.workers[worker.slot]
        self._progress.set()
        self.restarts[worker.slot] += 1
        self._totals.ended(worker.pid)
        log.error(
            "worker %d (pid %d) %s; %d open connections were reset, a new worker takes its place",
            worker.slot,
            worker.pid,
            f"was killed: {worker.broken}" if worker.broken else "ended",
            self._connections.worker_lost(worker.pid, time.time()),
        )

    # ---- what workers say, and are told --------------------------------------------------------------------------

    def _told(self, worker: Worker, message: FromWorker) -> None:
        match message:
            case Ready():
                self._ready(worker)
            case Applied(generation):
                worker.generation = generation
                self._progress.set()
            case Connections(request, records, is_last):
                asked, found = self._lists.get(request, (set(), []))
                found.extend((worker.slot, record) for record in records)
                if is_last:
                    asked.discard(worker.slot)
                    self._progress.set()
            case Hello():
                worker.kill("it said Hello twice")

    def _ready(self, worker: Worker) -> None:
        worker.is_ready = True
        for kind, listener in zip(KINDS, worker.listeners, strict=True):
            self._steering.put_listener(kind, worker.slot, listener)
        self._progress.set()

    def _reported(self, worker: Worker, message: Report) -> None:
        match message:
            case Opened(record):
                self._connections.opened(worker.pid, record)
            case Closed(record):
                self._connections.closed(worker.pid, record)
            case Counters(totals):
                self._totals.reported(worker.pid, totals)
            case Lost(reports):
                worker.reports_lost = reports

    def _broadcast(self, message: ToWorker, descriptors: tuple[int, ...]) -> None:
        frame = encode_frame(message)
        for worker in self.workers.values():
            if not worker.is_outdated:
                worker.send_frame(frame, descriptors)

    def forget_beyond(self, wanted: frozenset[Identity]) -> None:
        """Adopted workers forget certificates of pods that left while there was no agent."""
        for worker in self.workers.values():
            for identity in worker.held - wanted:
                worker.send(ForgetCertificate(identity))
            worker.held = frozenset()

    # ---- adoption ------------------------------------------------------------------------------------------------

    @property
    def _rendezvous_path(self) -> Path:
        return Path(self._config.run_dir) / "workers.sock"

    async def _adopt(self, slot: int) -> Worker | None:
        """The surviving worker of this slot, if there is one and it knocks in time."""
        arrival = self._arrivals.get(slot)
        if arrival is None:
            return None
        try:
            async with asyncio.timeout(ADOPTION_SECONDS):
                return await arrival
        except TimeoutError:
            log.warning("worker %d of the former agent did not come back; a new one takes its place", slot)
            return None

    @contextlib.contextmanager
    def _rendezvous(self) -> Iterator[socket.socket]:
        path = self._rendezvous_path
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
            try:
                path.unlink(missing_ok=True)
                listener.bind(str(path))
                path.chmod(0o600)
                os.chown(path, self._config.worker_uid, -1)
                listener.listen(16)
            except OSError as error:
                raise NotPossible(f"{path}: {error.strerror}", check="Give another --run-dir.") from error
            yield listener

    def _knocked(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:  # it left again before we came to the door
            return
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != self._config.worker_uid:
            log.warning("pid %d with uid %d knocked at the workers' socket and is no worker", pid, uid)
            sock.close()
            return
        visitor = Visitor(sock, pid, self._introduced)
        visitor.complaint = lambda words: log.warning("pid %d at the workers' socket: %s", pid, words)

    def _introduced(self, visitor: Visitor, hello: Hello, descriptors: list[int]) -> None:
        *listeners, report = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        arrival = self._arrivals.get(hello.slot)
        if arrival is None or arrival.done() or hello.slot >= self.slots:
            log.info("worker %d (pid %d) is not needed any more: it drains", hello.slot, visitor.pid)
            visitor.channel.send(encode_frame(Drain(self._config.drain_seconds)))
            for sock in (*listeners, report):
                sock.close()
            return
        worker = Worker(hello.slot, visitor.pid, tuple(listeners), None)
        self._take_in(worker, visitor.channel, report)
        self._resync(worker)
        worker.held = frozenset(hello.identities)
        self._ready(worker)
        arrival.set_result(worker)
        log.info("worker %d (pid %d) of the former agent adopted", hello.slot, visitor.pid)

    def state_is_complete(self) -> None:
        """The mesh and the local pods are known: adopted workers may forget what is not in them."""
        self._is_state_complete = True
        for worker in self.workers.values():
            if worker.is_outdated:
                self._resync(worker)

    def _resync(self, worker: Worker) -> None:
        """Not before the state is complete: until then a predecessor's state is better than ours."""
        worker.is_outdated = not self._is_state_complete
        if not worker.is_outdated:
            worker.send(Resync(self._settings))
            self._state.send_everything(worker.send)

    def _write_roster(self) -> None:
        try:
            write_roster(self._config.run_dir, [(worker.slot, worker.pid) for worker in self.workers.values()])
        except OSError as error:
            log.warning("the roster of workers: %s; a successor will start workers of its own", error)
