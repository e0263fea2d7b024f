# SPDX-License-Identifier: Apache-2.0
"""Our packet marks on the node: which bits, which values, and whom they would meet. Pure.

Four values live in the bits of `mask`: `base` plus 1, 2, 3 and 5 times the mask's lowest bit; bpf/steer.h has their
meaning. Everything outside the mask is somebody else's and stays as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

_VALUES = {"OUT": 1, "LOCAL": 2, "PROXY": 3, "OUT_NEW": 5}
_ROOM = 7
"""Times the lowest bit: the bits that the values need."""

ON_EVERY_NODE = {
    "kube-proxy (masquerade)": 0x4000,
    "kube-proxy (drop)": 0x8000,
    "CNI portmap": 0x2000,
}
"""Components that hardly a node is without: their bits are refused."""
ON_SOME_NODES = {
    "Calico": 0xFFFF0000,
    "Cilium": 0xFFFF0F00,
    "AWS VPC CNI": 0x80,
    "Tailscale": 0xFF0000,
}
"""Cilium's identities take the low byte too; this agent does not run beside it."""


@dataclass(frozen=True)
class Marks:
    base: int = 0x1000
    mask: int = 0x100F

    @property
    def step(self) -> int:
        return self.mask & -self.mask

    def value(self, name: str) -> int:
        return self.base + _VALUES[name] * self.step

    @property
    def flags(self) -> tuple[str, ...]:
        """For the compiler of the kernel programs."""
        return (f"-DMARK_BITS={self.mask:#x}", f"-DMARK_BASE={self.base:#x}", f"-DMARK_STEP={self.step:#x}")


DEFAULT_MARKS = Marks()


def find_fault(marks: Marks) -> str:
    """Why these cannot be; empty when they can."""
    if not 0 < marks.mask <= 0xFFFFFFFF or not 0 < marks.base <= 0xFFFFFFFF:
        return "mark and mask are 32 bits, and not 0"
    room = _ROOM * marks.step
    if marks.mask & room != room:
        return f"the mask {marks.mask:#x} needs three bits in a row at its low end, for four values"
    if marks.base & ~marks.mask or marks.base & room:
        return f"the mark {marks.base:#x} must lie inside the mask {marks.mask:#x}, above its three lowest bits"
    return "; ".join(f"the mask {marks.mask:#x} takes bits of {name}" for name in overlaps(marks, ON_EVERY_NODE))


def overlaps(marks: Marks, others: dict[str, int] | Iterable[tuple[str, int]]) -> list[str]:
    """Which of the others' bits are ours too, in words."""
    pairs = others.items() if isinstance(others, dict) else others
    return [f"{name} ({bits:#x})" for name, bits in pairs if bits & marks.mask]
