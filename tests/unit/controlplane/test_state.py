# SPDX-License-Identifier: Apache-2.0
"""The state directory: who may read what, whole files only, and a restart with an invalid file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.state import PUBLIC, SECRET, StateDirectory, Status
from nodeagent.errors import ConfigError, StateFileUnwritable


def content(text: str) -> dict[str, Content]:
    return {"a.yaml": Content("mesh.d/a.yaml", text)}


def test_a_restart_with_an_invalid_file_keeps_the_last_good_version(state: StateDirectory, mesh: str) -> None:
    good = admit(Catalog(), content(mesh))
    state.save_catalog(good)

    restored = StateDirectory(state.path).load_catalog()
    after = admit(restored, content(mesh.replace("principals: [cluster.local/ns/shop/sa/web]", "principals: ['*x*']")))

    assert [finding.code for finding in after.findings] == ["IST0106"]
    assert {key: accepted.value for key, accepted in after.objects.items()}.keys() == good.objects.keys()
    policy = next(key for key in after.objects if key.kind == "AuthorizationPolicy")
    assert after.objects[policy].text == good.objects[policy].text
    assert admit(restored, {}).objects == {}


@pytest.mark.parametrize(
    "damage", ["", "{}", "{", '{"documents": [{"file": "a", "line": 1, "text": "a: [", "objects": []}]}']
)
def test_a_damaged_file_is_an_empty_one(state: StateDirectory, damage: str) -> None:
    (state.path / "last-good.json").write_text(damage)
    assert state.load_catalog().objects == {}


def test_a_file_of_another_version_is_refused_with_the_reason(
    state: StateDirectory, mesh: str, caplog: pytest.LogCaptureFixture
) -> None:
    state.save_catalog(admit(Catalog(), content(mesh)))
    path = state.path / "last-good.json"
    path.write_text(path.read_text().replace("nodeagent/v1", "nodeagent/v7"))
    assert state.load_catalog().objects == {}
    assert "last-good.json is of another program or version ('nodeagent/v7')" in caplog.text


def test_a_process_that_is_killed_while_saving_leaves_the_old_documents_or_the_new_ones(state: StateDirectory) -> None:
    program = [sys.executable, "-m", "tests.crashes", "control-plane", str(state.path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


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
