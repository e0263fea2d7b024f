# SPDX-License-Identifier: Apache-2.0
"""One guard per accepted connection or stream, so that each leaves exactly one record, whatever happens to it.

The first `close` names the reason: teardown signals race, and the earliest is the cause. What is learnt on the way is
written into the record; metrics, access log and the table of open connections are made from it and nothing else.
"""

import socket
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from nodeagent.model.address import Ip
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.model.set_up import Phase, SetUpTimes
from nodeagent.policy.evaluate import ConnectionFacts
from nodeagent.proxy.handover import GuardState, PairState
from nodeagent.proxy.messages import Closed, Opened

_PHASES = {Direction.OUTBOUND: Phase.OUTBOUND, Direction.INBOUND: Phase.INBOUND}
_ERROR_CHARACTERS = 300
"""A peer's words end up in logs: a bound and no control characters."""


class Movable(Protocol):
    """Of relay.py."""

    def surrender(self) -> tuple[PairState, list[socket.socket]]: ...


class Releasable(Protocol):
    """Of terms.py, or of policy/limits.py."""

    def release(self) -> None: ...


class ConnectionGuard:
    """Made at accept, before anything is known; `record` is written to while it lives."""

    __slots__ = (
        "__weakref__", "_opened", "_table", "basis", "ender", "facts", "is_established", "is_open", "leases", "pair",
        "record",
    )  # fmt: skip

    def __init__(self, table: "OpenConnections", record: ConnectionRecord, opened: float) -> None:
        self._table, self._opened = table, opened
        self.is_established = False
        self.is_open = True
        self.record = record
        self.ender: Callable[[Reason, str], None] | None = None
        """How to end it from outside, at the stage in which it is; must lead to `close`."""
        self.facts: ConnectionFacts | None = None
        """What policy allowed it by, once it did; only such connections are judged again."""
        self.basis: object = None
        """The policies that it was judged by."""
        self.leases: tuple[Releasable, ...] = ()
        """What is counted that it holds as long as it is here."""
        self.pair: Movable | None = None
        """Two sockets that could go to another process as they are."""

    def cut(self, reason: Reason, error: str = "") -> None:
        """Ends the connection: its pod left, policy changed, or the worker stops. Not one that is on its way."""
        if not self._table.has(self):
            return
        if self.ender is not None:
            self.ender(reason, error)
        self.close(reason, error)

    def established(self) -> None:
        """Both ends are connected, and policy allows it."""
        if self.is_open and not self.is_established:
            self.is_established = True
            self.record.set_up_seconds = self.age
            self._table.times.add(_PHASES[self.record.direction], self.record.set_up_seconds)
            self._table.emit(Opened(self.record))

    def close(self, reason: Reason, error: str = "") -> None:
        """Only the first call counts."""
        if not self.is_open:
            return
        self.discard()
        self.record.reason = reason.value
        self.record.error = _one_line(error) if error else ""
        self.record.seconds = self.age
        self._table.emit(Closed(self.record))

    def discard(self) -> None:
        """For a tunnel that has carried streams: each has its own record, so the tunnel leaves none."""
        self.is_open = False
        self._release()
        self.ender = self.pair = None  # and with them the circle of references
        self._table.guards.pop(self.record.id, None)

    def leave(self) -> GuardState:
        """It is on its way to another process: nobody ends it any more but who sent it, by `close` or `discard`."""
        self._release()
        self.ender = self.pair = None
        self._table.guards.pop(self.record.id, None)
        return GuardState(self.record, self.age, self.facts, self.is_established)

    def _release(self) -> None:
        leases, self.leases = self.leases, ()
        for lease in leases:
            lease.release()

    def __del__(self) -> None:
        if self.is_open:  # a defect, and still one record; the tests turn the warning into a failure
            message = f"connection from {self.record.source_ip} lost without close()"
            warnings.warn(message, ResourceWarning, stacklevel=2)
            self.close(Reason.LOST)

    @property
    def age(self) -> float:
        return self._table.now() - self._opened


class OpenConnections:
    """The guards that are open, by the id of their record; weakly, so that one that is lost shows itself.

    A dict of references, since a guard leaves the table by itself in any case: the library's class would cost each of
    them two microseconds.
    """

    def __init__(
        self,
        emit: Callable[[Opened | Closed], None],
        now: Callable[[], float],
        wall_clock: Callable[[], float],
        last_id: int = 0,
    ) -> None:
        """`now` is monotonic and may be cheap and coarse; `wall_clock` is Unix time; ids begin behind `last_id`."""
        self.guards: dict[int, weakref.ref[ConnectionGuard]] = {}
        self.emit, self.now = emit, now
        self.times = SetUpTimes()
        self._wall_clock = wall_clock
        self._last_id = last_id

    def __len__(self) -> int:
        return len(self.guards)

    def has(self, guard: ConnectionGuard) -> bool:
        found = self.guards.get(guard.record.id)
        return found is not None and found() is guard

    def begin(self, direction: Direction, source: tuple[Ip, int], original: tuple[Ip, int]) -> ConnectionGuard:
        self._last_id += 1
        record = ConnectionRecord(
            id=self._last_id,
            direction=direction,
            started=self._wall_clock(),
            source_ip=source[0],
            source_port=source[1],
            original_ip=original[0],
            original_port=original[1],
        )
        guard = ConnectionGuard(self, record, self.now())
        self.guards[record.id] = weakref.ref(guard)
        return guard

    def resume(self, state: GuardState) -> ConnectionGuard:
        """One that another process has begun. Raises ValueError when its id is taken."""
        if state.record.id in self.guards:
            raise ValueError(f"connection {state.record.id} is here already")
        guard = ConnectionGuard(self, state.record, self.now() - state.seconds)
        self.guards[state.record.id] = weakref.ref(guard)
        guard.facts, guard.is_established = state.facts, state.is_established
        return guard

    def all(self) -> list[ConnectionGuard]:
        found = [reference() for reference in self.guards.values()]
        return [guard for guard in found if guard is not None]

    def records(self) -> Iterator[ConnectionRecord]:
        """Copies of those that are established, with the age up to this moment."""
        for guard in self.all():
            if guard.is_established:
                yield msgspec.structs.replace(guard.record, seconds=guard.age)


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_ERROR_CHARACTERS])
