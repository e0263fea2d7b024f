# SPDX-License-Identifier: Apache-2.0
"""When the guard of a pod is said to be skipped, and when it is believed again."""

import pytest

from nodeagent.kernel.codings import PodCount
from nodeagent.kernel.guard import INTERVAL_SECONDS, Guard, look

BEFORE = PodCount(outbound=5, inbound=10, admitted=20, unasked=3)


@pytest.mark.parametrize(
    ("was", "more", "is_skipped"),
    [
        pytest.param(False, {}, False, id="silence"),
        pytest.param(False, {"inbound": 4, "admitted": 4}, False, id="connections that came by the guard"),
        pytest.param(False, {"admitted": 4, "unasked": 4}, False, id="answers to a worker that died"),
        pytest.param(False, {"unasked": 1}, True, id="an answer that nobody asked for"),
        pytest.param(False, {"inbound": 9, "admitted": 1, "unasked": 2}, True, id="more answers than were admitted"),
        pytest.param(True, {}, True, id="silence heals nothing"),
        pytest.param(True, {"admitted": 3}, True, id="tunnels prove nothing: they pass no egress"),
        pytest.param(True, {"inbound": 1, "admitted": 1, "unasked": 1}, True, id="not while there are such answers"),
        pytest.param(True, {"inbound": 1, "admitted": 1}, False, id="connections come by it again"),
    ],
)
def test_a_look(was: bool, more: dict[str, int], is_skipped: bool) -> None:  # noqa: FBT001
    after = PodCount(*(count + more.get(name, 0) for name, count in BEFORE._asdict().items()))
    assert look(Guard(BEFORE, 100.0, was), after, 100.0 + INTERVAL_SECONDS).is_skipped is is_skipped


def test_the_first_look_only_remembers() -> None:
    assert look(None, BEFORE, 1.0) == Guard(BEFORE, 1.0)


def test_looks_that_follow_closely_are_one() -> None:
    first = look(None, BEFORE, 1.0)
    assert look(first, BEFORE._replace(unasked=99), 1.1) is first
    assert look(first, BEFORE._replace(unasked=99), 1.0 + INTERVAL_SECONDS).is_skipped


def test_a_row_that_was_made_again_begins_anew() -> None:
    skipped = Guard(BEFORE, 1.0, is_skipped=True)
    assert look(skipped, PodCount(), 1.1) == Guard(PodCount(), 1.1)
