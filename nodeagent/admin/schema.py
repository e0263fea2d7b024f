# SPDX-License-Identifier: Apache-2.0
"""What every answer of the admin socket has in common, for both of its ends. Pure."""

from collections.abc import Mapping

from nodeagent.errors import AgentUnreachable, ConfigError, MissingPrivilege, NodeagentError, NotPossible, ProblemFound

SCHEMA = "nodeagent/v1"
"""Grows when a field changes its meaning or goes; a new field is no change."""

_KINDS: dict[int, type[NodeagentError]] = {
    kind.exit_code: kind for kind in (ProblemFound, ConfigError, AgentUnreachable, MissingPrivilege, NotPossible)
}


def error_body(error: NodeagentError) -> dict[str, object]:
    return {"schema": SCHEMA, "error": str(error), "check": error.check, "exit_code": error.exit_code}


def error_from(body: Mapping[str, object]) -> NodeagentError:
    """The error that the agent met, so that the command ends as if it had met it itself."""
    code = body.get("exit_code")
    kind = _KINDS.get(code, ProblemFound) if isinstance(code, int) else ProblemFound
    return kind(str(body.get("error", "")), check=str(body.get("check", "")))
