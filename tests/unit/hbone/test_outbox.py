# SPDX-License-Identifier: Apache-2.0
"""Order, gaps, and buffers that go back."""

import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone.frames import DATA, DEFAULT_FRAME, HEADER, pack_frame
from nodeagent.hbone.outbox import BufferPool, Outbox


class CountingPool(BufferPool):
    """Knows how many of its buffers are out."""

    def __init__(self, size: int = 1 << 20) -> None:
        super().__init__(size)
        self.lent = 0

    def borrow(self) -> memoryview:
        self.lent += 1
        return super().borrow()

    def give_back(self, buffer: memoryview) -> None:
        self.lent -= 1
        super().give_back(buffer)


def test_a_buffer_costs_what_is_written_into_it() -> None:
    """Many connections that send a little in one turn have one each."""

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE

    pool = BufferPool()
    before = resident_bytes()
    lent = [pool.borrow() for _ in range(64)]
    for buffer in lent:
        buffer[:100] = bytes(100)
    assert resident_bytes() - before < 8 << 20


def test_what_is_pending_is_known_without_a_look_at_it() -> None:
    outbox = Outbox(CountingPool())
    known = [outbox.has_pending]
    outbox.append(pack_frame(DATA, 0, 1))
    known.append(outbox.has_pending)
    drain(outbox)
    land(outbox.reserve(100, DEFAULT_FRAME), b"abc")
    known.append(outbox.has_pending)
    outbox.commit(1, 3, DEFAULT_FRAME)
    known.append(outbox.has_pending)
    drain(outbox)
    known.append(outbox.has_pending)
    assert known == [False, True, False, True, False]


def drain(outbox: Outbox) -> bytes:
    parts = []
    while pending := outbox.pending():
        parts.append(bytes(pending))
        outbox.taken(len(pending))
    return b"".join(parts)


def payload_of(frames: bytes) -> tuple[bytes, list[int]]:
    """Joined payload and the length of each DATA frame."""
    parts, at = [], 0
    while at < len(frames):
        high, low, kind, _, _ = HEADER.unpack_from(frames, at)
        length = high << 8 | low
        if kind == DATA:
            parts.append(frames[at + 9 : at + 9 + length])
        at += 9 + length
    return b"".join(parts), [len(part) for part in parts]


def land(views: list[memoryview], payload: bytes) -> None:
    """As recvmsg_into does."""
    for view in views:
        n = min(len(view), len(payload))
        view[:n] = payload[:n]
        payload = payload[n:]


@given(
    st.lists(
        st.tuples(
            st.integers(1, 60_000),
            st.integers(0, 60_000),
            st.sampled_from([DEFAULT_FRAME, 20_000, 1 << 20]),
            st.integers(0, 3),
        )
    )
)
def test_all_bytes_come_out_in_order(steps: list[tuple[int, int, int, int]]) -> None:
    pool = CountingPool(100_000)
    outbox = Outbox(pool)
    expected, out = [], []
    counter = 0
    for at_most, landed, frame, small in steps:
        for _ in range(small):
            counter += 1
            marker = counter.to_bytes(4, "big")
            outbox.append(pack_frame(DATA, 0, 1, marker))
            expected.append(marker)
        views = outbox.reserve(at_most, frame)
        if not views:
            out.append(drain(outbox))
            continue
        room = sum(len(view) for view in views)
        assert room <= at_most
        assert all(len(view) <= frame for view in views)
        payload = bytes((counter + i) & 0xFF for i in range(min(landed, room)))
        land(views, payload)
        count = outbox.commit(1, len(payload), frame)
        assert count == -(-len(payload) // frame)
        expected.append(payload)
    out.append(drain(outbox))
    assert payload_of(b"".join(out))[0] == b"".join(expected)
    assert pool.lent == 0


def test_frames_are_as_large_as_the_peer_allows() -> None:
    outbox = Outbox(CountingPool())
    views = outbox.reserve(40_000, DEFAULT_FRAME)
    assert [len(view) for view in views] == [DEFAULT_FRAME, DEFAULT_FRAME, 40_000 - 2 * DEFAULT_FRAME]
    land(views, bytes(range(200)) * 100)
    assert outbox.commit(1, 20_000, DEFAULT_FRAME) == 2
    payload, lengths = payload_of(drain(outbox))
    assert payload == bytes(range(200)) * 100
    assert lengths == [DEFAULT_FRAME, 20_000 - DEFAULT_FRAME]


def test_small_frames_borrow_no_buffer() -> None:
    pool = CountingPool()
    outbox = Outbox(pool)
    outbox.append(b"a" * 9)
    outbox.append(b"b" * 9)
    assert bytes(outbox.pending()) == b"a" * 9 + b"b" * 9
    outbox.taken(18)
    assert not outbox.pending()
    assert pool.lent == 0


@given(st.lists(st.one_of(st.binary(min_size=9, max_size=30), st.integers(1, 3000)), min_size=1), st.data())
def test_what_is_taken_in_pieces_is_all_that_was_put_in_its_order(
    parts: list[bytes | int], data: st.DataObject
) -> None:
    outbox = Outbox(CountingPool())
    put, taken = b"", b""
    for part in parts:
        frame = part if isinstance(part, bytes) else pack_frame(DATA, 0, 1, bytes(part))
        if isinstance(part, int) and (views := outbox.reserve(part, DEFAULT_FRAME)):
            land(views, bytes(part))
            outbox.commit(1, part, DEFAULT_FRAME)
        else:
            outbox.append(frame)
        put += frame
        pending = outbox.pending()
        size = data.draw(st.integers(0, len(pending)))
        taken += bytes(pending[:size])
        outbox.taken(size)
    assert taken + drain(outbox) == put
    assert outbox.queued_bytes == 0


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_reservation_that_comes_to_nothing_gives_the_buffer_back(is_asked: bool) -> None:  # noqa: FBT001 - a column
    pool = CountingPool()
    outbox = Outbox(pool)
    assert outbox.reserve(100, DEFAULT_FRAME)
    assert pool.lent == 1
    if is_asked:
        assert not outbox.pending()
    else:
        outbox.commit(1, 0, DEFAULT_FRAME)
    assert pool.lent == 0


def test_what_is_queued_goes_out_before_the_payload_and_shares_its_flush() -> None:
    outbox = Outbox(CountingPool())
    outbox.append(b"headers..")
    land(outbox.reserve(3, DEFAULT_FRAME), b"abc")
    outbox.commit(1, 3, DEFAULT_FRAME)
    outbox.append(b"end......")
    assert bytes(outbox.pending()) == b"headers.." + pack_frame(DATA, 0, 1, b"abc") + b"end......"


def test_a_full_buffer_reserves_nothing_and_frames_wait_behind_it() -> None:
    outbox = Outbox(CountingPool(DEFAULT_FRAME + 20))
    views = outbox.reserve(100_000, DEFAULT_FRAME)
    assert [len(view) for view in views] == [DEFAULT_FRAME, 2]
    outbox.commit(1, DEFAULT_FRAME, DEFAULT_FRAME)
    assert outbox.reserve(100, DEFAULT_FRAME) == []
    outbox.append(b"behind it.......")
    assert outbox.queued_bytes == 16
    assert outbox.reserve(1, DEFAULT_FRAME) == []
    assert drain(outbox).endswith(b"behind it.......")
    assert outbox.queued_bytes == 0


def test_a_long_queue_is_taken_before_payload() -> None:
    pool = CountingPool(2 * DEFAULT_FRAME)
    outbox = Outbox(pool)
    for _ in range(5):
        outbox.append(bytes(DEFAULT_FRAME))
    assert outbox.reserve(100, DEFAULT_FRAME) == []
    assert pool.lent == 0
    assert drain(outbox) == bytes(5 * DEFAULT_FRAME)
    assert outbox.reserve(100, DEFAULT_FRAME)


def test_a_small_frame_does_not_overtake_one_that_did_not_fit() -> None:
    outbox = Outbox(CountingPool(DEFAULT_FRAME + 20))
    outbox.commit(1, len(outbox.reserve(DEFAULT_FRAME, DEFAULT_FRAME)[0]), DEFAULT_FRAME)
    outbox.append(b"a" * 12)
    outbox.append(b"b" * 11)
    assert drain(outbox).endswith(b"a" * 12 + b"b" * 11)


def test_more_than_was_reserved_cannot_be_committed() -> None:
    outbox = Outbox(CountingPool())
    outbox.reserve(10, DEFAULT_FRAME)
    with pytest.raises(AssertionError):
        outbox.commit(1, 11, DEFAULT_FRAME)


def test_the_pool_keeps_a_few() -> None:
    pool = BufferPool(size=100, keep=2)
    buffers = [pool.borrow() for _ in range(3)]
    for buffer in buffers:
        pool.give_back(buffer)
    again = [pool.borrow() for _ in range(3)]
    assert sum(any(one is old for old in buffers) for one in again) == 2
