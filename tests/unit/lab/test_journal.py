# SPDX-License-Identifier: Apache-2.0
"""A run's life as its journal tells it: claimed, died, cleaned, claimed again; by one process or by two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.errors import NotPossible
from nodeagent.lab.journal import Entry, Journal, Kind, living_runs

HOLD = """
import sys
from pathlib import Path
from nodeagent.lab.journal import Journal, Kind
journal = Journal.claim(Path(sys.argv[1]))
journal.note(Kind.CGROUP, "/cgroup/na-1")
print(journal.number, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "lab"


def test_runs_beside_each_other_have_distinct_numbers(directory: Path) -> None:
    first, second = Journal.claim(directory), Journal.claim(directory)
    assert (first.number, second.number) == (1, 2)
    first.finish()
    third = Journal.claim(directory)
    assert third.number == 1
    second.finish()
    third.finish()


def test_the_directory_goes_with_the_last_journal(directory: Path) -> None:
    first, second = Journal.claim(directory), Journal.claim(directory)
    first.finish()
    assert directory.exists()
    second.finish()
    assert not directory.exists()


def test_only_root_reads_a_journal(directory: Path) -> None:
    journal = Journal.claim(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert journal.path.stat().st_mode & 0o777 == 0o600
    journal.finish()


def test_what_was_made_is_read_in_order_and_what_is_gone_is_not(directory: Path) -> None:
    journal = Journal.claim(directory)
    journal.note(Kind.CGROUP, "/c")
    web = journal.note(Kind.PINNED, Path("/run/netns/na-web"))
    journal.note(Kind.PINNED, "/run/netns/na-db")
    journal.forget(web)
    assert journal.read().entries == (Entry(Kind.CGROUP, "/c"), Entry(Kind.PINNED, "/run/netns/na-db"))
    journal.finish()


def test_a_line_is_on_disk_when_note_returns(directory: Path) -> None:
    journal = Journal.claim(directory)
    journal.note(Kind.LINK, "/m")
    assert b'"/m"' in journal.path.read_bytes()
    journal.finish()


def test_a_run_that_died_is_dead_and_keeps_its_number_until_it_is_cleaned(directory: Path) -> None:
    crashed = Journal.claim(directory)
    crashed.note(Kind.CGROUP, "/c")
    crashed.close()

    assert living_runs(directory) == []
    beside = Journal.claim(directory)
    assert beside.number == 2  # the objects of run 1 still carry its names

    (dead,) = Journal.dead(directory)
    assert dead.read().entries == (Entry(Kind.CGROUP, "/c"),)
    dead.finish()
    again = Journal.claim(directory)
    assert again.number == 1
    again.finish()
    beside.finish()


def test_a_killed_process_leaves_a_dead_journal_and_a_living_one_does_not(directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"

        assert list(Journal.dead(directory)) == []
        (living,) = living_runs(directory)
        assert living.pid == holder.pid
        assert living.entries == (Entry(Kind.CGROUP, "/cgroup/na-1"),)

        holder.kill()
        holder.wait()
    assert living_runs(directory) == []
    (dead,) = Journal.dead(directory)
    assert dead.number == 1
    dead.finish()


def test_asking_about_a_dead_journal_does_not_take_it(directory: Path) -> None:
    crashed = Journal.claim(directory)
    crashed.close()
    assert living_runs(directory) == []
    assert [dead.number for dead in Journal.dead(directory)] == [1]


def test_a_torn_last_line_is_ignored(directory: Path) -> None:
    journal = Journal.claim(directory)
    journal.note(Kind.CGROUP, "/c")
    with journal.path.open("ab") as file:
        file.write(b'{"made": "pinned", "pa')
    assert journal.read().entries == (Entry(Kind.CGROUP, "/c"),)
    journal.finish()


@pytest.mark.parametrize("line", [b"garbage\n", b'{"made": "spaceship", "path": "/"}\n', b"{}\n", b"[]\n"])
def test_a_line_of_another_version_is_refused_instead_of_forgotten(directory: Path, line: bytes) -> None:
    journal = Journal.claim(directory)
    with journal.path.open("ab") as file:
        file.write(line)
    with pytest.raises(NotPossible, match="not understood"):
        journal.read()
    journal.finish()


def test_a_journal_that_was_finished_while_we_waited_for_it_is_not_taken(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is on a file without a name: who took it would hold nothing while a third claims the number."""
    first = Journal.claim(directory)
    real = os.open
    opened: list[int] = []

    def open_then_finish(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor: int = real(path, flags, mode)
        if not opened:
            opened.append(descriptor)
            first.finish()
        return descriptor

    monkeypatch.setattr("nodeagent.lab.journal.os.open", open_then_finish)
    second = Journal.claim(directory)
    assert second.number == 1
    assert second.path.exists()
    second.finish()
