# SPDX-License-Identifier: Apache-2.0
"""Records out of a ring's memory: in order, whole where they wrap, up to the first that is still being written."""

import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.kernel.ring import BUSY, DISCARDED, take

SIZE = 4096


class Kernel:
    """The writer's side, as kernel/bpf/ringbuf.c has it."""

    def __init__(self, start: int = 0) -> None:
        self.memory = bytearray(SIZE)
        self.end = start

    def write(self, record: bytes, flags: int = 0) -> None:
        head = struct.pack("=II", len(record) | flags, 7)
        for offset, byte in enumerate(head + record):
            self.memory[(self.end + offset) % SIZE] = byte
        self.end += (8 + len(record) + 7) & ~7

    def take(self, position: int, limit: int = 1000) -> tuple[list[bytes], int]:
        twice = bytes(self.memory) * 2
        words = memoryview(array("I", twice))
        piece = take(words, memoryview(twice), position, self.end, limit)
        return piece.records, piece.position


def test_nothing() -> None:
    assert Kernel().take(0) == ([], 0)


def test_records_come_in_order_and_the_position_is_behind_them() -> None:
    kernel = Kernel()
    for record in (b"one", b"", b"three of them"):
        kernel.write(record)
    assert kernel.take(0) == ([b"one", b"", b"three of them"], kernel.end)
    assert kernel.take(kernel.end) == ([], kernel.end)


@pytest.mark.parametrize("start", range(SIZE - 64, SIZE + 8, 8))
def test_a_record_that_wraps_is_whole(start: int) -> None:
    kernel = Kernel(start)
    kernel.write(bytes(range(48)))
    kernel.write(b"next")
    assert kernel.take(start) == ([bytes(range(48)), b"next"], kernel.end)


def test_a_record_that_is_being_written_stops_the_reader_before_it() -> None:
    kernel = Kernel()
    kernel.write(b"whole")
    before = kernel.end
    kernel.write(b"half", BUSY)
    kernel.write(b"whole, but behind it")
    assert kernel.take(0) == ([b"whole"], before)


def test_a_record_that_was_discarded_is_passed_over() -> None:
    kernel = Kernel()
    kernel.write(b"never", DISCARDED)
    kernel.write(b"told")
    assert kernel.take(0) == ([b"told"], kernel.end)


def test_no_more_than_the_limit_at_once() -> None:
    kernel = Kernel()
    for number in range(5):
        kernel.write(bytes([number]) * 8)
    records, position = kernel.take(0, 3)
    assert records == [b"\0" * 8, b"\1" * 8, b"\2" * 8]
    assert kernel.take(position) == ([b"\3" * 8, b"\4" * 8], kernel.end)


@given(st.lists(st.binary(max_size=200), max_size=15), st.integers(0, 2**40), st.integers(1, 4))
def test_whatever_is_written_is_read(written: list[bytes], start: int, limit: int) -> None:
    start &= ~7
    kernel = Kernel(start)
    for record in written:
        kernel.write(record)
    read: list[bytes] = []
    position = start
    while position < kernel.end:
        records, position = kernel.take(position, limit)
        assert len(records) <= limit
        read += records
    assert read == written
