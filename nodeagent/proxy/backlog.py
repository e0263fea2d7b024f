# SPDX-License-Identifier: Apache-2.0
"""Bytes that a socket does not take yet. Costs what they are, however small the pieces are in which they come.

A window bounds bytes and not pieces: a peer that sends one byte a frame would make four million objects of it, at 200
bytes each. Never bounds anything itself: whoever fills it has a window. All windows together have none, so what is held
in the whole process is counted here; tunnel_receiving.py ends those that hold it when it is too much.
"""

from collections import deque

_PIECE_BYTES = 64 << 10
"""Pieces are joined up to this size; larger ones stay as they came, since joining them would be a copy for nothing."""
FAIR_BYTES = 512 << 10
"""What a tunnel may hold even then: one read."""


class Held:
    """Bytes in the backlogs of a process; a worker has one thread."""

    __slots__ = ("most", "size")

    def __init__(self) -> None:
        self.size = 0
        self.most = 512 << 20
        """Thirty-two tunnels whose whole window waits, unless the worker is told otherwise (`max_held_mib`)."""


HELD = Held()


class Backlog:
    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: deque[bytearray] | None = None
        """None until something waits: a stream has a backlog and mostly needs none, and an empty deque has 0.7 KiB."""

    def __del__(self) -> None:
        if self._pieces:
            self.clear()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    @property
    def pieces(self) -> int:
        return len(self._pieces or ())

    def add(self, views: list[memoryview], skipped: int = 0) -> None:
        """Copies; `skipped` bytes at the beginning were taken already, and at least one was not."""
        piece = bytearray().join(views)
        del piece[:skipped]
        HELD.size += len(piece)
        if self._pieces is None:
            self._pieces = deque()
        if self._pieces and len(self._pieces[-1]) + len(piece) <= _PIECE_BYTES:
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)

    @property
    def first(self) -> bytearray:
        """What goes next; only when there is something."""
        assert self._pieces
        return self._pieces[0]

    def taken(self, size: int) -> bool:
        """So many bytes of `first`; whether that was all of it."""
        assert self._pieces
        HELD.size -= size
        if size < len(self._pieces[0]):
            del self._pieces[0][:size]  # moves no byte
            return False
        self._pieces.popleft()
        return True

    def whole(self) -> tuple[bytes, ...]:
        """All pieces, in order."""
        return tuple(map(bytes, self._pieces or ()))

    def clear(self) -> None:
        HELD.size -= sum(map(len, self._pieces or ()))
        self._pieces = None
