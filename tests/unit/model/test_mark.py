# SPDX-License-Identifier: Apache-2.0
"""Bits of marks: what fits, what is refused, and whom they would meet."""

import pytest

from nodeagent.model.mark import ON_SOME_NODES, Marks, find_fault, overlaps


def test_the_default_has_its_four_values_and_meets_nobody() -> None:
    marks = Marks()
    values = [marks.value(name) for name in ("OUT", "LOCAL", "PROXY", "OUT_NEW")]
    assert values == [0x1001, 0x1002, 0x1003, 0x1005]
    assert find_fault(marks) == ""
    assert overlaps(marks, ON_SOME_NODES) == []


@pytest.mark.parametrize(
    ("base", "mask"),
    [(0x80000000, 0xF0000000), (0x8, 0xF), (0x1000, 0x100F), (0x400, 0x470), (0x100000, 0x170000)],
)
def test_what_fits(base: int, mask: int) -> None:
    marks = Marks(base, mask)
    assert find_fault(marks) == ""
    values = {marks.value(name) for name in ("OUT", "LOCAL", "PROXY", "OUT_NEW")}
    assert len(values) == 4
    assert all(value & mask == value and value & base == base for value in values)


@pytest.mark.parametrize(
    ("base", "mask", "fault"),
    [
        pytest.param(0x1000, 0, "not 0", id="no mask"),
        pytest.param(0, 0xF, "not 0", id="no mark: an unmarked packet would be ours"),
        pytest.param(1 << 32, 0xF, "32 bits", id="too wide"),
        pytest.param(-8, 0xF, "32 bits", id="negative"),
        pytest.param(0x1000, 0x1005, "three bits in a row", id="no room"),
        pytest.param(0x80000000, 0xC0000000, "three bits in a row", id="no room at the top"),
        pytest.param(0x1000, 0xF, "inside the mask", id="outside"),
        pytest.param(0x1001, 0x100F, "three lowest bits", id="in the way of the values"),
        pytest.param(0x4000, 0x400F, "kube-proxy (masquerade) (0x4000)", id="kube-proxy's"),
        pytest.param(0x2000, 0x200F, "CNI portmap (0x2000)", id="portmap's"),
    ],
)
def test_what_cannot_be(base: int, mask: int, fault: str) -> None:
    assert fault in find_fault(Marks(base, mask))


def test_whom_they_would_meet() -> None:
    assert overlaps(Marks(0x80, 0x8F), ON_SOME_NODES) == ["AWS VPC CNI (0x80)"]
    assert overlaps(Marks(), [("ip rule 100", 0xFFFFFFFF)]) == ["ip rule 100 (0xffffffff)"]


def test_the_compiler_is_told() -> None:
    assert Marks().flags == ("-DMARK_BITS=0x100f", "-DMARK_BASE=0x1000", "-DMARK_STEP=0x1")
