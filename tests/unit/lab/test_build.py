# SPDX-License-Identifier: Apache-2.0
"""Names and the journal when something is in the way. What is mounted on them is proven in tests/e2e/test_lab.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import NotPossible
from nodeagent.lab import build
from nodeagent.lab.journal import Entry, Journal, Kind


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.claim(tmp_path / "lab")
    yield journal
    journal.finish()


def test_a_name_stands_in_the_journal_before_it_exists(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = tmp_path / "na-web"

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):  # noqa: PT012 - the patch ends with it
        patch.setattr("nodeagent.lab.build.os.open", no_space)
        build._make_pin(journal, pin)
    assert journal.read().entries == (Entry(Kind.PINNED, str(pin)),)


def test_somebody_elses_name_is_not_claimed(journal: Journal, tmp_path: Path) -> None:
    pin = tmp_path / "na-web"
    pin.touch()
    with pytest.raises(NotPossible, match="no lab's journal knows it"):
        build._make_pin(journal, pin)
    assert journal.read().entries == ()
    assert pin.exists()


def test_a_directory_that_went_meanwhile_is_made_again_and_noted_before_the_name(
    journal: Journal, tmp_path: Path
) -> None:
    pin = tmp_path / "netns" / "na-web"
    build._make_pin(journal, pin)
    assert pin.exists()
    assert journal.read().entries == (Entry(Kind.DIRECTORY, str(pin.parent)), Entry(Kind.PINNED, str(pin)))


def test_an_unknown_sysctl_is_named() -> None:
    with pytest.raises(NotPossible, match=r"net\.ipv4\.no_such_thing=1"):
        build._write_sysctl("net.ipv4.no_such_thing", "1")


def test_a_chroot_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "call_inside", lambda _function, **_: tmp_path.stat())
    with pytest.raises(NotPossible, match="chroot"):
        build._demand_our_root(Path("/run/nodeagent-lab/1/node-a"))
