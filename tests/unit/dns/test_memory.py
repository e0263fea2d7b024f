# SPDX-License-Identifier: Apache-2.0
"""The last good answers on disk: found again, or ignored with a reason."""

from pathlib import Path

import pytest

from nodeagent.dns.book import Family
from nodeagent.dns.memory import FILE_NAME, AnswerFile, KeptAnswer
from nodeagent.errors import StateFileUnwritable
from nodeagent.model.address import Ip

ANSWERS = (
    KeptAnswer("api.example", Family.IPV4, (Ip("203.0.113.7"), Ip("203.0.113.8")), 1_800_000_000.5),
    KeptAnswer("api.example", Family.IPV6, (Ip("2001:db8::7"),), 1_800_000_001.0),
)


@pytest.fixture
def file(tmp_path: Path) -> AnswerFile:
    return AnswerFile(tmp_path / FILE_NAME)


def test_what_was_saved_is_found_and_for_its_owner_alone(file: AnswerFile) -> None:
    assert file.load() == ()
    file.save(ANSWERS)
    file.save(ANSWERS[:1])
    assert file.load() == ANSWERS[:1]
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == [FILE_NAME]


def test_what_a_killed_process_has_begun_is_no_obstacle(file: AnswerFile) -> None:
    file.path.with_suffix(".partial").write_text("[")
    file.save(ANSWERS)
    assert file.load() == ANSWERS


def test_a_disk_that_cannot_take_it_leaves_the_former_file(file: AnswerFile) -> None:
    file.save(ANSWERS)
    file.path.with_suffix(".partial").mkdir()
    with pytest.raises(StateFileUnwritable, match=FILE_NAME):
        file.save(())
    assert file.load() == ANSWERS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "truncated", id="empty"),
        pytest.param("{}", "Expected `array`", id="something else"),
        pytest.param('[{"name": "h", "family": 5, "addresses": [], "at": 1}]', "Invalid enum value", id="family"),
        pytest.param('[{"name": "h", "family": 4, "addresses": ["x"], "at": 1}]', "does not appear", id="no address"),
        pytest.param(
            '[{"name": "h", "family": 6, "addresses": ["2001:DB8::1"], "at": 1}]',
            "not written as it is here",
            id="form",
        ),
    ],
)
def test_what_is_damaged_is_ignored_with_a_reason(
    file: AnswerFile, text: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.path.write_text(text)
    assert file.load() == ()
    assert f"{FILE_NAME} is ignored" in caplog.text
    assert words in caplog.text


def test_what_cannot_be_read_is_ignored_with_a_reason(file: AnswerFile, caplog: pytest.LogCaptureFixture) -> None:
    file.path.mkdir()
    assert file.load() == ()
    assert "Is a directory" in caplog.text
