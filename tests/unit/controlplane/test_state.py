# SPDX-License-Identifier: Apache-2.0
"""The state directory: who may read what, and whole files only."""

import json
from pathlib import Path

import pytest

from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.state import PUBLIC, SECRET, StateDirectory, Status
from nodeagent.errors import ConfigError, StateFileUnwritable


def test_what_a_dead_process_has_left_is_removed_and_what_a_living_one_writes_is_not(state: StateDirectory) -> None:
    dead, living, foreign = (state.path / f".file.{end}" for end in ("4194305", "1", "txt"))  # above pid_max of Linux
    for path in (dead, living, foreign):
        path.write_text("")
    state.write("file", b"new", PUBLIC)
    assert sorted(path.name for path in state.path.iterdir()) == [living.name, foreign.name, "file"]


def test_secrets_are_for_their_owner(state: StateDirectory) -> None:
    state.write("public", b"x", PUBLIC)
    state.write("secret", b"x", SECRET)
    assert state.create_secret("made", b"first") == b"first"
    assert state.create_secret("made", b"second") == b"first"
    modes = {name: (state.path / name).stat().st_mode & 0o777 for name in ("public", "secret", "made")}
    assert modes == {"public": 0o644, "secret": 0o600, "made": 0o600}
    assert sorted(path.name for path in state.path.iterdir()) == ["made", "public", "secret"]


def test_a_secret_that_others_may_read_is_refused(state: StateDirectory) -> None:
    state.write("secret", b"x", SECRET)
    (state.path / "secret").chmod(0o640)
    with pytest.raises(ConfigError, match="others than its owner"):
        state.read_secret("secret")


def test_a_file_is_replaced_whole_or_not_at_all(state: StateDirectory) -> None:
    state.write("file", b"old", PUBLIC)
    (state.path / "taken").mkdir()
    with pytest.raises(StateFileUnwritable, match="taken") as raised:
        state.write("taken", b"new", PUBLIC)
    assert raised.value.check
    assert sorted(path.name for path in state.path.iterdir()) == ["file", "taken"]


def test_a_state_directory_that_cannot_be_made_is_an_error_of_the_operator(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state directory"):
        StateDirectory(tmp_path / "file" / "state")


def test_findings_are_told_as_json(state: StateDirectory) -> None:
    finding = Finding(
        "mesh.d/a.yaml", 7, Severity.ERROR, "IST0106", "Pod a/b", "wrong", "Mend it.", is_rejected=True, field="spec"
    )
    state.save_status(Status(3, "2026-01-01T00:00:00Z", 1, 2, 3, (finding,)))
    told = json.loads((state.path / "findings.json").read_text())
    assert (told["schema"], told["generation"]) == ("nodeagent/v1", 3)
    assert told["findings"][0] == {
        "file": "mesh.d/a.yaml",
        "line": 7,
        "severity": "error",
        "code": "IST0106",
        "subject": "Pod a/b",
        "message": "wrong",
        "check": "Mend it.",
        "is_rejected": True,
        "field": "spec",
    }
