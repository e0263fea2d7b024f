# SPDX-License-Identifier: Apache-2.0
"""Blocks as the kernel fills them, built here; and the conversation with the process that reads them."""

import io
import socket
import struct
import threading
from collections.abc import Iterator

import msgspec
import pytest

from nodeagent.lab import capture
from nodeagent.lab.capture import SNAPSHOT, STOP, Capture, Ring, serve
from nodeagent.lab.packets import Flow, Seen, Tally
from nodeagent.lab.ready import readable

BRIDGE, PORT = 7, 8
MARKER = b"marker"
ARP = bytes(12) + b"\x08\x06"


def block(*frames: tuple[int, bytes, int]) -> bytes:
    """A TPACKET_V3 block of (device, captured bytes, length on the link)."""
    first = 48
    packets = b""
    for device, captured, length in frames:
        header = 48 + 20 + 12  # tpacket3_hdr, sockaddr_ll, and some room as the kernel leaves it
        following = (header + len(captured) + 15) // 16 * 16
        fixed = struct.pack("IIIIIIHH", following, 1, 2, len(captured), length, 0, header, 0).ljust(48, b"\0")
        address = struct.pack("HHiHBB8x", 17, 0, device, 1, 0, 6).ljust(header - 48, b"\0")
        packets += (fixed + address + captured).ljust(following, b"\xaa")
    return struct.pack("IIIIII", 3, 0, 1, len(frames), first, first + len(packets)).ljust(first, b"\0") + packets


class FullRing(Ring):
    """Has these blocks ready, once."""

    def __init__(self, *blocks: bytes, dropped: int = 0) -> None:
        self.blocks, self.dropped = list(blocks), dropped

    def ready(self) -> Iterator[bytes]:
        while self.blocks:
            yield self.blocks.pop(0)

    def update_dropped(self) -> None:
        pass


def test_frames_are_counted_but_not_those_of_the_bridge_device() -> None:
    full = block((PORT, ARP + MARKER, 20), (BRIDGE, ARP + MARKER, 20), (PORT, ARP, 14))
    reading = Capture(FullRing(full), Tally(MARKER), BRIDGE, None)
    seen = reading.seen()
    assert [(flow, count.packets, count.bytes, count.markers) for flow, count in seen.flows] == [(Flow(), 2, 34, 1)]


def test_what_was_lost_or_cut_is_told() -> None:
    reading = Capture(FullRing(block((PORT, ARP, 9000)), dropped=5), Tally(b""), BRIDGE, None)
    seen = reading.seen()
    assert (seen.dropped, seen.truncated) == (5, 1)


def test_a_pcap_has_the_frames_as_they_were_captured() -> None:
    pcap = io.BytesIO()
    Capture(FullRing(block((PORT, ARP + b"x", 15), (BRIDGE, ARP, 14))), Tally(b""), BRIDGE, pcap).drain()
    assert pcap.getvalue() == struct.pack("IIII", 1, 2, 15, 15) + ARP + b"x"


def test_a_block_goes_back_to_the_kernel_once_and_the_next_one_follows() -> None:
    memory = bytearray(3 * capture.BLOCK_BYTES)
    for index in (0, 1):
        full = block((PORT, ARP, 14 + index))
        memory[index * capture.BLOCK_BYTES : index * capture.BLOCK_BYTES + len(full)] = full
    ring = Ring.__new__(Ring)
    ring._memory, ring._blocks, ring._next = memory, 3, 0  # type: ignore[assignment]  # bytes instead of a mapping
    assert [len(ready) for ready in ring.ready()] == [len(block((PORT, ARP, 14)))] * 2
    assert list(ring.ready()) == []
    assert ring._next == 2


@pytest.mark.parametrize("words", [[STOP], [SNAPSHOT, STOP], [SNAPSHOT, SNAPSHOT, b""]])
def test_it_answers_until_it_is_told_to_stop_or_left_alone(words: list[bytes]) -> None:
    packets, silent = socket.socketpair()
    ours, theirs = socket.socketpair()
    reading = Capture(FullRing(block((PORT, ARP, 14))), Tally(b""), BRIDGE, None)
    serving = threading.Thread(target=serve, args=(reading, packets, theirs))
    with packets, silent, ours, theirs:
        serving.start()
        for word in words:
            if not word:
                ours.shutdown(socket.SHUT_WR)
                continue
            ours.sendall(word)
            (length,) = struct.unpack("!Q", ours.recv(8, socket.MSG_WAITALL))
            answer = msgspec.json.decode(ours.recv(length, socket.MSG_WAITALL), type=Seen)
            assert answer.count().packets == 1
        serving.join(10)
        assert not serving.is_alive()
        assert not readable([ours], 0)
