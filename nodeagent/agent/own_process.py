# SPDX-License-Identifier: Apache-2.0
"""What the agent asks of its own process at its start.

It keeps its memory to itself, because the private keys of the node's pods are in it: neither a core dump nor a debugger
of the same user gets at it; root does, always. And it takes all the descriptors that it may have. Later it gives back
the memory that it needed for a moment.
"""

import ctypes
import os
import resource

from nodeagent.errors import NotPossible

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_MALLOC = {_M_TRIM_THRESHOLD: 1 << 17, _M_MMAP_THRESHOLD: 1 << 17, _M_ARENA_MAX: 2}
"""The thresholds are those that glibc begins with."""


def forbid_dumps() -> None:
    """For this process until it executes another program, so not for its children. Raises NotPossible."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise NotPossible(f"core dumps cannot be forbidden: {os.strerror(ctypes.get_errno())}")


def take_all_descriptors() -> None:
    """Two for each captured pod, to hold its programs: with 250 pods half of a usual soft limit of 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def hoard_no_memory() -> None:
    """Before there are threads. Large blocks go back to the kernel when they are freed, as does the end of a heap.

    Left alone, the thresholds of glibc grow to what was freed once; a mesh comes in blocks of megabytes, and each
    thread that has had one keeps a heap of that size for ever.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _MALLOC.items():
            mallopt(ctypes.c_int(parameter), ctypes.c_int(value))


def give_back_memory() -> None:
    """What is free goes to the kernel, wherever it lies. Blocks for milliseconds, without the interpreter's lock."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone; another allocator does as it thinks best
    if trim is not None:
        trim(ctypes.c_size_t(0))
