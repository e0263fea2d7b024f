# SPDX-License-Identifier: Apache-2.0
"""The one place where reports become metrics, log lines and history, so that each connection is told exactly once.

Reports may be lost (a worker never waits for the agent) and workers may die; the table keeps what was opened, so that
every opening gets its end: by its own report, by the worker's death, or because the worker no longer knows it. The
kernel is one worker more. Who carries a connection whose endpoint was drawn in connect(2) does not know the Service;
the record gets it here, where every record passes.
"""

import contextlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

import msgspec

from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import PID_SHIFT, ConnectionId, ConnectionRecord
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.flow_history import FlowHistory
from nodeagent.telemetry.traffic import TrafficMetrics

KERNEL = 0
"""In place of a worker's pid: of connections that the kernel carries alone."""


MOST_PODS = 4096
"""Whose direct connections are counted: those of many generations of a node's pods."""


class Dialled(NamedTuple):
    """What an application had dialled whose connection went to an endpoint from the beginning."""

    ip: Ip
    port: int
    service: str
    """`ns/hostname`; empty when nothing has that address any more."""
    note: object
    """By which it is forgotten."""


class DialledServices(Protocol):
    @property
    def is_ready(self) -> bool:
        """Whether `find` can tell; before, a connection is asked about again."""

    def find(self, record: ConnectionRecord) -> Dialled | None: ...

    def forget(self, dialled: Dialled) -> None: ...


class NothingDialled:
    """Every record says itself what was dialled."""

    is_ready = True

    def find(self, record: ConnectionRecord) -> Dialled | None:
        del record
        return None

    def forget(self, dialled: Dialled) -> None:
        del dialled


class Spans(Protocol):
    """Of spans.py."""

    def ended(self, record: ConnectionRecord) -> None: ...

    def counts(self) -> dict[str, int]:
        """By what became of them."""
        ...


class NoSpans:
    def ended(self, record: ConnectionRecord) -> None:
        """Nobody collects them."""

    def counts(self) -> dict[str, int]:
        return {}


class Watcher(Protocol):
    """Told of each connection, while somebody traces."""

    def opened(self, record: ConnectionRecord) -> None: ...

    def ended(self, record: ConnectionRecord) -> None:
        """Also of one whose opening was not told."""


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(ConnectionRecord).decode


class _Entry:
    """`packed` is the record as it was opened: about 0.5 KiB instead of 3 as objects, and rarely needed again."""

    __slots__ = ("dialled", "is_asked", "is_missed", "packed", "received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.packed = b""
        self.sent_bytes = self.received_bytes = 0
        self.is_missed = False
        self.is_asked = False
        """Whether `dialled` is known."""
        self.dialled: Dialled | None = None


class OpenConnections:
    """Keyed by worker and by the record's id, which is unique within its worker. Size: `max_connections` per worker."""

    def __init__(self, metrics: TrafficMetrics, access_log: AccessLog) -> None:
        self.dialled: DialledServices = NothingDialled()
        """Asked once for each connection."""
        self.history = FlowHistory()
        self.spans: Spans = NoSpans()
        self.watcher: Watcher | None = None
        self._metrics, self._access_log = metrics, access_log
        self._workers: dict[int, dict[int, _Entry]] = {}
        self._former: set[int] = set()
        """Workers that hand over what they have."""
        self._questions: dict[object, tuple[int, set[int]]] = {}
        self._direct: dict[tuple[str, str], int] = {}
        """The latest last."""

    def __len__(self) -> int:
        return sum(map(len, self._workers.values()))

    def count(self, worker: int) -> int:
        return len(self._workers.get(worker, ()))

    def direct(self, namespace: str, pod: str) -> int:
        """Connections that the kernel has carried alone and had this pod at either end, since the agent's start."""
        return self._direct.get((namespace, pod), 0)

    def find(self, worker: int, number: int) -> ConnectionRecord | None:
        """An open connection as it was when it opened."""
        entry = self._workers.get(worker, {}).get(number)
        return None if entry is None else self._named(entry, _unpack(entry.packed))

    def holder(self, wanted: ConnectionId) -> int | None:
        """The worker that has it, or KERNEL; None: it is not open."""
        workers = (KERNEL,) if wanted.is_in_kernel else [worker for worker in self._workers if worker != KERNEL]
        return next((worker for worker in workers if wanted.id in self._workers.get(worker, ())), None)

    def named(self, worker: int, record: ConnectionRecord) -> ConnectionRecord:
        """With the Service that was dialled, as far as this connection is in the table."""
        entry = self._workers.get(worker, {}).get(record.id)
        return record if entry is None else self._named(entry, record)

    def opened(self, worker: int, record: ConnectionRecord) -> None:
        entry = self._known(worker, record.id)  # a list may be faster than this report
        named = self._named(entry or self._enter(worker, record), record)
        self._access_log.opened(named)
        if self.watcher is not None:
            self.watcher.opened(named)

    def closed(self, worker: int, record: ConnectionRecord) -> None:
        """Also for a connection that was refused before it was open, or whose opening was lost."""
        entry = self._known(worker, record.id)
        if entry is not None:
            del self._workers[worker][record.id]
        else:
            entry = _Entry()
            named = self._named(entry, record)
            self._metrics.opened(opening(named))
            self._count(worker, named)
        for asked, ended in self._questions.values():
            if asked == worker or record.id >> PID_SHIFT:  # a former worker may list what ended at its heir
                ended.add(record.id)
        self._close(entry, record)

    @contextlib.contextmanager
    def asking(self, worker: int) -> Iterator[AbstractSet[int]]:
        """For the time in which a worker is asked for its list: connections whose end was reported meanwhile.

        Reports come on another channel than the list, so it may still name one that is over and told.
        """
        question, ended = object(), set[int]()
        self._questions[question] = worker, ended
        try:
            yield ended
        finally:
            del self._questions[question]

    def observed(
        self,
        worker: int,
        records: Sequence[ConnectionRecord],
        now: float,
        ended: AbstractSet[int] = frozenset(),
        unlisted: Reason = Reason.LOST,
    ) -> None:
        """A worker's whole list of open connections, as it answers ListConnections; `ended` is from `asking`.

        Brings bytes of long connections into the metrics, and connections into the table whose opening was not
        heard: it was lost, or a former agent heard it. One that is not on the list may have its ending still on the
        way, so only the second time it counts as lost, by the reason `unlisted`.
        """
        entries = self._workers.setdefault(worker, {})
        alive = set()
        for record in records:
            alive.add(record.id)
            if record.id in ended:
                continue
            entry = self._known(worker, record.id)
            if entry is None:
                if worker in self._former:  # it has given it away since
                    continue
                entry = self._enter(worker, record)
            entry.is_missed = False
            self._progress(entry, self._named(entry, record))
        for number in [number for number in entries if number not in alive]:
            entry = entries[number]
            if entry.is_missed:
                del entries[number]
                self._close(entry, _ended(entry, unlisted, now))
            entry.is_missed = True

    def cut(self, worker: int, number: int, reason: Reason, now: float) -> None:
        """Ends one that its worker will not tell of any more, with the bytes that were seen last."""
        entry = self._workers.get(worker, {}).pop(number, None)
        if entry is not None:
            self._close(entry, _ended(entry, reason, now))

    def handed_over(self, former: int, heir: int, numbers: Sequence[int]) -> None:
        """Connections of one worker go on at another, with their records. Some may have ended there already."""
        self._former.add(former)
        entries = self._workers.get(former, {})
        for number in numbers:
            entry = entries.pop(number, None)
            if entry is not None:
                entry.is_missed = False
                self._workers.setdefault(heir, {})[number] = entry

    def worker_lost(self, worker: int, now: float) -> int:
        """Ends whatever the dead worker had open, and tells how many that were."""
        self._former.discard(worker)
        entries = self._workers.pop(worker, {})
        for entry in entries.values():
            self._close(entry, _ended(entry, Reason.WORKER_LOST, now))
        return len(entries)

    def _known(self, worker: int, number: int) -> _Entry | None:
        """Also one that another worker has handed over to this one, whose report of that is still to come."""
        entries = self._workers.setdefault(worker, {})
        entry = entries.get(number)
        # Without a pid an id is unique within its worker only.
        if entry is None and number >> PID_SHIFT and worker not in self._former:
            for others in self._workers.values():
                entry = others.pop(number, None)
                if entry is not None:
                    entries[number] = entry
                    break
        return entry

    def _enter(self, worker: int, record: ConnectionRecord) -> _Entry:
        entry = self._workers.setdefault(worker, {})[record.id] = _Entry()
        record = self._named(entry, record)
        entry.packed = _pack(record)
        self._metrics.opened(record)
        self._count(worker, record)
        return entry

    def _count(self, worker: int, record: ConnectionRecord) -> None:
        if worker != KERNEL:
            return
        for pod in {(end.namespace, end.workload) for end in (record.source, record.destination)}:
            self._direct[pod] = self._direct.pop(pod, 0) + 1
            if len(self._direct) > MOST_PODS:
                del self._direct[next(iter(self._direct))]

    def _named(self, entry: _Entry, record: ConnectionRecord) -> ConnectionRecord:
        """Of one that is named already the answer is itself."""
        if not entry.is_asked and self.dialled.is_ready:
            entry.is_asked, entry.dialled = True, self.dialled.find(record)
        if entry.dialled is None:
            return record
        ip, port, service, _ = entry.dialled
        return msgspec.structs.replace(record, original_ip=ip, original_port=port, service=service)

    def _progress(self, entry: _Entry, record: ConnectionRecord) -> None:
        sent, received = record.sent_bytes - entry.sent_bytes, record.received_bytes - entry.received_bytes
        if sent > 0 or received > 0:  # a list that is older than the last one must not take bytes back
            self._metrics.progressed(opening(record), max(sent, 0), max(received, 0))
            entry.sent_bytes = max(entry.sent_bytes, record.sent_bytes)
            entry.received_bytes = max(entry.received_bytes, record.received_bytes)

    def _close(self, entry: _Entry, record: ConnectionRecord) -> None:
        record = self._named(entry, record)
        if entry.dialled is not None:
            self.dialled.forget(entry.dialled)
        self._progress(entry, record)
        self._metrics.closed(record)
        self._access_log.closed(record)
        self.history.ended(record)
        self.spans.ended(record)
        if self.watcher is not None:
            self.watcher.ended(record)


def opening(record: ConnectionRecord) -> ConnectionRecord:
    """As it was labelled while open: opened and byte counters stay in one series, whatever the end."""
    return msgspec.structs.replace(record, reason="") if record.reason else record


def _ended(entry: _Entry, reason: Reason, now: float) -> ConnectionRecord:
    """The record as the agent can end it: bytes are those it saw last."""
    record = _unpack(entry.packed)
    return msgspec.structs.replace(
        record,
        reason=reason.value,
        seconds=max(0.0, now - record.started),
        sent_bytes=entry.sent_bytes,
        received_bytes=entry.received_bytes,
    )
