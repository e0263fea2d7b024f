# SPDX-License-Identifier: Apache-2.0
"""Settings of the kernel, as functions of what they are; and those of this machine, where an agent can run."""

import resource
from pathlib import Path

import pytest

from nodeagent.kernel.node_settings import memory_lock, probe_settings, unprivileged_bpf

OLD, NEW, MAY_RAISE = (5, 10), (5, 11), 1 << 24
FREE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("release", "hard", "effective", "ok"),
    [
        pytest.param(NEW, 65536, 0, True, id="not counted"),
        pytest.param(OLD, FREE, 0, True, id="unlimited"),
        pytest.param(OLD, 65536, MAY_RAISE, True, id="an agent raises it"),
        pytest.param(OLD, 1 << 30, 0, True, id="enough"),
        pytest.param(OLD, 65536, 0, False, id="too little"),
        pytest.param(OLD, 65536, ~MAY_RAISE, False, id="every other capability"),
    ],
)
def test_memory_that_may_be_locked(
    release: tuple[int, ...],
    hard: int,
    effective: int,
    *,
    ok: bool,
) -> None:
    probe = memory_lock(release, hard, effective)
    assert (probe.ok, probe.is_needed) == (ok, True)
    assert ok or probe.evidence == "at most 64 KiB, and no CAP_SYS_RESOURCE to raise it"


@pytest.mark.parametrize(("value", "ok"), [("0", False), ("1", True), ("2", True)])
def test_programs_of_everybody(tmp_path: Path, value: str, *, ok: bool) -> None:
    path = tmp_path / "unprivileged_bpf_disabled"
    path.write_text(f"{value}\n")
    probe = unprivileged_bpf(path)
    assert (probe.ok, probe.is_needed, probe.evidence) == (ok, False, f"unprivileged_bpf_disabled is {value}")


def test_a_kernel_without_this_setting(tmp_path: Path) -> None:
    probe = unprivileged_bpf(tmp_path / "unprivileged_bpf_disabled")
    assert (probe.ok, probe.evidence) == (True, "unprivileged_bpf_disabled: No such file or directory")


def test_this_machine_is_read_as_it_is() -> None:
    assert [probe.name for probe in probe_settings()] == ["memlock", "unprivileged"]
    assert all(probe.evidence for probe in probe_settings())
