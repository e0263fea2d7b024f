# SPDX-License-Identifier: Apache-2.0
"""`python -m vagrant.matrix`, what `make test-kernels` runs: fetch, build the disks, boot, judge, write the result.

Downloads and images are kept in build/kernels; `make clean` removes them.
"""

import argparse
import os
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nodeagent.errors import ConfigError, NodeagentError
from vagrant import userland
from vagrant.boot import initramfs, probe
from vagrant.fetch import (
    ARCHIVE,
    ARCHIVE_SECURITY,
    LINES,
    PUBLIC_SECURITY,
    Kernel,
    Line,
    Mirrors,
    fetch,
    machine_mirrors,
)
from vagrant.inside import SELECTION
from vagrant.machine import Accelerator, Machine, boots, fitting, has_kvm, last_lines, run_machines
from vagrant.results import Outcome, as_json, closing_line, outcome, read_lines, row

CHECKOUT = Path(__file__).resolve().parent.parent
BUILD = CHECKOUT / "build/kernels"
RESULT = CHECKOUT / "build/kernels.json"
MEMORY_MIB = 2048
"""Two agents, their workers and a compiler, with what they write: 1.1 GiB at most were seen."""
CORES = {"kvm": 2, "tcg": 1}
"""With a clock that counts instructions all processors take turns in one thread, and Linux 5.10 waits for its second
one for ever."""
PROBE_SECONDS = 20
"""A kernel that is not emulated says its first word within two."""


def main() -> int:
    arguments = _parser().parse_args()
    try:
        return _run(arguments)
    except NodeagentError as error:
        print(f"test-kernels: {error}\n{error.check}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("test-kernels: interrupted; the machines have ended", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    names = [line.name for line in LINES]
    parser = argparse.ArgumentParser(
        prog="make test-kernels", description="Runs the kernel's tests on several kernels."
    )
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"some of {', '.join(names)}; all when none is named")
    parser.add_argument(
        "--accelerator", choices=("kvm", "tcg"), default="", help="KVM where a machine boots with it, else TCG"
    )
    parser.add_argument("--jobs", type=int, default=0, help="machines at once; as many as memory and cores allow")
    parser.add_argument("--seconds", type=float, default=1200, help="that a machine may take (1200)")
    parser.add_argument("--tests", nargs="+", default=[], metavar="FILE", help="these in place of the usual tests")
    parser.add_argument("--fetch", action="store_true", help="look for newer kernels, even if some are here")
    parser.add_argument("--only-fetch", action="store_true", help="and boot nothing")
    parser.add_argument("--mirror", default="", help="of Debian; the machine's own when not given")
    parser.add_argument("--security-mirror", default=PUBLIC_SECURITY, help="beside --mirror")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    lines = _chosen(arguments.lines)
    BUILD.mkdir(parents=True, exist_ok=True)
    own = Mirrors(arguments.mirror, arguments.security_mirror) if arguments.mirror else machine_mirrors()
    mirrors = (own, Mirrors(ARCHIVE, ARCHIVE_SECURITY))
    kernels = [fetch(line, BUILD / line.name, mirrors, again=arguments.fetch) for line in lines]
    if arguments.only_fetch:
        return 0
    accelerator = arguments.accelerator or _usable_accelerator(kernels[0])
    at_once = arguments.jobs or fitting(len(lines), MEMORY_MIB, os.cpu_count() or 1)
    outcomes = {}
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="run-") as scratch:
        machine_files, checkout = _userland(), _checkout(Path(scratch))
        machines = [_machine(kernel, (machine_files, _modules(kernel), checkout), accelerator) for kernel in kernels]
        machines = [replace(machine, tests=",".join(arguments.tests)) for machine in machines]
        names = ", ".join(f"{kernel.line} ({kernel.release})" for kernel in kernels)
        print(f"booting {names} under {accelerator.upper()}, {at_once} at once", flush=True)
        for machine, lost in run_machines(machines, at_once, arguments.seconds):
            outcomes[machine.line] = _judge(machine, lost)
    ordered = [outcomes[line.name] for line in lines]
    RESULT.write_text(as_json(ordered), encoding="utf-8")
    print(f"{RESULT.relative_to(CHECKOUT)} written, {time.monotonic() - started:.0f} s")
    print(closing_line(ordered))
    return 0 if all(each.is_green for each in ordered) else 1


def _chosen(names: Sequence[str]) -> list[Line]:
    known = {line.name: line for line in LINES}
    strange = [name for name in names if name not in known]
    if strange:
        raise ConfigError(f"no such line of kernels: {', '.join(strange)}", check=f"There are {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)] or list(LINES)


def _usable_accelerator(kernel: Kernel) -> Accelerator:
    """KVM where a machine really boots with it."""
    if not has_kvm():
        return "tcg"
    first = kernel.folder / "probe"
    first.write_bytes(probe(kernel))
    machine = replace(_machine(kernel, (), "kvm"), initramfs=first)
    return "kvm" if boots(machine, PROBE_SECONDS) else "tcg"


def _userland() -> Path:
    """Made again when packages or uv's lock have changed."""
    packages = userland.packages()
    key = userland.key(packages, (CHECKOUT / "uv.lock").read_bytes(), userland.envoy(CHECKOUT))
    image = BUILD / f"userland-{key}.img"
    if image.exists():
        return image
    for former in BUILD.glob("userland-*"):
        former.unlink()
    print(f"making the guests' files of {len(packages)} packages of this machine", flush=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="run-") as tree:
        userland.stage(packages, CHECKOUT, Path(tree))
        userland.write_image(Path(tree), image)
    return image


def _checkout(scratch: Path) -> Path:
    """What is tested: as it is at this moment."""
    userland.compile_checkout(CHECKOUT, SELECTION)
    userland.stage_checkout(CHECKOUT, scratch / "tree")
    userland.write_image(scratch / "tree", scratch / "checkout.img")
    return scratch / "checkout.img"


def _modules(kernel: Kernel) -> Path:
    image = kernel.folder / "modules.img"
    if not image.exists():
        userland.write_image(kernel.root, image)
    return image


def _machine(kernel: Kernel, disks: tuple[Path, ...], accelerator: Accelerator) -> Machine:
    first = kernel.folder / "initramfs"
    first.write_bytes(initramfs(kernel, CHECKOUT))
    return Machine(
        kernel.line,
        kernel.image,
        first,
        disks,
        kernel.folder / "console.log",
        kernel.folder / "report.jsonl",
        accelerator,
        MEMORY_MIB,
        CORES[accelerator],
    )


def _judge(machine: Machine, lost: str) -> Outcome:
    """Prints the kernel's line, and below it what failed."""
    report = read_lines(machine.report.read_text(encoding="utf-8", errors="replace"))
    found = outcome(machine.line, report, lost=lost)
    print(row(found), flush=True)
    for detail in found.details:
        print(textwrap.indent(detail, "    "), flush=True)
    if not report or lost or not found.is_green:
        print(textwrap.indent(last_lines(machine.console), "    console: "), flush=True)
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
