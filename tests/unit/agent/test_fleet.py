# SPDX-License-Identifier: Apache-2.0
"""The number of workers; what they do is tested with real processes, in tests/e2e."""

import pytest

from nodeagent.agent.fleet import decide_slots
from nodeagent.kernel.maps import SLOTS


@pytest.mark.parametrize(
    ("wanted", "cores", "slots"),
    [(0, 1, 1), (0, 2, 1), (0, 4, 2), (0, 8, 4), (0, 64, SLOTS), (3, 1, 3), (4, 64, 4)],
)
def test_one_worker_for_two_cores_but_no_more_than_the_kernel_has_places_for(
    wanted: int, cores: int, slots: int
) -> None:
    assert decide_slots(wanted, cores) == slots
