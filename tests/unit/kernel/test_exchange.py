# SPDX-License-Identifier: Apache-2.0
"""A trace's programs at the hooks, and its end when the machine lacks something: the next reconcile repairs that."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.errors import KernelError, NotPossible
from nodeagent.kernel import exchange as module
from nodeagent.kernel.attach import Attachment, Hook, Kind, Program
from nodeagent.kernel.exchange import Exchange
from nodeagent.kernel.loader import Cancellation
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.programs import Programs
from nodeagent.kernel.sources import FILTERS, PROGRAMS
from nodeagent.kernel.tracing import WantedTrace

FIRST, SECOND, GONE = (Hook(is_in_proxy=False, device=device) for device in (7, 8, 9))
USUAL, TELLING = 1, 101
"""Ids of the programs called from_pod."""
WANTED = WantedTrace(7, ())


class Machine:
    """In place of the kernel, for two hooks of from_pod and one whose device has gone."""

    def __init__(self, pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attached = {FIRST: USUAL, SECOND: USUAL}
        self.lacks_sockets = False
        self.lacks_at: dict[Hook, Exception] = {}
        self.pinned = pins.trace_programs
        self.programs = Programs(pins, Path("/nowhere"))
        self.programs.usual = {name: Program(name, USUAL + row, "") for row, name in enumerate(PROGRAMS)}
        monkeypatch.setattr(self.programs, "load_variants", self.load)
        self.exchange = Exchange(pins, self.programs, threading.RLock(), self.attaching)
        self.exchange.filters = dict.fromkeys((FIRST, SECOND, GONE), "from_pod")

    @contextlib.contextmanager
    def attaching(self) -> Iterator[Any]:
        if self.lacks_sockets:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        yield self

    def load(self, cancellation: Cancellation | None) -> dict[str, Program]:
        assert cancellation is None
        self.pinned.mkdir(parents=True)
        return {name: Program(name, TELLING + row, str(self.pinned / name)) for row, name in enumerate(FILTERS)}

    # ---- an Attacher -----------------------------------------------------------------------------------------------

    def find(self, hook: Hook) -> frozenset[Attachment]:
        return frozenset({Attachment(Kind.TCX, self.attached[hook])} if hook in self.attached else ())

    def attach(self, hook: Hook, program: Program) -> None:
        if hook in self.lacks_at:
            raise self.lacks_at[hook]
        self.attached[hook] = program.id


class Opened:
    """In place of Trace."""

    is_open = False

    def __init__(self, _folder: Path) -> None:
        Opened.is_open = True

    def ask(self, wanted: WantedTrace) -> None:
        if wanted.peers:
            raise KernelError("they do not fit")

    def close(self) -> None:
        Opened.is_open = False


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(module, "Trace", Opened)
    return Machine(Pins(tmp_path), monkeypatch)


@pytest.fixture
def tracing(machine: Machine) -> Machine:
    machine.exchange.start(WANTED)
    assert machine.attached == {FIRST: TELLING, SECOND: TELLING}
    assert machine.programs.in_force["from_pod"].id == TELLING
    return machine


def test_it_leaves_nothing(tracing: Machine) -> None:
    tracing.exchange.stop()
    assert tracing.attached == {FIRST: USUAL, SECOND: USUAL}
    assert not tracing.pinned.exists()
    assert not tracing.exchange.is_tracing


def test_there_is_one_at_a_time(tracing: Machine) -> None:
    with pytest.raises(NotPossible, match="another trace"):
        tracing.exchange.start(WANTED)
    assert tracing.attached == {FIRST: TELLING, SECOND: TELLING}


def test_to_end_none_is_fine(machine: Machine) -> None:
    machine.lacks_sockets = True
    machine.exchange.stop()
    assert machine.attached == {FIRST: USUAL, SECOND: USUAL}


def test_what_cannot_be_asked_leaves_nothing(machine: Machine) -> None:
    with pytest.raises(KernelError, match="do not fit"):
        machine.exchange.start(WantedTrace(7, (), frozenset({(WANTED, 1)})))  # type: ignore[arg-type]
    assert machine.attached == {FIRST: USUAL, SECOND: USUAL}
    assert not machine.pinned.exists()
    assert (machine.exchange.is_tracing, Opened.is_open) == (False, False)


def test_without_a_socket_the_next_reconcile_wants_the_usual_programs_and_the_pins_wait_for_it(
    tracing: Machine,
) -> None:
    tracing.lacks_sockets = True
    with pytest.raises(KernelError, match="Too many open files"):
        tracing.exchange.stop()
    assert (tracing.exchange.is_tracing, tracing.programs.variants) == (False, {})
    assert tracing.pinned.exists()


@pytest.mark.parametrize("error", [KernelError("busy"), OSError(errno.EMFILE, os.strerror(errno.EMFILE))])
def test_a_hook_that_fails_does_not_hold_up_the_others(tracing: Machine, error: Exception) -> None:
    tracing.lacks_at[FIRST] = error
    tracing.exchange.stop()
    assert tracing.attached == {FIRST: TELLING, SECOND: USUAL}
    assert (tracing.exchange.is_tracing, tracing.programs.variants) == (False, {})
    assert tracing.pinned.exists()
