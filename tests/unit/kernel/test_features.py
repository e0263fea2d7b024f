# SPDX-License-Identifier: Apache-2.0
"""Features that this kernel may lack: what is said then. Trials on a real one: tests/kernel/test_probe.py."""

import errno
import os
from collections.abc import Callable

import pytest

from nodeagent.kernel import features, syscall, tcx
from nodeagent.kernel.probe import Probe


def test_without_tcx_clsact_is_said_to_take_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcx, "is_supported", lambda: False)
    probe = features.tcx_links()
    assert (probe.ok, probe.is_needed) == (False, False)
    assert "clsact" in probe.evidence


@pytest.mark.parametrize(
    ("trial", "is_needed"),
    [
        (features.ring_buffer, True),
        (features.batch_operations, True),
        (features.run_statistics, False),
        (features.connect_programs, False),
    ],
)
def test_a_kernel_that_refuses_is_told_with_advice(
    monkeypatch: pytest.MonkeyPatch, trial: Callable[[], Probe], *, is_needed: bool
) -> None:
    def refuse(*_arguments: object, **_options: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(syscall, "map_create", refuse)
    monkeypatch.setattr(syscall, "enable_statistics", refuse)
    monkeypatch.setattr(syscall, "load_program", refuse)
    probe = trial()
    assert (probe.ok, probe.is_needed) == (False, is_needed)
    assert "Invalid argument" in probe.evidence
    assert "Linux 5." in probe.advice
