# SPDX-License-Identifier: Apache-2.0
"""The documents in force on disk: a restart with an invalid file, damage, death while saving, what a change costs."""

import functools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.controlplane import last_good
from nodeagent.controlplane.catalog import Accepted, Catalog, Content, admit
from nodeagent.controlplane.last_good import FILE, LastGood
from nodeagent.controlplane.objects import Key
from nodeagent.controlplane.state import StateDirectory
from nodeagent.errors import StateFileUnwritable


def content(text: str) -> dict[str, Content]:
    return {"a.yaml": Content("mesh.d/a.yaml", text)}


@functools.cache
def nodes(*names: str, label: str = "") -> Mapping[Key, Accepted]:
    """Each in a file of its own."""
    text = "apiVersion: v1\nkind: Node\nmetadata: {{name: {}, labels: {{a: '{}'}}}}\n"
    files = {f"{name}.yaml": Content(f"mesh.d/{name}.yaml", text.format(name, label)) for name in names}
    return admit(Catalog(), files).objects


def texts(objects: Mapping[Key, Accepted]) -> dict[Key, tuple[str, int, str]]:
    return {key: (accepted.file, accepted.line, accepted.text) for key, accepted in objects.items()}


def found(state: StateDirectory) -> dict[Key, tuple[str, int, str]]:
    """By a restart."""
    return texts(LastGood(state).load().objects)


def lines(state: StateDirectory) -> list[str]:
    return (state.path / FILE).read_text().splitlines()


def test_a_restart_with_an_invalid_file_keeps_the_last_good_version(state: StateDirectory, mesh: str) -> None:
    good = admit(Catalog(), content(mesh))
    LastGood(state).save(good.objects)

    restored = LastGood(StateDirectory(state.path)).load()
    after = admit(restored, content(mesh.replace("principals: [cluster.local/ns/shop/sa/web]", "principals: ['*x*']")))

    assert [finding.code for finding in after.findings] == ["IST0106"]
    assert {key: accepted.value for key, accepted in after.objects.items()}.keys() == good.objects.keys()
    policy = next(key for key in after.objects if key.kind == "AuthorizationPolicy")
    assert after.objects[policy].text == good.objects[policy].text
    assert admit(restored, {}).objects == {}


def test_a_change_costs_what_it_is_worth(state: StateDirectory) -> None:
    kept = LastGood(state)
    everything = {**nodes("a", "b", "c")}
    kept.save(everything)
    changed = {**everything, **nodes("b", label="new")}
    del changed[Key("Node", "", "c")]
    kept.save(changed)
    whole, change = lines(state)
    assert "a.yaml" in whole
    assert "a.yaml" not in change
    assert found(state) == texts(changed)
    kept.save(changed)
    assert len(lines(state)) == 2, "nothing has changed"


def test_it_is_made_anew_when_the_changes_are_longer_than_the_rest(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_good, "_LEAST_CHANGES_BYTES", 0)
    kept, seen = LastGood(state), []
    for number in range(20):
        kept.save({**nodes("a", "b", "c", "d"), **nodes("a", label=str(number))})
        seen.append(len(lines(state)))
    assert max(seen) < 5
    assert seen.count(1) > 2
    assert LastGood(state).load().objects[Key("Node", "", "a")].value.meta.labels == {"a": "19"}


def test_a_successor_never_goes_on_with_another_ones_file(state: StateDirectory) -> None:
    """It ends, perhaps, in the middle of a line."""
    former = LastGood(state)
    former.save(nodes("a"))
    with (state.path / FILE).open("ab") as file:
        file.write(b'{"schema": "nodeagent/v1", "docu')
    successor = LastGood(state)
    assert texts(successor.load().objects) == texts(nodes("a"))
    successor.save(nodes("a", "b"))
    assert len(lines(state)) == 1
    assert found(state) == texts(nodes("a", "b"))


def test_a_file_that_somebody_has_removed_is_made_again(state: StateDirectory) -> None:
    kept = LastGood(state)
    kept.save(nodes("a"))
    (state.path / FILE).unlink()
    kept.save(nodes("b"))
    assert found(state) == texts(nodes("b"))


def test_what_could_not_be_written_is_written_with_what_comes_next(state: StateDirectory) -> None:
    kept = LastGood(state)
    kept.save(nodes("a"))
    (state.path / FILE).unlink()
    (state.path / FILE).mkdir()
    with pytest.raises(StateFileUnwritable, match="last-good"):
        kept.save(nodes("a", "b"))
    (state.path / FILE).rmdir()
    kept.save(nodes("a", "b", "c"))
    assert found(state) == texts(nodes("a", "b", "c"))


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{}\n",
        "{",
        "{\n",
        '{"schema": "nodeagent/v1", "documents": [{"file": "a", "line": 1, "text": "a: [", "objects": []}]}\n',
    ],
)
def test_a_damaged_file_is_an_empty_one(state: StateDirectory, damage: str) -> None:
    (state.path / FILE).write_text(damage)
    assert LastGood(state).load().objects == {}


def test_damage_in_the_middle_leaves_nothing_half_believed(state: StateDirectory) -> None:
    kept = LastGood(state)
    kept.save(nodes("a"))
    kept.save(nodes("a", "b"))
    first, second = lines(state)
    (state.path / FILE).write_text(f"{first}\n{second[:-9]}\n{second}\n")
    assert LastGood(state).load().objects == {}


def test_a_file_of_another_version_is_refused_with_the_reason(
    state: StateDirectory, mesh: str, caplog: pytest.LogCaptureFixture
) -> None:
    LastGood(state).save(admit(Catalog(), content(mesh)).objects)
    path = state.path / FILE
    path.write_text(path.read_text().replace("nodeagent/v1", "nodeagent/v7"))
    assert LastGood(state).load().objects == {}
    assert "last-good.jsonl is of another program or version ('nodeagent/v7')" in caplog.text


def test_a_process_that_is_killed_while_saving_leaves_the_old_documents_or_the_new_ones(state: StateDirectory) -> None:
    program = [sys.executable, "-m", "tests.crashes", "control-plane", str(state.path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


@given(st.lists(st.dictionaries(st.sampled_from("abcde"), st.sampled_from("xyz"), max_size=5), min_size=1, max_size=6))
def test_whatever_was_saved_last_is_what_a_restart_finds(
    tmp_path_factory: pytest.TempPathFactory, history: list[dict[str, str]]
) -> None:
    state = StateDirectory(tmp_path_factory.mktemp("state"))
    kept = LastGood(state)
    for labels in history:
        objects = {key: value for name, label in labels.items() for key, value in nodes(name, label=label).items()}
        kept.save(objects)
        assert found(state) == texts(objects)
