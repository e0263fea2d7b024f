# SPDX-License-Identifier: Apache-2.0
"""What the agent makes of the loader child's answers, with children that only answer."""

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import loader
from nodeagent.kernel.loader import Cancellation, LoadCancelled
from nodeagent.kernel.pins import Pins
from tests.logged import logged


def _answering(monkeypatch: pytest.MonkeyPatch, output: str, status: int, errors: str = "") -> None:
    def run(_self: Cancellation, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, status, output, errors)

    monkeypatch.setattr(Cancellation, "run", run)


def test_the_last_line_is_the_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _answering(monkeypatch, 'noise of libbcc\n\n{"verified": {"from_pod": 4969}, "seconds": 0.7}\n', 0)
    assert loader.load_programs(Pins(tmp_path)) == {"from_pod": 4969}


class _Refusing:
    """A module of bcc of which the kernel takes some programs."""

    def __init__(self, *refused: str) -> None:
        self._refused = refused

    def load_func(self, name: str, kind: str, _device: None, attach_type: int) -> str:
        if name in self._refused:
            raise Exception("Permission denied\n")  # noqa: TRY002 - as bcc does
        return f"{name} as {kind}" + f" at {attach_type}" * (kind == "address")


_BCC = SimpleNamespace(BPF=SimpleNamespace(SCHED_CLS="filter", SOCK_OPS="sockops", CGROUP_SOCK_ADDR="address"))


def test_a_kernel_without_a_helper_gets_the_program_that_does_without() -> None:
    assert loader.load(_BCC, _Refusing(), "sockops") == "sockops as sockops"
    assert loader.load(_BCC, _Refusing("sockops"), "sockops") == "sockops_without_netns as sockops"
    assert loader.load(_BCC, _Refusing(), "to_pod") == "to_pod as filter"


def test_a_program_for_addresses_is_loaded_for_its_place() -> None:
    """The verifier asks for it: what such a program may read and answer depends on it."""
    assert loader.load(_BCC, _Refusing(), "connect6") == "connect6 as address at 11"


@pytest.mark.parametrize("refused", [("to_pod",), ("sockops", "sockops_without_netns")])
def test_a_program_that_the_kernel_refuses_is_named(refused: tuple[str, ...]) -> None:
    with pytest.raises(KernelError, match=f"the kernel refused the program {refused[-1]}: Permission denied$"):
        loader.load(_BCC, _Refusing(*refused), refused[0])


def test_an_error_comes_with_its_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _answering(monkeypatch, '{"error": "no bpffs", "check": "mount it"}\n', 1)
    with pytest.raises(KernelError, match="no bpffs") as caught:
        loader.load_programs(Pins(tmp_path))
    assert caught.value.check == "mount it"


@pytest.mark.parametrize("output", ["", "garbage\n", "[]\n", "7\n"])
def test_no_answer_is_an_error_with_the_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, output: str
) -> None:
    _answering(monkeypatch, output, -11, "first\nsecond\nthird\n")
    with pytest.raises(KernelError, match="status -11: second / third"):
        loader.load_programs(Pins(tmp_path))
    assert "first" in caplog.text


def test_a_child_that_hangs_is_ended_and_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader, "TIMEOUT_SECONDS", 0.01)
    with pytest.raises(KernelError, match=r"more than 0\.01 s"):
        Cancellation().run([*HANGING, str(tmp_path / "pid")])


HANGING = ("sh", "-c", "echo $$ >$0; exec sleep 600")
"""Writes its pid to the file that is named behind."""


def test_one_that_is_given_up_ends_at_once_and_no_other_begins(tmp_path: Path) -> None:
    cancellation, told = Cancellation(), tmp_path / "pid"
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(cancellation.run, [*HANGING, str(told)])
        while not (told.exists() and told.read_text().strip()):
            time.sleep(0.01)
        cancellation.set()
        with pytest.raises(LoadCancelled, match="given up"):
            loading.result(60)
    assert not Path("/proc", told.read_text().strip()).exists()
    with pytest.raises(LoadCancelled):
        cancellation.run(["touch", str(tmp_path / "begun")])
    assert not (tmp_path / "begun").exists()


def test_what_a_child_says_and_how_it_ends() -> None:
    done = Cancellation().run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_the_verifiers_count_is_read_from_its_log() -> None:
    log = "func#0 @0\nprocessed 4969 insns (limit 1000000) max_states_per_insn 4 total_states 300 peak_states 90\n"
    assert loader.processed_instructions(log) == 4969
    assert loader.processed_instructions("verification time 12 usec\n") == 0


def test_a_refusal_is_shortened_with_the_kernels_version_and_the_whole_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = "\n".join(f"{number}: (b7) r0 = 0" for number in range(5000)) + "\nR1 invalid mem access 'scalar'\n"
    answer = '{"error": "the kernel refused the program from_pod: Permission denied", "check": "Look."}\n'
    _answering(monkeypatch, answer, 1, said)
    with pytest.raises(KernelError, match=rf"from_pod: Permission denied \(Linux {os.uname().release}\)$") as caught:
        loader.load_programs(Pins(tmp_path), tmp_path / "loader.log")
    assert caught.value.check == f"Look. What was said in full: {tmp_path / 'loader.log'}."
    assert (tmp_path / "loader.log").read_text(encoding="utf-8") == said
    assert "R1 invalid mem access 'scalar'" in caplog.text
    assert "... 4981 lines ..." in caplog.text
    assert len(logged(caplog)) == 21


def test_what_is_short_is_not_shortened() -> None:
    lines = [str(number) for number in range(20)]
    assert loader.shorten(lines) == lines


def test_a_log_that_cannot_be_kept_is_said_and_hides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _answering(monkeypatch, '{"error": "refused", "check": "Look."}\n', 1, "why\n")
    with pytest.raises(KernelError, match="refused") as caught:
        loader.load_programs(Pins(tmp_path), tmp_path / "nowhere" / "loader.log")
    assert "could not be written" in caught.value.check
