# SPDX-License-Identifier: Apache-2.0
"""bpf(2), as far as the agent needs it once the loader has pinned everything: numbers and bytes in, OSError out.

bcc is not imported here (71 MB); objects are found by their pins. Structures are `union bpf_attr` of linux/bpf.h.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CALL_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_ATTRIBUTE_BYTES = 128
_OUTPUT_BYTES = 2048
"""Room for a packet that comes back from run_program."""
_LOG_BYTES = 4096
"""Ample for the verifier's statistics: the level that we ask for."""

MAP_CREATE = 0
MAP_LOOKUP = 1
MAP_UPDATE = 2
MAP_DELETE = 3
MAP_NEXT_KEY = 4
PROGRAM_LOAD = 5
OBJECT_PIN = 6
OBJECT_GET = 7
PROGRAM_TEST_RUN = 10
PROGRAM_BY_ID = 13
OBJECT_INFO = 15
PROGRAM_QUERY = 16
MAP_LOOKUP_BATCH = 24
MAP_UPDATE_BATCH = 26
MAP_DELETE_BATCH = 27
LINK_CREATE = 28
LINK_UPDATE = 29
ENABLE_STATISTICS = 32
LINK_DETACH = 34

PROGRAM_SCHED_CLS = 3
PROGRAM_SOCK_OPS = 13
PROGRAM_CGROUP_SOCK_ADDR = 18
LOG_STATISTICS = 4
"""The verifier says what it counted, and nothing else (BPF_LOG_STATS, Linux 5.2)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc_at_once = ctypes.PyDLL(None, use_errno=True)
"""Calls with the interpreter held: a microsecond, where giving it to another thread and getting it back takes ten."""


def bpf(command: int, attribute: bytes) -> tuple[int, bytes]:
    """The call's result and the attribute as the kernel left it. Raises OSError."""
    buffer = ctypes.create_string_buffer(attribute, _ATTRIBUTE_BYTES)
    return _call(command, buffer), buffer.raw


def _call(command: int, buffer: "ctypes.Array[ctypes.c_char]", libc: ctypes.CDLL = _libc) -> int:
    number = _CALL_NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf: the call's number on {platform.machine()} is not known")
    result = libc.syscall(number, command, buffer, _ATTRIBUTE_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf command {command}: {os.strerror(code)}")
    return int(result)


def open_pinned(path: str) -> int:
    """A descriptor of the map or program pinned at `path`; the caller closes it. It is not inherited by children."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    descriptor, _ = bpf(OBJECT_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the parameter has no name
    return descriptor


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of a pinned object, for the length of the block. Raises OSError."""
    descriptor = open_pinned(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class MapInfo:
    kind: int
    id: int
    key_bytes: int
    value_bytes: int
    entries: int


@dataclass(frozen=True)
class ProgramInfo:
    kind: int
    """enum bpf_prog_type."""
    id: int
    tag: str
    name: str
    """Of its function, cut to 15 characters."""
    verified_instructions: int
    """0 before Linux 5.16."""
    run_nanoseconds: int
    """Of all CPUs, as is `runs`, while the kernel counted: see `enable_statistics`."""
    runs: int


def program_name(number: int) -> str:
    """Of any program on this machine, by its id. Raises OSError: ENOENT when it has gone meanwhile."""
    descriptor, _ = bpf(PROGRAM_BY_ID, struct.pack("=II", number, 0))
    try:
        return program_info(descriptor).name
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class LinkInfo:
    id: int
    program: int
    device: int
    """Of TCX: its index in its own namespace; 0 when the device is gone or the link was detached."""


@dataclass(frozen=True)
class CgroupLinkInfo:
    program: int
    cgroup: int
    """Its id, which is the inode of its directory; 0 when that cgroup is gone, or somebody has detached the link."""


def cgroup_link_info(descriptor: int) -> CgroupLinkInfo:
    return CgroupLinkInfo(*struct.unpack_from("=I4xQ", _object_info(descriptor), 8))


def pin(descriptor: int, path: str) -> None:
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(OBJECT_PIN, struct.pack("=QII", ctypes.addressof(name), descriptor, 0))


def link_create(program: int, target: int, place: int, flags: int) -> int:
    """`target`: index of a device, or descriptor of a cgroup, where the program comes beside others (Linux 5.7).

    A descriptor of the link; what it holds is detached when that is closed and nothing is pinned.
    """
    descriptor, _ = bpf(LINK_CREATE, struct.pack("=IIII", program, target, place, flags))
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the parameter has no name
    return descriptor


def link_update(link: int, program: int) -> None:
    """From one packet to the next."""
    bpf(LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0))


def link_detach(link: int) -> None:
    """At once; without its pin and its descriptors it would be detached too, but some time later."""
    bpf(LINK_DETACH, struct.pack("=I", link))


def link_info(descriptor: int) -> LinkInfo:
    info = _object_info(descriptor)
    return LinkInfo(*struct.unpack_from("=4xII4xI", info))


def attached(device: int, place: int) -> list[tuple[int, int]]:
    """(program, link) by their ids, in the order in which they run; link is 0 for what was attached without one."""
    programs, links = ((ctypes.c_uint32 * _MOST_ATTACHED)() for _ in range(2))
    attribute = struct.pack(
        "=IIIIQIIQQQQ",
        device, place, 0, 0, ctypes.addressof(programs), _MOST_ATTACHED, 0, 0, ctypes.addressof(links), 0, 0,
    )  # fmt: skip
    _, answer = bpf(PROGRAM_QUERY, attribute)
    (count,) = struct.unpack_from("=I", answer, 24)
    return [(programs[row], links[row]) for row in range(count)]


_MOST_ATTACHED = 64
"""The kernel's own limit: BPF_MPROG_MAX."""


def map_create(kind: int, key_bytes: int, value_bytes: int, entries: int) -> int:
    """A descriptor of a map that ends with it."""
    descriptor, _ = bpf(MAP_CREATE, struct.pack("=IIII", kind, key_bytes, value_bytes, entries))
    return descriptor


def enable_statistics() -> int:
    """A descriptor: while it is open the kernel counts runs of programs and their time (BPF_STATS_RUN_TIME)."""
    descriptor, _ = bpf(ENABLE_STATISTICS, struct.pack("=I", 0))
    return descriptor


def map_info(descriptor: int) -> MapInfo:
    return MapInfo(*struct.unpack_from("=5I", _object_info(descriptor)))


def program_info(descriptor: int) -> ProgramInfo:
    info = _object_info(descriptor)
    kind, number = struct.unpack_from("=II", info)
    run_nanoseconds, runs = struct.unpack_from("=QQ", info, 192)
    (verified,) = struct.unpack_from("=I", info, 216)
    name = info[64:80].split(b"\0")[0].decode()
    return ProgramInfo(kind, number, info[8:16].hex(), name, verified, run_nanoseconds, runs)


def map_lookup(descriptor: int, key: bytes, value_bytes: int) -> bytes | None:
    """`value_bytes`: of all possible CPUs together for a per-CPU map, 8-byte aligned each."""
    value = ctypes.create_string_buffer(value_bytes)
    try:
        _map_call(MAP_LOOKUP, descriptor, key, value, libc=_libc_at_once)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def map_update(descriptor: int, key: bytes, value: bytes, *, is_new: bool = False) -> None:
    """Raises OSError: E2BIG or ENOSPC when the map is full, EEXIST when there is a row already and `is_new`."""
    _map_call(MAP_UPDATE, descriptor, key, ctypes.create_string_buffer(value, len(value)), _NO_EXIST if is_new else 0)


def map_delete(descriptor: int, key: bytes) -> bool:
    """False when it was not there."""
    try:
        _map_call(MAP_DELETE, descriptor, key, None)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINVAL}:  # a sockmap says EINVAL for an empty slot
            return False
        raise
    return True


def map_keys(descriptor: int, key_bytes: int, most: int = 1 << 20) -> list[bytes]:
    """All keys, or the first ones. When the key at hand is deleted meanwhile the kernel starts again.

    So the walk is bounded, by eight times the entries of our largest map.
    """
    found: dict[bytes, None] = {}
    following = ctypes.create_string_buffer(key_bytes)
    key = ctypes.create_string_buffer(key_bytes)
    address = 0  # NULL asks for the first
    for _ in range(most):
        try:
            bpf(MAP_NEXT_KEY, struct.pack("=IIQQ", descriptor, 0, address, ctypes.addressof(following)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                break
            raise
        ctypes.memmove(key, following, key_bytes)
        address = ctypes.addressof(key)
        found[key.raw] = None
    return list(found)


def map_update_batch(descriptor: int, keys: bytes, values: bytes, count: int) -> int:
    """How many of `count` rows were put, in their order, before the map was full (BPF_MAP_UPDATE_BATCH, Linux 5.6)."""
    if count == 0:
        return 0
    keys_buffer = ctypes.create_string_buffer(keys, len(keys))
    values_buffer = ctypes.create_string_buffer(values, len(values))
    attribute = ctypes.create_string_buffer(
        _batch(0, 0, ctypes.addressof(keys_buffer), ctypes.addressof(values_buffer), count, descriptor),
        _ATTRIBUTE_BYTES,
    )
    try:
        _call(MAP_UPDATE_BATCH, attribute)
    except OSError as error:
        if error.errno not in {errno.E2BIG, errno.ENOSPC}:
            raise
    return int(struct.unpack_from("=I", attribute.raw, _BATCH_COUNT)[0])


def map_delete_batch(descriptor: int, keys: Sequence[bytes]) -> None:
    """Those of the keys that are there (BPF_MAP_DELETE_BATCH, Linux 5.6)."""
    while keys:
        together = b"".join(keys)
        buffer = ctypes.create_string_buffer(together, len(together))
        attribute = ctypes.create_string_buffer(
            _batch(0, 0, ctypes.addressof(buffer), 0, len(keys), descriptor), _ATTRIBUTE_BYTES
        )
        try:
            _call(MAP_DELETE_BATCH, attribute)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            (done,) = struct.unpack_from("=I", attribute.raw, _BATCH_COUNT)
            keys = keys[done + 1 :]  # the one at which it stopped was not there
        else:
            return


def map_rows(descriptor: int, key_bytes: int, value_bytes: int, entries: int) -> list[tuple[bytes, bytes]]:
    """All rows of a hash, by BPF_MAP_LOOKUP_BATCH (Linux 5.6): 65536 flows in 20 ms instead of 300.

    A bucket is told whole, so there must be room for the largest; the room grows when the kernel says so (ENOSPC).
    """
    found: list[tuple[bytes, bytes]] = []
    position = ctypes.create_string_buffer(max(key_bytes, 4))
    room, is_first = min(entries, 4096), True
    while True:
        keys, values = ctypes.create_string_buffer(key_bytes * room), ctypes.create_string_buffer(value_bytes * room)
        start = 0 if is_first else ctypes.addressof(position)
        attribute = ctypes.create_string_buffer(
            _batch(
                start, ctypes.addressof(position), ctypes.addressof(keys), ctypes.addressof(values), room, descriptor
            ),
            _ATTRIBUTE_BYTES,
        )
        is_last = False
        try:
            _call(MAP_LOOKUP_BATCH, attribute)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                room *= 2
                continue
            if error.errno != errno.ENOENT:
                raise
            is_last = True  # the rows before the end were told all the same
        (count,) = struct.unpack_from("=I", attribute.raw, _BATCH_COUNT)
        found += zip(_cut(keys.raw, key_bytes, count), _cut(values.raw, value_bytes, count), strict=True)
        if is_last:
            return found
        is_first = False


def _cut(whole: bytes, size: int, count: int) -> list[bytes]:
    return [whole[at : at + size] for at in range(0, count * size, size)]


_BATCH_COUNT = 32
"""Offset of `count` in union bpf_attr's `batch`; the kernel writes there what it has done."""


def _batch(start: int, end: int, keys: int, values: int, count: int, descriptor: int) -> bytes:
    return struct.pack("=QQQQIIQQ", start, end, keys, values, count, descriptor, 0, 0)


def run_program(program: int, packet: bytes, context: bytes) -> tuple[int, bytes, bytes]:
    """Runs a program on a packet: its return value, the packet and the context (`struct __sk_buff`) afterwards."""
    given = ctypes.create_string_buffer(packet, len(packet))
    left = ctypes.create_string_buffer(_OUTPUT_BYTES)
    before = ctypes.create_string_buffer(context, len(context))
    after = ctypes.create_string_buffer(len(context))
    attribute = struct.pack(
        "=IIIIQQIIIIQQ",
        program, 0, len(packet), _OUTPUT_BYTES, ctypes.addressof(given), ctypes.addressof(left),
        1, 0, len(context), len(context), ctypes.addressof(before), ctypes.addressof(after),
    )  # fmt: skip
    _, answer = bpf(PROGRAM_TEST_RUN, attribute)
    result, _, length = struct.unpack_from("=iII", answer, 4)
    return result, left.raw[:length], after.raw


def load_program(
    instructions: bytes, kind: int = PROGRAM_SCHED_CLS, log_level: int = 0, attach_type: int = 0
) -> tuple[int, str]:
    """A descriptor of the program, and what the verifier wrote at this level. Raises OSError when it is refused."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(_LOG_BYTES)
    attribute = struct.pack(
        "=IIQQIIQII16sII",
        kind, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(licence),
        log_level, len(log) if log_level else 0, ctypes.addressof(log) if log_level else 0,
        0, 0, b"", 0, attach_type,
    )  # fmt: skip
    descriptor, _ = bpf(PROGRAM_LOAD, attribute)
    return descriptor, log.value.decode(errors="replace")


def possible_cpus() -> int:
    """Slots of a per-CPU value: the kernel counts possible CPUs, not those that are online."""
    listed = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
    return int(listed.strip().replace(",", "-").rpartition("-")[2]) + 1


def _object_info(descriptor: int) -> bytes:
    info = ctypes.create_string_buffer(256)
    bpf(OBJECT_INFO, struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info)))
    return info.raw


_NO_EXIST = 1


def _map_call(
    command: int,
    descriptor: int,
    key: bytes,
    value: "ctypes.Array[ctypes.c_char] | None",
    flags: int = 0,
    libc: ctypes.CDLL = _libc,
) -> None:
    buffer = ctypes.create_string_buffer(key, len(key))
    value_address = ctypes.addressof(value) if value is not None else 0
    attribute = struct.pack("=IIQQQ", descriptor, 0, ctypes.addressof(buffer), value_address, flags)
    _call(command, ctypes.create_string_buffer(attribute, _ATTRIBUTE_BYTES), libc)
