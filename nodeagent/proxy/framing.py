# SPDX-License-Identifier: Apache-2.0
"""Frames of messages.py on a stream, with the descriptors that travel beside them. Pure: no socket is touched here.

Linux attaches descriptors to the first byte they were sent with and never reorders them, but one read may return the
end of one frame together with the start of the next and its descriptors. So descriptors wait in a queue of their own,
and each message takes as many as its type owns.
"""

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from nodeagent.proxy.messages import (
    MAX_FRAME_BYTES,
    Certificate,
    FromWorker,
    HandOver,
    Hello,
    Report,
    Start,
    TakeOver,
    ToWorker,
)

M = TypeVar("M")

DESCRIPTORS: dict[type, int] = {Start: 3, Certificate: 2, Hello: 4, HandOver: 1, TakeOver: 1}
"""How many descriptors a message owns; those that are not listed own none."""
MAX_DESCRIPTORS = 64
"""Room for one read: the kernel ends a read behind the first bytes that carry any, so the largest row is enough."""

_encoder = msgspec.msgpack.Encoder()
_LENGTH = struct.Struct("!I")
_LENGTH_BYTES = _LENGTH.size


class FrameBroken(Exception):
    """The stream cannot be understood any more: a length or a message that no peer of ours writes."""


def encode_frame(message: ToWorker | FromWorker | Report) -> bytes:
    """Length and message. Its descriptors, if it owns any, must be sent with the frame's first byte."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameBroken(f"a {type(message).__name__} of {len(body)} bytes is larger than any frame")
    return _LENGTH.pack(len(body)) + body


class FrameReader(Generic[M]):
    """Bytes and descriptors in, messages out, wherever the stream was cut."""

    def __init__(self, kinds: Any) -> None:
        """`kinds` is the union of messages that may come: ToWorker, FromWorker or Report."""
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(kinds)
        self._bytes = bytearray()
        self._descriptors: deque[int] = deque()

    def received(self, payload: bytes, descriptors: Sequence[int] = ()) -> Iterator[tuple[M, list[int]]]:
        """Each complete message with the descriptors it owns, which belong to the caller from then on.

        Raises FrameBroken; the stream is of no use then, and `close` must be called as after every end.
        """
        self._bytes += payload
        self._descriptors.extend(descriptors)
        position = 0
        try:
            while len(self._bytes) - position >= _LENGTH_BYTES:
                start = position + _LENGTH_BYTES
                (length,) = _LENGTH.unpack_from(self._bytes, position)
                if length > MAX_FRAME_BYTES:
                    raise FrameBroken(f"a frame of {length} bytes is announced")
                if len(self._bytes) - start < length:
                    break
                position = start + length
                yield self._message(self._bytes[start:position])
        finally:
            del self._bytes[:position]

    def _message(self, body: bytearray) -> tuple[M, list[int]]:
        try:
            message = self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise FrameBroken(f"a message cannot be decoded: {error}") from error
        owned = DESCRIPTORS.get(type(message), 0)
        if not owned:  # as nearly all
            return message, []
        if len(self._descriptors) < owned:
            raise FrameBroken(f"{type(message).__name__} came with {len(self._descriptors)} of {owned} descriptors")
        return message, [self._descriptors.popleft() for _ in range(owned)]

    def close(self) -> None:
        """Closes descriptors whose message never came."""
        while self._descriptors:
            os.close(self._descriptors.popleft())
