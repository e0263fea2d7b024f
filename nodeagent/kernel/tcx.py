# SPDX-License-Identifier: Apache-2.0
"""TCX, Linux 6.6 and newer: a program on a device as a pinned link, which is its owner's alone and outlives the agent.

While the agent lives it holds each link by a descriptor too: if somebody unmounts bpffs, with all pins, the programs
stay where they are, and the links are pinned again.

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


class Links:
    """Those in one directory, by the names of their pins. Methods raise OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}
        """Descriptors."""

    def find(self, name: str, device: int, *, is_egress: bool) -> int | None:
        """Id of the program that runs there by the link of this name. A link that is elsewhere is removed."""
        link = self._hold(name)
        if link is None:
            return None
        info = syscall.link_info(link)
        try:
            is_there = any(number == info.id for _, number in entries(device, is_egress=is_egress))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            is_there = False
        if not is_there:
            self.remove(name)
            return None
        return info.program

    def put(self, name: str, device: int, program: int, *, is_egress: bool) -> None:
        """Replaces in place what `find` would have found there, else attaches before all others."""
        if self.find(name, device, is_egress=is_egress) is not None:
            syscall.link_update(self._held[name], program)
            return
        link = syscall.link_create(program, device, _EGRESS if is_egress else _INGRESS, _BEFORE)
        try:
            self._pin(name, link)
        except OSError:
            os.close(link)
            raise
        self._held[name] = link

    def remove(self, name: str) -> None:
        """Nothing there is fine."""
        remove(self._directory / name)
        link = self._held.pop(name, None)
        if link is not None:
            os.close(link)

    def close(self) -> None:
        """What is pinned stays attached."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _hold(self, name: str) -> int | None:
        """The link that is pinned, else the one that was pinned when we last looked; it is pinned again."""
        held = self._held.get(name)
        try:
            link = syscall.open_pinned(str(self._directory / name))
        except FileNotFoundError:
            if held is not None:
                self._pin(name, held)
            return held
        if held is not None:
            os.close(held)
        self._held[name] = link
        return link

    def _pin(self, name: str, link: int) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        syscall.pin(link, str(self._directory / name))


def remove(pin: Path) -> None:
    """Nothing there is fine. Detached first: what is merely unpinned runs on until the kernel's worker comes to it."""
    try:
        with syscall.opened(str(pin)) as link:
            syscall.link_detach(link)
    except FileNotFoundError:
        return
    pin.unlink(missing_ok=True)
