# SPDX-License-Identifier: Apache-2.0
"""From root in the node's namespace to nobody in the proxy namespace, without a way back.

Called once, before the first byte from anywhere is read. Everything is verified afterwards: a worker that still has
a capability does not start.
"""

import ctypes
import os
import resource

from nodeagent.errors import MissingPrivilege

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4  # a C int would leave half of each register undefined

# linux/sched.h, linux/prctl.h, linux/capability.h
_CLONE_NEWNET = 0x40000000
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64
"""More than any kernel has; prctl says EINVAL for those that do not exist."""
_EPERM, _EINVAL = 1, 22


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    """Two rows of 32 bits each: effective, permitted, inheritable."""

    _fields_ = (("words", ctypes.c_uint32 * 6),)


def enter_network_namespace(fd: int) -> None:
    """Raises MissingPrivilege when the kernel refuses. The descriptor stays open."""
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise MissingPrivilege(f"cannot enter the proxy namespace: {os.strerror(ctypes.get_errno())}")


def raise_descriptor_limit() -> None:
    """Soft limit to the hard one: a connection needs two descriptors, and 1024 is the usual soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def drop_privileges(uid: int) -> None:
    """Becomes `uid` with no group but the same number, no capability, and no way to get one.

    Raises MissingPrivilege when anything of that is not so afterwards.
    """
    for capability in range(_CAPABILITIES):
        # Needs CAP_SETPCAP, which the agent may not have (EPERM): no_new_privs below makes the bounding set moot.
        if _prctl(_PR_CAPBSET_DROP, capability) in {_EINVAL, _EPERM}:
            break
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except PermissionError as error:
        raise MissingPrivilege(f"cannot become uid {uid}: {error.strerror}") from error
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    _libc.capset(ctypes.byref(header), ctypes.byref(_CapabilitySets()))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # After setresuid, which sets it anew: no core dump and no ptrace, because keys are in memory.
    _prctl(_PR_SET_DUMPABLE, 0)
    _verify(uid)


def _verify(uid: int) -> None:
    sets = _CapabilitySets()
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    if _libc.capget(ctypes.byref(header), ctypes.byref(sets)) != 0 or any(sets.words):
        raise MissingPrivilege("the worker still has capabilities after dropping them")
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (uid, uid, uid) or os.getgroups():
        raise MissingPrivilege(f"the worker is not uid {uid} alone after dropping its privileges")
    if _libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1:
        raise MissingPrivilege("the kernel did not accept no_new_privs")


def _prctl(option: int, argument: int) -> int:
    """0, or the errno."""
    return 0 if _libc.prctl(option, argument, 0, 0, 0) >= 0 else ctypes.get_errno()
