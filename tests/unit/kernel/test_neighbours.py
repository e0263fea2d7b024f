# SPDX-License-Identifier: Apache-2.0
"""Who is at our ports, captures pods or makes their networks: told from a /proc and CNI files made for the test."""

import json
import os
import socket
from pathlib import Path

import pytest

from nodeagent.kernel import neighbours
from nodeagent.kernel.neighbours import Listener, cni_kind, cni_plugins, other_meshes, ports, read_listeners

WANTED = {"stats-address": "[::]:15020", "admin-address": "127.0.0.1:15000"}
_HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Nobody listens, nobody runs. Words are those of a little-endian machine, as the kernel writes them there."""
    made = tmp_path / "proc"
    (made / "net").mkdir(parents=True)
    for name in ("tcp", "tcp6"):
        (made / "net" / name).write_text(_HEADER)
    return made


@pytest.fixture(autouse=True)
def _little_endian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.byteorder", "little")


def listens(proc: Path, name: str, local: str, inode: int, state: str = "0A") -> None:
    with (proc / "net" / name).open("a") as file:
        row = f"   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"
        file.write(row)


def runs(proc: Path, pid: int, name: str, *words: str, inode: int = 0) -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n")
    (folder / "cmdline").write_bytes("\0".join(words).encode())
    (folder / "fd" / "0").symlink_to("/dev/null")
    if inode:
        (folder / "fd" / "3").symlink_to(f"socket:[{inode}]")


def test_listeners_of_both_families(proc: Path) -> None:
    listens(proc, "tcp", "0100007F:3A98", 7)
    listens(proc, "tcp", "0100007F:3A99", 8, state="01")
    listens(proc, "tcp6", "B80D0120000000000000000001000000:3AAC", 9)
    assert read_listeners(proc) == [
        Listener(ip="127.0.0.1", port=15000, inode="7"),  # type: ignore[arg-type]
        Listener(ip="2001:db8::1", port=15020, inode="9"),  # type: ignore[arg-type]
    ]


def test_this_machine_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        found = ports({"stats-address": address})
        assert not found.ok
        assert f"pid {os.getpid()}" in found.evidence
    assert ports({"stats-address": address}).ok


def test_nobody_is_there(proc: Path) -> None:
    found = ports(WANTED, proc)
    assert (found.ok, found.evidence) == (True, "nobody listens at [::]:15020, 127.0.0.1:15000")
    assert ports({"stats-address": ""}, proc).ok


@pytest.mark.parametrize(
    ("name", "local", "taken"),
    [
        pytest.param("tcp", "00000000:3AAC", "15020 of --stats-address (nginx, pid 12)", id="all of IPv4"),
        pytest.param("tcp", "0100007F:3AAC", "15020 of --stats-address (nginx, pid 12)", id="ours is all"),
        pytest.param("tcp", "0100007F:3A98", "15000 of --admin-address (nginx, pid 12)", id="the same address"),
        pytest.param("tcp", "0200000A:3A98", "", id="another address"),
        pytest.param("tcp", "00000000:3AAD", "", id="another port"),
    ],
)
def test_a_port_that_is_taken(proc: Path, name: str, local: str, taken: str) -> None:
    listens(proc, name, local, 77)
    runs(proc, 12, "nginx", "nginx", inode=77)
    found = ports(WANTED, proc)
    assert (found.ok, found.is_needed) == (not taken, True)
    if taken:
        assert found.evidence == f"taken: {taken}"


def test_an_agent_of_ours_is_no_stranger_and_who_is_not_seen_is_one(proc: Path) -> None:
    listens(proc, "tcp6", "00000000000000000000000000000000:3AAC", 77)
    assert ports(WANTED, proc).evidence == "taken: 15020 of --stats-address (a process that is not seen from here)"
    runs(proc, 12, "nodeagent", "/opt/venv/bin/python3", "/opt/venv/bin/nodeagent", "agent", inode=77)
    found = ports(WANTED, proc)
    assert (found.ok, found.evidence) == (True, "an agent has 15020 of --stats-address (nodeagent, pid 12)")


def test_other_meshes(proc: Path) -> None:
    assert other_meshes([], proc).ok
    runs(proc, 12, "ztunnel", "ztunnel")
    runs(proc, 13, "bash", "bash")
    found = other_meshes(["calico", "istio-cni"], proc)
    assert (found.ok, found.is_needed) == (False, False)
    assert found.evidence == "Istio's ztunnel (process 12); istio-cni (in the CNI's configuration)"


def test_the_cni_is_that_of_the_first_configuration(tmp_path: Path) -> None:
    assert cni_plugins(tmp_path / "none") == []
    (tmp_path / "99-loopback.conf").write_text(json.dumps({"type": "loopback"}))
    assert cni_plugins(tmp_path) == ["loopback"]
    (tmp_path / "05-cilium.conflist").write_text(json.dumps({"plugins": [{"type": "cilium-cni"}, {"type": "portmap"}]}))
    (tmp_path / "00-readme.txt").write_text("no configuration")
    plugins = cni_plugins(tmp_path)
    assert plugins == ["cilium-cni", "portmap"]
    assert not cni_kind(plugins, tmp_path).ok
    assert cni_kind(["calico"], tmp_path).ok


def test_a_broken_configuration_is_a_finding(tmp_path: Path, proc: Path) -> None:
    (tmp_path / "10-broken.conflist").write_text("{")
    found = neighbours.probe_neighbours({}, proc, tmp_path)
    assert [(probe.name, probe.ok) for probe in found] == [("ports", True), ("other meshes", True), ("cni", False)]
    assert "10-broken.conflist" in found[2].evidence
