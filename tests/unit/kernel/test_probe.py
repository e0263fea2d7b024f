# SPDX-License-Identifier: Apache-2.0
"""Probes as functions of what they look at. That they find this machine fit is shown in tests/kernel."""

from pathlib import Path

import pytest

from nodeagent.kernel import probe
from nodeagent.kernel.probe import CAPABILITIES, bpf_filesystem, capabilities, kernel_release, workers_capabilities
from nodeagent.model.check import Check

ALL = sum(1 << bit for bit in CAPABILITIES.values())
EVERY = 0xFFFFFFFFFF


@pytest.mark.parametrize(
    ("release", "ok"),
    [
        ("4.19.0-27-amd64", False),
        ("5.9.16", False),
        ("5.10.0", True),
        ("5.10.0-33-cloud-amd64", True),
        ("6.1.0-49-amd64", True),
        ("6.18.44", True),
        ("10.0", True),
        ("nonsense", False),
    ],
)
def test_kernel_release(release: str, ok: bool) -> None:  # noqa: FBT001
    probe = kernel_release(release)
    assert (probe.ok, release in probe.evidence) == (ok, True)


def test_all_capabilities() -> None:
    assert capabilities(ALL).ok
    assert workers_capabilities(EVERY).ok


def test_what_workers_are_started_with_is_missing() -> None:
    probe = workers_capabilities(EVERY & ~(1 << 7))
    assert (probe.ok, probe.is_needed, probe.evidence) == (False, True, "without CAP_SETUID")


@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_missing_capability_is_named(name: str) -> None:
    probe = capabilities(ALL & ~(1 << CAPABILITIES[name]))
    assert not probe.ok
    assert probe.evidence == f"without {name}"


def test_bpf_filesystem(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        probe = bpf_filesystem(str(path))
        assert not probe.ok
        assert str(path) in probe.evidence
        assert probe.advice == f"mount -t bpf bpf {path}"


@pytest.mark.parametrize(("granted", "advice"), [(ALL, "CONFIG_X"), (0, "as root")])
def test_what_is_refused_for_want_of_a_capability_is_not_blamed_on_the_kernel(
    monkeypatch: pytest.MonkeyPatch, granted: int, advice: str
) -> None:
    def attempt() -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(probe, "effective_capabilities", lambda: granted)
    found = probe.try_out(Check.CLSACT, attempt, "", "The kernel needs CONFIG_X.")
    assert not found.ok
    assert advice in found.advice
