# SPDX-License-Identifier: Apache-2.0
"""What waits comes out as it went in, and in few pieces."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.proxy.backlog import HELD, Backlog


def test_single_bytes_are_joined() -> None:
    backlog = Backlog()
    for _ in range(200_000):
        backlog.add([memoryview(b"x")])
    assert backlog.pieces == 4


def test_an_empty_one_is_small() -> None:
    """Each stream has one."""
    tracemalloc.start()
    try:
        backlogs = [Backlog() for _ in range(1000)]
        assert tracemalloc.get_traced_memory()[0] < 200_000, "it was 800,000 with a deque for each"
    finally:
        tracemalloc.stop()
    for backlog in backlogs:
        assert not backlog
        backlog.clear()
        assert (backlog.pieces, backlog.whole()) == (0, ())


def test_large_pieces_stay_as_they_came() -> None:
    backlog = Backlog()
    backlog.add([memoryview(bytes(100_000)), memoryview(bytes(100_000))])
    backlog.add([memoryview(b"small")])
    assert (backlog.pieces, len(backlog.first)) == (2, 200_000)


batches = st.lists(st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=3), max_size=8)


@given(batches, st.integers(0, 30_000), st.data())
def test_bytes_come_out_as_they_went_in(batches: list[list[bytes]], skipped: int, data: st.DataObject) -> None:
    backlog, expected, got, before = Backlog(), b"", b"", HELD.size
    for batch in batches:
        whole = b"".join(batch)
        skip = min(skipped, len(whole) - 1)
        backlog.add([memoryview(part) for part in batch], skip)
        expected += whole[skip:]
        room = len(backlog.first)
        size = data.draw(st.integers(0, room))
        got += backlog.first[:size]
        assert backlog.taken(size) is (size == room)
        assert HELD.size - before == len(expected) - len(got)
    while backlog:
        got += backlog.first
        assert backlog.taken(len(backlog.first))
    assert got == expected


@pytest.mark.parametrize("way", ["cleared", "forgotten"])
def test_what_is_dropped_is_held_no_more(way: str) -> None:
    before, backlog = HELD.size, Backlog()
    backlog.add([memoryview(bytes(1000))], 100)
    assert HELD.size == before + 900
    if way == "cleared":
        backlog.clear()
    else:
        del backlog
    assert HELD.size == before
