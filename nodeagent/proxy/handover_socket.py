# SPDX-License-Identifier: Apache-2.0
"""Frames of handover.py on a socket of the loop. Nothing here blocks, and no descriptor is left behind."""

import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from nodeagent.proxy.loop import FAILED, HUNG_UP, READ, WRITE, Loop
from nodeagent.proxy.sockets import receive_with_descriptors

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)

_HEADER = struct.Struct("!II")
_READ_BYTES = 256 << 10
_READS = 64
"""Per turn: as many as may be on the way (departure.py), and so few that those which have arrived soon have theirs."""
_DESCRIPTORS_AT_ONCE = 200
"""The kernel takes 253 in one message (SCM_MAX_FD)."""
_MAX_FRAME_BYTES = 64 << 20
"""A bound against a corrupt length: a tunnel holds 17 MiB at most, in its window and its send buffer."""
_MAX_DESCRIPTORS = 4096
_encode = msgspec.msgpack.Encoder().encode


class Partner(Protocol[M_contra]):
    """Who uses a HandoverSocket."""

    def told(self, message: M_contra, descriptors: list[int]) -> None:
        """The descriptors are this one's from now on."""

    def lost(self, why: str) -> None:
        """Once: the other end is gone, or cannot be understood."""


class HandoverSocket(Generic[M]):
    """`kinds` is the union of what may come."""

    def __init__(self, loop: Loop, sock: socket.socket, kinds: Any, partner: Partner[M]) -> None:
        self._loop, self._partner = loop, partner
        self._decode: Callable[[memoryview], M] = msgspec.msgpack.Decoder(kinds).decode
        self._socket: socket.socket | None = sock
        self._bytes = bytearray()
        self._descriptors: deque[int] = deque()
        self._waiting: deque[tuple[memoryview, Sequence[int]]] = deque()
        sock.settimeout(0)
        loop.watch(sock.fileno(), READ, self)

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def send(self, message: object, descriptors: Sequence[int] = ()) -> int:
        """At once, or as soon as it can be. The descriptors stay open until the other end has answered.

        Returns how many bytes that is.
        """
        body = _encode(message)
        frame = memoryview(_HEADER.pack(len(body), len(descriptors)) + body)
        at = 0
        while len(descriptors) > _DESCRIPTORS_AT_ONCE:  # a byte for each portion but the last
            self._waiting.append((frame[at : at + 1], descriptors[:_DESCRIPTORS_AT_ONCE]))
            descriptors, at = descriptors[_DESCRIPTORS_AT_ONCE:], at + 1
        self._waiting.append((frame[at:], descriptors))
        self._flush()
        return len(frame)

    def close(self) -> None:
        """Ours; nobody is told."""
        if self._socket is None:
            return
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._waiting.clear()
        self._bytes.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & (READ | HUNG_UP | FAILED):
            self._read()

    def crashed(self) -> None:
        self._lose("a defect")

    def _flush(self) -> None:
        if self._socket is None:
            return
        try:
            while self._waiting:
                view, descriptors = self._waiting[0]
                sent = socket.send_fds(self._socket, [view], descriptors) if descriptors else self._socket.send(view)
                if sent < len(view):
                    self._waiting[0] = view[sent:], ()
                else:
                    self._waiting.popleft()
        except BlockingIOError:
            self._loop.change(self._socket.fileno(), READ | WRITE)
        except OSError as error:
            self._lose(error.strerror or str(error))
        else:
            self._loop.change(self._socket.fileno(), READ)

    def _read(self) -> None:
        """The kernel gives one message with descriptors at a time; one for each turn would let the others wait."""
        for _ in range(_READS):
            if not self._read_once():
                return

    def _read_once(self) -> bool:
        """Whether there may be more."""
        if self._socket is None:
            return False
        try:
            payload, descriptors = receive_with_descriptors(self._socket, _READ_BYTES, _DESCRIPTORS_AT_ONCE)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose(error.strerror or str(error))
            return False
        self._descriptors.extend(descriptors)
        self._bytes += payload
        try:
            while (found := self._next()) is not None:
                self._partner.told(*found)
        except (ValueError, msgspec.MsgspecError) as error:
            self._lose(str(error))
        return self.is_open

    def _next(self) -> tuple[M, list[int]] | None:
        """Raises ValueError or MsgspecError for what cannot be understood."""
        if len(self._bytes) < _HEADER.size:
            return None
        length, descriptors = _HEADER.unpack_from(self._bytes)
        if length > _MAX_FRAME_BYTES or descriptors > _MAX_DESCRIPTORS:
            raise ValueError(f"a frame of {length} bytes and {descriptors} descriptors is announced")
        stop = _HEADER.size + length
        if len(self._bytes) < stop:
            return None
        with memoryview(self._bytes) as view, view[_HEADER.size : stop] as body:
            message = self._decode(body)
        del self._bytes[:stop]
        if descriptors > len(self._descriptors):
            raise ValueError(f"{len(self._descriptors)} of {descriptors} descriptors came")
        return message, [self._descriptors.popleft() for _ in range(descriptors)]

    def _lose(self, why: str) -> None:
        if self._socket is not None:
            self.close()
            self._partner.lost(why)
