# SPDX-License-Identifier: Apache-2.0
"""Addresses of hosts of ServiceEntries on disk: found again, written only when something is new, or ignored by name."""

import pytest

from nodeagent.controlplane.allocations import FILE, Allocations
from nodeagent.controlplane.service_entries import Allocated
from nodeagent.controlplane.state import StateDirectory
from nodeagent.errors import StateFileUnwritable
from nodeagent.model.address import Ip

GIVEN: Allocated = {
    ("shop", "b", "b.test"): (Ip("240.240.0.2"), Ip("2001:2::2")),
    ("shop", "a", "*.a.test"): (),
}


def test_what_was_saved_is_found(state: StateDirectory) -> None:
    assert Allocations(state).load() == {}
    Allocations(state).save(GIVEN)
    assert Allocations(state).load() == GIVEN
    assert (state.path / FILE).stat().st_mode & 0o777 == 0o600


def test_it_is_written_only_when_something_is_new(state: StateDirectory) -> None:
    Allocations(state).save(GIVEN)
    kept = Allocations(state)
    kept.load()
    (state.path / FILE).unlink()
    kept.save(dict(GIVEN))
    assert not (state.path / FILE).exists()
    kept.save({})
    assert Allocations(state).load() == {}


def test_what_could_not_be_written_is_tried_again(state: StateDirectory) -> None:
    kept = Allocations(state)
    (state.path / FILE).mkdir()
    with pytest.raises(StateFileUnwritable, match=FILE):
        kept.save(GIVEN)
    with pytest.raises(StateFileUnwritable, match=FILE):
        kept.save_again()
    (state.path / FILE).rmdir()
    kept.save_again()
    assert Allocations(state).load() == GIVEN


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "truncated", id="empty"),
        pytest.param('{"schema": "nodeagent/v1", "hosts": [', "truncated", id="half"),
        pytest.param("[]", "Expected `object`", id="something else"),
        pytest.param('{"schema": "nodeagent/v7", "hosts": []}', "another program or version", id="another version"),
        pytest.param(
            '{"schema": "nodeagent/v1", "hosts": [{"namespace": "n", "name": "a", "host": "h", "addresses": ["x"]}]}',
            "does not appear to be",
            id="no address",
        ),
    ],
)
def test_what_is_damaged_or_foreign_is_ignored_with_a_reason(
    state: StateDirectory, text: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    (state.path / FILE).write_text(text)
    kept = Allocations(state)
    assert kept.load() == {}
    assert f"{FILE} is ignored" in caplog.text
    assert words in caplog.text
    kept.save(GIVEN)
    assert Allocations(state).load() == GIVEN
