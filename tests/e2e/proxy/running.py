# SPDX-License-Identifier: Apache-2.0
"""A worker process. Its messages are the product's."""

import signal
import socket
import subprocess
import sys

from nodeagent.lab.demo.versions import THIS_VERSION, Version
from nodeagent.proxy.handover import VERSION
from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.proxy.messages import Ready, Start, WorkerConfig
from tests.e2e.proxy.agent import Agent
from tests.e2e.proxy.wires import Proxy

UID = 54321


class Running(Agent):
    """A worker process and its agent."""

    def __init__(
        self,
        proxy: Proxy,
        listeners: list[socket.socket],
        config: WorkerConfig,
        rendezvous: str,
        version: Version = THIS_VERSION,
        kernel_tls: KernelTls | None = None,
    ) -> None:
        control, theirs = socket.socketpair()
        report, theirs_too = socket.socketpair()
        super().__init__(control, report)
        arguments = ["--netns-fd", str(proxy.fd), "--control-fd", str(theirs.fileno())]
        arguments += ["--report-fd", str(theirs_too.fileno()), "--uid", str(UID), "--slot", "1"]
        arguments += ["--reconnect", rendezvous]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nodeagent.proxy.worker", *arguments],
            pass_fds=(proxy.fd, theirs.fileno(), theirs_too.fileno()),
            env=version.environment,
            start_new_session=True,  # as the agent does it; the scheduler's automatic groups are sessions, too
        )
        theirs.close()
        theirs_too.close()
        # A worker outlives its agent, so one that a killed test leaves behind must be killed by somebody else.
        self._watchdog = subprocess.Popen(["sh", "-c", f"read _; kill -9 {self.process.pid}"], stdin=subprocess.PIPE)
        self.send(Start(config, kernel_tls=kernel_tls), *(listener.fileno() for listener in listeners))
        self.eventually(lambda: any(isinstance(answer, Ready) for answer in self.answers))
        [ready] = [answer for answer in self.answers if isinstance(answer, Ready)]
        assert ready.pid == self.process.pid
        assert (ready.handover == VERSION) == (version is THIS_VERSION)

    def leave(self) -> None:
        """As an agent that dies: the worker hears it."""
        super().close()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self._watchdog.kill()
        self._watchdog.communicate()
        if self.process.poll() is None:
            self.kill()
        super().close()
