# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001, T201 - a script, not a package; it speaks to a terminal
"""Compiles the workers' hot path, lane/lane.c, into nodeagent/proxy: for a checkout, and for a wheel.

It is optional: without a C compiler or Python's headers the workers do the same in Python. It is built for the stable
ABI of Python 3.11, so one build serves all that are newer.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
SOURCE = _ROOT / "lane/lane.c"
TARGET = _ROOT / "nodeagent/proxy/_lane.abi3.so"
FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-fstack-protector-strong", "-Wl,-z,now", "-s")
"""No path and no time of the build is in the result."""


class CannotCompile(Exception):
    pass


def compile_lane(target: Path = TARGET, extra: tuple[str, ...] = ()) -> None:
    """Raises CannotCompile, and leaves nothing that is older than the source."""
    with contextlib.suppress(OSError):  # then the compiler says what is wrong there
        target.unlink()
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise CannotCompile("there is no C compiler (apt-get install gcc libc6-dev)")
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").exists():
        raise CannotCompile(f"there is no {include}/Python.h (apt-get install python3-dev)")
    command = [*compiler.split(), *FLAGS, *extra, f"-I{include}", "-o", str(target), str(SOURCE)]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise CannotCompile(f"{compiler} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise CannotCompile(f"{compiler} says: {done.stderr.strip()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--if-possible", action="store_true", help="without it: say so, and be content")
    options = parser.parse_args()
    try:
        compile_lane()
    except CannotCompile as error:
        print(f"make_lane: workers will carry payload in Python, slower: {error}", file=sys.stderr)
        return 0 if options.if_possible else 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
