# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line, and a machine's life with a shell script in QEMU's place."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.errors import NotPossible
from vagrant.machine import (
    Accelerator,
    Machine,
    boots,
    command,
    fitting,
    has_kvm,
    last_lines,
    run_machines,
)

LONG = 60
"""Seconds that no test here may take."""


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What to write the script into."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return program


def make(folder: Path, name: str = "one", accelerator: Accelerator = "tcg") -> Machine:
    files = [folder / f"{name}.{kind}" for kind in ("vmlinuz", "initramfs", "disk", "console", "report")]
    return Machine(name, files[0], files[1], (files[2],), files[3], files[4], accelerator, 512, 2)


def test_the_command_line(tmp_path: Path) -> None:
    words = command(make(tmp_path))
    assert words[:4] == ["setpriv", "--pdeathsig", "KILL", "--"], "it ends with us"
    assert "-no-reboot" in words, "a panic is an end"
    assert f"file:{tmp_path}/one.console" == words[words.index("-serial") + 1]
    assert words[words.index("-drive") + 1].startswith(f"file={tmp_path}/one.disk,format=raw,if=virtio,readonly=on")
    assert words[words.index("-accel") + 1] == "tcg,thread=single"
    assert "kvm" in command(make(tmp_path, accelerator="kvm"))
    assert "nodeagent.most_cases=" in words[words.index("-append") + 1]
    assert "nodeagent.most_cases=" not in " ".join(command(make(tmp_path, accelerator="kvm")))
    assert "nodeagent.tests=" not in " ".join(words)
    some = " ".join(command(replace(make(tmp_path), tests="tests/a.py,tests/b.py")))
    assert "nodeagent.tests=tests/a.py,tests/b.py " in some


def test_a_machine_is_told_when_it_ends_and_not_in_its_turn(tmp_path: Path, qemu: Path) -> None:
    qemu.write_text(f'#!/bin/sh\ncase "$*" in *first.disk*) while [ ! -e {tmp_path}/go ]; do :; done;; esac\n')
    running = run_machines([make(tmp_path, "first"), make(tmp_path, "second")], 2, LONG)
    second, lost = next(running)
    assert (second.line, lost) == ("second", "")
    (tmp_path / "go").touch()
    assert [(first.line, lost) for first, lost in running] == [("first", "")]


def test_only_so_many_run_at_once(tmp_path: Path, qemu: Path) -> None:
    qemu.write_text(f"#!/bin/sh\nmkdir {tmp_path}/alone && rmdir {tmp_path}/alone\n")
    machines = [make(tmp_path, name) for name in "abcd"]
    assert [lost for _, lost in run_machines(machines, 1, LONG)] == [""] * 4


def test_a_machine_that_fails_says_why(tmp_path: Path, qemu: Path) -> None:
    qemu.write_text("#!/bin/sh\necho no such processor >&2\nexit 7\n")
    [(_, lost)] = run_machines([make(tmp_path)], 1, LONG)
    assert lost == "QEMU ended with status 7: no such processor"


def test_a_machine_that_hangs_is_ended(tmp_path: Path, qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    pidfd_open = os.pidfd_open

    def note(pid: int) -> int:
        """The program cannot be trusted to say who it is before its time is over."""
        started.append(pid)
        return pidfd_open(pid)

    monkeypatch.setattr(os, "pidfd_open", note)
    qemu.write_text(f"#!/bin/sh\nexec sleep {LONG}\n")
    [(_, lost)] = run_machines([make(tmp_path)], 1, 0.5)
    assert lost == "it was not done after 0.5 s"
    assert not Path("/proc", str(*started)).exists()


def test_no_machine_outlives_an_interruption(tmp_path: Path, qemu: Path) -> None:
    """As Ctrl-C does: the generator is closed in the middle."""
    qemu.write_text(
        f'#!/bin/sh\ncase "$*" in *quick.disk*) while [ ! -s {tmp_path}/pid ]; do :; done; exit;; esac\n'
        f"echo $$ >{tmp_path}/pid\nexec sleep {LONG}\n"
    )
    running = run_machines([make(tmp_path, "slow"), make(tmp_path, "quick")], 2, LONG)
    assert next(running)[0].line == "quick"
    running.close()
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_without_qemu_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotPossible, match="is not installed") as caught:
        list(run_machines([make(tmp_path)], 1, LONG))
    assert "make test-kernels" in caught.value.check


@pytest.mark.parametrize(
    ("script", "seconds", "does"),
    [
        pytest.param("echo ready >>$report", LONG, True, id="says it"),
        pytest.param("", LONG, False, id="says nothing"),
        pytest.param("echo ready >>$report; exit 1", LONG, False, id="dies"),
        pytest.param(f"echo ready >>$report; exec sleep {LONG}", 2, False, id="hangs"),
    ],
)
def test_whether_a_machine_boots(tmp_path: Path, qemu: Path, script: str, seconds: int, *, does: bool) -> None:
    qemu.write_text(f"#!/bin/sh\nreport={tmp_path}/one.report\n{script}\n")
    assert boots(make(tmp_path), seconds) is does


def test_without_the_device_there_is_no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    assert not has_kvm()


def test_the_last_lines_of_a_console(tmp_path: Path) -> None:
    console = tmp_path / "console"
    console.write_bytes(b"".join(b"line %d\r\n" % number for number in range(50)) + b"\xff")
    lines = last_lines(console).splitlines()
    assert (len(lines), lines[0], lines[-1]) == (12, "line 39", "\ufffd")


@pytest.mark.parametrize(("count", "memory", "cores", "fits"), [(4, 1, 2, 2), (1, 1, 8, 1), (4, 1 << 40, 8, 1)])
def test_how_many_fit(count: int, memory: int, cores: int, fits: int) -> None:
    assert fitting(count, memory, cores) == fits


def test_the_time_is_bounded_from_the_start_of_each(tmp_path: Path, qemu: Path) -> None:
    began = time.monotonic()
    qemu.write_text(f"#!/bin/sh\nexec sleep {LONG}\n")
    assert len(list(run_machines([make(tmp_path, "a"), make(tmp_path, "b")], 1, 0.2))) == 2
    assert time.monotonic() - began < LONG
