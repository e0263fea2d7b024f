# SPDX-License-Identifier: Apache-2.0
"""What the machine lacks for a moment is an error of the kernel part, which is tried again, and no bug."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel.loader import LoadCancelled
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.wanted import Wanted

NOTHING = Wanted(pods=(), known=frozenset(), adoption_seconds=0)


@pytest.fixture
def steering(monkeypatch: pytest.MonkeyPatch) -> Steering:
    def refuse(_steering: Steering) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("nodeagent.kernel.probe.require_bpffs", lambda _path: None)
    monkeypatch.setattr(Steering, "_load", refuse)
    return Steering(bpffs="/nowhere", run_dir="/nowhere")


def test_out_of_descriptors(steering: Steering) -> None:
    with pytest.raises(KernelError, match="Too many open files"):
        steering.reconcile(NOTHING)


def test_counters_of_a_map_that_was_closed(steering: Steering, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = SimpleNamespace(reason_counts=SimpleNamespace(descriptor=1 << 20))
    monkeypatch.setattr(steering._tables, "_maps", maps)
    with pytest.raises(KernelError, match="counters"):
        steering.counters()


def test_before_the_start_there_is_nothing_to_read() -> None:
    steering = Steering(bpffs="/nowhere", run_dir="/nowhere")
    assert steering.pods() == []
    with pytest.raises(KernelError, match="not open yet"):
        steering.counters()


def test_what_is_given_up_is_not_compiled(tmp_path: Path) -> None:
    steering = Steering(bpffs=str(tmp_path), run_dir=str(tmp_path))
    steering.give_up_loading()
    with pytest.raises(LoadCancelled, match="given up"):
        steering._load()
    assert list(tmp_path.iterdir()) == []


def test_maps_that_could_not_be_opened_anew_are_opened_by_the_next_reconcile(monkeypatch: pytest.MonkeyPatch) -> None:
    """After somebody took the pins away, and the programs were loaded again with maps of their own."""
    steering = Steering(bpffs="/nowhere", run_dir="/nowhere")
    former = SimpleNamespace(known={}, close=lambda: None)
    monkeypatch.setattr(steering._tables, "_maps", former)
    pinned = iter((False, True, True))
    monkeypatch.setattr("nodeagent.kernel.pins.Pins.has_programs", lambda _pins: next(pinned))
    monkeypatch.setattr(steering._programs, "load", dict)
    monkeypatch.setattr(steering._programs, "find", lambda: None)
    opened: list[SimpleNamespace] = []

    def open_maps(_path: Path) -> SimpleNamespace:
        opened.append(SimpleNamespace())
        if len(opened) == 1:
            raise KernelError("map: Too many open files")
        return opened[-1]

    monkeypatch.setattr("nodeagent.kernel.tables.Maps", open_maps)
    with pytest.raises(KernelError, match="Too many"):
        steering._load()
    assert id(steering._tables.opened) == id(former)
    steering._load()
    assert id(steering._tables.opened) == id(opened[1])
    steering._load()
    assert len(opened) == 2
