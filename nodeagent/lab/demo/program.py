# SPDX-License-Identifier: Apache-2.0
"""A client that is a program of its pod: in the pod's cgroup too, where the agent sees what the kernel carries alone.

A socket that this process makes for a pod (client.py) is in its namespace only.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from nodeagent.lab.demo.client import PATIENCE_SECONDS
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip

_TEXT = """
import socket, sys
ip, port, request, sent = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
sock = socket.create_connection((ip, port))
print(sock.getsockname()[1], flush=True)
sock.sendall(request.encode() + b"\\n" + b"x" * sent)
if sent:
    sock.shutdown(socket.SHUT_WR)
received = 0
while request != "ECHO" and (some := sock.recv(1 << 16)):
    received += len(some)
print(received, flush=True)
sys.stdin.readline()
"""


class Program:
    """One connection. Raises ConnectionError when it could not be made."""

    def __init__(self, source: Pod, ip: Ip, port: int, request: str, sent: int) -> None:
        pipe = subprocess.PIPE
        words = [sys.executable, "-S", "-E", "-c", _TEXT, ip, str(port), request, str(sent)]
        self._process = source.spawn(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self.port = self._read()
        """Its own."""
        self.received = self._read()
        """Bytes of the answer."""

    def _read(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.finish()
            raise ConnectionError("the program's connection could not be made, or broke")
        return int(line)

    def finish(self) -> None:
        self._process.communicate(b"\n", timeout=PATIENCE_SECONDS)


@contextlib.contextmanager
def connected(source: Pod, ip: Ip, port: int, request: str, sent: int = 0) -> Iterator[Program]:
    """Open until the block ends: the answer was read to its end, but for ECHO, which is asked for and left idle."""
    program = Program(source, ip, port, request, sent)
    try:
        yield program
    finally:
        program.finish()
