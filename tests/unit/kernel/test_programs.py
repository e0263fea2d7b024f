# SPDX-License-Identifier: Apache-2.0
"""Programs by their names: read once, read again once they were loaded again."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import programs as module
from nodeagent.kernel.loader import Cancellation
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.programs import Programs
from nodeagent.kernel.sources import FILTERS, PROGRAMS


class Kernel:
    """In place of the loader and of bpffs."""

    def __init__(self) -> None:
        self.pinned: dict[str, int] = {}
        self.loaded = 0

    def load_programs(
        self, pins: Pins, log: Path, *, is_trace: bool = False, cancellation: Cancellation | None
    ) -> dict[str, int]:
        assert log == Path("loader.log")
        assert is_trace or cancellation is not None, "who ends an agent ends its compiler"
        folder, names = (pins.trace_programs, FILTERS) if is_trace else (pins.programs, PROGRAMS)
        self.loaded += 1
        self.pinned |= {str(folder / name): 100 * self.loaded + row for row, name in enumerate(names)}
        return dict.fromkeys(names, 7)

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[int]:
        if path not in self.pinned:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        yield self.pinned[path]

    @staticmethod
    def program_info(descriptor: int) -> Any:
        return SimpleNamespace(id=descriptor)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    for name in ("load_programs", "opened", "program_info"):
        monkeypatch.setattr(module, name, getattr(made, name))
    return made


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(Pins(tmp_path), Path("loader.log"))


def test_what_is_loaded_is_found(programs: Programs, kernel: Kernel) -> None:
    assert programs.load() == dict.fromkeys(PROGRAMS, 7)
    programs.find()
    assert [program.id for program in programs.usual.values()] == list(range(100, 100 + len(PROGRAMS)))
    assert all(Path(program.path).name == name == program.name for name, program in programs.in_force.items())
    programs.find()
    programs.load()
    assert (programs.usual, kernel.loaded) == ({}, 2)
    programs.find()
    assert programs.usual[PROGRAMS[0]].id == 200


@pytest.mark.usefixtures("kernel")
def test_variants_are_in_force_when_they_are_put_there(programs: Programs) -> None:
    programs.load()
    programs.find()
    variants = programs.load_variants()
    assert list(variants) == list(FILTERS)
    assert programs.in_force == programs.usual
    programs.variants = variants
    assert programs.in_force == programs.usual | variants
    programs.load()
    assert programs.variants == {}


@pytest.mark.usefixtures("kernel")
def test_one_that_is_not_pinned_is_a_named_error(programs: Programs, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=rf"{tmp_path}.*No such file"):
        programs.find()
