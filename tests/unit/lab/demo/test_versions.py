# SPDX-License-Identifier: Apache-2.0
"""That another version is one: its hashes differ where they should, and Python runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.kernel.sources import layout_hash, source_hash
from nodeagent.lab.demo.versions import (
    OTHER_FLOWS,
    OTHER_HANDOVER,
    OTHER_PACKAGE,
    OTHER_PROGRAMS,
    OTHER_SETTINGS,
    Change,
    Version,
    make_version,
)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(OTHER_PROGRAMS, id="programs"),
        pytest.param(OTHER_SETTINGS, id="settings"),
        pytest.param(OTHER_FLOWS, id="flows"),
    ],
)
def test_another_version_has_other_programs(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    layout, source = _hashes(make_version(tmp_path, changes))
    assert source != source_hash()
    assert (layout == layout_hash()) == (changes == OTHER_PROGRAMS)


def test_another_release_may_hand_over_otherwise(tmp_path: Path) -> None:
    this, package = _told(Version(), _FORMATS), _told(make_version(tmp_path / "package", OTHER_PACKAGE), _FORMATS)
    handover = _told(make_version(tmp_path / "handover", OTHER_HANDOVER), _FORMATS)
    assert (package[0], package[1:]) == (handover[0], this[1:])
    assert package[0] != this[0]
    assert handover[1] != this[1]
    assert handover[2] != this[2], "what it says is really another thing"


def test_without_a_folder_it_is_this_one() -> None:
    assert _hashes(Version()) == (layout_hash(), source_hash())


def test_a_change_of_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is 0 times in"):
        make_version(tmp_path, (Change("bpf/layout.h", "struct nothing", ""),))


_HASHES = "from nodeagent.kernel.sources import layout_hash, source_hash; print(layout_hash(), source_hash())"
_FORMATS = """
import msgspec
from nodeagent.hbone.stream import Stream
from nodeagent.proxy.handover import VERSION as HANDOVER
from nodeagent.version import VERSION
print(VERSION, HANDOVER, msgspec.json.encode(Stream(1, 10, 20, may_receive=True).snapshot()).decode())
"""


def _hashes(version: Version) -> tuple[str, str]:
    layout, source = _told(version, _HASHES)
    return layout, source


def _told(version: Version, program: str) -> list[str]:
    told = subprocess.run(
        [sys.executable, "-c", program], env=version.environment, capture_output=True, text=True, check=True
    )
    return told.stdout.split()
