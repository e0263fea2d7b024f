# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001, T201 - a script, not a package; it speaks to a terminal
"""Compiles all C, the kernel programs' and the rest, with every warning on, and compares the format.

Needs clang, clang-format, linux-libc-dev and Python's headers; neither bcc nor root: bpf/check/bcc_dialect.h spells
what bcc adds to C.
Nothing is written, except with `--fix`, which formats.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

BPF = Path(__file__).resolve().parent.parent / "bpf"
PROGRAMS = sorted(path.name for path in BPF.glob("*.c"))
RECORDING = BPF.parent / "tests" / "kernel" / "proof" / "recording.h"
"""The test build's part in front of the programs."""
FILTERS = ("from_pod.c", "to_pod.c", "from_proxy.c", "at_proxy.c")
TRACE = ("-DTRACE", '-DTRACE_DIRECTORY=""')
"""With what these tell of packets (bpf/trace.h)."""
IMAGE = sorted(str(path) for path in (BPF.parent / "daemonset").rglob("*.c"))
LANE = sorted(map(str, (BPF.parent / "lane").glob("*.[ch]")))
"""The workers' hot path."""
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wpadded", "-Wimplicit-fallthrough", "-Wmissing-prototypes")


def compile_program(name: str, *prefix: str) -> list[str]:
    """To LLVM's intermediate code: far enough for all warnings; bcc's tables have no meaning to the BPF backend."""
    # asm/types.h lies below the triplet of the host, which `-target bpf` does not look into.
    hosts = [f"-idirafter{folder.parent}" for folder in Path("/usr/include").glob("*-linux-*/asm")]
    return [
        "clang", "-target", "bpf", "-std=gnu11", "-O2", *WARNINGS, *hosts, "-include", "check/bcc_dialect.h", *prefix,
        "-S", "-emit-llvm", "-o", "/dev/null", name,
    ]  # fmt: skip


def main() -> int:
    missing = [tool for tool in ("clang", "clang-format") if shutil.which(tool) is None]
    if missing:
        print(f"check_c: {' and '.join(missing)} not found; apt-get install {' '.join(missing)}", file=sys.stderr)
        return 5
    sources = [*sorted(str(path.relative_to(BPF)) for path in BPF.rglob("*.[ch]")), str(RECORDING), *IMAGE, *LANE]
    form = ["-i"] if "--fix" in sys.argv[1:] else ["--dry-run", "--Werror"]
    commands = [["clang-format", *form, *sources], *(compile_program(name) for name in PROGRAMS)]
    commands += [compile_program(name, "-include", str(RECORDING)) for name in PROGRAMS]
    commands += [compile_program(name, *TRACE) for name in FILTERS]
    commands += [["clang", "-std=gnu11", "-O2", *WARNINGS, "-Wno-padded", "-fsyntax-only", path] for path in IMAGE]
    python = f"-I{sysconfig.get_paths()['include']}"
    commands += [
        [
            "clang",
            "-std=gnu11",
            "-O2",
            *WARNINGS,
            "-Wno-padded",
            python,
            "-fsyntax-only",
            str(BPF.parent / "lane/lane.c"),
        ]
    ]
    failed = [command[0] for command in commands if subprocess.run(command, cwd=BPF, check=False).returncode != 0]
    what = f"{len(PROGRAMS)} programs and their test build, {len(FILTERS)} that trace"
    what += f", {len(IMAGE)} of the image, the hot path, {len(sources)} files"
    print(f"check_c: {what}, {len(failed)} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
