# SPDX-License-Identifier: Apache-2.0
"""What the image has in C, compiled as the image does it."""

import subprocess
from pathlib import Path

import pytest

DAEMONSET = Path(__file__).resolve().parents[3] / "daemonset"


@pytest.fixture(scope="session")
def supervise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("image") / "supervise"
    source = DAEMONSET / "supervise.c"
    subprocess.run(["clang", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    return program
