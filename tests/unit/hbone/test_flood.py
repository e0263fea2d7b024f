# SPDX-License-Identifier: Apache-2.0
"""What a peer may make us do for nothing, and when that ends."""

import pytest

from nodeagent.hbone.error import H2Error
from nodeagent.hbone.flood import (
    IDLE_WORK,
    LITTLE_PAYLOAD,
    MOST_EARNED,
    PER_SERVED_STREAM,
    USUAL_FRAMES,
    WASTED_STREAM_WORK,
    Patience,
)
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.limits import Limits
from nodeagent.model.reason import Reason

LIMITS = Limits(idle_frames=10, wasted_streams=3)


def idle_frames_until_the_end(patience: Patience) -> int:
    n = patience.idle_left
    for _ in range(n):
        patience.idle_frame()
    with pytest.raises(H2Error) as caught:
        patience.idle_frame()
    assert (caught.value.code, caught.value.reason) == (ErrorCode.ENHANCE_YOUR_CALM, Reason.H2_FAILED)
    return n


def test_idle_frames_are_bounded() -> None:
    assert idle_frames_until_the_end(Patience(LIMITS)) == 10


def test_a_served_stream_earns_some() -> None:
    patience = Patience(LIMITS)
    patience.stream_served()
    assert idle_frames_until_the_end(patience) == 10 + PER_SERVED_STREAM


def test_our_ping_refills_what_was_spent_and_keeps_what_was_earned() -> None:
    patience = Patience(LIMITS)
    for _ in range(7):
        patience.idle_frame()
    patience.interval_passed()
    assert patience.idle_left == 10
    patience.idle_left = 5000
    patience.interval_passed()
    assert patience.idle_left == 5000
    patience.idle_left = 1 << 40
    patience.interval_passed()
    assert patience.idle_left == MOST_EARNED


@pytest.mark.parametrize("reason", [Reason.H2_FAILED, Reason.H2_TOO_MANY_STREAMS])
def test_wasted_streams_are_bounded_per_interval(reason: Reason) -> None:
    patience = Patience(LIMITS)
    for _ in range(2):
        for _ in range(3):
            patience.stream_wasted(reason)
        patience.interval_passed()
    for _ in range(3):
        patience.stream_wasted(reason)
    with pytest.raises(H2Error) as caught:
        patience.stream_wasted(reason)
    assert (caught.value.code, caught.value.reason) == (ErrorCode.ENHANCE_YOUR_CALM, reason)


def test_waste_is_told_once_and_without_what_was_earned() -> None:
    patience = Patience(Limits(idle_frames=100, wasted_streams=3))
    for _ in range(USUAL_FRAMES):
        patience.idle_frame()
    assert patience.take_waste() == 0
    for _ in range(3):
        patience.idle_frame()
    patience.stream_wasted()
    assert patience.take_waste() == 3 * IDLE_WORK + WASTED_STREAM_WORK
    assert patience.take_waste() == 0
    patience.idle_left += 4  # a DATA frame of ours
    for _ in range(4):
        patience.idle_frame()
    assert patience.take_waste() == 0
    patience.idle_frame()
    assert patience.take_waste() == IDLE_WORK
    patience.data_dropped(700)
    assert patience.take_waste() == 1
    patience.data_dropped(324)
    assert patience.take_waste() == 1
    for payload in (0, 1, LITTLE_PAYLOAD):
        patience.padded_frame(payload)
    assert patience.take_waste() == IDLE_WORK
    assert patience.take_waste() == 0
    patience.interval_passed()
    for _ in range(USUAL_FRAMES + 1):
        patience.idle_frame()
    patience.stream_wasted()
    assert patience.take_waste() == IDLE_WORK + WASTED_STREAM_WORK
