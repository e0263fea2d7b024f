# SPDX-License-Identifier: Apache-2.0
"""A real shell completes commands and names; whoever does not answer at once offers nothing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.cli import completion
from nodeagent.cli.completion import SHELLS, offer
from nodeagent.errors import AgentUnreachable, MissingPrivilege

Call = Callable[..., tuple[int, str, str]]

_ANSWERS: dict[str, dict[str, Any]] = {
    "/workloads": {"workloads": [{"namespace": "shop", "name": name} for name in ("web", "db", "we\x1bird")]},
    "/services": {
        "services": [
            {"namespace": "shop", "name": "db", "hostname": "db.shop.svc.cluster.local", "ports": {"80": 0, "5432": 1}}
        ]
    },
    "/policies": {"policies": [{"namespace": "shop", "name": "strict"}], "missing": []},
    "/connections": {"connections": [{"id": "7-1"}, {"id": "kernel-2"}]},
}


def offered(complete: completion.Offer, incomplete: str, **parameters: Any) -> list[str]:
    context = click.Context(click.Command("x"))
    context.params = parameters
    return [item.value for item in complete(context, click.Argument(["name"]), incomplete)]


@pytest.mark.parametrize(
    ("complete", "incomplete", "expected"),
    [
        (completion.WORKLOADS, "", ["shop/db", "shop/web"]),
        (completion.WORKLOADS, "shop/w", ["shop/web"]),
        (completion.WORKLOADS, "data/", []),
        (completion.DESTINATIONS, "shop/", ["shop/db:5432", "shop/db:80"]),
        (completion.SERVICES, "shop/db.", ["shop/db.shop.svc.cluster.local"]),
        (completion.POLICIES, "", ["shop/strict"]),
        (completion.CONNECTIONS, "k", ["kernel-2"]),
    ],
)
def test_names_are_the_agents(
    agent: dict[str, Any], complete: completion.Offer, incomplete: str, expected: list[str]
) -> None:
    agent.update(_ANSWERS)
    assert offered(complete, incomplete) == expected


@pytest.mark.parametrize("error", [AgentUnreachable("away"), MissingPrivilege("not yours")])
def test_who_does_not_answer_offers_nothing(agent: dict[str, Any], error: Exception) -> None:
    agent["/workloads"] = error
    assert offered(completion.WORKLOADS, "") == []


def test_what_one_source_lacks_another_may_have(agent: dict[str, Any]) -> None:
    agent["/b"] = {"names": ["one"]}

    def names(answer: Any) -> Any:
        return iter(answer["names"])

    assert offered(offer(("/a", names), ("/b", names)), "") == ["one"]


def test_the_socket_of_the_command_line_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []

    def fetch(self: AdminClient, _route: str) -> Any:
        asked.append((self._path, self._seconds))
        return _ANSWERS["/workloads"]

    monkeypatch.setattr(AdminClient, "fetch", fetch)
    offered(completion.WORKLOADS, "", socket_path="/x.sock")
    offered(completion.WORKLOADS, "", socket_path=None)
    assert asked == [("/x.sock", 0.5), ("/run/nodeagent/admin.sock", 0.5)]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_its_script(call: Call, shell: str) -> None:
    status, out, err = call("completion", shell)
    assert (status, err) == (0, "")
    assert f"_NODEAGENT_COMPLETE={shell}_complete" in out


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_understands_its_script(call: Call, shell: str) -> None:
    """Where it is installed; bash is everywhere."""
    program = shutil.which(shell)
    if program is None:
        assert shell != "bash"
        return
    done = subprocess.run(
        [program, "-n"], input=call("completion", shell)[1], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("nodeagent conn", {"connections"}), ("nodeagent status --br", {"--brief"}), ("nodeagent completion f", {"fish"})],
)
def test_bash_completes(call: Call, tmp_path: Path, line: str, expected: set[str]) -> None:
    program = tmp_path / "nodeagent"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nodeagent.cli.main "$@"\n')
    program.chmod(0o755)
    words = line.split()
    script = (
        f"{call('completion', 'bash')[1]}\nCOMP_WORDS=({line})\nCOMP_CWORD={len(words) - 1}\n"
        f"_nodeagent_completion nodeagent {words[-1]}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert set(done.stdout.split()) == expected, done.stderr
