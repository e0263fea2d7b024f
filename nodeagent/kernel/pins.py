# SPDX-License-Identifier: Apache-2.0
"""Where programs and maps are pinned, and what can be read of them without an agent.

    <bpffs>/nodeagent/<layout hash>/maps/<name>
    <bpffs>/nodeagent/<layout hash>/description
    <bpffs>/nodeagent/<layout hash>/programs/<source hash>/<name>
    <bpffs>/nodeagent/<layout hash>/trace/maps/<name>
    <bpffs>/nodeagent/links/<namespace>-<ifindex>-<direction>
    <bpffs>/nodeagent/links/cgroup-<name>

Maps outlive an agent and an upgrade with the same layout; programs outlive an agent with the same C. The description is
the text that declares the maps, in a map of one row, since bpffs holds no files: a successor with another layout reads
what it finds by it (nodeagent/kernel/succession.py). What belongs to a trace, its programs under a source hash of their
own, goes when it ends or, if its agent did not see that, when the next agent has attached its own. Links belong to
devices (TCX) or to the pods' cgroup and outlive every upgrade: their program is replaced in place, whatever layout it
has.
"""

import ctypes
import errno
import os
import shutil
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nodeagent.errors import KernelError
from nodeagent.kernel import syscall
from nodeagent.kernel.reasons import reasons
from nodeagent.kernel.sources import PROGRAMS, TRACE_FLAG, layout_hash, layout_text, source_hash
from nodeagent.model.mark import DEFAULT_MARKS, Marks


@dataclass(frozen=True)
class Pins:
    bpffs: Path
    marks: Marks = DEFAULT_MARKS

    @property
    def root(self) -> Path:
        """Everything of ours; a neighbour of it on the same bpffs is not ours."""
        return self.bpffs / "nodeagent"

    @property
    def directory(self) -> Path:
        return self.root / layout_hash()

    @property
    def maps(self) -> Path:
        return self.directory / "maps"

    @property
    def programs(self) -> Path:
        return self.directory / "programs" / source_hash(self.marks.flags)

    @property
    def trace(self) -> Path:
        return self.directory / "trace"

    @property
    def trace_programs(self) -> Path:
        return self.programs.with_name(source_hash((*self.marks.flags, TRACE_FLAG)))

    @property
    def links(self) -> Path:
        return self.root / "links"

    @property
    def description(self) -> Path:
        return self.directory / "description"

    def others(self) -> list[Path]:
        """The directories of other layouts."""
        return [path for path in _children(self.root) if path not in {self.directory, self.links}]

    def has_programs(self) -> bool:
        return all((self.programs / name).exists() for name in PROGRAMS)

    def remove_others(self, kept: Collection[Path] = (), *, keeps_trace: bool = False) -> list[str]:
        """Unpins layouts and programs that are not of this version; `kept` are layouts that a filter still uses."""
        ours = {self.programs}
        if keeps_trace:  # which may be compiled at this moment
            ours |= {self.trace_programs, unfinished(self.trace_programs)}
        stale = [path for path in self.others() if path not in kept]
        stale += [path for path in _children(self.programs.parent) if path not in ours]
        stale += [self.trace] if self.trace.exists() and not keeps_trace else []
        return [str(path.relative_to(self.root)) for path in stale if _remove_tree(path)]

    def remove_trace(self) -> None:
        """Unpins what belongs to a trace."""
        for path in (self.trace_programs, unfinished(self.trace_programs), self.trace):
            shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> bool:
        """Unpins everything of ours. False when there was nothing."""
        if not self.root.exists():
            return False
        shutil.rmtree(self.root)
        return True


def unfinished(programs: Path) -> Path:
    """Where those are pinned that appear there, all at once."""
    return programs.with_name(programs.name + "_unfinished")  # bpffs refuses a dot


def describe(pins: Pins) -> None:
    """Pins what declares this version's maps. Raises OSError."""
    if pins.description.exists():
        return
    text = layout_text().encode()
    descriptor = syscall.map_create(_ARRAY, 4, len(text), 1)
    try:
        syscall.map_update(descriptor, bytes(4), text)
        syscall.pin(descriptor, str(pins.description))
    finally:
        os.close(descriptor)


def read_description(layout: Path) -> str:
    """Of the layout in this directory. Raises OSError when it has none."""
    with syscall.opened(str(layout / "description")) as descriptor:
        return (syscall.map_lookup(descriptor, bytes(4), syscall.map_info(descriptor).value_bytes) or b"").decode()


def program_ids(layout: Path) -> frozenset[int]:
    """Of all programs that are pinned there. Raises OSError."""
    ids = set()
    for path in layout.glob("programs/*/*"):
        with syscall.opened(str(path)) as descriptor:
            ids.add(syscall.program_info(descriptor).id)
    return frozenset(ids)


def read_counters(bpffs: str) -> dict[str, int]:
    """Packets by the name of their reason, over all CPUs. Raises KernelError when nothing is pinned there."""
    path = Pins(Path(bpffs)).maps / "reason_counts"
    try:
        with syscall.opened(str(path)) as descriptor:
            return sum_counters(descriptor)
    except OSError as error:
        raise KernelError(f"the kernel's counters cannot be read: {path}: {error.strerror}") from error


def sum_counters(descriptor: int) -> dict[str, int]:
    cpus = syscall.possible_cpus()
    packets = {}
    for reason in reasons():
        values = syscall.map_lookup(descriptor, struct.pack("=I", reason.number), 8 * cpus) or b""
        packets[reason.name] = sum(memoryview(values).cast("Q"))
    return packets


def is_bpffs(path: str | Path) -> bool:
    """Raises OSError when there is nothing at all."""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(256)  # struct statfs begins with the kind
    if libc.statfs(os.fsencode(path), answer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return bool(struct.unpack_from("=q", answer)[0] == _BPF_FS_MAGIC)


_ARRAY = 2
"""BPF_MAP_TYPE_ARRAY."""
_BPF_FS_MAGIC = 0xCAFE4A11
"""Of linux/magic.h."""


def _remove_tree(path: Path) -> bool:
    """False where somebody else removes it, or writes to it, at the same time: the next look takes what is left."""
    try:
        shutil.rmtree(path)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTEMPTY}:
            raise
        return False
    return True


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
