# SPDX-License-Identifier: Apache-2.0
"""The process behind a tap: empties a ring of packets that the kernel fills, and tells what it saw when asked.

A process of its own, so that watching neither takes the lab's interpreter lock nor is delayed by it. It is given an
AF_PACKET socket whose ring is already filling, so nothing is missed while it starts. The ring (TPACKET_V3) holds what
comes while Python is elsewhere; what did not fit is counted by the kernel and told.
"""

import mmap
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from nodeagent.lab.packets import Seen, Tally

SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_IGNORE_OUTGOING = 23
TPACKET_V3 = 2
ETH_P_ALL = 3

BLOCK_BYTES = 1 << 20
RETIRE_MILLISECONDS = 10
"""How long the kernel keeps a block that is not full before it hands it over."""

_REQUEST = struct.Struct("7I")  # struct tpacket_req3
_BLOCK = struct.Struct("IIIIII")  # version, private, status, packets, offset of the first, length
_STATUS_OFFSET = 8
_KERNEL, _USER = 0, 1  # who owns a block
_PACKET = struct.Struct("IIIIIIH")  # next, seconds, nanoseconds, captured, length, status, offset of the frame
_ADDRESS_OFFSET = 48  # struct sockaddr_ll behind struct tpacket3_hdr
_INDEX = struct.Struct("i")
_STATISTICS = struct.Struct("III")  # packets, drops, times the queue froze

SNAPSHOT, STOP = b"?", b"."
_PCAP_HEADER = struct.pack("IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 20, 1)  # nanoseconds, Ethernet


def open_ring(ring_bytes: int) -> socket.socket:
    """Captures everything that enters a device of the calling thread's network namespace, from now on."""
    ring = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    try:
        ring.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        # A frame enters by one port and leaves by another: seen once, on its way in.
        ring.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        blocks = max(2, ring_bytes // BLOCK_BYTES)
        frames = (2048, blocks * (BLOCK_BYTES // 2048))  # version 3 packs frames; the numbers must only be consistent
        request = _REQUEST.pack(BLOCK_BYTES, blocks, *frames, RETIRE_MILLISECONDS, 0, 0)
        ring.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
    except BaseException:
        ring.close()
        raise
    return ring


class Ring:
    """The blocks of a packet socket, in the order in which the kernel fills them."""

    def __init__(self, packets: socket.socket, ring_bytes: int) -> None:
        self._socket = packets
        self._blocks = max(2, ring_bytes // BLOCK_BYTES)
        self._memory = mmap.mmap(packets.fileno(), self._blocks * BLOCK_BYTES)
        self._next = 0
        self.dropped = 0

    def ready(self) -> Iterator[bytes]:
        """A copy of each block that is ready, at most one round; the block itself is the kernel's again at once."""
        for _ in range(self._blocks):
            start = self._next * BLOCK_BYTES
            _, _, status, _, _, length = _BLOCK.unpack_from(self._memory, start)
            if not status & _USER:
                return
            block = self._memory[start : start + length]
            struct.pack_into("I", self._memory, start + _STATUS_OFFSET, _KERNEL)
            self._next = (self._next + 1) % self._blocks
            yield block

    def update_dropped(self) -> None:
        _, drops, _ = _STATISTICS.unpack(self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size))
        self.dropped += drops  # the kernel starts again from 0 with each call


class Capture:
    def __init__(self, ring: Ring, tally: Tally, bridge: int, pcap: BinaryIO | None) -> None:
        self._ring, self._tally, self._bridge, self._pcap = ring, tally, bridge, pcap
        self._truncated = 0

    def drain(self) -> None:
        for block in self._ring.ready():
            _, _, _, packets, at, _ = _BLOCK.unpack_from(block)
            for _ in range(packets):
                following, seconds, nanoseconds, captured, length, _, frame = _PACKET.unpack_from(block, at)
                # What the bridge floods also enters the bridge device itself: a second sight of the same frame.
                if _INDEX.unpack_from(block, at + _ADDRESS_OFFSET + 4)[0] != self._bridge:
                    start = at + frame
                    self._tally.add(block, start, start + captured, length)
                    self._truncated += captured < length
                    if self._pcap is not None:
                        self._pcap.write(struct.pack("IIII", seconds, nanoseconds, captured, length))
                        self._pcap.write(block[start : start + captured])
                at += following

    def seen(self) -> Seen:
        """Of everything that crossed before the call: blocks that are not full yet are waited for."""
        deadline = time.monotonic() + 3 * RETIRE_MILLISECONDS / 1000
        while time.monotonic() < deadline:
            self.drain()
            time.sleep(RETIRE_MILLISECONDS / 1000)
        self.drain()
        self._ring.update_dropped()
        if self._pcap is not None:
            self._pcap.flush()
        return self._tally.seen(self._ring.dropped, self._truncated)


def serve(capture: Capture, packets: socket.socket, control: socket.socket) -> None:
    """Until told to stop, or the other end of `control` is gone."""
    poll = select.poll()
    poll.register(packets, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        asked = any(descriptor == control.fileno() for descriptor, _ in poll.poll())
        capture.drain()
        if asked:
            word = control.recv(1)
            if not word:
                return
            answer = msgspec.json.encode(capture.seen())
            control.sendall(struct.pack("!Q", len(answer)) + answer)
            if word == STOP:
                return


def main() -> None:
    """Arguments: packet socket, control socket, size of the ring, index of the bridge, marker in hex, pcap file."""
    descriptor, control_descriptor, ring_bytes, bridge = (int(word) for word in sys.argv[1:5])
    marker, path = bytes.fromhex(sys.argv[5]), sys.argv[6]
    packets, control = socket.socket(fileno=descriptor), socket.socket(fileno=control_descriptor)
    pcap: BinaryIO | None = None
    if path:
        pcap = Path(path).open("wb", buffering=1 << 20)  # noqa: SIM115 - lives as long as the process
        pcap.write(_PCAP_HEADER)
    serve(Capture(Ring(packets, ring_bytes), Tally(marker), bridge, pcap), packets, control)
    if pcap is not None:
        pcap.close()
    os._exit(0)  # the ring's memory is the kernel's to free; nothing else is open


if __name__ == "__main__":
    main()
