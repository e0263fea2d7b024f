# SPDX-License-Identifier: Apache-2.0
"""What the agent asks of its own process, once, at its start.

It keeps its memory to itself, because the private keys of the node's pods are in it: neither a core dump nor a debugger
of the same user gets at it; root does, always. And it takes all the descriptors that it may have.
"""

import ctypes
import os
import resource

from nodeagent.errors import NotPossible

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def forbid_dumps() -> None:
    """For this process until it executes another program, so not for its children. Raises NotPossible."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise NotPossible(f"core dumps cannot be forbidden: {os.strerror(ctypes.get_errno())}")


def take_all_descriptors() -> None:
    """Two for each captured pod, to hold its programs: with 250 pods half of a usual soft limit of 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
