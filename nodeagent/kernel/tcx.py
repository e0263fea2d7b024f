# SPDX-License-Identifier: Apache-2.0
"""TCX, Linux 6.6 and newer: a program on a device as a pinned link, which is its owner's alone and outlives the agent.

Devices are indexes in the network namespace of the calling thread. An index may be used again: a link counts only while
the kernel shows it at this very device, and the pin of any other is removed, so no device is ever served by the link of
a former one. The order on a device is the kernel's (bpf_mprog): new links go to the head, replacing keeps the place.
"""

import errno
import os
from functools import cache
from pathlib import Path

from nodeagent.kernel import syscall

_INGRESS, _EGRESS = 46, 47
"""BPF_TCX_INGRESS and BPF_TCX_EGRESS."""
_BEFORE = 1 << 3
"""BPF_F_BEFORE; with no other program named: before all."""
_LOOPBACK = 1


@cache
def is_supported() -> bool:
    """Asks what is attached to the loopback device, which every namespace has: only TCX knows the question."""
    try:
        entries(_LOOPBACK, is_egress=False)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def entries(device: int, *, is_egress: bool) -> list[tuple[int, int]]:
    """(program, link) by their ids, in the order in which they run, ours and others'. Raises OSError."""
    return syscall.attached(device, _EGRESS if is_egress else _INGRESS)


def find(pin: Path, device: int, *, is_egress: bool) -> int | None:
    """Id of the program that runs there by the link pinned at `pin`. A pin of a link that is elsewhere is removed."""
    try:
        with syscall.opened(str(pin)) as descriptor:
            info = syscall.link_info(descriptor)
    except FileNotFoundError:
        return None
    try:
        is_there = any(link == info.id for _, link in entries(device, is_egress=is_egress))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        is_there = False
    if not is_there:
        remove(pin)
        return None
    return info.program


def put(pin: Path, device: int, program: int, *, is_egress: bool) -> None:
    """Replaces in place what `find` would have found there, else attaches before all others. Raises OSError."""
    if find(pin, device, is_egress=is_egress) is not None:
        with syscall.opened(str(pin)) as link:
            syscall.link_update(link, program)
        return
    pin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    link = syscall.link_create(program, device, _EGRESS if is_egress else _INGRESS, _BEFORE)
    try:
        syscall.pin(link, str(pin))
    finally:
        os.close(link)


def remove(pin: Path) -> None:
    """Nothing there is fine. Detached first: what is merely unpinned runs on until the kernel's worker comes to it."""
    try:
        with syscall.opened(str(pin)) as link:
            syscall.link_detach(link)
    except FileNotFoundError:
        return
    pin.unlink(missing_ok=True)
