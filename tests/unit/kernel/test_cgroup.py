# SPDX-License-Identifier: Apache-2.0
"""Which cgroup is the pods': the one that is named, a kubelet's, or none and why."""

from pathlib import Path

import pytest

from nodeagent.kernel.cgroup import find_pods_cgroup


def _mounts(folder: Path, *mounts: tuple[str, str]) -> Path:
    for name, _ in mounts:
        (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / "mounts"
    path.write_text("".join(f"none {folder / name} {kind} rw 0 0\n" for name, kind in mounts))
    return path


@pytest.mark.parametrize(
    ("made", "setting", "found"),
    [
        pytest.param(["kubepods.slice", "system.slice"], "", "kubepods.slice", id="systemd"),
        pytest.param(["kubepods"], "", "kubepods", id="cgroupfs"),
        pytest.param(["kubelet.slice/kubelet-kubepods.slice"], "", "kubelet.slice/kubelet-kubepods.slice", id="kind"),
        pytest.param(["kubepods", "mine/pods"], "mine/pods", "mine/pods", id="named"),
        pytest.param(["mine/pods"], "/mine/pods/", "mine/pods", id="named as from the root"),
    ],
)
def test_it_is_found(tmp_path: Path, made: list[str], setting: str, found: str) -> None:
    mounts = _mounts(tmp_path, ("cpu", "cgroup"), ("unified", "cgroup2"))
    for name in made:
        (tmp_path / "unified" / name).mkdir(parents=True)
    answer = find_pods_cgroup(setting, mounts)
    assert (answer.path, answer.reason) == (tmp_path / "unified" / found, "")


@pytest.mark.parametrize(
    ("mounted", "setting", "reason"),
    [
        pytest.param([("cpu", "cgroup")], "", "not mounted", id="version 1 alone"),
        pytest.param([("unified", "cgroup2")], "", "no kubelet", id="no kubelet"),
        pytest.param([("unified", "cgroup2")], "pods", "no cgroup pods below", id="not there"),
    ],
)
def test_there_is_none(tmp_path: Path, mounted: list[tuple[str, str]], setting: str, reason: str) -> None:
    answer = find_pods_cgroup(setting, _mounts(tmp_path, *mounted))
    assert answer.path is None
    assert reason in answer.reason


def test_the_mount_that_can_be_seen_counts(tmp_path: Path) -> None:
    """A node of the lab has its own cgroup mounted over the machine's."""
    mounts = _mounts(tmp_path, ("hidden", "cgroup2"), ("seen", "cgroup2"))
    for name in ("hidden", "seen"):
        (tmp_path / name / "pods").mkdir()
    assert find_pods_cgroup("pods", mounts).path == tmp_path / "seen" / "pods"
