# SPDX-License-Identifier: Apache-2.0
"""What is a traceparent, and which traces are sampled."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.trace import TraceParent, begin_trace, is_within

_TRACE, _SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (f"00-{_TRACE}-{_SPAN}-01", True),
        (f"00-{_TRACE}-{_SPAN}-00", False),
        (f"00-{_TRACE}-{_SPAN}-ff", True),
        pytest.param(f"cc-{_TRACE}-{_SPAN}-01-what-the-future-holds", True, id="a later version"),
    ],
)
def test_read(text: str, *, is_sampled: bool) -> None:
    assert TraceParent.parse(text) == (int(_TRACE, 16), int(_SPAN, 16), is_sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{_TRACE}-{_SPAN}",
        f"00-{_TRACE}-{_SPAN}-01-more",
        f"00-{_TRACE.upper()}-{_SPAN}-01",
        f"ff-{_TRACE}-{_SPAN}-01",
        f"00-{'0' * 32}-{_SPAN}-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f" 00-{_TRACE}-{_SPAN}-01",
    ],
)
def test_what_is_none(text: str) -> None:
    assert TraceParent.parse(text) is None


@given(st.text())
def test_no_text_does_harm(text: str) -> None:
    TraceParent.parse(text)


@given(st.floats(0, 1), st.randoms(use_true_random=False))
def test_what_was_begun_is_what_is_read(share: float, drawn: random.Random) -> None:
    begun = begin_trace(share, drawn.getrandbits)
    assert len(str(begun)) == 55
    assert TraceParent.parse(str(begun)) == begun
    assert begun.is_sampled == is_within(begun.trace_id, share)


def test_the_share_is_kept_and_the_smaller_one_is_within_the_larger() -> None:
    ids = [random.Random(number).getrandbits(128) for number in range(4000)]
    tenth = {trace_id for trace_id in ids if is_within(trace_id, 0.1)}
    half = {trace_id for trace_id in ids if is_within(trace_id, 0.5)}
    assert tenth < half
    assert 0.07 < len(tenth) / len(ids) < 0.13
    assert not any(is_within(trace_id, 0) for trace_id in ids)
    assert all(is_within(trace_id, 1) for trace_id in ids)
