# SPDX-License-Identifier: Apache-2.0
"""Names of filters and pins, and the choice of a kind; what the kernel makes of them is shown in tests/kernel."""

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import tcx
from nodeagent.kernel.attach import Direction, Hook, Kind, Program, choose_kind, hook_of, program_id


def test_a_filters_name_tells_program_and_generation() -> None:
    name = Program("from_pod", 118, "/pins/from_pod").filter_name
    assert name == "nodeagent/from_pod:118"
    assert program_id(name) == 118


@pytest.mark.parametrize("name", ["", "from_pod:118", "nodeagent/from_pod", "nodeagent/from_pod:new"])
def test_a_name_that_is_not_ours_has_no_program(name: str) -> None:
    assert program_id(name) == 0


def test_directions() -> None:
    assert Hook(is_in_proxy=False, device=3).direction is Direction.INGRESS
    assert Hook(is_in_proxy=False, device=3, is_egress=True).direction is Direction.EGRESS


@pytest.mark.parametrize("is_in_proxy", [True, False], ids=["proxy", "node"])
@pytest.mark.parametrize("is_egress", [True, False], ids=["egress", "ingress"])
def test_a_pin_tells_its_place(*, is_in_proxy: bool, is_egress: bool) -> None:
    hook = Hook(is_in_proxy=is_in_proxy, device=12, is_egress=is_egress)
    assert hook_of(hook.pin_name) == hook


@pytest.mark.parametrize("name", ["", "node-12", "node-twelve-ingress", "pod-12-ingress", "node-12-both", "a-b-c-d"])
def test_a_pin_of_somebody_else_is_none_of_ours(name: str) -> None:
    assert hook_of(name) is None


@pytest.mark.parametrize(
    ("setting", "has_tcx", "kind"),
    [
        ("auto", True, Kind.TCX),
        ("auto", False, Kind.CLSACT),
        ("tcx", True, Kind.TCX),
        ("clsact", True, Kind.CLSACT),
        ("clsact", False, Kind.CLSACT),
    ],
)
def test_the_kind(monkeypatch: pytest.MonkeyPatch, setting: str, kind: Kind, *, has_tcx: bool) -> None:
    monkeypatch.setattr(tcx, "is_supported", lambda: has_tcx)
    assert choose_kind(setting) is kind


def test_a_kind_that_this_kernel_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcx, "is_supported", lambda: False)
    with pytest.raises(KernelError, match="no TCX") as caught:
        choose_kind("tcx")
    assert "--attach auto" in caught.value.check
