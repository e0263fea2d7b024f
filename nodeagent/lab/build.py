# SPDX-License-Identifier: Apache-2.0
"""Makes network and mount namespaces.

A network namespace is held by a name, as `ip netns` has it: an nsfs file with the namespace bind-mounted on it. A mount
namespace is held by a descriptor of the lab's process, because its life is the run's and nobody else can lose it: no
holder process that could be killed, and nothing to remove after a crash. Binding it on a file is no way: the kernel
refuses that with EINVAL on shared mounts (systemd's /run) and, since it numbers namespaces per CPU, at random inside
containers (seen on 6.18). A symbolic link to the descriptor is its name: `nsenter --mount=/run/nodeagent-lab/1/node-a`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from nodeagent.errors import NotPossible
from nodeagent.kernel.netns import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    OWN_NETNS,
    mount,
    setns,
    unmount,
    unshare,
)
from nodeagent.lab.inside import call_inside, in_thread
from nodeagent.lab.journal import Journal, Kind
from nodeagent.lab.namespaces import RUN_DIR

NETNS = Path("/run/netns")
OWN_MOUNTS = "/proc/thread-self/ns/mnt"
_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC

# IPv6 addresses shall be usable at once; nobody else is on these links who could have the same one.
_NO_DUPLICATE_DETECTION = {"net.ipv6.conf.all.accept_dad": "0", "net.ipv6.conf.default.accept_dad": "0"}

HOST: Mapping[str, str] = _NO_DUPLICATE_DETECTION
NODE: Mapping[str, str] = {
    **_NO_DUPLICATE_DETECTION,
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    # Strict, as Calico sets it on pods' devices: steering must live with the least forgiving of the usual values.
    "net.ipv4.conf.all.rp_filter": "1",
    "net.ipv4.conf.default.rp_filter": "1",
}
WIRE: Mapping[str, str] = {  # nobody lives there: no address, no router solicitation, no multicast report of its own
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
}


def make_netns(journal: Journal, path: Path, sysctls: Mapping[str, str]) -> None:
    """Raises NotPossible when the name is taken by something that no journal knows, or a sysctl does not exist."""

    def body() -> None:
        unshare(CLONE_NEWNET)
        for name, value in sysctls.items():
            _write_sysctl(name, value)
        mount(OWN_NETNS, path, flags=MS_BIND)

    _make_pin(journal, path)
    in_thread(body)


def make_mounts(journal: Journal, name: Path, netns: Path, cgroup: Path) -> int:
    """A mount namespace for a node, held by the descriptor that is returned; `name` is a link to it.

    Everything in it is private: what is mounted there stays there, and what is mounted elsewhere stays out. Its own
    are /run (with the run directory), /sys (of its network namespace), bpffs, and /sys/fs/cgroup, which is the node's
    cgroup only: a program that is attached to what the node takes for the root cgroup sees the node alone.
    """

    def body() -> int:
        unshare(CLONE_NEWNS)
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        setns(descriptor, CLONE_NEWNET)  # sysfs shows the devices of the namespace it was mounted in
        os.close(descriptor)
        own_cgroup = os.open(cgroup, os.O_PATH | os.O_CLOEXEC)
        mount("sysfs", "/sys", "sysfs", _SAFE)
        mount("bpf", "/sys/fs/bpf", "bpf", _SAFE, "mode=0700")
        mount(f"/proc/self/fd/{own_cgroup}", "/sys/fs/cgroup", flags=MS_BIND)
        os.close(own_cgroup)
        mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
        NETNS.mkdir()
        RUN_DIR.mkdir(mode=0o711)  # workers pass through it with another uid, but cannot list it
        return os.open(OWN_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)

    namespace = in_thread(body)
    journal.note(Kind.LINK, name)
    name.symlink_to(f"/proc/{os.getpid()}/fd/{namespace}")
    _demand_our_root(name)
    return namespace


def show_netns(mounts: Path, netns: Path) -> None:
    """The same name inside a node: an agent finds its pods' namespaces, and those of its pods only."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)

    def body() -> None:
        netns.touch(mode=0o444)
        mount(f"/proc/self/fd/{descriptor}", netns, flags=MS_BIND)

    try:
        call_inside(body, mounts=mounts)
    finally:
        os.close(descriptor)


def hide_netns(mounts: Path, netns: Path) -> None:
    def body() -> None:
        unmount(netns, MNT_DETACH)
        netns.unlink()

    call_inside(body, mounts=mounts)


def _demand_our_root(mounts: Path) -> None:
    """Entering a mount namespace leaves a chroot: what is written inside would go to the machine's own files."""
    if not os.path.samestat(call_inside(Path("/").stat, mounts=mounts), Path("/").stat()):
        raise NotPossible(
            "this process is in a chroot, which a node of the lab cannot be in",
            check="Run it outside, or in a container or a virtual machine in place of the chroot.",
        )


def _make_pin(journal: Journal, path: Path) -> None:
    while True:
        entry = journal.note(Kind.PINNED, path)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        except FileNotFoundError:  # the last lab before this one has just taken /run/netns with it
            journal.forget(entry)
            journal.note(Kind.DIRECTORY, path.parent)
            path.parent.mkdir(mode=0o755, exist_ok=True)
        except FileExistsError:
            journal.forget(entry)
            raise NotPossible(
                f"{path} exists and no lab's journal knows it",
                check=f"Whose is it? `ip netns del {path.name}` removes it.",
            ) from None
        else:
            return


def _write_sysctl(name: str, value: str) -> None:
    path = Path("/proc/sys") / name.replace(".", "/")
    try:
        path.write_text(value)
    except OSError as error:
        raise NotPossible(
            f"sysctl {name}={value}: {error.strerror}", check="Does this kernel have it (sysctl -a)?"
        ) from error
