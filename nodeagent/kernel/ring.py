# SPDX-License-Identifier: Apache-2.0
"""A BPF ring buffer (Linux 5.8) as its one reader: memory shared with the kernel, a bounded piece at a time.

Two counters that only grow say what there is: the reader's (a page of its own, which we write) and the writer's (a page
that we may only read, with the data behind it, mapped twice so that a record that wraps lies in one piece). A record is
8 bytes of head (length, two flags, four bytes of the kernel's) and the data, in steps of 8 bytes. One that is BUSY is
still being written, and so is everything behind it to us; one that is DISCARDED holds nothing.

The counters and the head are read as whole words. That they are read before what they announce needs no barrier on
x86; elsewhere hundreds of instructions of the interpreter lie in between, more than a processor looks ahead.
"""

import mmap
import os
from typing import NamedTuple

from nodeagent.kernel import syscall

BUSY, DISCARDED = 1 << 31, 1 << 30
RECORD_HEAD = 8


class Piece(NamedTuple):
    records: list[bytes]
    position: int
    """Of the reader, behind them."""


def take(words: memoryview, data: memoryview, position: int, end: int, limit: int) -> Piece:
    """Up to `limit` records from `position` on.

    Args:
        words: the data as 32-bit words of this machine.
        data: the same as bytes: twice as long as the ring.
        position: of the reader.
        end: of the writer.
        limit: most records.
    """
    mask = len(data) // 2 - 1
    records: list[bytes] = []
    while position < end and len(records) < limit:
        start = position & mask
        head = words[start // 4]
        if head & BUSY:
            break
        length = head & ~(BUSY | DISCARDED)
        if not head & DISCARDED:
            records.append(bytes(data[start + RECORD_HEAD : start + RECORD_HEAD + length]))
        position += (RECORD_HEAD + length + 7) & ~7
    return Piece(records, position)


class Ring:
    """Of a pinned map. Raises OSError."""

    def __init__(self, path: str) -> None:
        self.descriptor = syscall.open_pinned(path)
        """Readable, for poll, when there is something."""
        try:
            info = syscall.map_info(self.descriptor)
            self.id, self.bytes = info.id, info.entries
            page = mmap.PAGESIZE
            self._own = mmap.mmap(self.descriptor, page)
            self._kernels = mmap.mmap(self.descriptor, page + 2 * info.entries, prot=mmap.PROT_READ, offset=page)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._position = memoryview(self._own).cast("Q")
        whole = memoryview(self._kernels)
        self._end = whole[:8].cast("Q")
        self._data = whole[page:]
        self._words = self._data.cast("I")

    def read(self, limit: int) -> list[bytes]:
        """Up to `limit` records, whose room is the kernel's again."""
        piece = take(self._words, self._data, self._position[0], self._end[0], limit)
        self._position[0] = piece.position
        return piece.records

    def close(self) -> None:
        for view in (self._position, self._end, self._words, self._data):
            view.release()
        self._kernels.close()
        self._own.close()
        os.close(self.descriptor)
