# SPDX-License-Identifier: Apache-2.0
"""The fleet of workers: started, fed, watched, replaced, and adopted when they outlived another agent.

A slot is a worker's number and its place in the kernel's table of listeners. The agent keeps a copy of each slot's
listening sockets, so that a connection that arrives while a worker is being replaced waits in the backlog instead of
being refused. Workers go on when the agent dies, and knock at the rendezvous socket of the next one.
"""

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from nodeagent.agent.channel import Channel
from nodeagent.agent.launch import launch
from nodeagent.agent.questions import Questions
from nodeagent.agent.rendezvous import Guest, Rendezvous
from nodeagent.agent.replacement import Replacement
from nodeagent.agent.roster import LEAVING, living_workers, write_roster
from nodeagent.agent.state import NodeState
from nodeagent.agent.tls_probe import try_aside
from nodeagent.agent.worker import Worker
from nodeagent.config import Config
from nodeagent.errors import KernelError, NotPossible
from nodeagent.kernel import congestion
from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.maps import SLOTS
from nodeagent.kernel.steering import Steering
from nodeagent.logs.levels import LogLevels
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.record import PID_SHIFT, ConnectionRecord
from nodeagent.proxy.framing import encode_frame
from nodeagent.proxy.handover import VERSION as HANDOVER
from nodeagent.proxy.kernel_tls import load_module
from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.proxy.messages import (
    Applied,
    Closed,
    Connections,
    Counters,
    Cut,
    Drain,
    ForgetCertificate,
    FromWorker,
    HandedOver,
    Hello,
    Lost,
    Opened,
    Pong,
    Ready,
    Report,
    Resync,
    SetLogLevels,
    Start,
    ToWorker,
    WorkerConfig,
)
from nodeagent.telemetry.open_connections import OpenConnections
from nodeagent.telemetry.totals import Totals
from nodeagent.version import VERSION

log = logging.getLogger(__name__)

ADOPTION_SECONDS = 15.0
"""A surviving worker knocks at least once a second, if it is given a processor; one that does not come within this
hangs, and is replaced. One that has died is not waited for."""
RESTART_SECONDS = (0.0, 0.05, 0.2, 1.0, 5.0)
"""Pause before the n-th start in a row that did not live for STABLE_SECONDS; the last one goes on."""
STABLE_SECONDS = 10.0
KERNEL_RETRY_SECONDS = 1.0
SUCCESSOR_SECONDS = 60.0
"""Start of a worker on a busy machine, while the former one serves."""
BACKLOG_SECONDS = 0.2
"""Between taking a worker's listeners out of the kernel's table and its drain: for handshakes that are on their way."""
LAST_SECONDS = 5.0
"""What a draining worker gets beyond its deadline; then it is killed."""
STALLED_SECONDS = 60.0
"""A worker that has read nothing for so long hangs, and what it should know piles up here."""
PING_SECONDS = 1.0
SILENT_SECONDS = 5.0
"""A worker that owes an answer for so long does not serve either; shorter ones are work, such as a thousand
handshakes."""
KINDS = (ListenerKind.OUTBOUND, ListenerKind.HBONE, ListenerKind.PLAINTEXT)
"""Order of the descriptors in Start and Hello."""


def decide_slots(wanted: int, cores: int) -> int:
    """How many workers: as many as are wanted; else one for two cores, but no more than the kernel has places for."""
    return wanted or min(max(1, cores // 2), SLOTS)


def worker_config(config: Config) -> WorkerConfig:
    """The worker's part of it, and what this node is like."""
    shared = {name: getattr(config, name) for name in WorkerConfig.__struct_fields__ if hasattr(config, name)}
    return WorkerConfig(**shared, far_congestion=congestion.read().far)


class WorkerFleet:
    def __init__(
        self, config: Config, steering: Steering, state: NodeState, connections: OpenConnections, totals: Totals
    ) -> None:
        self.workers: dict[int, Worker] = {}
        self.restarts: Counter[int] = Counter()
        """Workers that died, by slot."""
        self._config, self._steering, self._state = config, steering, state
        self._connections, self._totals = connections, totals
        self._settings = worker_config(config)
        self._kernel_tls: KernelTls | None = None
        self._log_levels = LogLevels.parse(config.log_level)
        self.slots = decide_slots(config.workers, os.cpu_count() or 1)
        self._arrivals: dict[int, tuple[int, asyncio.Future[Worker]]] = {}
        """By slot: the pid that is waited for. A pid is believed, since the kernel says whose the socket is."""
        self._coming: dict[int, Worker] = {}
        """By slot: who will take the place of a worker that is well."""
        self._leaving: set[Worker] = set()
        self._farewells: asyncio.Queue[Worker] = asyncio.Queue()
        self._superfluous_is_out = asyncio.Event()
        self._progress = asyncio.Event()
        self._questions = Questions(connections)
        self._reports_lost = 0
        """By workers that have ended."""
        self._is_state_complete = False
        self._state_completed = asyncio.Event()
        self._survivors: frozenset[int] = frozenset()
        """Pids that the former agent left on its roster."""
        state.subscribe(self._broadcast)

    async def run(self) -> None:
        """Ends only by cancellation, and then leaves the workers to a successor."""
        loop = asyncio.get_running_loop()
        if self._config.kernel_tls == "auto":
            load_module()  # a worker may not
            self._kernel_tls = await asyncio.to_thread(try_aside)
        survivors = living_workers(self._config.run_dir)
        self._survivors = frozenset(pid for _, pid in survivors)
        self._arrivals = {slot: (pid, loop.create_future()) for slot, pid in survivors if 0 <= slot < self.slots}
        rendezvous = Rendezvous(self._rendezvous_path, self._config.worker_uid, self._introduced)
        with rendezvous.open():
            try:
                async with asyncio.TaskGroup() as group:
                    for slot in range(self.slots):
                        group.create_task(self._keep(slot), name=f"worker {slot}")
                    group.create_task(self._empty_slots(), name="superfluous slots")
                    group.create_task(self._renew(), name="workers of another version")
                    group.create_task(self._ping(), name="heartbeat")
                    group.create_task(self._see_off_leaving(group), name="superfluous workers")
            finally:
                for worker in self._everyone():
                    worker.let_go()
                for worker in self._leaving:
                    _close_all(worker.listeners)

    @property
    def is_ready(self) -> bool:
        return len(self.workers) == self.slots and all(worker.is_ready for worker in self.workers.values())

    @property
    def silent(self) -> dict[int, float]:
        """By slot: for how many seconds its worker has not answered, of those that are too late."""
        silences = {slot: worker.silent_seconds for slot, worker in self.workers.items()}
        return {slot: seconds for slot, seconds in silences.items() if seconds > SILENT_SECONDS}

    def set_log_levels(self, levels: LogLevels) -> None:
        """For all workers, and those to come."""
        self._log_levels = levels
        for worker in self._everyone():
            self._tell_levels(worker)

    def _tell_levels(self, worker: Worker) -> None:
        """Also of the configured ones: an adopted worker may have others, from its former agent."""
        if SetLogLevels.__name__ in worker.orders:
            worker.send(SetLogLevels(self._log_levels))
            worker.log_levels = str(self._log_levels)

    async def _ping(self) -> None:
        while True:
            for worker in self._everyone():
                worker.ping()
            await asyncio.sleep(PING_SECONDS)

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
        return (await self._questions.ask({one for one in self._everyone() if one.is_ready}, timeout_seconds))[0]

    async def observe(self, timeout_seconds: float = 2.0) -> None:
        """Brings the bytes of long connections into the metrics, and ends workers that hang."""
        for worker in tuple(self._everyone()):
            if worker.stalled_seconds > STALLED_SECONDS:
                worker.kill(f"it has read nothing for {worker.stalled_seconds:.0f} s")
            elif worker.is_ready:
                await self._questions.observe(worker, timeout_seconds)

    @property
    def reports_lost(self) -> int:
        """By all workers so far."""
        return self._reports_lost + sum(worker.reports_lost for worker in self._everyone())

    def cut(self, pid: int, number: int) -> None:
        """Has a worker end the connection of this record id. Raises NotPossible when it cannot be told."""
        for worker in self._everyone():
            if worker.pid == pid:
                if Cut.__name__ not in worker.orders:
                    raise NotPossible(
                        f"worker {worker.slot} is of another release, which ends no connection by order",
                        check=f"`nodeagent workers replace --worker {worker.slot}` gives it a successor that does.",
                    )
                worker.send(Cut(number))

    async def replace(self, slot: int) -> Replacement:
        """A successor takes the slot of a living worker, then what is open. Raises NotPossible; nothing changed then.

        Both accept from the same listening sockets, so no connection can fall between them. What cannot be handed over,
        or everything if their versions differ, drains. Returns when the successor serves; `ended` tells the rest.
        """
        former = self.workers.get(slot)
        if former is None or not former.is_ready or self._state.local is None or slot in self._coming:
            raise NotPossible(
                f"worker {slot} is not there to be replaced", check="`nodeagent status` shows the workers."
            )
        successor = self._launch(slot, former.listeners)
        if successor is None:
            raise NotPossible(f"no successor of worker {slot} can be started", check="The agent's log says why.")
        self._coming[slot] = successor
        try:
            self._write_roster()
            await self._wait_until_it_serves(successor, former)
        except (NotPossible, asyncio.CancelledError):
            self._retire(successor)  # it may serve already
            raise
        finally:
            del self._coming[slot]
        successor.is_ready = True
        self.workers[slot] = successor
        former.heir = successor
        former.replacement = Replacement(slot=slot, former=former.pid, pid=successor.pid)
        former.left.set()
        self._retire(former)
        log.info("worker %d (pid %d) takes the place of pid %d", slot, successor.pid, former.pid)
        return former.replacement

    async def _renew(self) -> None:
        """Workers that an agent of another version has left hand over to such of ours, if they can.

        Others serve on as they are: it is for the operator to say when their connections may end.
        """
        await self._state_completed.wait()
        while not await self.started(ADOPTION_SECONDS):
            pass
        for slot, worker in tuple(self.workers.items()):
            if worker.is_adopted and worker.program != VERSION and worker.handover == HANDOVER:
                try:
                    await self.replace(slot)
                except NotPossible as error:
                    log.warning("worker %d stays what it is, of version %s: %s", slot, worker.program, error)

    def _retire(self, worker: Worker) -> None:
        """It drains, beside the worker that has its slot and its listeners."""
        worker.listeners = ()
        self._leaving.add(worker)
        self._farewells.put_nowait(worker)

    async def _wait_until_it_serves(self, successor: Worker, former: Worker) -> None:
        generation = self._state.apply(Changes())  # nothing but a number to wait for, behind all that it must know

        def is_decided() -> bool:
            return successor.generation >= generation or successor.gone.is_set() or former.gone.is_set()

        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(self._notice_end(worker)) for worker in (successor, former)]
            in_time = await self._progressed(is_decided, SUCCESSOR_SECONDS)
            for watch in watches:
                watch.cancel()
        if not in_time or successor.gone.is_set() or former.gone.is_set():
            which = "former" if former.gone.is_set() else "successor"
            raise NotPossible(f"worker {former.slot} was not replaced: the {which} ended or was too slow")

    async def _notice_end(self, worker: Worker) -> None:
        await worker.gone.wait()
        self._progress.set()

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
        listeners = worker.listeners if worker else await asyncio.to_thread(self._make_listeners)
        try:
            await self._keep_with(slot, worker, listeners)
        finally:
            _close_all(listeners)

    async def _keep_with(self, slot: int, worker: Worker | None, listeners: tuple[socket.socket, ...]) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            worker = worker or self._start(slot, listeners)
            if worker is not None:
                self._write_roster()
                await self._serve(worker)
                if self.workers[slot] is not worker:  # replaced; whoever sees it off buries it too, if it is dead
                    worker = self.workers[slot]
                    continue
                self._bury(worker)
                worker = None
            failures = 0 if time.monotonic() - began > STABLE_SECONDS else failures + 1
            await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)])

    async def _serve(self, worker: Worker) -> None:
        """Until its slot is another's."""
        async with asyncio.TaskGroup() as group:
            installing = group.create_task(self._install(worker))
            await worker.left.wait()
            installing.cancel()

    async def _install(self, worker: Worker) -> None:
        """Gives it new connections as soon as it can serve them."""
        await worker.said_ready.wait()
        for kind, listener in zip(KINDS, worker.listeners, strict=True):
            await self._put_listener(kind, worker.slot, listener)
        worker.is_ready = True
        self._progress.set()
        if worker.is_adopted:
            await self._questions.observe(worker, ADOPTION_SECONDS)

    async def _put_listener(self, kind: ListenerKind, slot: int, listener: socket.socket | None) -> None:
        """In a thread, since the kernel part may be compiling; and again, until it works."""
        told = ""
        while True:
            try:
                await asyncio.to_thread(self._steering.put_listener, kind, slot, listener)
            except KernelError as error:
                if str(error) != told:
                    log.error("listener %s of worker %d: %s; tried again. %s", kind.name, slot, error, error.check)
                told = str(error)
                await asyncio.sleep(KERNEL_RETRY_SECONDS)
            else:
                return

    def _make_listeners(self) -> tuple[socket.socket, ...]:
        made = self._steering.make_listeners()
        return tuple(made[kind] for kind in KINDS)

    def _start(self, slot: int, listeners: tuple[socket.socket, ...]) -> Worker | None:
        worker = self._launch(slot, listeners)
        if worker is not None:
            self.workers[slot] = worker
        return worker

    def _launch(self, slot: int, listeners: tuple[socket.socket, ...]) -> Worker | None:
        """Started and told everything; nobody else knows it yet.

        None when this machine cannot start one now: out of processes, memory or descriptors.
        """
        try:
            launched = launch(
                slot,
                netns=self._steering.netns_path(),
                uid=self._config.worker_uid,
                rendezvous=self._rendezvous_path,
            )
        except OSError as error:
            log.error("worker %d cannot be started: %s; tried again", slot, error)
            return None
        worker = Worker(slot, launched.child.pid, launched.pidfd, listeners, launched.child)
        worker.listen(Channel(launched.control), Channel(launched.report), self._told, self._reported)
        worker.send(
            Start(self._settings, VERSION, self._kernel_tls), tuple(listener.fileno() for listener in listeners)
        )
        self._state.send_everything(worker.send)
        log.info("worker %d started (pid %d)", slot, worker.pid)
        return worker

    def _bury(self, worker: Worker) -> None:
        del self.workers[worker.slot]
        self.restarts[worker.slot] += 1
        why = f"was killed: {worker.broken}" if worker.broken else "ended"
        lost = self._ended(worker)
        log.error(
            "worker %d (pid %d) %s; %d open connections were reset, a new worker takes its place",
            worker.slot,
            worker.pid,
            why,
            lost,
        )

    def _ended(self, worker: Worker) -> int:
        """How many of its connections ended with it."""
        worker.let_go()
        self._reports_lost += worker.reports_lost
        self._progress.set()
        self._questions.worker_gone()
        self._totals.ended(worker.pid)
        return self._connections.worker_lost(worker.pid, time.time())

    # ---- what workers say, and are told --------------------------------------------------------------------------

    def _told(self, worker: Worker, message: FromWorker) -> None:
        match message:
            case Ready():
                worker.handover = message.handover
                worker.has_kernel_tls, worker.kernel_tls_found = message.kernel_tls, message.kernel_tls_found
                worker.is_compiled = message.is_compiled
                worker.orders = frozenset(message.orders)
                self._tell_levels(worker)  # they may have changed since Start
                worker.said_ready.set()
            case Applied(generation):
                worker.generation = generation
                self._progress.set()
            case Connections():
                self._questions.answered(worker, message)
            case Pong():
                worker.answered()
            case Hello():
                worker.kill("it said Hello twice")

    def _reported(self, worker: Worker, message: Report) -> None:
        match message:
            case Opened(record):
                self._connections.opened(worker.pid, record)
            case Closed(record):
                if record.id >> PID_SHIFT != worker.pid:  # begun by another: what that one said comes first
                    for former in tuple(self._leaving):
                        former.hear()
                if worker.replacement is not None:
                    worker.replacement.closed(record.reason)
                self._connections.closed(worker.pid, record)
            case Counters(totals):
                self._totals.reported(worker.pid, totals)
            case Lost(reports):
                worker.reports_lost = reports
            case HandedOver(pid, ids):
                if worker.replacement is not None:
                    worker.replacement.handed(len(ids))
                self._connections.handed_over(worker.pid, pid, ids)

    def _broadcast(self, message: ToWorker, descriptors: tuple[int, ...]) -> None:
        frame = encode_frame(message)
        for worker in self._everyone():
            if not worker.is_outdated:
                worker.send_frame(frame, descriptors)

    def state_is_complete(self, wanted: frozenset[Identity]) -> None:
        """The mesh, the local pods and the `wanted` identities are known: what adopted workers know beyond may go.

        The keeper of certificates tells the end of those that it got itself; a certificate that a worker brought along
        may be of a pod that left while there was no agent.
        """
        self._is_state_complete = True
        self._state_completed.set()
        for worker in self._everyone():
            if worker.is_outdated:
                self._resync(worker)
            for identity in worker.held - wanted:
                worker.send(ForgetCertificate(identity))
            worker.held &= wanted

    def _everyone(self) -> Iterator[Worker]:
        yield from self.workers.values()
        yield from self._coming.values()
        yield from self._leaving

    # ---- adoption ------------------------------------------------------------------------------------------------

    @property
    def _rendezvous_path(self) -> Path:
        return Path(self._config.run_dir) / "workers.sock"

    async def _adopt(self, slot: int) -> Worker | None:
        """The surviving worker of this slot, if there is one and it knocks in time."""
        if slot not in self._arrivals:
            return None
        _, arrival = self._arrivals[slot]
        await asyncio.wait((arrival,), timeout=ADOPTION_SECONDS)
        if arrival.done():
            return arrival.result()
        arrival.cancel()  # from here on it is too late
        log.warning("worker %d of the former agent did not come back; a new one takes its place", slot)
        return None

    def _introduced(self, guest: Guest) -> None:
        slot = guest.hello.slot
        current = self.workers.get(slot)
        if current is not None and current.pid == guest.pid:
            self._reunited(current, guest)
            return
        worker = Worker(slot, guest.pid, guest.pidfd, guest.listeners)
        worker.said_ready.set()
        worker.held = frozenset(guest.hello.identities)
        worker.handover, worker.program = guest.hello.handover, guest.hello.program
        worker.has_kernel_tls, worker.kernel_tls_found = guest.hello.kernel_tls, guest.hello.kernel_tls_found
        worker.is_compiled = guest.hello.is_compiled
        worker.orders = frozenset(guest.hello.orders)
        worker.listen(guest.channel, Channel(guest.report), self._told, self._reported)
        self._tell_levels(worker)
        pid, arrival = self._arrivals.get(slot, (0, None))
        if arrival is not None and pid == guest.pid and not arrival.done():
            self.workers[slot] = worker
            arrival.set_result(worker)
            log.info("worker %d (pid %d) of the former agent adopted", slot, worker.pid)
        else:
            worker.is_stranger = worker.pid not in self._survivors
            worker.is_ready = True  # for as long as it has connections, it is asked for them
            self._leaving.add(worker)
            self._farewells.put_nowait(worker)
            log.info("worker %d (pid %d) is not needed any more: it will drain", slot, worker.pid)
        self._resync(worker)

    def _reunited(self, worker: Worker, guest: Guest) -> None:
        """It lost its control socket, to a defect, and came back to us. The listeners that we have are the same."""
        log.warning("worker %d (pid %d) had lost its agent and is back", worker.slot, worker.pid)
        os.close(guest.pidfd)
        _close_all(guest.listeners)
        worker.listen(guest.channel, Channel(guest.report), self._told, self._reported)
        self._resync(worker)

    def _resync(self, worker: Worker) -> None:
        """Not before the state is complete: until then a predecessor's state is better than ours.

        Never for a stranger: whoever has the workers' uid can knock, and what we would tell has the node's keys in it.
        """
        worker.is_outdated = worker.is_stranger or not self._is_state_complete
        if not worker.is_outdated:
            worker.send(Resync(self._settings))
            self._tell_levels(worker)
            self._state.send_everything(worker.send)

    def _write_roster(self) -> None:
        rows = [(worker.slot, worker.pid) for worker in self.workers.values()]
        rows += [(LEAVING, worker.pid) for worker in (*self._coming.values(), *self._leaving)]
        try:
            write_roster(self._config.run_dir, rows)
        except OSError as error:
            log.warning("the roster of workers: %s; a successor will start workers of its own", error)

    # ---- superfluous workers -------------------------------------------------------------------------------------

    async def _empty_slots(self) -> None:
        """A former agent had more workers. Their slots are emptied when ours serve, and before they drain."""
        while not await self.started(ADOPTION_SECONDS):
            pass
        for slot in range(self.slots, SLOTS):
            for kind in KINDS:
                await self._put_listener(kind, slot, None)
        self._superfluous_is_out.set()

    async def _see_off_leaving(self, group: asyncio.TaskGroup) -> None:
        while True:
            worker = await self._farewells.get()
            group.create_task(self._see_off(worker), name=f"leaving worker {worker.pid}")

    async def _see_off(self, worker: Worker) -> None:
        """It drains and ends; its connections are told like any other's."""
        self._write_roster()
        await self._questions.observe(worker, ADOPTION_SECONDS)
        await self._superfluous_is_out.wait()
        await asyncio.sleep(BACKLOG_SECONDS)
        self._send_away(worker)
        try:
            async with asyncio.timeout(self._config.drain_seconds + LAST_SECONDS):
                await worker.gone.wait()
        except TimeoutError:
            worker.kill("it did not end in time")
            await worker.gone.wait()
        self._leaving.discard(worker)
        _close_all(worker.listeners)
        lost = self._ended(worker)
        log.info("worker %d (pid %d) has ended; %d connections with it", worker.slot, worker.pid, lost)
        if worker.replacement is not None:
            worker.replacement.over(lost)
        self._write_roster()

    def _send_away(self, worker: Worker) -> None:
        if worker.can_hand_over:
            try:
                worker.hand_over(self._config.drain_seconds)
            except OSError as error:
                log.error("worker %d cannot hand over: %s; it drains", worker.slot, error)
            else:
                return
        worker.send(Drain(self._config.drain_seconds))


def _close_all(listeners: tuple[socket.socket, ...]) -> None:
    """Our copies; those of a worker that lives are its own."""
    for listener in listeners:
        listener.close()
