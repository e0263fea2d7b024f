# SPDX-License-Identifier: Apache-2.0
"""Which files a guest gets: packages by dpkg's lists, the checkout without what was made in it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from vagrant import userland
from vagrant.userland import ROOTS, key, stage_checkout, write_image


def test_the_key_changes_with_packages_and_lock() -> None:
    keys = {key({"a": "1"}, b""), key({"a": "2"}, b""), key({"b": "1"}, b""), key({"a": "1"}, b"lock")}
    assert len(keys) == 4
    assert key({"a": "1"}, b"") in keys


def test_envoy_goes_along_where_the_tests_have_one(tmp_path: Path) -> None:
    assert userland.envoy(tmp_path) is None
    program = tmp_path / "build/envoy/lib/python3.13/site-packages/envoy/_bin/envoy"
    program.parent.mkdir(parents=True)
    program.write_bytes(b"an executable")
    assert userland.envoy(tmp_path) == program
    assert key({"a": "1"}, b"", program) != key({"a": "1"}, b"")


def test_the_checkout_comes_compiled_and_without_what_else_was_made_in_it(tmp_path: Path) -> None:
    checkout, target = tmp_path / "checkout", tmp_path / "target"
    compiled = "nodeagent/__pycache__/a.pyc"
    for name in ("nodeagent/a.py", compiled, ".git/x", ".venv/x", "build/x", ".mypy_cache/x"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(name)
    stage_checkout(checkout, target)
    found = [str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()]
    assert sorted(found) == sorted(str((checkout / name).relative_to("/")) for name in ("nodeagent/a.py", compiled))


@pytest.mark.skipif(not Path("/var/lib/dpkg/status").exists(), reason="no machine with dpkg")
def test_a_packages_files_are_taken_without_documents() -> None:
    assert {"coreutils", "dash"} <= userland.packages().keys()
    assert {"libc-bin", "python3"} <= set(ROOTS)
    files = list(userland._files("dash"))
    assert "/bin/sh" in files or "/usr/bin/sh" in files
    assert not [path for path in files if path.startswith("/usr/share/doc/")]


def test_links_stay_links_and_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "file").write_text("content")
    (source / "link").symlink_to("file")
    for name in ("file", "link", "file", "gone"):
        userland._copy(str(source / name), target)
    copied = target / source.relative_to("/")
    assert sorted(path.name for path in copied.iterdir()) == ["file", "link"]
    assert (copied / "link").readlink() == Path("file")


def test_an_image_holds_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, image = tmp_path / "tree", tmp_path / "image"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder/file").write_bytes(b"x" * 100_000)
    write_image(tree, image)
    told = subprocess.run(
        [shutil.which("debugfs", path="/usr/sbin:/sbin") or "debugfs", "-R", "cat /folder/file", str(image)],
        capture_output=True,
        check=True,
    )
    assert told.stdout == b"x" * 100_000
    assert not list(tmp_path.glob("*.unfinished"))
