# SPDX-License-Identifier: Apache-2.0
"""What is left and what is alive, told and told apart."""

import os
import sys
import types
from collections.abc import Callable

import pytest

Call = Callable[..., tuple[int, str, str]]

_ENTRY = types.SimpleNamespace(kind="pinned", path="/run/netns/na-a")
_RUN = types.SimpleNamespace(number=1, pid=42, entries=(_ENTRY,))


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("root")
def test_list(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [_RUN]
    monkeypatch.setitem(sys.modules, "nodeagent.lab.journal", types.SimpleNamespace(living_runs=lambda: runs))
    assert call("lab", "list") == (0, "run 1 of process 42\n  pinned  /run/netns/na-a\n", "")
    runs.clear()
    assert call("lab", "list")[1] == "no run is alive\n"


@pytest.mark.usefixtures("root")
def test_clean(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = types.SimpleNamespace(removed=(_ENTRY,), alive=(_RUN,))
    monkeypatch.setitem(sys.modules, "nodeagent.lab.clean", types.SimpleNamespace(clean_dead=lambda: cleaned))
    assert call("lab", "clean") == (
        0,
        "removed pinned  /run/netns/na-a\nleft alone: run 1 of process 42, which is alive\n",
        "",
    )
    cleaned.removed, cleaned.alive = (), ()
    assert call("lab", "clean")[1] == "nothing to remove\n"


@pytest.mark.usefixtures("root")
def test_exec_takes_everything_behind_the_place_as_it_is(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setitem(sys.modules, "nodeagent.lab.journal", types.SimpleNamespace(living_runs=lambda: [_RUN]))
    enter = types.SimpleNamespace(
        choose_run=lambda runs, number: (runs, number),
        find_place=lambda run, place: (run, place),
        become=lambda place, words: done.append((place, words)),
    )
    monkeypatch.setitem(sys.modules, "nodeagent.lab.enter", enter)
    monkeypatch.setenv("NODEAGENT_LAB_RUN", "7")
    assert call("lab", "exec", "node-a", "nodeagent", "pods", "-o", "json", "--run", "1")[0] == 0
    assert done == [((([_RUN], 7), "node-a"), ("nodeagent", "pods", "-o", "json", "--run", "1"))]
    assert call("lab", "exec", "node-a")[0] == 2


@pytest.mark.parametrize("words", [["list"], ["clean"], ["exec", "web", "true"]])
def test_only_root_sees_a_lab(call: Call, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status, _, err = call("lab", *words)
    assert status == 4
    assert "only root" in err
