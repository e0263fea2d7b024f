# SPDX-License-Identifier: Apache-2.0
"""Flow control never gives more than it has, whatever the order."""

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone.frames import MAX_WINDOW
from nodeagent.hbone.window import ReceiveWindow, SendWindow


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
def test_nothing_leaks_and_credit_comes_in_quarters(size: int, steps: list[tuple[int, int]]) -> None:
    window = ReceiveWindow(size)
    peer_may_send = size
    for wants_to_send, wants_to_deliver in steps:
        sent = min(wants_to_send, peer_may_send)
        window.left -= sent
        peer_may_send -= sent
        increment = window.delivered(min(wants_to_deliver, window.held))
        peer_may_send += increment

        assert increment == 0 or increment * 4 >= size
        assert peer_may_send == window.left
        assert window.left + window.held + window.credit == size
        assert window.credit * 4 < size
    assert ReceiveWindow(size).held == 0


def test_a_window_that_was_delivered_completely_opens_again() -> None:
    window = ReceiveWindow(100)
    window.left -= 100
    assert window.delivered(24) == 0
    assert window.delivered(1) == 25
    assert window.delivered(75) == 75
    assert window.left == 100


def test_a_send_window_may_go_negative_and_never_beyond_the_maximum() -> None:
    window = SendWindow(10)
    assert window.widen(-30)
    assert window.left == -20
    assert window.widen(MAX_WINDOW + 20)
    assert window.left == MAX_WINDOW
    assert not window.widen(1)
    assert window.left == MAX_WINDOW
