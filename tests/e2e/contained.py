# SPDX-License-Identifier: Apache-2.0
"""Runs a command as a container of the DaemonSet would be: `contained.py ROOT CAPABILITY,... COMMAND...`.

A mount namespace of its own, whose root is the image's, read-only, with the node's /sys and /run, a /proc without a
writable /proc/sys, and an empty /tmp; no capability but those; then the command, in this very process.
"""

import ctypes
import os
import sys
from pathlib import Path

from nodeagent.kernel.netns import CLONE_FS, CLONE_NEWNS, MS_BIND, MS_REC, mount, unshare

CAPABILITIES = [  # by number: linux/capability.h
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner"),
    *("sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice"),
    *("sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap"),
    *("mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf"),
    "checkpoint_restore",
]
PRIVILEGED = "privileged"
"""In place of capabilities: all of them, and what goes with it."""
MS_RDONLY, MS_REMOUNT, MS_SLAVE, MS_SHARED = 1, 32, 1 << 19, 1 << 20  # linux/mount.h
_CAPBSET_DROP = 24  # linux/prctl.h


def main(root: Path, granted: set[str], command: list[str]) -> None:
    is_privileged = granted == {PRIVILEGED}
    unshare(CLONE_FS | CLONE_NEWNS)
    if not is_privileged:  # mountPropagation: HostToContainer; else Bidirectional, as far as the node's /run is shared
        mount("none", "/", flags=MS_REC | MS_SLAVE)
    mount(str(root), root, flags=MS_BIND)
    mount("none", root, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
    for name in ("sys", "run", "dev"):
        mount(f"/{name}", root / name, flags=MS_BIND | MS_REC)
    mount("proc", root / "proc", "proc")
    if not is_privileged:
        mount(str(root / "proc/sys"), root / "proc/sys", flags=MS_BIND)
        mount("none", root / "proc/sys", flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
    mount("none", root / "tmp", "tmpfs")
    os.chroot(root)
    os.chdir("/")
    libc = ctypes.CDLL(None)
    for number, name in enumerate(CAPABILITIES):
        if not is_privileged and name not in granted:  # more than this kernel knows is refused, and is not there either
            libc.prctl(_CAPBSET_DROP, number, 0, 0, 0)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.execvpe(command[0], command, {**environment, "PATH": "/usr/local/bin:/usr/bin:/bin"})  # noqa: S606


if __name__ == "__main__":
    main(Path(sys.argv[1]), set(sys.argv[2].split(",")), sys.argv[3:])
