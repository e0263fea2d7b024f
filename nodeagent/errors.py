# SPDX-License-Identifier: Apache-2.0
"""One tree of errors, split by who can act.

    NodeagentError
    +-- ConfigError          the operator: a flag, a file, a policy          exit 2
    +-- NotPossible          this machine: privilege, kernel feature, port   exit 5 (4 for privilege)
    |   +-- KernelError      the kernel refused a program, map or device
    +-- AgentUnreachable     no agent behind the admin socket                exit 3
    +-- ControlPlaneError    istiod or the CA; retried with backoff
    +-- PeerError            the other end of a tunnel; ends one connection
    +-- ProblemFound         a check or a claim is false                     exit 1

Every error says what happened (its text), what to look at (`check`) and, where a connection ends by it, the `reason`
that is counted. The reason is chosen where the error is raised. Exceptions that are not of this tree are bugs.
"""

import enum
from typing import ClassVar, Self

from nodeagent.model.reason import Reason


class Exit(enum.IntEnum):
    """How a command may end: the one list of exit statuses. Numbers are never given to something else."""

    words: str

    def __new__(cls, status: int, words: str) -> Self:
        made = int.__new__(cls, status)
        made._value_, made.words = status, words
        return made

    OK = 0, "all is well"
    PROBLEM = 1, "a problem was found, or a connection would be refused"
    USAGE = 2, "wrong use: a flag, a file, a name"
    UNREACHABLE = 3, "no agent answers"
    PRIVILEGE = 4, "a privilege is missing"
    NOT_POSSIBLE = 5, "it cannot run here: a kernel feature, a port in use, a second agent"
    BUG = 70, "a bug of nodeagent"
    """EX_SOFTWARE of sysexits.h."""
    INTERRUPTED = 130, "interrupted by Ctrl-C"
    """What a shell reports for SIGINT."""


class NodeagentError(Exception):
    """`str(error)` is one line without a full stop; `check` is a sentence or empty."""

    exit_code: ClassVar[int] = Exit.PROBLEM
    check: str = ""

    def __init__(self, message: str, *, check: str = "") -> None:
        super().__init__(message)
        if check:
            self.check = check


class ConfigError(NodeagentError):
    exit_code = Exit.USAGE
    check = "See `nodeagent COMMAND --help` for what is expected."


class NotPossible(NodeagentError):
    exit_code = Exit.NOT_POSSIBLE
    check = "See `nodeagent check` for what this machine lacks."


class MissingPrivilege(NotPossible):
    exit_code = Exit.PRIVILEGE
    check = "Run it as root, or give it the capabilities that the README lists."


class AlreadyRunning(NotPossible):
    check = "Stop the other agent, or start this one with --takeover."


class PortInUse(NotPossible):
    check = "Another process listens there: `ss -ltnp` names it; or choose another address."


class StateFileUnwritable(NotPossible):
    check = (
        "Is the disk full, or the directory read-only? The agent goes on, "
        "but a restart without a control plane would start empty."
    )


class KernelError(NotPossible):
    check = "`nodeagent check` lists the kernel features that are needed."


class AgentUnreachable(NodeagentError):
    exit_code = Exit.UNREACHABLE
    check = "Is the agent running on this node? --socket names its admin socket."


class ProblemFound(NodeagentError):
    exit_code = Exit.PROBLEM


class ControlPlaneError(NodeagentError):
    check = "Is the control plane reachable, and are its root certificate and the token right?"


class PeerError(NodeagentError):
    """Ends one connection, or one tunnel with its streams."""

    reason: Reason = Reason.PEER_LOST

    def __init__(self, message: str, *, reason: Reason | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason
        self.check = self.reason.check
