# SPDX-License-Identifier: Apache-2.0
"""An agent that answers from a table, in place of the one behind the admin socket."""

from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.cli.main import run
from nodeagent.errors import AgentUnreachable

Answers = dict[str, Any]
AGENTS = ("AUTH_TOKEN", "NODEAGENT_KUBERNETES", "NODEAGENT_NETNS_DIR")
LAB = ("NODEAGENT_LAB_RUN", "NODEAGENT_NAMESPACE")


@pytest.fixture(autouse=True)
def plain(own_logging: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the tester's environment nor their terminal's width has a say."""
    for name in ("NODEAGENT_SOCKET", "NODEAGENT_RUN_DIR", "NODEAGENT_BPFFS", "NO_COLOR", "NODE_NAME", *LAB, *AGENTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def asked() -> list[tuple[str, dict[str, str]]]:
    """Routes and queries in the order in which they were asked."""
    return []


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, dict[str, str]]]) -> Answers:
    """What the agent answers by route: a body, or an error to raise. A route that is not here: no agent."""
    answers: Answers = {}

    def fetch(_self: AdminClient, route: str, **query: str) -> Any:
        asked.append((route, query))
        answer = answers.get(route, AgentUnreachable("no agent answers at /run/x: No such file or directory"))
        if isinstance(answer, Exception):
            raise answer
        return {"schema": "nodeagent/v1", **answer}

    monkeypatch.setattr(AdminClient, "fetch", fetch)
    return answers


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line: exit status, standard output, standard error."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        status = run(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return invoke
