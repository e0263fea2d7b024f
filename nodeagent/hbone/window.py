# SPDX-License-Identifier: Apache-2.0
"""Flow control (RFC 9113 §5.2, §6.9): who may still send how much. Pure accounting, one object per direction.

- What arrives is charged when its frame header is read, padding included.
- Credit is given back for what reached the application, never for what waits in a buffer: a slow reader stops the
  sender. It is announced in steps of a quarter of the window, so that bulk costs few frames and never waits.
- The sending side may go below zero, when the peer shrinks its windows while bytes are under way (§6.9.2).
"""

from nodeagent.hbone.frames import MAX_WINDOW


class ReceiveWindow:
    """What the peer may send. Always: left + held + credit == size."""

    __slots__ = ("credit", "left", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size
        """Bytes that the peer may still send. The receive loop charges it in place."""
        self.credit = 0
        """Delivered, not yet announced."""

    @property
    def held(self) -> int:
        """Received (or announced by a frame header) and not yet delivered."""
        return self.size - self.left - self.credit

    def delivered(self, n: int) -> int:
        """Accounts for `n` held bytes that were delivered. Returns the increment to announce, mostly 0."""
        assert 0 <= n <= self.size - self.left - self.credit
        self.credit += n
        if self.credit << 2 < self.size:
            return 0
        increment, self.credit = self.credit, 0
        self.left += increment
        return increment

    def resume(self, left: int, credit: int) -> None:
        """From where another process was. Raises ValueError for what no window of this size can be."""
        if left < 0 or credit < 0 or left + credit > self.size:
            raise ValueError(f"a window of {self.size} with {left} left and {credit} to announce")
        self.left, self.credit = left, credit


class SendWindow:
    """What we may send."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left
        """Bytes that may be sent; negative after the peer shrank it. `commit` charges it in place."""

    def widen(self, n: int) -> bool:
        """By a WINDOW_UPDATE, or by a changed initial window (then `n` may be negative). False: beyond 2**31-1."""
        if self.left + n > MAX_WINDOW:
            return False
        self.left += n
        return True
