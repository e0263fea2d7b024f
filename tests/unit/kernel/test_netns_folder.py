# SPDX-License-Identifier: Apache-2.0
"""Where pods' network namespaces are looked for: seen, empty, elsewhere, or mounted so that new ones do not come."""

import os
from pathlib import Path

import pytest

from nodeagent.kernel import netns_folder as folders
from nodeagent.kernel.netns_folder import is_cut_off, mount_id, netns_folder

SHARED = "25 30 0:23 / /run rw,nosuid shared:5 - tmpfs tmpfs rw"
CONTAINER = "{number} 580 0:23 /netns {path} ro,relatime{option} - tmpfs tmpfs rw"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "netns"
    made.mkdir()
    return made


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    other = tmp_path / "docker"
    other.mkdir()
    monkeypatch.setattr(folders, "ELSEWHERE", (str(tmp_path / "none"), str(other)))
    return other


def add_namespace(folder: Path) -> None:
    """A name of a real one: what it is mounted by makes no difference to who looks at it."""
    (folder / "cni-1").symlink_to("/proc/self/ns/net")


def test_nobody_looks_there() -> None:
    probe = netns_folder("")
    assert (probe.ok, probe.evidence) == (True, "only looked into with --kubernetes on")


def test_there_is_none(tmp_path: Path) -> None:
    probe = netns_folder(str(tmp_path / "none"))
    assert (probe.ok, probe.is_needed) == (False, False), "a runtime makes it with its first pod"
    assert probe.evidence == f"{tmp_path}/none is not there yet"
    assert "--netns-dir" in probe.advice


def test_it_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    probe = netns_folder(str(tmp_path / "file"))
    assert (probe.ok, probe.is_needed) == (False, True)
    assert probe.evidence == f"{tmp_path}/file: Not a directory"


def test_namespaces_are_counted(folder: Path) -> None:
    add_namespace(folder)
    (folder / "left-over").touch()
    probe = netns_folder(str(folder))
    assert (probe.ok, probe.evidence) == (True, f"1 network namespaces in {folder}")


def test_an_empty_one_is_that_of_a_node_without_pods(folder: Path) -> None:
    assert netns_folder(str(folder)).ok


def test_the_runtime_uses_another(folder: Path, elsewhere: Path) -> None:
    add_namespace(elsewhere)
    probe = netns_folder(str(folder))
    assert (probe.ok, probe.is_needed, probe.evidence) == (False, False, f"{folder} is empty, {elsewhere} is not")
    add_namespace(folder)
    assert netns_folder(str(folder)).ok
    assert netns_folder(str(elsewhere)).ok


def test_files_that_are_no_namespaces(folder: Path) -> None:
    (folder / "cni-1").touch()
    probe = netns_folder(str(folder))
    assert (probe.ok, probe.is_needed) == (False, False)
    assert probe.evidence == f"none of the 1 files in {folder} is a network namespace"
    assert "HostToContainer" in probe.advice


@pytest.mark.parametrize(
    ("option", "ok"),
    [
        pytest.param(" master:5", True, id="HostToContainer"),
        pytest.param(" shared:9 master:5", True, id="Bidirectional"),
        pytest.param(" shared:9", True, id="of the node itself"),
        pytest.param("", False, id="None"),
        pytest.param(" unbindable", False, id="unbindable"),
    ],
)
def test_propagation(folder: Path, tmp_path: Path, option: str, *, ok: bool) -> None:
    add_namespace(folder)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "\n".join(
            [SHARED, CONTAINER.format(number=mount_id(str(folder)), path=os.path.realpath(folder), option=option), ""]
        )
    )
    probe = netns_folder(str(folder), mounts)
    assert (probe.ok, probe.is_needed) == (ok, True)
    assert ok or "without propagation" in probe.evidence


def test_which_mount_counts() -> None:
    private = CONTAINER.format(number=612, path="/run/netns", option="")
    follows = CONTAINER.format(number=613, path="/run/netns", option=" master:5")
    below, above = f"{private}\n{follows}", f"{follows}\n{private}"
    for both in (below, above):
        assert is_cut_off("/run/netns", "612", both), "whatever is mounted over or under it"
        assert not is_cut_off("/run/netns", "613", both)
        assert not is_cut_off("/run/netns", "25", f"{SHARED.replace(' shared:5', '')}\n{both}"), "part of a larger one"
    assert is_cut_off("/run/a b", "612", CONTAINER.format(number=612, path=r"/run/a\040b", option=""))
    assert not is_cut_off("/run/netns", "612", "612 cut")
