# SPDX-License-Identifier: Apache-2.0
"""A cgroup of the test's own, and sockets that belong to it, as those of a pod's processes belong to the kubelet's.

A socket belongs to the cgroup of the process that makes it, whoever uses it later: a child in the cgroup makes them and
hands them over. No process of the machine is ever moved.
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nodeagent.lab.cgroups import make, remove, unified_hierarchy

_CHILD = """
import os, socket, sys
from nodeagent.kernel.netns import enter_netns
orders = socket.socket(fileno=int(sys.argv[1]))
while order := orders.recv(4096).decode():
    netns, *kind = order.rsplit(" ", 3)
    try:
        with enter_netns(netns):
            made = socket.socket(*map(int, kind))
    except OSError as error:
        orders.send(str(error.errno).encode())
        continue
    socket.send_fds(orders, [b"."], [made.fileno()])
    made.close()
"""


class PodsCgroup:
    def __init__(self, path: Path, orders: socket.socket) -> None:
        self.path, self._orders = path, orders

    @property
    def setting(self) -> str:
        """As --cgroup takes it."""
        return str(self.path.relative_to(unified_hierarchy()))

    def open_socket(
        self, netns: Path, family: int = socket.AF_INET6, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """Raises OSError."""
        self._orders.send(f"{netns} {int(family)} {int(kind)} {protocol}".encode())
        answer, descriptors, _, _ = socket.recv_fds(self._orders, 16, 1)
        if not descriptors:
            raise OSError(int(answer), os.strerror(int(answer)))
        made = socket.socket(fileno=descriptors[0])
        made.settimeout(60)
        return made

    def dial(self, netns: Path, ip: str, port: int, family: int = 0) -> socket.socket:
        """Connected, or raises OSError."""
        made = self.open_socket(netns, family or (socket.AF_INET6 if ":" in ip else socket.AF_INET))
        try:
            made.connect((ip, port))
        except OSError:
            made.close()
            raise
        return made


@contextlib.contextmanager
def pods_cgroup() -> Iterator[PodsCgroup]:
    path = unified_hierarchy() / f"na-k{os.getpid()}"
    make(path)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        inside = ["sh", "-ec", 'echo $$ > "$0"; exec "$@"', str(path / "cgroup.procs")]
        child = subprocess.Popen(
            [*inside, sys.executable, "-c", _CHILD, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        try:
            yield PodsCgroup(path, ours)
        finally:
            ours.close()
            child.wait(60)
    finally:
        remove(path)
