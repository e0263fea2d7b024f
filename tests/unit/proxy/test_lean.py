# SPDX-License-Identifier: Apache-2.0
"""What a worker does not import, since each costs all of its life what it is needed for in none of it."""

import subprocess
import sys

_UNWANTED = {"argparse", "asyncio", "dataclasses", "grpc", "inspect", "pathlib", "typing_extensions", "urllib.parse"}
_PROGRAM = f"""
import logging
import sys
theirs = set(sys.modules)  # since Python 3.14 logging has dataclasses and inspect with it
import nodeagent.proxy.worker
print(*sorted({_UNWANTED} & set(sys.modules) - theirs))
import typing_extensions
"""


def test_a_worker_imports_nothing_that_it_does_not_need_and_others_may() -> None:
    ran = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    assert ran.stdout == "\n"
