# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of running processes: who is in a network namespace, and which namespaces a process could reach.

A process reaches a namespace by a descriptor of it, or by a socket that was made there: such a socket acts there for as
long as it lives, whatever namespace its owner is in.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
from pathlib import Path

PROC = Path("/proc")
_SYS_PIDFD_GETFD = 438  # the same number on every architecture
_SIOCGSKNS = 0x894C  # linux/sockios.h: a descriptor of the namespace that a socket belongs to
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def in_netns(inode: int, cgroup: Path) -> list[int]:
    """Pids of the processes of a cgroup, and of those below it, whose network namespace it is, in order."""
    found = []
    for file in cgroup.rglob("cgroup.procs"):
        for pid in file.read_text(encoding="ascii").split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                if (PROC / pid / "ns/net").stat().st_ino == inode:
                    found.append(int(pid))
    return sorted(found)


def status(pid: int) -> dict[str, str]:
    rows = (line.partition(":") for line in (PROC / str(pid) / "status").read_text(encoding="ascii").splitlines())
    return {name: value.strip() for name, _, value in rows}


def ways_out(pid: int, own_netns: int) -> list[str]:
    """Descriptors of any namespace, sockets of another network namespace than its own, and BPF objects.

    Unix sockets are left out: they carry messages between processes, wherever they were made.
    """
    found = []
    namespaces = (PROC / "self/ns/net").stat().st_dev
    with contextlib.ExitStack() as stack:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        for entry in (PROC / str(pid) / "fd").iterdir():
            target = str(entry.readlink())
            if entry.stat().st_dev == namespaces or "bpf" in target:
                found.append(f"{entry.name} -> {target}")
            elif target.startswith("socket:"):
                inode = _netns_of_socket(pidfd, int(entry.name))
                if inode not in {0, own_netns}:
                    found.append(f"{entry.name} -> {target} of net:[{inode}]")
    return found


def _netns_of_socket(pidfd: int, number: int) -> int:
    """The inode of its namespace; 0 for a Unix socket. Raises OSError."""
    copy = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    with socket.socket(fileno=copy) as twin:
        if twin.family == socket.AF_UNIX:
            return 0
        descriptor = fcntl.ioctl(twin, _SIOCGSKNS)
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)
