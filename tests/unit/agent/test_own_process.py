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


_RESIDENT = "int(open('/proc/self/statm').read().split()[1])"
_FRAGMENTED = "kept = [bytes(2000) for _ in range(20000)]; peak = {resident}; del kept[:-1]; "
"""The last one lies at the end of the heap, so that nothing before it is given back by itself."""


def test_what_is_free_goes_back_to_the_kernel() -> None:
    made = _FRAGMENTED.format(resident=_RESIDENT)
    ask = f"print({_RESIDENT} < peak / 2)"
    give_back = "from nodeagent.agent.own_process import give_back_memory; "
    assert _answer(give_back + made + ask) == "False", "nothing to give back here: this test would prove nothing"
    assert _answer(give_back + made + "give_back_memory(); " + ask) == "True"


def test_a_thread_that_needed_much_for_a_moment_keeps_none_of_it() -> None:
    program = (
        "import threading; from nodeagent.agent.own_process import hoard_no_memory; {first}"
        "need = lambda: [bytes(2000) for _ in range(20000)] and None; before = {resident}; "
        "thread = threading.Thread(target=need); thread.start(); thread.join(); "
        "print(({resident} - before) * 4096 < 4 << 20)"
    )
    assert _answer(program.format(first="hoard_no_memory(); ", resident=_RESIDENT)) == "True"
