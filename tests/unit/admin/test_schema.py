# SPDX-License-Identifier: Apache-2.0
"""An error crosses the socket with its words, its check and its exit status."""

import pytest

from nodeagent.admin.schema import SCHEMA, error_body, error_from
from nodeagent.errors import (
    AgentUnreachable,
    AlreadyRunning,
    ConfigError,
    ControlPlaneError,
    KernelError,
    MissingPrivilege,
    NodeagentError,
    NotPossible,
    ProblemFound,
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("x"), ConfigError),
        (MissingPrivilege("x"), MissingPrivilege),
        (AgentUnreachable("x"), AgentUnreachable),
        (AlreadyRunning("x"), NotPossible),
        (KernelError("x", check="look"), NotPossible),
        (ControlPlaneError("x"), ProblemFound),
    ],
)
def test_round_trip(error: NodeagentError, kind: type[NodeagentError]) -> None:
    body = error_body(error)
    assert body["schema"] == SCHEMA
    found = error_from(body)
    assert type(found) is kind
    assert (str(found), found.check, found.exit_code) == (str(error), error.check, error.exit_code)


@pytest.mark.parametrize("body", [{}, {"exit_code": "2"}, {"exit_code": 99, "error": "x"}])
def test_a_body_of_another_release_is_still_an_error(body: dict[str, object]) -> None:
    assert error_from(body).exit_code == 1
