# SPDX-License-Identifier: Apache-2.0
"""The system calls around namespaces and mounts that Python 3.11 does not have: setns, unshare, mount, umount2.

Thin on purpose: numbers in, OSError out. A namespace belongs to a thread, not to the process; who enters one here is
responsible for leaving it, and `enter_netns` does so. Nothing here creates a name, keeps a journal or logs.
"""

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2
_SO_NETNS_COOKIE = 71

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)

OWN_NETNS = "/proc/thread-self/ns/net"
"""The calling thread's; /proc/self would name the main thread's."""


def setns(fd: int, nstype: int) -> None:
    """Moves the calling thread. For a mount namespace it must not share its root and cwd: unshare(CLONE_FS) first."""
    _check(_libc.setns(fd, nstype), f"setns({fd})")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    target = os.fspath(target)
    status = _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode())
    _check(status, f"mount {kind or source} on {target}")


def unmount(target: str | Path, flags: int = 0) -> None:
    target = os.fspath(target)
    _check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


@contextmanager
def enter_netns(namespace: str | Path | int) -> Iterator[None]:
    """The calling thread is in this network namespace (a path or an open descriptor) until the block ends.

    Sockets that were made inside stay there, whoever uses them later. Threads started inside stay there as well.
    """
    opened = -1 if isinstance(namespace, int) else os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        home = os.open(OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(namespace if isinstance(namespace, int) else opened, CLONE_NEWNET)
            try:
                yield
            finally:
                setns(home, CLONE_NEWNET)
        finally:
            os.close(home)
    finally:
        if opened >= 0:
            os.close(opened)


def netns_cookie(namespace: str | Path) -> int:
    """By which programs know it, and which no other namespace ever has; 0 before Linux 5.14. Raises OSError."""
    with enter_netns(namespace):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with made:
        try:
            return int.from_bytes(made.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                return 0
            raise


def _check(status: int, what: str) -> None:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
