# SPDX-License-Identifier: Apache-2.0
"""What the image has in C, compiled as the image does it."""

import subprocess
from pathlib import Path

import pytest

DAEMONSET = Path(__file__).resolve().parents[3] / "daemonset"


def compiled(name: str, directory: Path, *flags: str) -> Path:
    program = directory / name
    source = DAEMONSET / f"{name}.c"
    subprocess.run(["clang", "-O2", "-Wall", "-Wextra", "-Werror", *flags, "-o", program, source], check=True)
    return program


@pytest.fixture(scope="session")
def supervise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("supervise", tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def cni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Behaviour that C does not define ends it."""
    return compiled("cni", tmp_path_factory.mktemp("image"), "-fsanitize=undefined", "-fsanitize-trap=all")
