# SPDX-License-Identifier: Apache-2.0
"""Reading the directory: which files count, and what is said about those that cannot be read."""

import os
from pathlib import Path

import pytest

from nodeagent.controlplane import files
from nodeagent.controlplane.files import read_directory
from nodeagent.errors import ConfigError


def test_yaml_and_json_files_count_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml", "c.json", "d.txt", "e.yaml~", ".f.yaml.swp", ".g.yaml", "4913"):
        (tmp_path / name).write_text(name)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "h.yaml").write_text("x")
    contents = read_directory(tmp_path, {}, None)
    assert {name: content.text for name, content in contents.items()} == {
        "a.yaml": "a.yaml",
        "b.yml": "b.yml",
        "c.json": "c.json",
    }
    assert contents["a.yaml"].path == str(tmp_path / "a.yaml")


def test_only_touched_files_are_read_again(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("old")
    known = read_directory(tmp_path, {}, None)
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        (tmp_path / name).write_text("new")
    found = read_directory(tmp_path, known, {"a.yaml"})
    assert {name: content.text for name, content in found.items()} == {"a.yaml": "new", "b.yaml": "old"}


def test_a_removed_file_is_gone_touched_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x")
    known = read_directory(tmp_path, {}, None)
    (tmp_path / "a.yaml").unlink()
    assert read_directory(tmp_path, known, set()) == {}
    assert read_directory(tmp_path, known, {"a.yaml"}) == {}


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_directory(tmp_path, {}, None)["a.yaml"].text == "a: 1"


def test_unusable_files_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 10)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    (tmp_path / "long.yaml").write_text("a" * 11)
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "directory.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    found = read_directory(tmp_path, {}, None)
    told = {name: content.problem and (content.problem.code, content.problem.line) for name, content in found.items()}
    assert told == {
        "latin.yaml": ("MN0002", 2),
        "long.yaml": ("MN0001", 0),
        "gone.yaml": ("MN0001", 0),
        "directory.yaml": ("MN0001", 0),
        "pipe.yaml": ("MN0001", 0),
    }
    assert all(content.problem and content.problem.is_rejected and content.problem.check for content in found.values())


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_directory_that_cannot_be_listed_is_an_error_of_the_operator(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=name) as raised:
        read_directory(tmp_path / name, {}, None)
    assert raised.value.check
