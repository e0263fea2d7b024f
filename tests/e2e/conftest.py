# SPDX-License-Identifier: Apache-2.0
"""Agents that need not compile, for machines on which that takes half a minute: see tests/kernel/recorded.py."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.lab.demo import stage
from tests.kernel.recorded import COMPILE_ONCE

_AGENT = f"""
import sys
sys.path.append({str(Path(__file__).resolve().parents[2])!r})  # behind the version that runs
from nodeagent.kernel import programs
from tests.kernel import recorded
programs.load_programs = recorded.load_programs
from nodeagent.cli.main import main
main()
"""


@pytest.fixture(scope="session", autouse=True)
def _compile_once() -> Iterator[None]:
    command = stage.command

    def recorded(*words: str | Path) -> list[str]:
        return [sys.executable, "-c", _AGENT, *map(str, words)] if words[0] == "agent" else command(*words)

    with pytest.MonkeyPatch.context() as patch:
        if COMPILE_ONCE in os.environ:
            patch.setattr(stage, "command", recorded)
        yield
