# SPDX-License-Identifier: Apache-2.0
"""What counts as being in our way; how it is found on real devices is shown in tests/kernel/test_survey.py."""

from pathlib import Path

import pytest

from nodeagent.kernel.attach import Kind
from nodeagent.kernel.conflicts import before_ours, forwarding, netkit
from nodeagent.kernel.listing import Attached
from nodeagent.kernel.netlink import NO_NAMESPACE, Device

OURS_TCX = Attached(Kind.TCX, "from_pod", 7, is_ours=True)
OURS_CLSACT = Attached(Kind.CLSACT, "from_pod", 7, is_ours=True, priority=15)
TCX = Attached(Kind.TCX, "cil_from_pod", 8, is_ours=False)
EARLY = Attached(Kind.CLSACT, "early", 0, is_ours=False, priority=1)
LATE = Attached(Kind.CLSACT, "late", 0, is_ours=False, priority=99)


@pytest.mark.parametrize(
    ("programs", "kind", "found"),
    [
        pytest.param([], Kind.TCX, [], id="nothing"),
        pytest.param([OURS_TCX, TCX, EARLY], Kind.TCX, [], id="behind us"),
        pytest.param([TCX, OURS_TCX, EARLY], Kind.TCX, [TCX], id="before us in TCX"),
        pytest.param([TCX, EARLY, OURS_CLSACT, LATE], Kind.CLSACT, [TCX, EARLY], id="before us in clsact"),
        pytest.param([TCX, EARLY], Kind.TCX, [], id="we would go to the head"),
        pytest.param([TCX, EARLY, LATE], Kind.CLSACT, [TCX, EARLY], id="we would come behind"),
    ],
)
def test_what_runs_before_ours(programs: list[Attached], kind: Kind, found: list[Attached]) -> None:
    assert before_ours(programs, kind) == found


def _netkit(index: int) -> Device:
    return Device(index, f"nk{index}", "netkit", bytes(6), 1500, 0, 2, NO_NAMESPACE, is_up=True, is_noarp=True)


def test_many_findings_are_counted() -> None:
    assert netkit([]).ok
    probe = netkit([_netkit(index) for index in range(1, 8)])
    assert not probe.ok
    assert not probe.is_needed
    assert probe.evidence == "nk1; nk2; nk3; nk4; nk5, and 2 more"


@pytest.mark.parametrize(
    ("value", "pods", "ok", "evidence"),
    [
        ("1", 2, True, "net.ipv4.ip_forward is 1"),
        ("0", 0, True, "net.ipv4.ip_forward is 0, and no device of a pod is here"),
        ("0", 2, False, "net.ipv4.ip_forward is 0, beside 2 devices of pods"),
    ],
)
def test_forwarding(tmp_path: Path, value: str, pods: int, evidence: str, *, ok: bool) -> None:
    setting = tmp_path / "ip_forward"
    setting.write_text(f"{value}\n")
    probe = forwarding([_netkit(index) for index in range(pods)], setting)
    assert (probe.ok, probe.is_needed, probe.evidence) == (ok, False, evidence)


def test_forwarding_that_cannot_be_read(tmp_path: Path) -> None:
    probe = forwarding([], tmp_path / "ip_forward")
    assert (probe.ok, probe.evidence) == (False, f"{tmp_path}/ip_forward: No such file or directory")
