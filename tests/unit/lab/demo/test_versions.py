# SPDX-License-Identifier: Apache-2.0
"""That another version is one: its hashes differ where they should, and Python runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.kernel.sources import layout_hash, source_hash
from nodeagent.lab.demo.versions import (
    OTHER_FLOWS,
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


def test_without_a_folder_it_is_this_one() -> None:
    assert _hashes(Version()) == (layout_hash(), source_hash())


def test_a_change_of_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is 0 times in"):
        make_version(tmp_path, (Change("bpf/layout.h", "struct nothing", ""),))


def _hashes(version: Version) -> tuple[str, str]:
    program = "from nodeagent.kernel.sources import layout_hash, source_hash; print(layout_hash(), source_hash())"
    told = subprocess.run(
        [sys.executable, "-c", program], env=version.environment, capture_output=True, text=True, check=True
    )
    layout, source = told.stdout.split()
    return layout, source
