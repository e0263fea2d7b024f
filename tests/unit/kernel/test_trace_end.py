# SPDX-License-Identifier: Apache-2.0
"""The end of a trace when the machine lacks something just then: the next reconcile attaches the usual programs."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import steering as module
from nodeagent.kernel.attach import Attachment, Hook, Kind, Program
from nodeagent.kernel.loader import Cancellation
from nodeagent.kernel.sources import FILTERS, PROGRAMS
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.tracing import WantedTrace

FIRST, SECOND = Hook(is_in_proxy=False, device=7), Hook(is_in_proxy=False, device=8)
USUAL, TELLING = 1, 101
"""Ids of the programs called from_pod."""


class Machine:
    """In place of the kernel, for two hooks of from_pod."""

    def __init__(self, steering: Steering) -> None:
        self.programs = {FIRST: USUAL, SECOND: USUAL}
        self.lacks_sockets = False
        self.lacks_at: dict[Hook, Exception] = {}
        self.pinned = steering._pins.trace_programs
        steering._programs = {name: Program(name, USUAL + row, "") for row, name in enumerate(PROGRAMS)}
        steering._filters = dict.fromkeys(self.programs, "from_pod")

    # ---- an Attacher -----------------------------------------------------------------------------------------------

    def find(self, hook: Hook) -> frozenset[Attachment]:
        return frozenset({Attachment(Kind.TCX, self.programs[hook])})

    def attach(self, hook: Hook, program: Program) -> None:
        if hook in self.lacks_at:
            raise self.lacks_at[hook]
        self.programs[hook] = program.id

    # ---- an IPRoute ------------------------------------------------------------------------------------------------

    def open(self) -> "Machine":
        if self.lacks_sockets:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        pass

    # ---- a loader --------------------------------------------------------------------------------------------------

    def load(self, *_: object, is_trace: bool, cancellation: Cancellation | None) -> None:
        assert is_trace
        assert cancellation is None
        self.pinned.mkdir(parents=True)
        for name in FILTERS:
            (self.pinned / name).touch()


class Opened:
    """In place of Trace."""

    def __init__(self, _folder: Path) -> None:
        pass

    def ask(self, _wanted: WantedTrace) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def steering(tmp_path: Path) -> Steering:
    return Steering(bpffs=str(tmp_path), run_dir=str(tmp_path))


@pytest.fixture
def machine(steering: Steering, monkeypatch: pytest.MonkeyPatch) -> Machine:
    @contextlib.contextmanager
    def inside() -> Iterator[None]:
        yield None

    made = Machine(steering)
    monkeypatch.setattr(steering._namespace, "inside", inside)
    monkeypatch.setattr(module, "IPRoute", made.open)
    monkeypatch.setattr(module, "Attacher", lambda *_: made)
    monkeypatch.setattr(module, "choose_kind", lambda _setting: Kind.TCX)
    monkeypatch.setattr(module, "load_programs", made.load)
    monkeypatch.setattr(
        module, "_read_program", lambda name, path: Program(name, TELLING + FILTERS.index(name), str(path))
    )
    monkeypatch.setattr(module, "Trace", Opened)
    steering.start_trace(WantedTrace(7, ()))
    assert made.programs == {FIRST: TELLING, SECOND: TELLING}
    return made


def test_it_leaves_nothing(steering: Steering, machine: Machine) -> None:
    steering.stop_trace()
    assert machine.programs == {FIRST: USUAL, SECOND: USUAL}
    assert not machine.pinned.exists()
    assert not steering.is_tracing


def test_without_a_socket_the_next_reconcile_wants_the_usual_programs_and_the_pins_wait_for_it(
    steering: Steering, machine: Machine
) -> None:
    machine.lacks_sockets = True
    with pytest.raises(KernelError, match="Too many open files"):
        steering.stop_trace()
    assert (steering.is_tracing, steering._variants) == (False, {})
    assert machine.pinned.exists()


@pytest.mark.parametrize("error", [KernelError("busy"), OSError(errno.EMFILE, os.strerror(errno.EMFILE))])
def test_a_hook_that_fails_does_not_hold_up_the_others(steering: Steering, machine: Machine, error: Exception) -> None:
    machine.lacks_at[FIRST] = error
    steering.stop_trace()
    assert machine.programs == {FIRST: TELLING, SECOND: USUAL}
    assert (steering.is_tracing, steering._variants) == (False, {})
    assert machine.pinned.exists()
