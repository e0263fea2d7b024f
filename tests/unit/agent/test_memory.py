# SPDX-License-Identifier: Apache-2.0
"""In a process of its own, since what is forbidden stays so."""

import subprocess
import sys

_ASK = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
_FORBID = "from nodeagent.agent.memory import forbid_dumps; forbid_dumps(); "


def _answer(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_nobody_reads_the_agents_memory_afterwards() -> None:
    assert _answer(_ASK) == "1", "nothing to forbid here: this test would prove nothing"
    assert _answer(_FORBID + _ASK) == "0"
