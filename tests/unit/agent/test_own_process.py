# SPDX-License-Identifier: Apache-2.0
"""In a process of its own, since what is done stays so."""

import subprocess
import sys

_ASK = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
_FORBID = "from nodeagent.agent.own_process import forbid_dumps; forbid_dumps(); "


def _answer(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_nobody_reads_the_agents_memory_afterwards() -> None:
    assert _answer(_ASK) == "1", "nothing to forbid here: this test would prove nothing"
    assert _answer(_FORBID + _ASK) == "0"


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    lower = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, r.getrlimit(r.RLIMIT_NOFILE)[1])); "
    take = "from nodeagent.agent.own_process import take_all_descriptors; take_all_descriptors(); "
    ask = "soft, hard = r.getrlimit(r.RLIMIT_NOFILE); print(soft == hard)"
    assert _answer(lower + ask) == "False"
    assert _answer(lower + take + ask) == "True"
