# SPDX-License-Identifier: Apache-2.0
"""The commands `control-plane` and `token`: flags, files and clear errors."""

import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nodeagent.cli.control_plane import control_plane, token
from nodeagent.controlplane.token import verify_token
from nodeagent.errors import ConfigError, NodeagentError


def invoked(command: click.Command, *arguments: object) -> str:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if isinstance(result.exception, NodeagentError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_token_is_for_its_node_and_its_time(tmp_path: Path) -> None:
    made = invoked(token, "--node", "node-a", "--state-dir", tmp_path, "--ttl", "30m").strip()
    key = (tmp_path / "token-key").read_bytes()
    assert verify_token(key, made, now=time.time() + 1790) == "node-a"
    again = invoked(token, "--node", "node-b", "--state-dir", tmp_path).strip()
    assert verify_token(key, again, now=time.time() + 86000) == "node-b"


def test_a_token_file_is_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "node.token"
    assert invoked(token, "--node", "node-a", "--state-dir", tmp_path / "state", "--output", path) == ""
    assert path.stat().st_mode & 0o777 == 0o600
    written = path.read_text()
    assert verify_token((tmp_path / "state" / "token-key").read_bytes(), written, now=time.time()) == "node-a"
    assert written == written.strip(), "a ztunnel puts the file's content into a header as it is"


def test_a_token_for_the_terminal_ends_its_line(tmp_path: Path) -> None:
    assert invoked(token, "--node", "node-a", "--state-dir", tmp_path).endswith("\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--node", "Node A"), "--node"),
        (("--node", "a", "--ttl", "soon"), "--ttl"),
        (("--node", "a", "--ttl", "0h"), "--ttl"),
        (("--node", "a", "--ttl", "-5m"), "--ttl"),
    ],
)
def test_wrong_flags_of_token(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        invoked(token, *arguments, "--state-dir", tmp_path)
    assert raised.value.exit_code == 2
    assert raised.value.check


def test_a_state_directory_with_a_long_name_has_no_admin_socket_and_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []

    async def serve(_settings: object, _ready: object, open_admin: object = None) -> None:
        opened.append(open_admin is not None)

    monkeypatch.setattr("nodeagent.controlplane.run.run", serve)
    for name, more in (("a", ()), ("a" * 120, ()), ("a" * 120, ("--admin-socket", "/run/x.sock"))):
        told = invoked(control_plane, "--config-dir", tmp_path, "--state-dir", Path("/srv") / name, *more)
        assert ("warning" in told) is (len(name) > 100 and not more)
    assert opened == [True, False, True]


def test_a_missing_directory_is_told_with_exit_code_2(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere") as raised:
        invoked(control_plane, "--config-dir", tmp_path / "nowhere", "--state-dir", tmp_path / "state")
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("arguments", [(), ("--config-dir", "x", "--enrolment", "magic"), ("--unknown",)])
def test_wrong_flags_are_clicks_to_tell(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(control_plane, list(arguments))
    assert result.exit_code == 2
    assert "Error" in result.output
