# SPDX-License-Identifier: Apache-2.0
"""What is said when nothing is there or may not be read; the rest needs a kernel: tests/e2e/test_cli.py."""

from pathlib import Path
from typing import Any

import pytest

from nodeagent.errors import ConfigError, KernelError, MissingPrivilege
from nodeagent.kernel import pinned, syscall
from nodeagent.kernel.pinned import PinnedMap, PinnedProgram
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.sources import PROGRAMS


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    """A directory in place of bpffs, with files in place of pins."""
    made = Pins(tmp_path)
    made.maps.mkdir(parents=True)
    made.programs.mkdir(parents=True)
    return made


def test_nothing_is_pinned(tmp_path: Path) -> None:
    for ask in (pinned.programs, pinned.maps, lambda pins: pinned.rows(pins, "pods")):
        with pytest.raises(KernelError, match="nothing of nodeagent is pinned"):
            ask(Pins(tmp_path / "bpffs"))


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(PermissionError(1, "Operation not permitted"), MissingPrivilege), (OSError(5, "I/O"), KernelError)],
)
def test_pins_that_cannot_be_read(
    pins: Pins, monkeypatch: pytest.MonkeyPatch, failure: OSError, kind: type[Exception]
) -> None:
    (pins.maps / "pods").touch()

    def fail(_path: str) -> Any:
        raise failure

    monkeypatch.setattr(syscall, "open_pinned", fail)
    with pytest.raises(kind, match=failure.strerror):
        pinned.maps(pins)


@pytest.mark.parametrize(("name", "words"), [("nothing", "Maps|there is no map"), ("flow_events", "a ring")])
def test_what_is_no_map(pins: Pins, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        pinned.rows(pins, name)


def test_another_version_differs_by_name(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of another source, a map of another size, a device that runs a former program."""
    found = [
        PinnedProgram(name, "sched_cls", number, "t", 0, is_current=name != "to_pod", pin="")
        for number, name in enumerate(PROGRAMS)
    ]
    monkeypatch.setattr(pinned, "programs", lambda _pins: found)
    monkeypatch.setattr(
        pinned, "maps", lambda _pins: [PinnedMap("pods", 1, "hash", 16, 20, 0, 512, is_current=True, pin="")]
    )
    places = [pinned.Place("node veth3 (7)", "egress", 1, "to_pod", 99, "tcx", is_ours=True)]
    monkeypatch.setattr(pinned, "attachments", lambda _pins, _run_dir: places)
    compared = {one.what: one for one in pinned.verify(pins, "/run/x")}
    assert not compared["declaration of the maps"].is_same
    assert not compared["map pods"].is_same
    assert (compared["map pods"].wanted, compared["map pods"].found) == (
        "hash of 1024, key 16, value 20",
        "hash of 512, key 16, value 20",
    )
    assert compared["map flow_events"].found == "not pinned"
    assert compared["program from_pod"].is_same
    assert not compared["program to_pod"].is_same
    assert not compared["node veth3 (7) egress"].is_same
