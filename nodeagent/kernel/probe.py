# SPDX-License-Identifier: Apache-2.0
"""What this machine must have, each with evidence and what to do: for `nodeagent check` and, in short, for every start.

A probe tries the thing itself where that can be done aside (a qdisc on lo of a namespace that ends with its thread, a
program that is loaded and dropped); nothing of the machine is changed.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from nodeagent.errors import KernelError, MissingPrivilege, NotPossible
from nodeagent.kernel import syscall
from nodeagent.kernel.cgroup import find_pods_cgroup
from nodeagent.kernel.netlink import explained
from nodeagent.kernel.netns import CLONE_NEWNET, unshare
from nodeagent.kernel.pins import is_bpffs
from nodeagent.model.check import Check

OLDEST_KERNEL = (5, 10)
"""bpf_redirect_peer."""
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}
"""SYS_ADMIN: to make and enter the proxy namespace, and for bcc to open a pinned map by its id."""
WORKERS_CAPABILITIES = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_NET_BIND_SERVICE": 10}
"""To start workers that have none, under their own user, at ports below 1024, and to end them."""
_BCC_SECONDS = 20


@dataclass(frozen=True)
class Probe:
    name: Check
    ok: bool
    evidence: str
    advice: str = ""
    """What to do when it is not ok."""
    is_needed: bool = True
    """False: something works less well without it."""


def probe_needs(bpffs: str, cgroup: str) -> list[Probe]:
    return [
        kernel_release(os.uname().release),
        capabilities(effective_capabilities()),
        workers_capabilities(effective_capabilities()),
        bpf_filesystem(bpffs),
        clsact(),
        socket_assignment(),
        bcc_importable(),
        pods_cgroup(cgroup),
    ]


def require(bpffs: str) -> None:
    """The cheap ones, at each start. Raises MissingPrivilege or KernelError for the first that is not ok."""
    granted = capabilities(effective_capabilities())
    if not granted.ok:
        raise MissingPrivilege(f"{granted.name}: {granted.evidence}", check=granted.advice)
    release = kernel_release(os.uname().release)
    if not release.ok:
        raise KernelError(f"{release.name}: {release.evidence}", check=release.advice)
    require_bpffs(bpffs)


def require_bpffs(path: str) -> None:
    """Before each change: somebody may have unmounted it, or made it read-only. Raises KernelError."""
    found = bpf_filesystem(path)
    if not found.ok:
        raise KernelError(f"{found.name}: {found.evidence}", check=found.advice)


def kernel_release(release: str) -> Probe:
    is_new = release_numbers(release) >= OLDEST_KERNEL
    return Probe(Check.KERNEL, is_new, f"Linux {release}", "Linux 5.10 or newer is needed.")


def release_numbers(release: str) -> tuple[int, ...]:
    """Major and minor; what is no number is left out."""
    return tuple(int(part) for part in release.split("-", maxsplit=1)[0].split(".")[:2] if part.isdigit())


def capabilities(effective: int) -> Probe:
    return _granted(Check.CAPABILITIES, effective, CAPABILITIES)


def workers_capabilities(effective: int) -> Probe:
    return _granted(Check.WORKERS_CAPABILITIES, effective, WORKERS_CAPABILITIES)


def _granted(name: Check, effective: int, wanted: Mapping[str, int]) -> Probe:
    missing = [capability for capability, bit in wanted.items() if not effective >> bit & 1]
    evidence = f"without {', '.join(missing)}" if missing else ", ".join(wanted)
    return Probe(name, not missing, evidence, "Run it as root, or with these capabilities.")


def bpf_filesystem(path: str) -> Probe:
    advice = f"mount -t bpf bpf {path}"
    try:
        is_mounted = is_bpffs(path)
    except OSError as error:
        return Probe(Check.BPFFS, ok=False, evidence=f"{path}: {error.strerror}", advice=advice)
    if is_mounted and os.statvfs(path).f_flag & os.ST_RDONLY:
        # Even what is pinned cannot be opened then.
        return Probe(Check.BPFFS, ok=False, evidence=f"Read-only: {path}", advice=f"mount -o remount,rw {path}")
    return Probe(Check.BPFFS, is_mounted, f"{'' if is_mounted else 'no bpffs is '}mounted at {path}", advice)


def clsact() -> Probe:
    def attempt() -> None:
        unshare(CLONE_NEWNET)
        with IPRoute() as link, explained("clsact"):
            link.tc("add", "clsact", 1)

    advice = "The kernel needs CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF (modules sch_ingress, cls_bpf)."
    return try_out(Check.CLSACT, attempt, "a qdisc was made in a namespace of its own", advice)


def socket_assignment() -> Probe:
    """Loads a program that looks a socket up and assigns it, as at_proxy does, and redirects as from_pod does."""

    def attempt() -> None:
        descriptor, _ = syscall.load_program(_ASSIGNING_PROGRAM)
        os.close(descriptor)

    advice = "The kernel needs CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT, and must not be locked down."
    return try_out(Check.SOCKET_ASSIGNMENT, attempt, "a program with it and bpf_redirect_peer was accepted", advice)


def bcc_importable() -> Probe:
    command = [sys.executable, "-c", _IMPORT_BCC]
    advice = "Install python3-bpfcc (Debian, Ubuntu)."
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=_BCC_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Probe(Check.BCC, ok=False, evidence=f"its import takes more than {_BCC_SECONDS} s", advice=advice)
    lines = (child.stdout if child.returncode == 0 else child.stderr).split("\n")
    evidence = next((line for line in reversed(lines) if line), f"status {child.returncode}")
    return Probe(Check.BCC, child.returncode == 0, evidence, advice)


def pods_cgroup(setting: str) -> Probe:
    found = find_pods_cgroup(setting)
    return Probe(
        Check.PODS_CGROUP,
        found.path is not None,
        f"pods are in {found.path}" if found.path is not None else found.reason,
        "Only needed to see connections that stay in the kernel; --cgroup names it.",
        is_needed=False,
    )


_IMPORT_BCC = "from nodeagent.kernel.loader import import_bcc; print('bcc', import_bcc().__version__)"


def try_out(name: Check, attempt: Callable[[], None], evidence: str, advice: str, *, is_needed: bool = True) -> Probe:
    """In a thread, so that what it does to its namespaces ends with it."""
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(attempt).result()
        except PermissionError as error:
            granted = capabilities(effective_capabilities())
            return Probe(
                name,
                ok=False,
                evidence=str(error),
                advice=advice if granted.ok else granted.advice,
                is_needed=is_needed,
            )
        except (OSError, NotPossible) as error:
            return Probe(name, ok=False, evidence=str(error), advice=advice, is_needed=is_needed)
    return Probe(name, ok=True, evidence=evidence, advice=advice, is_needed=is_needed)


def effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _instruction(code: int, registers: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, registers, offset, immediate)


_CALL, _EXIT, _MOVE, _MOVE_REGISTER, _ADD, _STORE_WORD, _JUMP_IF_ZERO = 0x85, 0x95, 0xB7, 0xBF, 0x07, 0x62, 0x15
_ASSIGNING_PROGRAM = b"".join(
    [
        _instruction(_MOVE_REGISTER, 0x17),  # r7 = context
        _instruction(_STORE_WORD, 0x0A, -12, 0),  # an empty 4-tuple on the stack
        _instruction(_STORE_WORD, 0x0A, -8, 0),
        _instruction(_STORE_WORD, 0x0A, -4, 0),
        _instruction(_MOVE_REGISTER, 0xA2),
        _instruction(_ADD, 0x02, 0, -12),
        _instruction(_MOVE, 0x03, 0, 12),
        _instruction(_MOVE, 0x04, 0, -1),  # BPF_F_CURRENT_NETNS
        _instruction(_MOVE, 0x05, 0, 0),
        _instruction(_CALL, 0, 0, 99),  # bpf_skc_lookup_tcp
        _instruction(_JUMP_IF_ZERO, 0x00, 7, 0),
        _instruction(_MOVE_REGISTER, 0x06),  # r6 = socket
        _instruction(_MOVE_REGISTER, 0x71),
        _instruction(_MOVE_REGISTER, 0x62),
        _instruction(_MOVE, 0x03, 0, 0),
        _instruction(_CALL, 0, 0, 124),  # bpf_sk_assign
        _instruction(_MOVE_REGISTER, 0x61),
        _instruction(_CALL, 0, 0, 86),  # bpf_sk_release
        _instruction(_MOVE, 0x01, 0, 1),
        _instruction(_MOVE, 0x02, 0, 0),
        _instruction(_CALL, 0, 0, 155),  # bpf_redirect_peer
        _instruction(_EXIT),
    ]
)
