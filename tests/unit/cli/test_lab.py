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


@pytest.mark.parametrize("name", ["list", "clean"])
def test_only_root_sees_a_lab(call: Call, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status, _, err = call("lab", name)
    assert status == 4
    assert "only root" in err
