# SPDX-License-Identifier: Apache-2.0
"""What is pinned and attached of ours at this moment, and how it differs from what this version would load.

Read from the pins and from the kernel, with no agent; nothing is changed. Programs of a version are pinned under the
hash of all that the compiler is given, maps under that of their shapes, so a name says whether it is this version's.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pyroute2 import IPRoute

from nodeagent.errors import ConfigError, KernelError, MissingPrivilege
from nodeagent.kernel import cgroup, syscall
from nodeagent.kernel.codings import layouts
from nodeagent.kernel.decoded import Decoder, Shown
from nodeagent.kernel.layout import NUMBERS, MapShape, read_shapes
from nodeagent.kernel.listing import list_programs
from nodeagent.kernel.netlink import read_devices
from nodeagent.kernel.netns import enter_netns
from nodeagent.kernel.pins import Pins, read_description
from nodeagent.kernel.reasons import reasons
from nodeagent.kernel.sources import PROGRAMS, layout_text

_KINDS = {1: "hash", 2: "array", 5: "percpu_hash", 6: "percpu_array", 9: "lru_hash", 11: "lpm_trie", 15: "sockmap"}
_KINDS |= {27: "ringbuf"}
"""enum bpf_map_type, of those that we have; bcc's names."""
_PROGRAM_KINDS = {3: "sched_cls", 13: "sock_ops", 18: "cgroup_sock_addr"}
"""enum bpf_prog_type, of those that we have; bpftool's names."""
_NO_ROWS = frozenset({"ringbuf"})
_ARRAYS = frozenset({"array", "percpu_array"})


@dataclass(frozen=True)
class PinnedProgram:
    name: str
    kind: str
    id: int
    tag: str
    """The kernel's hash of its instructions."""
    verified: int
    """Instructions that the verifier walked through; 0 before Linux 5.16."""
    is_current: bool
    """What this version would load, for a trace too."""
    pin: str
    runs: int = 0
    """In the time that was measured; 0 without it, as is the next."""
    average_nanoseconds: int = 0


@dataclass(frozen=True)
class PinnedMap:
    name: str
    id: int
    kind: str
    key_bytes: int
    value_bytes: int
    rows: int
    most: int
    """Rows, or bytes of a ring."""
    is_current: bool
    pin: str


@dataclass(frozen=True)
class Place:
    place: str
    """`node` or `proxy` and a device, or a cgroup."""
    hook: str
    order: int
    """From 1, as they run."""
    program: str
    id: int
    by: str
    """`tcx`, `clsact` or `cgroup`."""
    is_ours: bool


@dataclass(frozen=True)
class Comparison:
    what: str
    is_same: bool
    wanted: str
    found: str


def programs(pins: Pins, measured_seconds: float = 0.0) -> list[PinnedProgram]:
    """Of all versions that are pinned. Raises KernelError, MissingPrivilege.

    While it measures, the kernel reads the clock twice in each run of every program on the machine.
    """
    with _explained(pins):
        found = _program_infos(pins)
        before = found
        if measured_seconds:
            before, found = _measured(pins, measured_seconds)
        made = []
        for path, info in found.items():
            former = before.get(path, info)
            runs = info.runs - former.runs
            average = (info.run_nanoseconds - former.run_nanoseconds) // runs if runs else 0
            made.append(
                PinnedProgram(
                    path.name,
                    _PROGRAM_KINDS.get(info.kind, str(info.kind)),
                    info.id,
                    info.tag,
                    info.verified_instructions,
                    path.parent in {pins.programs, pins.trace_programs},
                    str(path),
                    runs,
                    average,
                )
            )
        return made


_ProgramInfos: TypeAlias = dict[Path, syscall.ProgramInfo]


def _measured(pins: Pins, seconds: float) -> tuple[_ProgramInfos, _ProgramInfos]:
    descriptor = syscall.enable_statistics()
    try:
        before = _program_infos(pins)
        time.sleep(seconds)
        return before, _program_infos(pins)
    finally:
        os.close(descriptor)


def _program_infos(pins: Pins) -> _ProgramInfos:
    found = {}
    for path in sorted(pins.root.glob("*/programs/*/*")):
        with syscall.opened(str(path)) as descriptor:
            found[path] = syscall.program_info(descriptor)
    return found


def maps(pins: Pins) -> list[PinnedMap]:
    """Of all layouts that are pinned. Raises KernelError, MissingPrivilege."""
    with _explained(pins):
        made = []
        for path in sorted(pins.root.glob("*/maps/*")):
            with syscall.opened(str(path)) as descriptor:
                info = syscall.map_info(descriptor)
                kind = _KINDS.get(info.kind, str(info.kind))
                rows = 0 if kind in _NO_ROWS else len(syscall.map_keys(descriptor, info.key_bytes))
            is_current = path.parent == pins.maps
            sizes = info.key_bytes, info.value_bytes
            made.append(PinnedMap(path.name, info.id, kind, *sizes, rows, info.entries, is_current, str(path)))
        return made


def rows(pins: Pins, name: str) -> list[tuple[Shown, Shown]]:
    """Key and value of each row of this version's map; of an array those that are not zero.

    Raises ConfigError for no such map, KernelError, MissingPrivilege.
    """
    shapes = read_shapes(layout_text())
    shape = shapes.maps.get(name)
    if shape is None:
        ring = " (a ring: reading it would take from the agent)" if name in shapes.rings else ""
        raise ConfigError(f"there is no map {name!r}{ring}", check=f"Maps: {', '.join(shapes.maps)}.")
    decoder = Decoder(shapes, device_name, {reason.number: reason.name for reason in reasons()})
    with _explained(pins), syscall.opened(str(pins.maps / name)) as descriptor:
        found = _packed_rows(descriptor, shape)
    return [(decoder.key(shape, key), decoder.value(shape, value)) for key, value in found]


def _packed_rows(descriptor: int, shape: MapShape) -> Iterator[tuple[bytes, bytes]]:
    """Row by row, which every kind of map allows; one that goes meanwhile is left out."""
    info = syscall.map_info(descriptor)
    size = info.value_bytes
    if shape.kind.startswith("percpu"):
        size = -(-size // 8) * 8 * syscall.possible_cpus()
    found = []
    for key in syscall.map_keys(descriptor, info.key_bytes):
        value = syscall.map_lookup(descriptor, key, size)
        if value is not None and (shape.kind not in _ARRAYS or any(value)):
            found.append((key, value))
    return iter(found)


def attachments(pins: Pins, run_dir: str) -> list[Place]:
    """Where our programs sit, with those of others on the same hooks. Raises KernelError, MissingPrivilege."""
    with _explained(pins):
        made = list(_on_devices("node"))
        proxy = Path(run_dir) / "proxy.netns"
        if proxy.exists():
            with enter_netns(str(proxy)):
                made += _on_devices("proxy")
        names = {program.id: program.name for program in programs(pins)}
        for name, link in cgroup.attached(pins.links).items():
            place = str(_cgroup_path(link.cgroup)) if link.cgroup else "(a cgroup that is gone)"
            program = names.get(link.program, name)
            made.append(Place(place, name, 1, program, link.program, "cgroup", is_ours=True))
        return made


def _on_devices(namespace: str) -> Iterator[Place]:
    with IPRoute() as link:
        for device in sorted(read_devices(link).values(), key=lambda device: device.index):
            for is_egress in (False, True):
                found = list_programs(link, device.index, is_egress=is_egress)
                if not any(one.is_ours for one in found):
                    continue
                for order, one in enumerate(found, 1):
                    hook = "egress" if is_egress else "ingress"
                    place = f"{namespace} {device.name} ({device.index})"
                    yield Place(place, hook, order, one.name, one.id, one.kind, one.is_ours)


def _cgroup_path(number: int) -> Path | str:
    """A cgroup's id is the inode of its directory."""
    for root in cgroup.mounts():
        for folder, folders, _ in os.walk(root):
            if Path(folder).stat().st_ino == number:
                return Path(folder)
            if len(Path(folder).relative_to(root).parts) >= _CGROUP_DEPTH:
                folders.clear()
    return f"cgroup {number}"


_CGROUP_DEPTH = 4
"""A kubelet's is at most this deep (kubelet/kubelet-kubepods.slice)."""


def verify(pins: Pins, run_dir: str) -> list[Comparison]:
    """What this version would load, beside what is there. Raises KernelError, MissingPrivilege."""
    made = [*_compare_maps(pins), *_compare_programs(pins)]
    current = {program.id: program for program in programs(pins) if program.is_current}
    for place in attachments(pins, run_dir):
        if place.is_ours:
            program = current.get(place.id)
            found = f"{place.program}, id {place.id}"
            wanted = f"{program.name}, id {program.id}" if program else f"{place.program} of this version"
            made.append(Comparison(f"{place.place} {place.hook}", program is not None, wanted, found))
    return made


def _compare_maps(pins: Pins) -> Iterator[Comparison]:
    with _explained(pins):
        text = read_description(pins.directory) if pins.description.exists() else ""
    yield Comparison(
        "declaration of the maps", text == layout_text(), "this version's", "the same" if text else "none, or another"
    )
    there = {found.name: found for found in maps(pins) if found.is_current}
    sizes = {kind: number.size for kind, number in NUMBERS.items()}
    sizes |= {name: layout.size for name, layout in layouts().items()}
    shapes = read_shapes(layout_text())
    wanted = {
        name: (shape.kind, sizes[shape.key], sizes[shape.value], shape.entries) for name, shape in shapes.maps.items()
    }
    wanted |= {name: ("ringbuf", 0, 0, size) for name, size in shapes.rings.items()}
    for name, shape in wanted.items():
        found = there.get(name)
        has = (found.kind, found.key_bytes, found.value_bytes, found.most) if found else None
        yield Comparison(f"map {name}", has == shape, _shape_words(shape), _shape_words(has) if has else "not pinned")


def _shape_words(shape: tuple[str, int, int, int]) -> str:
    kind, key, value, most = shape
    return f"{kind}, {most} bytes" if kind == "ringbuf" else f"{kind} of {most}, key {key}, value {value}"


def _compare_programs(pins: Pins) -> Iterator[Comparison]:
    there = {found.name: found for found in programs(pins) if found.is_current}
    for name in PROGRAMS:
        found = there.get(name)
        words = f"id {found.id}, tag {found.tag}" if found else "not pinned"
        yield Comparison(f"program {name}", found is not None, f"source {pins.programs.name}", words)


def device_name(index: int) -> str:
    """In the namespace of the calling thread; empty when there is none."""
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index)
    return ""


@contextlib.contextmanager
def _explained(pins: Pins) -> Iterator[None]:
    try:
        if not pins.root.is_dir():
            raise KernelError(
                f"nothing of nodeagent is pinned at {pins.bpffs}",
                check="Does an agent run on this node, in this mount namespace? --bpffs names its bpffs.",
            )
        yield
    except PermissionError as error:
        raise MissingPrivilege(
            f"the pins at {pins.root} cannot be read: {error.strerror}", check="Run it as root."
        ) from error
    except OSError as error:
        raise KernelError(f"{error.filename or pins.root}: {error.strerror}") from error
