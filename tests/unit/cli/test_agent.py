# SPDX-License-Identifier: Apache-2.0
"""Every setting has its flag; what cannot be is told in one line before anything starts."""

import dataclasses
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from nodeagent.cli.agent import agent as agent_command
from nodeagent.config import Config
from nodeagent.errors import AlreadyRunning

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, bool]]:
    """What run_agent was called with, in place of an agent."""
    calls: list[tuple[Config, bool]] = []
    module = types.ModuleType("nodeagent.agent.run")
    module.run_agent = lambda config, *, takeover: calls.append((config, takeover))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nodeagent.agent.run", module)
    monkeypatch.setattr("nodeagent.logs.process.set_up_logging", lambda *_: None)
    for field in dataclasses.fields(Config):
        monkeypatch.delenv(field.metadata["env"], raising=False)
    return calls


def test_every_setting_has_a_flag_with_help_and_variable() -> None:
    options = {option.name: option for option in agent_command.params if isinstance(option, click.Option)}
    for field in dataclasses.fields(Config):
        option = options[field.name]
        assert f"--{field.name.replace('_', '-')}" in option.opts
        assert option.help is not None
        assert field.metadata["help"] in option.help
        assert f"env: {field.metadata['env']}]" in option.help


def test_flag_variable_file_default(
    call: Call, started: list[tuple[Config, bool]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = tmp_path / "agent.yaml"
    settings.write_text("node: of-file\ncluster: of-file\nworkers: 2\n")
    monkeypatch.setenv("CLUSTER_ID", "of-variable")
    monkeypatch.setenv("NODE_NAME", "of-variable")
    assert call("agent", "--config", str(settings), "--node", "of-flag", "--pods", "p.yaml") == (0, "", "")
    ((config, takeover),) = started
    assert (config.node, config.cluster, config.workers, config.network) == ("of-flag", "of-variable", 2, "")
    assert config.pods_file == "p.yaml"
    assert not takeover


def test_takeover(call: Call, started: list[tuple[Config, bool]]) -> None:
    assert call("agent", "--node", "a", "--takeover", "--drain-seconds", "500ms")[0] == 0
    ((config, takeover),) = started
    assert takeover
    assert config.drain_seconds == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], "the node's name is not set", id="no node"),
        pytest.param(["--node", "a", "--workers", "9"], "--workers: 9 is not 0 to 4", id="out of range"),
        pytest.param(["--node", "a", "--workers", "many"], "--workers: 'many'", id="no number"),
        pytest.param(["--node", "a", "--log-format", "xml"], "--log-format: 'xml' is not", id="no such format"),
        pytest.param(["--config", "/nonexistent/x.yaml"], "--config /nonexistent/x.yaml: No such file", id="no file"),
    ],
)
def test_wrong_settings(call: Call, started: list[tuple[Config, bool]], arguments: list[str], words: str) -> None:
    status, out, err = call("agent", *arguments)
    assert (status, out, started) == (2, "", [])
    assert words in err
    assert err.count("\n") == 2


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        pytest.param(b"- a\n", "settings by name are expected", id="a list"),
        pytest.param(b"a: [\n", "while parsing", id="no YAML"),
        pytest.param(b"\xff\xfe", "not UTF-8", id="no text"),
        pytest.param(b"nodes: a\n", "unknown setting 'nodes'", id="unknown setting"),
        pytest.param(b"cluster: 7\n", "a text is expected", id="wrong type"),
    ],
)
def test_wrong_files(
    call: Call, started: list[tuple[Config, bool]], tmp_path: Path, contents: bytes, words: str
) -> None:
    path = tmp_path / "agent.yaml"
    path.write_bytes(contents)
    status, _, err = call("agent", "--node", "a", "--config", str(path))
    assert (status, started) == (2, [])
    assert words in err
    assert "Traceback" not in err


def test_an_empty_file_sets_nothing(call: Call, started: list[tuple[Config, bool]], tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("# nothing yet\n")
    assert call("agent", "--node", "a", "--config", str(tmp_path / "agent.yaml"))[0] == 0
    assert started[0][0] == Config(node="a")


@pytest.mark.parametrize(
    ("done", "said"), [(["a removed", "b ended"], "a removed\nb ended\n"), ([], "nothing to remove\n")]
)
def test_cleanup(call: Call, monkeypatch: pytest.MonkeyPatch, done: list[str], said: str) -> None:
    asked: list[tuple[str, str]] = []

    def clean(run_dir: str, bpffs: str) -> list[str]:
        asked.append((run_dir, bpffs))
        return done

    monkeypatch.setitem(sys.modules, "nodeagent.agent.cleanup", types.SimpleNamespace(cleanup=clean))
    assert call("cleanup", "--run-dir", "/run/x") == (0, said, "")
    assert asked == [("/run/x", "/sys/fs/bpf")]


def test_cleanup_is_refused_beside_an_agent(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def clean(*_: Any) -> list[str]:
        raise AlreadyRunning("an agent is already running on this node (pid 7)")

    monkeypatch.setitem(sys.modules, "nodeagent.agent.cleanup", types.SimpleNamespace(cleanup=clean))
    status, out, err = call("cleanup")
    assert (status, out) == (5, "")
    assert "pid 7" in err
