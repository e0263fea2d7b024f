#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generate the modules of nodeagent/proto from its .proto files; with --check, tell whether they are current."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = Path("nodeagent/proto")
HEADER = "# SPDX-License-Identifier: Apache-2.0\n# made by make proto; do not edit\n"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def _has_service(proto: Path) -> bool:
    return any(line.startswith("service ") for line in proto.read_text(encoding="utf-8").splitlines())


def _generate(out: Path) -> dict[str, str]:
    """Run the compiler into out; return the text of each generated file by name."""
    sources = sorted((ROOT / PROTO).glob("*.proto"))
    plugins = Path(sys.executable).parent  # protoc-gen-mypy is beside the interpreter, on PATH or not
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", "."),
            *(f"--{kind}_out={out}" for kind in ("python", "grpc_python")),
            *(f"--{kind}_out=quiet:{out}" for kind in ("mypy", "mypy_grpc")),
            *(str(source.relative_to(ROOT)) for source in sources),
        ],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{plugins}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
        check=True,
    )
    made = {}
    for source in sources:
        for suffix in SUFFIXES if _has_service(source) else SUFFIXES[:2]:
            name = source.stem + suffix
            made[name] = HEADER + (out / PROTO / name).read_text(encoding="utf-8")
    return made


def _present() -> dict[str, str]:
    paths = (path for path in (ROOT / PROTO).iterdir() if path.name.endswith(SUFFIXES))
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not current")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as out:
        try:
            made = _generate(Path(out))
        except subprocess.CalledProcessError as error:
            return int(error.returncode)  # the compiler has said why
    present = _present()
    stale = sorted(name for name in made.keys() | present.keys() if made.get(name) != present.get(name))
    for name in stale:
        path = ROOT / PROTO / name
        if check:
            sys.stderr.write(f"{PROTO / name} is stale: run make proto\n")
        elif name in made:
            path.write_text(made[name], encoding="utf-8")
        else:
            path.unlink()
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
