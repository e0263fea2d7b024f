# SPDX-License-Identifier: Apache-2.0
"""What a node needs before its agent, and what takes more privilege than the agent should have.

A container that is not privileged can show its mounts to nobody, and cannot write to /proc/sys. So in a cluster a
container that ends after a moment mounts bpffs, and the proxy namespace with its sysctls, where the node and every
later agent find them. Done again it changes nothing, also while an agent runs.
"""

from pathlib import Path

from pyroute2 import IPRoute

from nodeagent.errors import KernelError
from nodeagent.kernel.netlink import find_device
from nodeagent.kernel.netns import mount
from nodeagent.kernel.pins import is_bpffs
from nodeagent.kernel.proxy_namespace import DEFAULT_MTU, NODE_DEVICE, ProxyNamespace, is_namespace

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8  # linux/mount.h


def prepare_node(run_dir: str, bpffs: str) -> list[str]:
    """What had to be done, in words. Raises KernelError."""
    done = []
    try:
        Path(bpffs).mkdir(parents=True, exist_ok=True)
        if not is_bpffs(bpffs):
            mount("bpf", bpffs, "bpf", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "mode=0700")
            done.append(f"mounted bpffs on {bpffs}")
        Path(run_dir).mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(
            f"preparing {bpffs} and {run_dir}: {error.strerror}", check="This needs root and CAP_SYS_ADMIN."
        ) from error
    namespace = ProxyNamespace(run_dir)
    was_there = is_namespace(namespace.path)
    try:
        namespace.ensure(_mtu())
    finally:
        namespace.close()
    if not was_there:
        done.append(f"made the proxy namespace {namespace.path}")
    return done


def _mtu() -> int:
    """A running agent has chosen one for its pods."""
    with IPRoute() as node:
        device = find_device(node, NODE_DEVICE)
    return device.mtu if device is not None else DEFAULT_MTU
