# SPDX-License-Identifier: Apache-2.0
"""Cleaning meets its objects made, half made and gone. Real mounts and cgroups are in tests/e2e/test_lab.py."""

import errno
from pathlib import Path

import pytest

from nodeagent.errors import NotPossible
from nodeagent.lab import clean
from nodeagent.lab.journal import Entry, Journal, Kind


@pytest.fixture(autouse=True)
def no_mounts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is a mount point here; the list says what was asked for."""
    asked: list[str] = []

    def unmount(target: Path, flags: int = 0) -> None:
        asked.append(str(target))
        raise OSError(errno.EINVAL, "not a mount point")

    monkeypatch.setattr(clean, "unmount", unmount)
    return asked


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_is_removed_made_or_not(tmp_path: Path, kind: Kind, *, is_made: bool) -> None:
    path = tmp_path / "object"
    if is_made:
        match kind:
            case Kind.PINNED:
                path.touch()
            case Kind.LINK:
                path.symlink_to("/nowhere")
            case Kind.CGROUP | Kind.DIRECTORY:
                path.mkdir()
            case Kind.TREE:
                (path / "below").mkdir(parents=True)
                (path / "below" / "file").touch()
    clean.remove(Entry(kind, str(path)))
    clean.remove(Entry(kind, str(path)))  # and again
    assert not path.is_symlink()
    assert not path.exists()


def test_a_directory_that_others_use_stays(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "theirs").touch()
    clean.remove(Entry(Kind.DIRECTORY, str(tmp_path / "shared")))
    assert (tmp_path / "shared" / "theirs").exists()


def test_processes_are_ended_before_anything_else_and_the_rest_goes_backwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.claim(tmp_path / "lab")
    entries = [
        journal.note(Kind.DIRECTORY, "/a"),
        journal.note(Kind.CGROUP, "/b"),
        journal.note(Kind.PINNED, "/c"),
        journal.note(Kind.LINK, "/d"),
    ]
    order: list[Entry] = []
    monkeypatch.setattr(clean, "remove", order.append)
    assert clean.clean(journal) == tuple(entries)
    assert [entry.path for entry in order] == ["/b", "/d", "/c", "/a"]
    assert not journal.path.exists()


def test_what_resists_keeps_its_journal_for_the_next_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "lab"
    crashed = Journal.claim(directory)
    crashed.note(Kind.PINNED, tmp_path / "pin")
    crashed.close()

    def refuse(target: Path, flags: int = 0) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(clean, "unmount", refuse)
        with pytest.raises(NotPossible, match="cannot be removed"):
            clean.clean_dead(directory)
    assert crashed.path.exists()

    assert clean.clean_dead(directory).removed == (Entry(Kind.PINNED, str(tmp_path / "pin")),)
    assert not directory.exists()


def test_living_runs_are_left_alone_and_listed(tmp_path: Path) -> None:
    directory = tmp_path / "lab"
    living, crashed = Journal.claim(directory), Journal.claim(directory)
    living.note(Kind.DIRECTORY, tmp_path / "kept")
    crashed.note(Kind.DIRECTORY, tmp_path / "removed")
    (tmp_path / "kept").mkdir()
    (tmp_path / "removed").mkdir()
    crashed.close()

    cleaned = clean.clean_dead(directory)
    assert cleaned.removed == (Entry(Kind.DIRECTORY, str(tmp_path / "removed")),)
    assert [run.number for run in cleaned.alive] == [living.number]
    assert (tmp_path / "kept").exists()
    assert not (tmp_path / "removed").exists()
    living.finish()


def test_nothing_to_clean(tmp_path: Path) -> None:
    assert clean.clean_dead(tmp_path / "never made") == clean.Cleaned((), ())
