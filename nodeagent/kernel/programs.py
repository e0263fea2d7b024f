# SPDX-License-Identifier: Apache-2.0
"""The kernel programs of this version: loaded where they are not pinned yet, and found by their names."""

from pathlib import Path

from nodeagent.errors import KernelError
from nodeagent.kernel.attach import Program
from nodeagent.kernel.loader import Cancellation, load_programs
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.sources import FILTERS, PROGRAMS
from nodeagent.kernel.syscall import opened, program_info


class Programs:
    """Methods raise KernelError."""

    def __init__(self, pins: Pins, log: Path) -> None:
        """`log`: where the loader writes."""
        self._pins, self._log = pins, log
        self.usual: dict[str, Program] = {}
        self.variants: dict[str, Program] = {}
        """In the place of the filters of these names, for as long as a trace lasts."""
        self._loading = Cancellation()

    @property
    def in_force(self) -> dict[str, Program]:
        return self.usual | self.variants

    def load(self) -> dict[str, int]:
        """Compiles and pins the usual ones; by program, how many instructions the verifier looked at."""
        verified = load_programs(self._pins, self._log, cancellation=self._loading)
        self.usual, self.variants = {}, {}
        return verified

    def give_up_loading(self) -> None:
        """Usual ones that are being compiled come no more, nor others after them; `load` raises LoadCancelled."""
        self._loading.set()

    def find(self) -> None:
        """The usual ones, which are pinned."""
        if not self.usual:
            self.usual = {name: _read_program(name, self._pins.programs / name) for name in PROGRAMS}

    def load_variants(self, cancellation: Cancellation | None = None) -> dict[str, Program]:
        """Those that tell of packets. Compiles for seconds; they are not in force yet. Raises LoadCancelled."""
        load_programs(self._pins, self._log, is_trace=True, cancellation=cancellation)
        folder = self._pins.trace_programs
        return {name: _read_program(name, folder / name) for name in FILTERS}


def _read_program(name: str, path: Path) -> Program:
    try:
        with opened(str(path)) as descriptor:
            return Program(name, program_info(descriptor).id, str(path))
    except OSError as error:
        raise KernelError(f"program {path}: {error.strerror}") from error
