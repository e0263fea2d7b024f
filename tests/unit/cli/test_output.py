# SPDX-License-Identifier: Apache-2.0
"""A terminal gets colour and what fits, a pipe neither; the socket is where the agent's run directory is."""

import os
import shutil

import pytest

from nodeagent.cli import output
from nodeagent.cli.output import Output, Table, default_socket, has_colour

_TABLE = Table("pods", (("NAME", lambda row: row["name"]), ("STATE", lambda row: row["state"])))
_ANSWER = {"pods": [{"name": "x" * 60, "state": "ok"}]}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((40, 20)))
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("terminal")
def test_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert has_colour()
    Output("table").show(_ANSWER, _TABLE)
    assert capsys.readouterr().out.splitlines()[1].startswith("x" * 32 + "…  ")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("name", "setting"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_on_request(monkeypatch: pytest.MonkeyPatch, name: str, setting: str) -> None:
    assert has_colour()
    monkeypatch.setenv(name, setting)
    assert not has_colour()


def test_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert not has_colour()
    Output("table", with_headers=False).show(_ANSWER, _TABLE)
    assert capsys.readouterr().out == "x" * 60 + "  ok\n"


def test_an_empty_second_table_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    second = Table("others", (("OTHER", lambda row: row["name"]),))
    Output("table").show({"pods": [], "others": []}, _TABLE, second)
    assert capsys.readouterr().out == "NAME  STATE\n"


def test_what_an_earlier_release_does_not_tell_is_an_empty_cell(capsys: pytest.CaptureFixture[str]) -> None:
    Output("table").show({"pods": [{"name": "x"}]}, _TABLE)
    assert capsys.readouterr().out.splitlines()[1].split() == ["x", "-"]


def test_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_socket() == "/run/nodeagent/admin.sock"
    monkeypatch.setenv("NODEAGENT_RUN_DIR", "/run/elsewhere")
    assert default_socket() == "/run/elsewhere/admin.sock"
