# SPDX-License-Identifier: Apache-2.0
"""Whatever ends a command, an operator reads one message and a script one number."""

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from nodeagent.cli import main
from nodeagent.cli.main import COMMANDS, cli
from nodeagent.errors import (
    AgentUnreachable,
    AlreadyRunning,
    ConfigError,
    KernelError,
    MissingPrivilege,
    NodeagentError,
    NotPossible,
    PortInUse,
    ProblemFound,
)

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ProblemFound("a claim is false"), 1),
        (ConfigError("--workers: 9 is not 0 to 4"), 2),
        (AgentUnreachable("no agent answers"), 3),
        (MissingPrivilege("CAP_BPF is missing"), 4),
        (NotPossible("no bpffs"), 5),
        (PortInUse("15020 is taken"), 5),
        (AlreadyRunning("an agent is running"), 5),
        (KernelError("the verifier refused from_pod"), 5),
    ],
)
def test_errors_of_ours(agent: dict[str, Any], call: Call, error: NodeagentError, status: int) -> None:
    agent["/pods"] = error
    found, out, err = call("pods")
    assert (found, out) == (status, "")
    assert err == f"error: {error}\n" + (f"check: {error.check}\n" if error.check else "")


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        pytest.param(ExceptionGroup("", [PortInUse("15020")]), 5, "error: 15020", id="of a task group"),
        pytest.param(
            ExceptionGroup("", [ExceptionGroup("", [ConfigError("a")]), ConfigError("b")]), 2, "error: a", id="nested"
        ),
        pytest.param(
            ExceptionGroup("", [ConfigError("a"), RuntimeError("b")]),
            70,
            "bug of nodeagent: RuntimeError: b",
            id="a bug in it",
        ),
        pytest.param(BaseExceptionGroup("", [KeyboardInterrupt()]), 130, "", id="interrupted"),
        pytest.param(KeyboardInterrupt(), 130, "", id="Ctrl-C"),
        pytest.param(RuntimeError("odd\nlines"), 70, "bug of nodeagent: RuntimeError", id="a bug"),
    ],
)
def test_what_a_command_may_end_with(
    monkeypatch: pytest.MonkeyPatch, call: Call, failure: BaseException, status: int, words: str
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise failure

    @click.command()
    def broken() -> None:
        fail()

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: broken)
    found, _, err = call("status")
    assert found == status
    assert words in err
    assert "Traceback" not in err


def test_a_bug_shows_its_traceback_on_request(agent: dict[str, Any], call: Call) -> None:
    agent["/pods"] = RuntimeError("unexpected")
    status, _, err = call("--debug", "pods")
    assert status == 70
    assert "Traceback (most recent call last)" in err
    assert err.endswith("error: this is a bug of nodeagent: RuntimeError: unexpected\ncheck: Please report it.\n")


def test_a_daemons_bug_is_in_its_log(agent: dict[str, Any], call: Call, caplog: pytest.LogCaptureFixture) -> None:
    agent["/pods"] = RuntimeError("unexpected")
    with caplog.at_level(logging.ERROR):
        assert call("pods")[0] == 70
    assert "RuntimeError: unexpected" in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["frobnicate"], id="no such command"),
        pytest.param(["pods", "--frobnicate"], id="no such option"),
        pytest.param(["pods", "-o", "xml"], id="no such form"),
        pytest.param(["pods", "shop/web"], id="too many arguments"),
        pytest.param(["explain", "web"], id="too few arguments"),
        pytest.param(["agent", "--workers"], id="an option without its value"),
    ],
)
def test_wrong_use(call: Call, arguments: list[str]) -> None:
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert "Error: " in err


@pytest.mark.parametrize(("setting", "expected"), [("1", "False"), ("", "None")])
def test_no_colour_of_any_command_on_request(
    monkeypatch: pytest.MonkeyPatch, call: Call, setting: str, expected: str
) -> None:
    @click.command()
    def coloured() -> None:
        click.echo(str(click.get_current_context().color))

    monkeypatch.setenv("NO_COLOR", setting)
    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: coloured)
    assert call("status") == (0, f"{expected}\n", "")


def test_version(call: Call) -> None:
    status, out, _ = call("--version")
    assert status == 0
    assert out.startswith("nodeagent 0.")


def test_the_help_documents_exit_statuses(call: Call) -> None:
    status, out, _ = call("--help")
    assert status == 0
    for number in ("0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "70"):
        assert f"\n  {number}" in out
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(call: Call, name: str) -> None:
    status, out, err = call(name, "--help")
    assert (status, err) == (0, "")
    group = cli.get_command(click.Context(cli), name)
    if isinstance(group, click.Group):
        for member in group.commands:
            status, out, _ = call(name, member, "--help")
            assert "\nExamples:\n" in out
    else:
        examples = out.partition("\nExamples:\n")[2].splitlines()
        assert any(f"nodeagent {name}" in line for line in examples)
    assert "\\b" not in out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_each_command_says_of_itself(name: str) -> None:
    module, words = COMMANDS[name]
    command = getattr(importlib.import_module(f"nodeagent.cli.{module}"), name.replace("-", "_"))
    first_sentence = (command.help or "").partition("\n\n")[0]
    assert first_sentence.split()[:4] == words.split()[:4]


_HEAVY = ("grpc", "google", "pyroute2", "cryptography", "bcc", "msgspec", "yaml", "prometheus_client", "asyncio")


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["status", "--socket", "/nonexistent"]])
def test_what_is_typed_often_imports_little(arguments: list[str]) -> None:
    text = (
        "import sys; from nodeagent.cli.main import run; run(sys.argv[1:]);"
        f"print('loaded', *[name for name in {_HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded"


@pytest.mark.parametrize(
    "arguments", [["agent", "--node", "a"], ["control-plane", "--config-dir", "/nowhere", "--state-dir", "/nowhere"]]
)
def test_logging_is_set_up_before_grpc_is_loaded(arguments: list[str]) -> None:
    text = (
        "import sys; from nodeagent.logs import process;"
        "process.set_up_logging = lambda *_: sys.exit('too late' if 'grpc' in sys.modules else 'in time');"
        "from nodeagent.cli.main import run; run(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, check=False)
    assert done.stderr == "in time\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As `nodeagent --help | true`, with a reader that is surely gone before the first write."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "nodeagent.cli.main", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_completion_offers_the_commands() -> None:
    environment = {"_NODEAGENT_COMPLETE": "bash_complete", "COMP_WORDS": "nodeagent st", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from nodeagent.cli.main import cli; cli(prog_name='nodeagent')"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["plain,status"]


@pytest.mark.parametrize("words", [["--help"], ["completion", "bash"]])
def test_a_full_disk_behind_standard_output_is_no_bug(words: list[str]) -> None:
    text = "from nodeagent.cli.main import main; main()"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", text, *words], check=False, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 5
    assert done.stderr.startswith("error: what is said cannot be written: No space left on device\ncheck: ")
    assert done.stderr.count("\n") == 2
