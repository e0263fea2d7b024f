# SPDX-License-Identifier: Apache-2.0
"""Network and mount namespaces that end with the block, or with the process, and what is set up in them.

As few processes as possible: an emulated processor takes a tenth of a second for each.
"""

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nodeagent.kernel.netns import (
    CLONE_FS,
    CLONE_NEWNET,
    CLONE_NEWNS,
    MS_BIND,
    MS_PRIVATE,
    MS_REC,
    OWN_NETNS,
    enter_netns,
    mount,
    setns,
    unshare,
)

_SIOCGIFHWADDR = 0x8927


@contextlib.contextmanager
def own_namespaces() -> Iterator[None]:
    """The calling thread has a network and a mount namespace of its own until the block ends."""
    folder = Path.cwd()
    homes = [os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "mnt")]
    try:
        unshare(CLONE_FS | CLONE_NEWNS | CLONE_NEWNET)
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        try:
            yield
        finally:
            for home, kind in zip(homes, (CLONE_NEWNET, CLONE_NEWNS), strict=True):
                setns(home, kind)
            os.chdir(folder)
    finally:
        for home in homes:
            os.close(home)


def make_namespace(path: Path) -> Path:
    """A network namespace mounted on `path`."""

    def inside() -> None:
        unshare(CLONE_NEWNET)
        mount(OWN_NETNS, path, flags=MS_BIND)

    path.touch()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(inside).result()
    return path


def run(command: str, netns: Path | None = None) -> str:
    """One command line, in the node's namespace or in another."""
    with enter_netns(netns or OWN_NETNS):
        done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def ip(*lines: str, netns: Path | None = None, family: str = "") -> None:
    """What `ip` is to do, in the node's namespace or in another, by one process.

    `family` is "-6" for what no address tells it.
    """
    command = ["ip", *filter(None, [family]), "-batch", "-"]
    with enter_netns(netns or OWN_NETNS):
        done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{lines}: {done.stderr}"


def sysctl(netns: Path | None = None, **settings: str | int) -> None:
    """By names below /proc/sys/net, with two underscores for a slash; what a namespace does not have is left out."""
    with enter_netns(netns or OWN_NETNS):
        for name, value in settings.items():
            Path("/proc/sys/net", *name.split("__")).write_text(f"{value}\n", encoding="ascii")


def mac(device: str, netns: Path | None = None) -> bytes:
    with enter_netns(netns or OWN_NETNS), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, _SIOCGIFHWADDR, struct.pack("=16s24x", device.encode()))
    return answer[18:24]
