# SPDX-License-Identifier: Apache-2.0
"""The places of a running lab, as demo, tests and benchmarks hold them: where a process or a socket can be started.

A `Namespace` runs processes and opens sockets; a `Host` is one with addresses; a `Pod` is a host that a node routes to.
A `Node` has a mount namespace as well, with a bpffs, a /run and a cgroup root of its own. Their makers are build.py
and lab.py.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TypeVar

import yaml

from nodeagent.kernel.netns import enter_netns
from nodeagent.lab.inside import call_inside
from nodeagent.lab.machine import State, network_state
from nodeagent.lab.topology import PodPlace
from nodeagent.model.address import Ip
from nodeagent.model.pod import LocalPod

Result = TypeVar("Result")
Socket = socket.socket  # the class below has a method of that name
File = int | IO[bytes] | None

RUN_DIR = Path("/run/nodeagent")
PODS_FILE = RUN_DIR / "pods.yaml"

# The shell is in the cgroup before the program exists, so no child of it can be outside. A shell starts in a
# millisecond; preexec_fn would do without one, but may deadlock in a process with threads.
_JOIN_AND_BECOME = 'echo $$ >"$0" || exit 126; exec "$@"'


class Namespace:
    """A network namespace by its pin, and the cgroup of the processes that are started in it."""

    def __init__(self, name: str, netns: Path, cgroup: Path) -> None:
        self.name, self.netns, self.cgroup = name, netns, cgroup
        self._mounts: Path | None = None
        self._procs_file = cgroup / "cgroup.procs"
        self._started: list[subprocess.Popen[bytes]] = []

    def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: File = None,
        stdout: File = None,
        stderr: File = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """A process here, in the run's cgroup, in a session of its own so that Ctrl-C is the lab's alone to see.

        It ends with the lab at the latest, by SIGKILL; so do its children. Raises FileNotFoundError as Popen does.
        """
        program = shutil.which(argv[0], path=None if env is None else env.get("PATH"))
        if program is None:
            raise FileNotFoundError(f"no program {os.fspath(argv[0])!r}")
        command = ["/bin/sh", "-c", _JOIN_AND_BECOME, self._procs_file, program, *argv[1:]]
        directory = Path.cwd()  # the thread inside starts at the root of its mount namespace

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                env=env,
                cwd=directory,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=pass_fds,
                start_new_session=True,
            )

        self._started = [process for process in self._started if process.poll() is None]
        process = self.call(start)
        self._started.append(process)
        self._await_joined(process)
        return process

    def _await_joined(self, process: subprocess.Popen[bytes]) -> None:
        """A millisecond: until the shell is in the cgroup, so that no end of the lab or of a pod can miss it."""
        procs = self.cgroup / "cgroup.procs"
        while process.poll() is None and str(process.pid) not in procs.read_text().split():
            time.sleep(0.0002)

    def run(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """`spawn`, and its whole output as text. Raises subprocess.TimeoutExpired, after which it is gone."""
        pipe = subprocess.PIPE
        with self.spawn(argv, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out.decode(), err.decode())

    def call(self, function: Callable[[], Result]) -> Result:
        """The function's result, from a thread that is here. What it opens or starts stays here."""
        return call_inside(function, net=self.netns, mounts=self._mounts)

    def inside(self) -> AbstractContextManager[None]:
        """The calling thread's network (not its mounts) is this one until the block ends."""
        return enter_netns(self.netns)

    def socket(
        self,
        family: socket.AddressFamily = socket.AF_INET,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        protocol: int = 0,
    ) -> Socket:
        """A socket that belongs to this namespace and can be used from anywhere in the calling process."""
        return self.call(lambda: Socket(family, kind, protocol))

    def network_state(self) -> State:
        """Firewall, ip rules, routes, addresses and sysctls of this namespace, to be compared by machine.difference."""
        return self.call(network_state)

    def reap(self) -> None:
        """Waits for what was started here; the lab calls it when it has ended every process."""
        for process in self._started:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self._started = []


class Host(Namespace):
    """A namespace with one address of each family."""

    def __init__(self, name: str, ips: tuple[Ip, Ip], netns: Path, cgroup: Path) -> None:
        super().__init__(name, netns, cgroup)
        self.ips = ips

    @property
    def ipv4(self) -> Ip:
        return self.ips[0]

    @property
    def ipv6(self) -> Ip:
        return self.ips[1]

    def connect(self, ip: str, port: int, *, seconds: float = 30.0) -> Socket:
        """A TCP connection, made from here; its timeout stays `seconds`. Raises OSError as a socket does."""
        connection = self.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
        try:
            connection.settimeout(seconds)
            connection.connect((ip, port))
        except BaseException:
            connection.close()
            raise
        return connection

    def listen(self, port: int, *, backlog: int = 128) -> Socket:
        """A dual-stack TCP listener on every address here; IPv4 peers appear in the mapped form. Port 0: any."""
        listener = self.socket(socket.AF_INET6)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("::", port))
            listener.listen(backlog)
        except BaseException:
            listener.close()
            raise
        return listener

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.ipv4}, {self.ipv6})"


class Pod(Host):
    def __init__(self, place: PodPlace, device: str, netns: Path, cgroup: Path) -> None:
        super().__init__(place.spec.name, place.ips, netns, cgroup)
        self.place, self.device = place, device
        """`device`: the host's side of its veth pair, in the node's namespace."""
        self.node = place.spec.node
        self.namespace = place.spec.namespace
        self.service_account = place.spec.service_account
        self.labels = place.spec.labels


class Node(Host):
    """`mounts` names its mount namespace, in which /run, /sys/fs/bpf and /sys/fs/cgroup are the node's own.

    `cgroup` (a path of the machine) is what the node sees as /sys/fs/cgroup; its pods' processes are in `pods` below.
    """

    def __init__(self, name: str, ips: tuple[Ip, Ip], netns: Path, mounts: Path, cgroup: Path) -> None:
        super().__init__(name, ips, netns, cgroup)
        self.mounts = self._mounts = mounts
        self._procs_file = Path("/sys/fs/cgroup/cgroup.procs")

    def write_pods(self, pods: Iterable[Pod | LocalPod]) -> None:
        """The file for the agent's --pods, replaced in one step: a reader sees the old list or the new one."""
        listed = [{"namespace": pod.namespace, "name": pod.name, "netns": os.fspath(pod.netns)} for pod in pods]
        text = yaml.safe_dump(listed, sort_keys=False)

        def replace() -> None:
            unfinished = PODS_FILE.with_suffix(".part")
            unfinished.write_text(text)
            unfinished.rename(PODS_FILE)

        self.call(replace)

    def read(self, path: str | Path) -> bytes:
        """A file as the node sees it."""
        return self.call(Path(path).read_bytes)
