# SPDX-License-Identifier: Apache-2.0
"""Buffers go back when all was sent, and a blocked connection keeps no more than it must."""

from collections.abc import Iterator

import pytest

from nodeagent.proxy.stream import READ_BYTES
from nodeagent.tls import output as module
from nodeagent.tls.output import OUTPUT_BYTES, Output
from nodeagent.tls.record import RECORD_BYTES, SEALED_BYTES
from nodeagent.tls.sealer import CONTROL_BYTES


@pytest.fixture(autouse=True)
def free() -> Iterator[list[memoryview]]:
    """The buffers of the process, none at first."""
    module._free.clear()
    yield module._free
    module._free.clear()


def fill(output: Output, size: int) -> memoryview:
    buffer = output.borrow()
    output.filled(buffer, size)
    return buffer


def test_it_holds_a_read_of_a_stream_and_what_may_precede_it() -> None:
    assert OUTPUT_BYTES >= CONTROL_BYTES + READ_BYTES // RECORD_BYTES * SEALED_BYTES
    assert OUTPUT_BYTES < READ_BYTES * 1.1


def test_connections_share_a_buffer_in_turn(free: list[memoryview]) -> None:
    one, other = Output(), Output()
    first = fill(one, 1000)
    one.sent(600)
    assert (len(one.unsent), free) == (400, [])
    one.sent(400)
    assert len(one.unsent) == 0
    assert fill(other, 10) is first


def test_what_was_borrowed_in_vain_is_borrowed_again(free: list[memoryview]) -> None:
    """Sealing failed in between, which is a bug; the connection ends, and its buffer is not lost."""
    output = Output()
    assert output.borrow() is output.borrow()
    output.drop()
    assert len(free) == 1


def test_what_is_empty_goes_back_at_once(free: list[memoryview]) -> None:
    fill(Output(), 0)
    assert len(free) == 1


def test_a_blocked_connection_keeps_a_large_rest_where_it_is(free: list[memoryview]) -> None:
    output = Output()
    buffer = fill(output, 200_000)
    buffer[100_000] = 77
    output.sent(100_000)
    output.blocked()
    assert free == []
    assert (output.unsent[0], len(output.unsent)) == (77, 100_000)
    output.sent(100_000)
    assert free == [buffer]


def test_a_small_rest_is_copied_and_the_buffer_serves_others(free: list[memoryview]) -> None:
    output = Output()
    buffer = fill(output, 1000)
    buffer[:1000] = b"rest!" * 200
    output.sent(500)
    output.blocked()
    assert free == [buffer]
    buffer[:1000] = bytes(1000)
    assert bytes(output.unsent) == b"rest!" * 100
    output.blocked()
    output.sent(500)
    assert (len(output.unsent), free) == (0, [buffer])


def test_no_more_than_a_few_buffers_wait(free: list[memoryview]) -> None:
    outputs = [Output() for _ in range(10)]
    for output in outputs:
        fill(output, 1)
    for output in outputs:
        output.drop()
    assert len(free) == 4
    assert all(len(output.unsent) == 0 for output in outputs)


def test_what_another_process_left_goes_first() -> None:
    output = Output(b"end of a record")
    output.sent(4)
    assert bytes(output.unsent) == b"of a record"
