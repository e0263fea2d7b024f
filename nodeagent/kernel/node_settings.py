# SPDX-License-Identifier: Apache-2.0
"""Settings of this node that decide what its kernel lets an agent, or anybody, do with BPF. Read, never changed."""

import os
import resource
from pathlib import Path

from nodeagent.kernel.probe import Probe, effective_capabilities, release_numbers
from nodeagent.model.check import Check

FIRST_WITHOUT_MEMLOCK = (5, 11)
"""From it on the memory of maps and programs is the cgroup's."""
ENOUGH_BYTES = 256 << 20
"""All our maps and programs, with much to spare."""
UNPRIVILEGED_BPF = Path("/proc/sys/kernel/unprivileged_bpf_disabled")
_CAP_SYS_RESOURCE = 24


def probe_settings() -> list[Probe]:
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return [memory_lock(release_numbers(os.uname().release), hard, effective_capabilities()), unprivileged_bpf()]


def memory_lock(release: tuple[int, ...], hard: int, effective: int) -> Probe:
    """An agent raises its limit as far as `hard` (bytes, of getrlimit(2)), and with CAP_SYS_RESOURCE further."""
    if release >= FIRST_WITHOUT_MEMLOCK:
        ok, evidence = True, "this kernel does not count maps by it"
    elif hard == resource.RLIM_INFINITY:
        ok, evidence = True, "unlimited"
    elif effective >> _CAP_SYS_RESOURCE & 1:
        ok, evidence = True, "an agent raises it: CAP_SYS_RESOURCE"
    else:
        ok, evidence = hard >= ENOUGH_BYTES, f"at most {hard >> 10} KiB, and no CAP_SYS_RESOURCE to raise it"
    return Probe(
        Check.MEMORY_LOCK, ok, evidence, "LimitMEMLOCK=infinity of who starts it, CAP_SYS_RESOURCE, or Linux 5.11."
    )


def unprivileged_bpf(path: Path = UNPRIVILEGED_BPF) -> Probe:
    try:
        value = path.read_text(encoding="ascii").strip()
    except OSError as error:
        return Probe(Check.UNPRIVILEGED, ok=True, evidence=f"{path.name}: {error.strerror}", is_needed=False)
    return Probe(
        Check.UNPRIVILEGED,
        value != "0",
        f"{path.name} is {value}",
        "Nothing of ours needs it off; sysctl kernel.unprivileged_bpf_disabled=2.",
        is_needed=False,
    )
