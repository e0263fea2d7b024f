# SPDX-License-Identifier: Apache-2.0
"""What a worker process is given; and when it cannot be started, nothing is left."""

import os
import sys
from pathlib import Path

import pytest

from nodeagent.agent import launch as module
from nodeagent.agent.launch import launch
from tests.open_files import open_files

_TELL = """
import os, socket, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
control, report = (socket.socket(fileno=int(words[name])) for name in ("--control-fd", "--report-fd"))
inside = os.readlink("/proc/self/fd/" + words["--netns-fd"])
fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd))
given = sorted(int(words[name]) for name in ("--netns-fd", "--control-fd", "--report-fd"))
told = [words[name] for name in ("--slot", "--uid", "--reconnect")]
told = [inside, *told, os.getsid(0) == os.getpid(), fds[3:] == given]
control.sendall(" ".join(map(str, told)).encode())
report.sendall(b"report")
"""


def test_a_worker_gets_its_ends_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRAM", (sys.executable, "-c", _TELL))
    before = open_files()
    launched = launch(2, netns="/proc/self/ns/net", uid=15008, rendezvous=Path("/run/x"))
    with launched.child, launched.control, launched.report:
        os.close(launched.pidfd)
        namespace = Path("/proc/self/ns/net").readlink()
        assert launched.control.recv(200).decode() == f"{namespace} 2 15008 /run/x True True"
        assert launched.report.recv(200) == b"report"
        assert launched.control.recv(200) == b"", "nobody else holds the other end"
    assert not open_files() - before


@pytest.mark.parametrize(
    ("netns", "program"),
    [
        pytest.param("/nowhere", sys.executable, id="no namespace"),
        pytest.param("/proc/self/ns/net", "/nowhere/python", id="no program"),
    ],
)
def test_what_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch, netns: str, program: str) -> None:
    monkeypatch.setattr(module, "PROGRAM", (program,))
    before = open_files()
    with pytest.raises(OSError, match="nowhere"):
        launch(0, netns=netns, uid=15008, rendezvous=Path("/run/x"))
    assert not open_files() - before


def test_a_child_that_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRAM", ("/bin/sh", "-c", "exec sleep 60"))
    pids: list[int] = []

    def fail(pid: int) -> int:
        pids.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", fail)
    before = open_files()
    with pytest.raises(OSError, match="Too many"):
        launch(0, netns="/proc/self/ns/net", uid=15008, rendezvous=Path("/run/x"))
    assert not Path(f"/proc/{pids[0]}").exists()
    assert not open_files() - before
