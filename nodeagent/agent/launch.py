# SPDX-License-Identifier: Apache-2.0
"""How a worker process is started: with its ends of two sockets, and everything else by the first messages on them."""

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAM = (sys.executable, "-m", "nodeagent.proxy.worker")


@dataclass(frozen=True)
class Launched:
    """A child and our ends of its sockets; all of it belongs to the caller."""

    child: "subprocess.Popen[bytes]"
    pidfd: int
    control: socket.socket
    report: socket.socket


def launch(slot: int, *, netns: str, uid: int, rendezvous: Path) -> Launched:
    """Raises OSError when this machine cannot do it at this moment; nothing is left then."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        theirs.callback(os.close, descriptor)
        control, their_control = _pair(ours, theirs)
        report, their_report = _pair(ours, theirs)
        passed = {
            "--netns-fd": descriptor,
            "--control-fd": their_control.fileno(),
            "--report-fd": their_report.fileno(),
        }
        words = [*PROGRAM, "--slot", str(slot), "--uid", str(uid), "--reconnect", str(rendezvous)]
        words += [word for option, number in passed.items() for word in (option, str(number))]
        # A session of its own: a Ctrl-C on the agent's terminal is not meant for the worker.
        child = subprocess.Popen(
            words, pass_fds=tuple(passed.values()), stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            pidfd = os.pidfd_open(child.pid)
        except OSError:
            child.kill()
            child.wait()
            raise
        ours.pop_all()
        return Launched(child, pidfd, control, report)


def _pair(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    kept, given = socket.socketpair()
    return ours.enter_context(kept), theirs.enter_context(given)
