# SPDX-License-Identifier: Apache-2.0
"""Paths of pins, and which of them go; plain folders stand for bpffs."""

import errno
import os
from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel.pins import Pins, is_bpffs, read_counters, unfinished
from nodeagent.kernel.sources import PROGRAMS, layout_hash, source_hash
from nodeagent.model.mark import Marks


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    made = Pins(tmp_path)
    made.maps.mkdir(parents=True)
    made.programs.mkdir(parents=True)
    return made


def test_paths(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    assert pins.maps == tmp_path / "nodeagent" / layout_hash() / "maps"
    assert pins.programs == tmp_path / "nodeagent" / layout_hash() / "programs" / source_hash(Marks().flags)
    assert "." not in str(pins.programs.relative_to(tmp_path)), "bpffs refuses a dot"


def test_programs_are_there_when_all_are(pins: Pins) -> None:
    for name in PROGRAMS:
        assert not pins.has_programs()
        (pins.programs / name).touch()
    assert pins.has_programs()


def test_other_generations_go_and_this_one_and_strangers_stay(pins: Pins) -> None:
    (pins.root / "other" / "maps").mkdir(parents=True)
    (pins.programs.parent / "older").mkdir()
    (pins.bpffs / "cilium").mkdir()
    assert pins.remove_others() == ["other", f"{layout_hash()}/programs/older"]
    assert pins.maps.is_dir()
    assert pins.programs.is_dir()
    assert (pins.bpffs / "cilium").is_dir()
    assert pins.remove_others() == []


def test_what_a_trace_has_made_stays_as_long_as_it_lasts(pins: Pins) -> None:
    (pins.trace / "maps").mkdir(parents=True)
    pins.trace_programs.mkdir()
    assert pins.trace_programs.parent == pins.programs.parent, "where a successor looks for what runs"
    assert pins.remove_others(keeps_trace=True) == []
    assert pins.remove_others() == [f"{layout_hash()}/programs/{pins.trace_programs.name}", f"{layout_hash()}/trace"]
    pins.trace.mkdir()
    pins.remove_trace()
    assert not pins.trace.exists()
    assert pins.programs.is_dir()
    pins.remove_trace()  # none there is fine


def test_what_a_trace_is_compiling_stays_and_goes_with_it(pins: Pins) -> None:
    made = unfinished(pins.trace_programs)
    made.mkdir()
    (made / "from_pod").touch()
    assert pins.remove_others(keeps_trace=True) == []
    pins.remove_trace()
    assert not made.exists()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTEMPTY])
def test_what_somebody_else_removes_or_fills_meanwhile_is_left_to_the_next_time(
    pins: Pins, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (pins.root / "other").mkdir()

    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("shutil.rmtree", refuse)
    assert pins.remove_others() == []
    monkeypatch.undo()
    assert pins.remove_others() == ["other"]


def test_what_cannot_be_removed_is_an_error(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    (pins.root / "other").mkdir()

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(OSError, match="Read-only"):
        pins.remove_others()


def test_removal_takes_our_folder_alone(pins: Pins) -> None:
    (pins.bpffs / "cilium").mkdir()
    assert pins.remove()
    assert [path.name for path in pins.bpffs.iterdir()] == ["cilium"]
    assert not pins.remove()


def test_a_plain_folder_is_no_bpffs(tmp_path: Path) -> None:
    assert not is_bpffs(tmp_path)
    with pytest.raises(FileNotFoundError):
        is_bpffs(tmp_path / "nothing")


def test_no_counters_without_pins(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="counters cannot be read"):
        read_counters(str(tmp_path))


def test_other_marks_are_other_programs_over_the_same_maps(tmp_path: Path) -> None:
    usual, other = Pins(tmp_path), Pins(tmp_path, Marks(0x80000000, 0xF0000000))
    assert usual.maps == other.maps
    assert usual.programs != other.programs
