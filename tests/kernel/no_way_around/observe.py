# SPDX-License-Identifier: Apache-2.0
"""What became of a packet: where its payload was seen, what was answered, and which counters moved.

A tap sees what arrives at a device before anything there can drop it. What the node's own stack takes in is seen by
raw sockets, since its devices see everything that pods send.
"""

import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from nodeagent.kernel.netns import enter_netns
from tests.kernel.no_way_around.frames import ACK, GRE, IPIP, IPV6_IN_IP, RST, SYN, TCP, UDP, Frame
from tests.kernel.no_way_around.ground import Ground
from tests.kernel.no_way_around.vector import Cast, Place, Way

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_FRAME_BYTES = 2048
_QUEUE_BYTES = 16 << 20
_ROUNDS = 3
"""Of a probe that follows the packet: the longest way of a packet and of its answer has no more queues than this."""
_ROUND_COUNTS = Counter({"NOT_TCP": 2 * _ROUNDS})
"""from_pod and to_pod, once for each."""


class Taps:
    def __init__(self, ground: Ground, stack: contextlib.ExitStack) -> None:
        self._ground = ground
        self._stack = stack
        self._places: dict[Place, list[socket.socket]] = {
            "a": [self._tap(ground.a.netns)],
            "b": [self._tap(ground.b.netns)],
            "x": [self._tap(ground.x.netns)],
            "wire": [self._tap(ground.wire.netns)],
            "proxy": [self._tap(ground.proxy)],
            "node": [
                stack.enter_context(socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol))
                for family in (socket.AF_INET, socket.AF_INET6)
                for protocol in (TCP, UDP, IPIP, IPV6_IN_IP, GRE)
            ],
        }
        # Without a taker the node would answer UDP with an error.
        self._taker = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        self._taker.bind(("::", 80))

    def send(self, frame: Frame, cast: Cast, way: Way) -> None:
        netns = self._place_of(cast.sender)
        if way.kind == "packet":
            with self._opened(netns, way, socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind(("eth0", 0))
                sender.send(frame.packed())
            return
        family = socket.AF_INET6 if frame.is_ipv6 else socket.AF_INET
        with self._opened(netns, way, family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
            sender.sendto(frame.network, (frame.destination, 0))

    def look_again(self) -> None:
        """Pod b is another one, or has another device."""
        (former,) = self._places["b"]
        former.close()
        self._places["b"] = [self._tap(self._ground.b.netns)]

    def drain(self) -> dict[Place, list[bytes]]:
        """What came to each place since it was asked last."""
        return {place: [came for tap in taps for came in _read(tap)] for place, taps in self._places.items()}

    def settle(self, cast: Cast) -> dict[Place, list[bytes]]:
        """Waits until everything that was sent before has come to its end; what came to each place meanwhile.

        It follows the packet through the same queues: a datagram from a to b, again when the former has arrived.
        """
        came: dict[Place, list[bytes]] = {place: [] for place in self._places}
        probe = replace(cast, sender="a").frame(0, cast.neighbour, protocol=UDP)
        if self._ground.is_bridged:
            probe = replace(probe, to_mac=cast.macs["b"])
        for number in range(_ROUNDS):
            payload = b"settled %d" % number
            self.send(replace(probe, payload=payload), replace(cast, sender="a"), Way())
            deadline = time.monotonic() + 60
            while not any(payload in frame for frame in came["b"]):
                assert time.monotonic() < deadline, "the way from a to b is closed"
                for place, frames in self.drain().items():
                    came[place] += frames
        return came

    def _place_of(self, name: str) -> Path:
        pods = {"a": self._ground.a, "b": self._ground.b, "x": self._ground.x, "wire": self._ground.wire}
        return pods[name].netns if name in pods else self._ground.proxy

    def _tap(self, netns: Path) -> socket.socket:
        with enter_netns(netns):
            tap = self._stack.enter_context(
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL))
            )
            tap.bind(("eth0", _ETH_P_ALL))
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
        return tap

    @contextlib.contextmanager
    def _opened(self, netns: Path, way: Way, family: int, *kind: int) -> Iterator[socket.socket]:
        with enter_netns(netns):
            sender = socket.socket(family, *kind)
        with sender:
            if way.mark:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", way.mark))
            if way.bind_to_device:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, way.bind_to_device.encode())
            yield sender


def _read(tap: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            frame, sender = tap.recvfrom(_FRAME_BYTES)
            if tap.family != socket.AF_PACKET or sender[2] != _PACKET_OUTGOING:
                yield frame


def moved(before: Mapping[str, int], after: Mapping[str, int]) -> Counter[str]:
    return Counter({name: after[name] - before[name] for name in after if after[name] != before[name]})


def without_settling(counts: Counter[str]) -> dict[str, int]:
    left = counts.copy()
    left.subtract(_ROUND_COUNTS)
    return {name: count for name, count in left.items() if count}


def answers(frames: list[bytes], asked: Frame) -> set[str]:
    """What is sent to the asker's port by the port that was asked: SYN-ACK, reset, or flags as a number."""
    ports = struct.pack("!HH", asked.destination_port, asked.source_port)
    offset = 14 + (40 if asked.is_ipv6 else 20)
    found = {frame[offset + 13] for frame in frames if frame[offset : offset + 4] == ports and len(frame) > offset + 13}
    return {_words(flags) for flags in found}


def _words(flags: int) -> str:
    if flags & RST:
        return "reset"
    return "SYN-ACK" if flags & (SYN | ACK) == SYN | ACK else f"flags {flags:#x}"
