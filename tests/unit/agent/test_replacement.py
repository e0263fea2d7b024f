# SPDX-License-Identifier: Apache-2.0
"""Each connection of a worker that leaves is counted once, by how it goes on or ends."""

import pytest

from nodeagent.agent.replacement import Replacement
from nodeagent.model.reason import Reason


@pytest.fixture
def replacement() -> Replacement:
    return Replacement(slot=1, former=10, pid=11)


@pytest.mark.parametrize(
    ("reason", "drained", "cut"),
    [
        (Reason.CLOSED, 1, 0),
        (Reason.PEER_LOST, 1, 0),
        (Reason.DRAINED, 0, 1),
        (Reason.HANDOVER_FAILED, 0, 1),
        (Reason.WORKER_LOST, 0, 1),
    ],
)
def test_how_a_connection_ended(replacement: Replacement, reason: Reason, drained: int, cut: int) -> None:
    replacement.closed(reason.value)
    assert (replacement.drained, replacement.cut, replacement.handed_over) == (drained, cut, 0)


def test_what_goes_on_and_what_was_lost(replacement: Replacement) -> None:
    replacement.handed(2)
    replacement.handed(3)
    assert not replacement.ended.is_set()
    replacement.over(4)
    assert (replacement.handed_over, replacement.drained, replacement.cut) == (5, 0, 4)
    assert replacement.ended.is_set()
