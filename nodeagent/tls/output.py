# SPDX-License-Identifier: Apache-2.0
"""Ciphertext on its way to the socket, in a buffer that is borrowed from the process until all of it was sent.

So no byte is copied between the AEAD and the socket. As long as sockets take what they are given there is one buffer in
turn for all connections. A connection whose socket blocks keeps its buffer, and the next one
takes another; unless so little is left that a copy is cheaper than a buffer that nobody else can use.

Considered: one buffer for all, from which a blocked connection copies what is left. In bulk a socket blocks on nearly
every flush, and a copy costs half as much again as sealing.
"""

from nodeagent.tls.record import SEALED_BYTES

OUTPUT_BYTES = 32 * SEALED_BYTES + 64
"""32 full records, 512 KiB of plaintext, behind an alert and a KeyUpdate: one read of a stream (docs/performance.md has
the sizes that were tried)."""
_KEPT = 4
"""Buffers that wait for the next connection; more are freed."""
_SMALL_REST = 32 << 10
"""To copy it takes two microseconds, and ten thousand slow readers hold 320 MB at most instead of 5 GB."""

_NOTHING = memoryview(b"")
_free: list[memoryview] = []
"""Of the process; a worker has one thread."""


class Output:
    """Of one connection. The order is: borrow, filled, then sent until nothing is pending."""

    __slots__ = ("_borrowed", "unsent")

    def __init__(self, unsent: bytes = b"") -> None:
        self._borrowed: memoryview | None = None
        self.unsent = memoryview(unsent)
        """What the socket takes next."""

    def borrow(self) -> memoryview:
        """OUTPUT_BYTES to fill, while nothing is unsent."""
        borrowed = self._borrowed
        if borrowed is None:
            self._borrowed = borrowed = _free.pop() if _free else memoryview(bytearray(OUTPUT_BYTES))
        return borrowed

    def filled(self, buffer: memoryview, size: int) -> None:
        """`buffer` is what was borrowed."""
        if size:
            self.unsent = buffer[:size]
        else:
            self._give_back()

    def sent(self, size: int) -> None:
        """The socket took the first `size` bytes of `unsent`."""
        unsent = self.unsent
        if size < len(unsent):
            self.unsent = unsent[size:]
        else:
            self.unsent = _NOTHING  # not an empty slice, which would hold the buffer
            self._give_back()

    def blocked(self) -> None:
        """The socket takes no more for now."""
        if self._borrowed is not None and len(self.unsent) <= _SMALL_REST:
            self.unsent = memoryview(bytes(self.unsent))
            self._give_back()

    def drop(self) -> None:
        """Nothing of it is to be sent any more."""
        self.unsent = _NOTHING
        self._give_back()

    def _give_back(self) -> None:
        if self._borrowed is not None:
            if len(_free) < _KEPT:
                _free.append(self._borrowed)
            self._borrowed = None
