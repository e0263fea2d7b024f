# SPDX-License-Identifier: Apache-2.0
"""What the tour asks the kernel about processes: it must see a way out where there is one."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.lab.demo.processes import in_netns, status, ways_out
from nodeagent.lab.lab import Lab
from nodeagent.lab.topology import PodSpec, Topology

pytestmark = pytest.mark.e2e

# Goes from the node into the pod with what it has opened before.
TRAVELLER = """
import os, socket, sys, time
from nodeagent.kernel.netns import CLONE_NEWNET, setns
kind, node, pod = sys.argv[1:]
held = {
    "nothing": lambda: None,
    "pinned namespace": lambda: os.open(node, os.O_RDONLY),
    "own namespace": lambda: os.open("/proc/self/ns/net", os.O_RDONLY),
    "other namespace": lambda: os.open("/proc/self/ns/mnt", os.O_RDONLY),
    "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "unix": lambda: socket.socketpair(),
}[kind]()
descriptor = os.open(pod, os.O_RDONLY)
setns(descriptor, CLONE_NEWNET)
os.close(descriptor)
listener = socket.create_server(("127.0.0.1", 0))
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(Topology.of(["node-a"], [PodSpec(name="web", node="node-a")])) as lab:
        yield lab


@pytest.mark.parametrize(
    ("kind", "is_way_out"),
    [
        ("nothing", False),
        ("unix", False),
        ("pinned namespace", True),
        ("own namespace", True),
        ("other namespace", True),
        ("socket", True),
        ("netlink", True),
    ],
)
def test_a_way_out_is_seen(lab: Lab, kind: str, *, is_way_out: bool) -> None:
    node, pod = lab.nodes["node-a"], lab.pods["web"]
    inode = pod.netns.stat().st_ino
    # Not as a process of the node: the path of its own namespace's pin is the machine's.
    words = [sys.executable, "-c", TRAVELLER, kind, str(node.netns), str(pod.netns)]
    with lab.control.spawn(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as traveller:
        try:
            assert traveller.stdout is not None
            assert traveller.stdout.readline() == b"ready\n"
            assert in_netns(inode, lab.control.cgroup) == [traveller.pid]
            assert in_netns(inode, node.cgroup) == []
            assert bool(ways_out(traveller.pid, inode)) is is_way_out
        finally:
            traveller.kill()


def test_the_status_of_a_process_is_the_kernels() -> None:
    own = status(int(Path("/proc/self").readlink().name))
    assert {"CapEff", "CapBnd", "Uid", "Gid", "Groups", "NoNewPrivs"} <= set(own)
    assert own["Name"].startswith(("pytest", "python"))
