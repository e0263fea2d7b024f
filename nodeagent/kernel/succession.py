# SPDX-License-Identifier: Apache-2.0
"""An upgrade, or a rollback, to another layout of the maps: what is in the former ones goes on in ours.

A map that is declared alike in both layouts is shared: pinned a second time before our programs are loaded, it is the
same map for both, so they may run side by side and nothing has to be brought over. Of the others the rows are
converted, field by name (nodeagent/kernel/conversion.py). What the agent wants anyway (`known`, `excluded`, addresses
of the node) and sockets are not: it puts them itself. In order, for the maps that are not shared:
  1  their rows are copied                     the former programs go on with the former maps
  2  `is_settling` is set, programs replaced   ours drop what belongs to nobody, instead of having it reset
  3  flows that changed meanwhile are copied   a row that our programs have written since is newer, and stays
  4  `is_settling` is cleared, the former layout is unpinned
What begins between 1 and 3 has its row in one of the two tables only. If the other one is asked its packet is dropped,
and sent again: a SYN finds what decides it everywhere, an answer or data find their flow after 3.
"""

import contextlib
import errno
import logging
import shutil
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nodeagent.errors import KernelError
from nodeagent.kernel import syscall
from nodeagent.kernel.conversion import Conversion, can_be_shared, conversion
from nodeagent.kernel.layout import MapShape, Shapes, read_shapes
from nodeagent.kernel.pins import Pins, program_ids, read_description
from nodeagent.kernel.sources import layout_text

log = logging.getLogger(__name__)

STATE = ("settings", "sources", "pods", "pod_counts", "verdicts", "flow_losses", "reason_counts")
FLOWS = ("flows", "kept_flows", "hairpins", "flow_reports")
"""Written by the kernel with every connection that begins."""
_BESIDE = {"flows": "kept_flows", "kept_flows": "flows"}
"""A connection is in one of the two."""
_MOST_PASSES = 20
"""Over the flows after the programs are replaced: a program that was running still may write for microseconds."""

_Rows = dict[bytes, bytes]


@dataclass(frozen=True)
class Former:
    """Another layout that is pinned, with what it says of itself."""

    directory: Path
    shapes: Shapes
    programs: frozenset[int]
    """Ids of its programs."""


def find_former(pins: Pins, attached: Collection[int]) -> Former | None:
    """The other layout of which the most programs run; when ours is new and nothing runs at all, whichever is pinned.

    Args:
        pins: ours.
        attached: ids of programs of ours, whatever their layout, that are on a device or on the cgroup.
    """
    found = list(_others(pins))
    running = [former for former in found if former.programs.intersection(attached)]
    if running:
        return max(running, key=lambda former: len(former.programs.intersection(attached)))
    return found[-1] if found and not pins.directory.exists() else None


def make_way(pins: Pins, attached: Collection[int]) -> list[str]:
    """Before our programs are loaded: shares what can be shared; which maps. Raises OSError."""
    former = find_former(pins, attached)
    if former is None:
        return []
    if pins.directory.exists() and not program_ids(pins.directory).intersection(attached):
        shutil.rmtree(pins.directory)  # of an attempt that came to nothing: what it copied is old by now
    pins.maps.mkdir(parents=True, exist_ok=True, mode=0o700)
    shapes, shared = read_shapes(layout_text()), []
    for name in (*shapes.maps, *shapes.rings):
        if can_be_shared(former.shapes, shapes, name) and not (pins.maps / name).exists():
            with syscall.opened(str(former.directory / "maps" / name)) as descriptor:
                syscall.pin(descriptor, str(pins.maps / name))
            shared.append(name)
    return shared


class Succession:
    """From the former layout's programs to ours. Raises KernelError."""

    def __init__(self, former: Former, pins: Pins, attached: Collection[int]) -> None:
        self.former = former
        shapes = read_shapes(layout_text())
        with _explained(former):
            is_begun = bool(program_ids(pins.directory).intersection(attached))
            self._bringing = {
                name: _Bringing(
                    former.directory / "maps" / name, pins.maps / name, pins.maps / _BESIDE.get(name, name), between
                )
                for name in (FLOWS if is_begun else (*STATE, *FLOWS))
                if not _is_shared(former.directory / "maps" / name, pins.maps / name)
                and (between := conversion(former.shapes, shapes, name)) is not None
            }
        self._is_begun = is_begun
        """By an agent that did not come to its end: some of our programs run, and what they wrote is newer."""

    @property
    def has_flows(self) -> bool:
        """Whether connections that begin meanwhile are known to one side only."""
        return not self._bringing.keys().isdisjoint({"flows", "kept_flows", "hairpins"})

    def bring(self) -> dict[str, int]:
        """Rows that were copied, by map."""
        with _explained(self.former):
            return {name: one.bring(is_begun=self._is_begun) for name, one in self._bringing.items()}

    def settle(self) -> dict[str, int]:
        """After our programs have taken over: rows that changed meanwhile, by map of flows."""
        changed = dict.fromkeys(self._bringing.keys() & {*FLOWS}, 0)
        with _explained(self.former):
            for _ in range(_MOST_PASSES):
                again = {name: self._bringing[name].follow() for name in changed}
                changed = {name: changed[name] + again[name] for name in changed}
                if not any(again.values()):
                    break
        return changed


class _Bringing:
    """Of one map."""

    def __init__(self, source: Path, target: Path, beside: Path, between: Conversion) -> None:
        """`beside`: what is there is newer, too."""
        self._source, self._target, self._beside, self._between = str(source), str(target), str(beside), between
        self._seen: _Rows = {}
        """As the former map had them."""
        self._brought: _Rows = {}
        """As ours got them."""

    def bring(self, *, is_begun: bool) -> int:
        self._seen = self._read()
        rows = dict(self._converted(self._seen))
        with syscall.opened(self._target) as target, syscall.opened(self._beside) as beside:
            if is_begun and rows:
                key_bytes = len(next(iter(rows)))
                for key in (*syscall.map_keys(target, key_bytes), *syscall.map_keys(beside, key_bytes)):
                    rows.pop(key, None)
            _write(target, self._between.shape, rows)
        self._brought = rows
        return len(rows)

    def follow(self) -> int:
        now = self._read()
        changed = dict(self._converted({key: value for key, value in now.items() if self._seen.get(key) != value}))
        gone = [self._between.key(key) for key in self._seen.keys() - now.keys()]
        self._seen = now
        with syscall.opened(self._target) as target, syscall.opened(self._beside) as beside:
            for key in [*changed, *gone]:
                self._replace(target, beside, key, changed.get(key))
        return len(changed) + len(gone)

    def _replace(self, target: int, beside: int, key: bytes, value: bytes | None) -> None:
        """Only what our programs have not touched."""
        brought = self._brought.get(key)
        if brought is not None:
            if syscall.map_lookup(target, key, len(brought)) != brought:
                return
            syscall.map_delete(target, key)
            del self._brought[key]
        if value is None or (self._beside != self._target and syscall.map_lookup(beside, key, len(value)) is not None):
            return
        try:
            syscall.map_update(target, key, value, is_new=True)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        else:
            self._brought[key] = value

    def _read(self) -> _Rows:
        between = self._between
        with syscall.opened(self._source) as source:
            return _read(source, between.former, between.key_bytes, between.value_bytes)

    def _converted(self, rows: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
        between = self._between
        for key, value in rows.items():
            if not between.former.kind.startswith("percpu"):
                yield between.key(key), between.value(value)
                continue
            stride = _stride(between.value_bytes)
            of_cpus = (between.value(value[at : at + between.value_bytes]) for at in range(0, len(value), stride))
            yield between.key(key), b"".join(one.ljust(_stride(len(one)), b"\0") for one in of_cpus)


def _others(pins: Pins) -> Iterator[Former]:
    for path in pins.others():
        try:
            yield Former(path, read_shapes(read_description(path)), program_ids(path))
        except (OSError, ValueError) as error:
            log.warning("what is in the maps of layout %s is left behind: its description: %s", path.name, error)


def _is_shared(former: Path, ours: Path) -> bool:
    """True also when there is none: nothing is to be brought then."""
    if not former.exists() or not ours.exists():
        return True
    with syscall.opened(str(former)) as one, syscall.opened(str(ours)) as other:
        return syscall.map_info(one).id == syscall.map_info(other).id


def _read(source: int, shape: MapShape, key_bytes: int, value_bytes: int) -> _Rows:
    if shape.kind in {"hash", "lru_hash"}:
        return dict(syscall.map_rows(source, key_bytes, value_bytes, shape.entries))
    length = _stride(value_bytes) * syscall.possible_cpus() if shape.kind.startswith("percpu") else value_bytes
    is_array = shape.kind.endswith("array")
    keys = map(struct.Struct("=I").pack, range(shape.entries)) if is_array else syscall.map_keys(source, key_bytes)
    return {key: value for key in keys if (value := syscall.map_lookup(source, key, length)) is not None}


def _write(target: int, shape: MapShape, rows: Mapping[bytes, bytes]) -> None:
    if shape.kind in {"hash", "lru_hash"}:
        syscall.map_update_batch(target, b"".join(rows), b"".join(rows.values()), len(rows))
        return
    for key, value in rows.items():
        try:
            syscall.map_update(target, key, value)
        except OSError as error:
            if error.errno not in {errno.E2BIG, errno.ENOSPC}:  # a row beyond the end of ours
                raise


def _stride(value_bytes: int) -> int:
    """Of a per-CPU value."""
    return (value_bytes + 7) & ~7


@contextlib.contextmanager
def _explained(former: Former) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelError(f"bringing over the maps of layout {former.directory.name}: {error}") from error
