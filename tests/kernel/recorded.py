# SPDX-License-Identifier: Apache-2.0
"""Compiled once, loaded often: what bcc made of the programs, for machines on which a compile takes half a minute.

A processor that is emulated is such a machine, and these tests load the programs some eighty times, each time into a
bpffs of its own. With COMPILE_ONCE in the environment, which names a folder, the first load of a version is the
product's, by bcc, and is recorded on the way; the others make the same maps and load the same instructions. Other C is
another version.
tests/kernel/test_loader.py asks the product's loader itself and compiles in any case.
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

from nodeagent.errors import KernelError
from nodeagent.kernel import loader, syscall
from nodeagent.kernel.cgroup import ATTACH_TYPES
from nodeagent.kernel.pins import Pins, describe
from nodeagent.model.mark import Marks

COMPILE_ONCE = "NODEAGENT_COMPILE_ONCE"
"""Where the records are, for all processes."""
IN_GUEST = COMPILE_ONCE in os.environ
"""Of the matrix, where the processor is mostly emulated: what is repeated a thousand times is repeated less often."""
SECONDS = 600
_MAP_CREATE = 0
_LOAD_IMMEDIATE, _IS_MAP = 0x18, 1
"""An instruction that names a map by a descriptor: its code, and the source register that says so."""

_records: dict[str, dict[str, Any]] = {}


def load_programs(
    pins: Pins,
    whole_log: Path | None = None,
    *,
    is_trace: bool = False,
    cancellation: loader.Cancellation | None = None,
) -> dict[str, int]:
    """In place of nodeagent.kernel.loader.load_programs, with the same result and the same pins.

    Of a trace, which few tests make, it is the product's own.
    """
    if is_trace:
        return loader.load_programs(pins, whole_log, is_trace=True, cancellation=cancellation)
    version = str(pins.programs.relative_to(pins.bpffs)).replace("/", "-")
    file = Path(os.environ[COMPILE_ONCE], f"{version}.json")
    if version in _records or file.exists():
        record = _records.get(version) or json.loads(file.read_text(encoding="utf-8"))
        _records[version] = record
        return _load(pins, record)
    command = [sys.executable, "-m", "tests.kernel.recorded", str(pins.bpffs), *map(str, astuple(pins.marks))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # it may be another version's
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    if child.returncode != 0:
        raise KernelError(f"the kernel programs cannot be loaded: {child.stderr[-2000:]}")
    file.write_text(child.stdout.splitlines()[-1], encoding="utf-8")
    return dict(json.loads(file.read_text(encoding="utf-8"))["verified"])


def load_again(pins: Pins) -> dict[str, int]:
    """Another generation of the programs, compiled or not as the environment says."""
    return (load_programs if COMPILE_ONCE in os.environ else loader.load_programs)(pins)


def _load(pins: Pins, record: dict[str, Any]) -> dict[str, int]:
    # Before Linux 5.11 maps and programs count as locked memory; bcc lifts the limit, too.
    with contextlib.suppress(ValueError):  # where it cannot be raised
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    pins.maps.mkdir(parents=True, exist_ok=True, mode=0o700)
    describe(pins)
    maps = {name: _make_map(pins.maps / name, shape) for name, shape in record["maps"].items()}
    unfinished = pins.programs.with_name(pins.programs.name + "_unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    try:
        for name, program in record["programs"].items():
            code = bytearray.fromhex(program["code"])
            for offset, used in program["maps"]:
                struct.pack_into("=i", code, offset + 4, maps[used])
            place = ATTACH_TYPES.get(name, 0)
            descriptor = _load_program(program["function"], program["kind"], bytes(code), place)
            _pin(descriptor, unfinished / name)
            os.close(descriptor)
    finally:
        for descriptor in maps.values():
            os.close(descriptor)
    shutil.rmtree(pins.programs, ignore_errors=True)
    unfinished.rename(pins.programs)
    return dict(record["verified"])


def _make_map(path: Path, shape: list[int]) -> int:
    """One that is pinned already is used as it is, as bcc does."""
    if path.exists():
        return syscall.open_pinned(str(path))
    attribute = struct.pack("=5III16s", *shape, 0, 0, path.name.encode()[:15])
    descriptor, _ = syscall.bpf(_MAP_CREATE, attribute)
    _pin(descriptor, path)
    return descriptor


def _load_program(name: str, kind: int, code: bytes, attach_type: int) -> int:
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attribute = struct.pack(
        "=IIQQIIQII16sII",
        kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(licence), 0, 0, 0, 0, 0,
        name.encode()[:15], 0, attach_type,
    )  # fmt: skip
    descriptor, _ = syscall.bpf(syscall.PROGRAM_LOAD, attribute)
    return descriptor


def _pin(descriptor: int, path: Path) -> None:
    name = ctypes.create_string_buffer(os.fsencode(path))
    syscall.bpf(syscall.OBJECT_PIN, struct.pack("=QII", ctypes.addressof(name), descriptor, 0))


# ---- in the child ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Loads as the product does, and prints what it saw."""
    pins = Pins(Path(sys.argv[1]), Marks(*map(int, sys.argv[2:])))
    programs: dict[str, Any] = {}
    load = loader.load

    def load_and_record(bcc: Any, module: Any, name: str) -> Any:
        loaded = load(bcc, module, name)
        asked = (bcc.lib.bpf_function_start, bcc.lib.bpf_function_size)
        code = ctypes.string_at(*(ask(module.module, loaded.name) for ask in asked))
        used = [(offset, syscall.map_info(number).id) for offset, number in _map_descriptors(code)]
        kind = getattr(bcc.BPF, loader.KINDS.get(name, "SCHED_CLS"))
        function = os.fsdecode(loaded.name)  # another may have taken its place
        programs[name] = {"function": function, "kind": kind, "code": code.hex(), "maps": used}
        return loaded

    loader.load = load_and_record
    verified = loader.compile_and_pin(pins)
    maps, names = {}, {}
    for path in pins.maps.iterdir():
        with syscall.opened(str(path)) as descriptor:
            info = syscall._object_info(descriptor)
        kind, number, key, value, entries, flags = struct.unpack_from("=6I", info)
        maps[path.name], names[number] = [kind, key, value, entries, flags], path.name
    for program in programs.values():
        program["maps"] = [(offset, names[number]) for offset, number in program["maps"]]
    print("\n" + json.dumps({"verified": verified, "maps": maps, "programs": programs}))


def _map_descriptors(code: bytes) -> list[tuple[int, int]]:
    """Offsets of the instructions that name a map, and its descriptor."""
    found = []
    for offset in range(0, len(code), 8):
        operation, registers, _, immediate = struct.unpack_from("=BBhi", code, offset)
        if operation == _LOAD_IMMEDIATE and registers >> 4 == _IS_MAP:
            found.append((offset, immediate))
    return found


if __name__ == "__main__":
    main()
