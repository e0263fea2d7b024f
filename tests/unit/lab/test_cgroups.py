# SPDX-License-Identifier: Apache-2.0
"""Where the hierarchy is found. Making and ending cgroups is proven in tests/e2e/test_lab.py."""

from pathlib import Path

import pytest

from nodeagent.errors import NotPossible
from nodeagent.lab import cgroups

UNIFIED = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
HYBRID = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
VERSION_1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"


@pytest.mark.parametrize(("mounts", "found"), [(UNIFIED, "/sys/fs/cgroup"), (HYBRID, "/sys/fs/cgroup/unified")])
def test_the_hierarchy_is_found(tmp_path: Path, mounts: str, found: str) -> None:
    file = tmp_path / "mounts"
    file.write_text("proc /proc proc rw 0 0\n" + mounts)
    assert cgroups.unified_hierarchy(file) == Path(found)


def test_without_version_2_it_is_said_what_to_mount(tmp_path: Path) -> None:
    file = tmp_path / "mounts"
    file.write_text(VERSION_1)
    with pytest.raises(NotPossible) as caught:
        cgroups.unified_hierarchy(file)
    assert "mount -t cgroup2" in caught.value.check


def test_a_cgroup_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="cannot be made"):
        cgroups.make(tmp_path / "missing" / "child")


def test_removing_what_is_not_there_is_nothing_to_do(tmp_path: Path) -> None:
    cgroups.remove(tmp_path / "gone")
    assert cgroups.end_all(tmp_path / "gone") == 0
