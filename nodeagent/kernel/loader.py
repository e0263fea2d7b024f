# SPDX-License-Identifier: Apache-2.0
"""`python -m nodeagent.kernel.loader BPFFS`: the short-lived child that compiles, loads and pins, and exits.

Only here bcc is imported: it costs 70 MB at import and 125 MB after compiling, which the exit gives back. bcc comes
from the system's Python path, since it is no PyPI package. A map that is pinned already is used as it is
(`BPF_F_TABLE` with a path), so flows and counters live on; programs appear at once, by the rename of a directory.

`load_programs` is the agent's side: it runs the child and turns what went wrong into one KernelError. With `--trace` it
is about the filters that tell of packets, and the maps of a trace (bpf/trace.h).
"""

import argparse
import contextlib
import ctypes
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from nodeagent.errors import KernelError
from nodeagent.kernel import syscall
from nodeagent.kernel.cgroup import ATTACH_TYPES
from nodeagent.kernel.codings import layouts
from nodeagent.kernel.layout import read_maps
from nodeagent.kernel.pins import Pins, describe, is_bpffs, unfinished
from nodeagent.kernel.sources import FILTERS, PROGRAMS, SERVICES, TRACE_FLAG, bpf_folder, program_text, read_source
from nodeagent.model.mark import Marks

log = logging.getLogger(__name__)

KINDS = {"sockops": "SOCK_OPS", **dict.fromkeys(SERVICES, "CGROUP_SOCK_ADDR")}
"""bcc's name of a program's type; of the others SCHED_CLS."""
WITHOUT = {"sockops": "sockops_without_netns"}
"""What is loaded, and pinned by the first name, where the kernel does not have a helper that the first one calls."""
SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
"""Where Debian's python3-bpfcc lies; bcc is pure Python over libbcc.so.0, so any Python 3 can use it."""
LOADER_LOG = "loader.log"
"""In the run directory: what the compiler and the verifier said of the last failure."""
TIMEOUT_SECONDS = 240.0
"""A compile takes 0.7 s, and a minute where the processor is emulated and busy."""


class LoadCancelled(KernelError):
    check = "Nobody waits for it any more."


class Cancellation:
    """Ends loads from another thread: the one that runs at once, and others before they begin."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[str]] = set()
        self._is_set = False

    def set(self) -> None:
        with self._lock:
            self._is_set = True
            for child in self._children:
                child.kill()  # what it leaves is what a crash would: pins that nobody uses, which the next load removes

    def run(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """As subprocess.run with TIMEOUT_SECONDS. Raises LoadCancelled, and KernelError when it takes too long."""
        with self._lock:  # between the look and the note nobody sets it
            self._refuse_if_set()
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self._children.add(child)
        with child:
            try:
                output, errors = child.communicate(timeout=TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise KernelError(f"loading the kernel programs took more than {TIMEOUT_SECONDS:g} s") from error
            finally:
                child.kill()
                with self._lock:
                    self._children.discard(child)
        self._refuse_if_set()
        return subprocess.CompletedProcess(command, child.returncode, output, errors)

    def _refuse_if_set(self) -> None:
        if self._is_set:
            raise LoadCancelled("loading the kernel programs was given up")


def load_programs(
    pins: Pins, whole_log: Path | None = None, *, is_trace: bool = False, cancellation: Cancellation | None = None
) -> dict[str, int]:
    """Compiles and pins what `pins` names; `is_trace`: what it names for a trace. The verified instructions of each.

    Raises KernelError with the cause in one line; what the compiler and the verifier say goes to the log in short and
    to the file `whole_log` in full: a refusal may take thousands of lines, of which the last tell why. Raises
    LoadCancelled when that is what ended it.
    """
    command = [sys.executable, "-m", "nodeagent.kernel.loader", str(pins.bpffs), *map(str, astuple(pins.marks))]
    command += ["--trace"] if is_trace else []
    child = (cancellation or Cancellation()).run(command)
    answer = _last_object(child.stdout)
    if child.returncode == 0 and answer is not None:
        return {str(name): int(count) for name, count in answer["verified"].items()}
    for line in shorten(child.stderr.splitlines()):
        log.error("loader: %s", line)
    where = _keep(child.stderr, whole_log)
    if answer is not None:
        raise KernelError(f"{answer['error']} (Linux {os.uname().release})", check=f"{answer['check']}{where}")
    tail = " / ".join(child.stderr.splitlines()[-2:])
    raise KernelError(
        f"the loader of the kernel programs died with status {child.returncode}: {tail}",
        check=f"{KernelError.check}{where}",
    )


def shorten(lines: Sequence[str]) -> list[str]:
    """The first lines say which program, the last why: the verifier ends with the instruction that it refused."""
    left_out = len(lines) - _FIRST_LINES - _LAST_LINES
    if left_out <= 0:
        return list(lines)
    return [*lines[:_FIRST_LINES], f"... {left_out} lines ...", *lines[-_LAST_LINES:]]


_FIRST_LINES, _LAST_LINES = 4, 16
"""The registers and the few instructions before a refused one, and the counts behind it."""


def _keep(text: str, whole_log: Path | None) -> str:
    """Where the whole can be read, as the end of a piece of advice."""
    if whole_log is None or not text:
        return ""
    try:
        whole_log.write_text(text, encoding="utf-8")
    except OSError as error:
        return f" What was said in full could not be written: {error}."
    return f" What was said in full: {whole_log}."


def import_bcc() -> Any:
    """The module `bcc`. Raises KernelError."""
    if SYSTEM_PACKAGES not in sys.path:
        sys.path.append(SYSTEM_PACKAGES)
    try:
        import bcc
    except (ImportError, OSError) as error:  # OSError: libbcc.so.0 is missing
        raise KernelError(
            f"bcc cannot be imported: {error}", check="Install python3-bpfcc (Debian, Ubuntu)."
        ) from error
    return bcc


def compile_and_pin(pins: Pins) -> dict[str, int]:
    """Runs in the child. Raises KernelError."""
    bcc = _prepare(pins)
    pins.maps.mkdir(parents=True, exist_ok=True, mode=0o700)
    module = _compile(bcc, program_text(), _flags(pins))
    _check_maps(pins)
    describe(pins)
    return _pin_programs(bcc, module, pins.programs, PROGRAMS)


def compile_and_pin_trace(pins: Pins) -> dict[str, int]:
    """As `compile_and_pin`, of a trace's, over the maps that are pinned already. A former trace's are not used."""
    bcc = _prepare(pins)
    pins.remove_trace()
    (pins.trace / "maps").mkdir(parents=True, mode=0o700)
    module = _compile(bcc, program_text(FILTERS), [*_flags(pins), TRACE_FLAG, f'-DTRACE_DIRECTORY="{pins.trace}"'])
    _check_maps(pins)
    return _pin_programs(bcc, module, pins.trace_programs, FILTERS)


def _prepare(pins: Pins) -> Any:
    """The module `bcc`, on a machine that is fit for it."""
    # Read by libbcc before anything else: with it no kernel headers are looked for.
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_folder())
    bcc = import_bcc()
    if not is_bpffs(pins.bpffs):
        raise KernelError(f"no bpffs is mounted at {pins.bpffs}", check=f"mount -t bpf bpf {pins.bpffs}")
    _raise_memory_lock()
    return bcc


def _raise_memory_lock() -> None:
    """As far as it may be: before Linux 5.11 maps and programs count by it (nodeagent/kernel/node_settings.py)."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for most in (resource.RLIM_INFINITY, hard):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
            return


def _flags(pins: Pins) -> list[str]:
    return [f'-DPIN_DIRECTORY="{pins.directory}"', *pins.marks.flags]


def _compile(bcc: Any, text: str, flags: list[str]) -> Any:
    try:
        return bcc.BPF(text=text, cflags=flags)
    except Exception as error:
        raise KernelError(f"bcc could not compile the kernel programs: {error}") from error


def _check_maps(pins: Pins) -> None:
    """A pinned map of another shape would be read past its end by nobody, but answer nonsense: refuse it."""
    sizes = {"u32": 4, "u64": 8, **{name: layout.size for name, layout in layouts().items()}}
    for shape in read_maps(read_source("maps.h")).values():
        with syscall.opened(str(pins.maps / shape.name)) as descriptor:
            info = syscall.map_info(descriptor)
        found, wanted = (info.key_bytes, info.value_bytes), (sizes[shape.key], sizes[shape.value])
        if found != wanted:
            raise KernelError(
                f"the pinned map {shape.name} has key and value of {found} bytes, {wanted} are expected",
                check=f"Something else wrote to {pins.root}: run `nodeagent cleanup`.",
            )


def _pin_programs(bcc: Any, module: Any, folder: Path, names: Sequence[str]) -> dict[str, int]:
    verified = {}
    made = unfinished(folder)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True, mode=0o700)
    for name in names:
        program = load(bcc, module, name)
        if bcc.lib.bpf_obj_pin(program.fd, os.fsencode(made / name)) != 0:
            raise KernelError(f"the program {name} cannot be pinned at {made}")
        verified[name] = _verified(bcc.lib, module.module, program, name, _kind(bcc, name))
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    return verified


def _kind(bcc: Any, name: str) -> Any:
    return getattr(bcc.BPF, KINDS.get(name, "SCHED_CLS"))


def load(bcc: Any, module: Any, name: str) -> Any:
    """The program, or what takes its place on this kernel. Raises KernelError."""
    kind = _kind(bcc, name)
    if name in WITHOUT:
        try:
            return module.load_func(name, kind, None, ATTACH_TYPES.get(name, -1))
        except Exception:  # noqa: BLE001 - bcc raises nothing narrower
            log.info("this kernel refuses %s; %s takes its place", name, WITHOUT[name])
            name = WITHOUT[name]
    try:
        return module.load_func(name, kind, None, ATTACH_TYPES.get(name, -1))
    except Exception as error:
        raise KernelError(f"the kernel refused the program {name}: {_one_line(error)}") from error


def _verified(lib: Any, module: Any, program: Any, name: str, kind: int) -> int:
    """Instructions that the verifier walked through, each as often as it did: what the limit of a million is about.

    Before Linux 5.16 the kernel does not keep the number: there the program is loaded once more, with statistics.
    """
    kept = syscall.program_info(program.fd).verified_instructions
    if kept:
        return kept
    start, size = lib.bpf_function_start(module, program.name), lib.bpf_function_size(module, program.name)
    second, log = syscall.load_program(
        ctypes.string_at(start, size), kind, syscall.LOG_STATISTICS, ATTACH_TYPES.get(name, 0)
    )
    os.close(second)
    return processed_instructions(log)


def processed_instructions(log: str) -> int:
    """In the verifier's log: `processed 4969 insns (limit 1000000) ...`; 0 when it does not say so."""
    found = re.search(r"^processed (\d+) insns", log, re.MULTILINE)
    return int(found[1]) if found else 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _last_object(output: str) -> dict[str, Any] | None:
    """The child's answer is its last line: libbcc writes to standard output too."""
    lines = output.splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Compiles, loads and pins the kernel programs of nodeagent.")
    parser.add_argument("bpffs", help="where bpffs is mounted")
    parser.add_argument("mark", type=int, nargs="?", default=Marks.base, help="our mark")
    parser.add_argument("mark_mask", type=int, nargs="?", default=Marks.mask, help="the bits of marks that are ours")
    parser.add_argument("--trace", action="store_true", help="those that tell of packets")
    arguments = parser.parse_args()
    started = time.monotonic()
    compile_them = compile_and_pin_trace if arguments.trace else compile_and_pin
    try:
        verified = compile_them(Pins(Path(arguments.bpffs), Marks(arguments.mark, arguments.mark_mask)))
    except KernelError as error:
        answer: dict[str, object] = {"error": str(error), "check": error.check}
        status = 1
    except OSError as error:
        answer = {"error": f"{error.filename or 'bpf(2)'}: {error.strerror}", "check": KernelError.check}
        status = 1
    else:
        answer = {"verified": verified, "seconds": round(time.monotonic() - started, 3)}
        status = 0
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
