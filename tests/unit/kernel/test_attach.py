# SPDX-License-Identifier: Apache-2.0
"""Names of filters and places of programs; what the kernel makes of them is shown in tests/kernel/test_steering.py."""

from nodeagent.kernel.attach import Direction, Hook, Program


def test_a_filters_name_tells_program_and_generation() -> None:
    assert Program("from_pod", 118, "/pins/from_pod").filter_name == "nodeagent/from_pod:118"


def test_directions() -> None:
    assert Hook(is_in_proxy=False, device=3).direction is Direction.INGRESS
    assert Hook(is_in_proxy=False, device=3, is_egress=True).direction is Direction.EGRESS
