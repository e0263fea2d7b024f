# SPDX-License-Identifier: Apache-2.0
"""Keeps the agent's memory to itself, because the private keys of the node's pods are in it.

Neither a core dump nor a debugger of the same user gets at it; root does, always.
"""

import ctypes
import os

from nodeagent.errors import NotPossible

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def forbid_dumps() -> None:
    """For this process until it executes another program, so not for its children. Raises NotPossible."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise NotPossible(f"core dumps cannot be forbidden: {os.strerror(ctypes.get_errno())}")
