# SPDX-License-Identifier: Apache-2.0
"""Messages and descriptors between two workers: in order, however many, and none left behind."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from nodeagent.proxy.handover_socket import HandoverSocket
from nodeagent.proxy.loop import Loop
from tests.open_files import open_files


class Word(msgspec.Struct, frozen=True, tag=True):
    number: int
    payload: bytes = b""


class Ends:
    """`one` says what the test wants; `other` is a HandoverSocket."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.heard: list[tuple[Word, list[int]]] = []
        self.why = ""
        self.one, theirs = socket.socketpair()
        self.breaks = False
        self.other: HandoverSocket[Word] = HandoverSocket(self.loop, theirs, Word, self)

    def told(self, message: Word, descriptors: list[int]) -> None:
        self.heard.append((message, descriptors))
        if self.breaks:
            raise ZeroDivisionError

    def lost(self, why: str) -> None:
        assert not self.why
        self.why = why

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "it never came"
            self.loop.turn(0.01)

    def close(self) -> None:
        self.one.close()
        self.other.close()
        for _, descriptors in self.heard:
            for descriptor in descriptors:
                os.close(descriptor)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def test_what_is_sent_arrives_with_its_descriptors(ends: Ends) -> None:
    sender: HandoverSocket[Word] = HandoverSocket(ends.loop, ends.one.dup(), Word, ends)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(os.devnull, "rb")) for _ in range(450)]  # noqa: PTH123 - as many as asked
        numbers = [file.fileno() for file in files]
        sender.send(Word(1), numbers[:2])
        sender.send(Word(2, bytes(3 << 20)), numbers)
        sender.send(Word(3))
        ends.until(lambda: len(ends.heard) == 3)
    assert [(word.number, len(word.payload), len(descriptors)) for word, descriptors in ends.heard] == [
        (1, 0, 2),
        (2, 3 << 20, 450),
        (3, 0, 0),
    ]
    sender.close()


def test_a_busy_loop_does_not_take_a_turn_for_each(ends: Ends) -> None:
    """The kernel never gives two messages with descriptors at once."""
    for number in range(20):
        body = msgspec.msgpack.encode(Word(number))
        socket.send_fds(ends.one, [len(body).to_bytes(4, "big") + b"\0\0\0\1" + body], [ends.one.fileno()])
    ends.loop.turn(60)
    assert [word.number for word, _ in ends.heard] == list(range(20))


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"\xff" * 8, id="a length beyond all bounds"),
        pytest.param(b"\0\0\0\1\0\0\0\0\xc1", id="no msgpack"),
        pytest.param(b"\0\0\0\1\0\0\0\0\x01", id="no word"),
        pytest.param(
            b"\0\0\0\x10\0\0\0\1" + msgspec.msgpack.encode(Word(1)).ljust(16, b"\0")[:16], id="a descriptor is missing"
        ),
    ],
)
def test_what_cannot_be_understood_is_the_end(ends: Ends, said: bytes) -> None:
    ends.one.sendall(said)
    ends.until(lambda: bool(ends.why))
    assert not ends.other.is_open
    assert ends.loop.watched == 0
    ends.other.send(Word(1))


def test_the_other_ends_death_is_told_once_and_half_a_message_is_forgotten() -> None:
    before = open_files()
    ends = Ends()
    with open(os.devnull, "rb") as file:  # noqa: PTH123 - a descriptor
        socket.send_fds(ends.one, [b"\0\0\0\x09\0\0\0\1"], [file.fileno()])
    ends.loop.turn(60)
    assert len(open_files() - before) == 4, "both ends, the descriptor, and what the loop waits with"
    ends.one.close()
    ends.until(lambda: bool(ends.why))
    assert ends.why == "the other end is gone"
    (left,) = open_files() - before
    assert "eventpoll" in left


def test_a_defect_of_its_user_ends_the_conversation(ends: Ends) -> None:
    ends.breaks = True
    body = msgspec.msgpack.encode(Word(1))
    ends.one.sendall(len(body).to_bytes(4, "big") + bytes(4) + body)
    ends.until(lambda: bool(ends.why))
    assert ends.loop.bugs == 1
    assert ends.why == "a defect"
