# SPDX-License-Identifier: Apache-2.0
"""What a peer may make us do for nothing. Each limit ends a known way to burn a worker's time (see limits.py).

There is no clock in this room: budgets are refilled when we send a PING, which the worker does on a timer, and idle
frames are also earned by what makes honest peers send them: streams that were served, DATA that was sent.
"""

from nodeagent.hbone.error import H2Error
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.limits import Limits
from nodeagent.model.reason import Reason

PER_SENT_FRAME = 4
"""A peer answers a DATA frame with two WINDOW_UPDATEs at most (stream, connection); twice that is generous."""
PER_SERVED_STREAM = 10
"""Late updates, a late reset, an interim answer."""
IDLE_WORK, WASTED_STREAM_WORK = 5, 300
"""In units of half a microsecond; a stream with its record."""
LATE_BYTES_PER_WORK = 512
LITTLE_PAYLOAD = 512
"""In bytes, of a padded frame, whose look costs as much as an idle one's."""
USUAL_FRAMES = 10
"""That are no waste in an interval: SETTINGS, their acknowledgement and a wider window at the start, the answers to our
PINGs."""
MOST_EARNED = 100_000
"""Kept over an interval: enough for every update that can answer a full window of small frames."""


class Patience:
    """Of one connection."""

    __slots__ = ("_idle_told", "_late_bytes", "_limits", "_padded", "_wasted_told", "idle_left", "wasted")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.idle_left = limits.idle_frames
        """Idle frames that are still put up with; earned in place where that is hot."""
        self.wasted = 0
        """Streams since the last refill."""
        self._idle_told, self._wasted_told = limits.idle_frames - USUAL_FRAMES, 0
        """Up to here `take_waste` has told of them."""
        self._late_bytes = self._padded = 0
        """Of which it has not told."""

    def idle_frame(self) -> None:
        """A frame came that serves no stream. Raises H2Error when there were too many."""
        self.idle_left -= 1
        if self.idle_left < 0:
            raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that serve no stream")

    def stream_served(self) -> None:
        self.idle_left += PER_SERVED_STREAM

    def stream_wasted(self, reason: Reason = Reason.H2_FAILED) -> None:
        """A stream came to nothing: reset before its answer, refused, broken. Raises H2Error after too many."""
        self.wasted += 1
        if self.wasted > self._limits.wasted_streams:
            words = "too many streams" if reason is Reason.H2_TOO_MANY_STREAMS else "too many streams came to nothing"
            raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, words, reason=reason)

    def data_dropped(self, size: int) -> None:
        """Payload of a stream that is gone was opened for nothing."""
        self._late_bytes += size

    def padded_frame(self, payload: int) -> None:
        """DATA with padding came, and `payload` bytes in it; without any it is an idle frame.

        No rule forbids it (RFC 9113 §10.7). But neither Envoy (nghttp2 without a callback for it) nor ztunnel (h2) does
        it, and such a frame is looked at by itself, which little payload is not worth.
        """
        if 0 < payload < LITTLE_PAYLOAD:
            self._padded += 1

    def take_waste(self) -> int:
        """What there was since it was asked last, in units of half a microsecond; what is earned is none."""
        idle, streams = max(self._idle_told - self.idle_left, 0), self.wasted - self._wasted_told
        self._idle_told, self._wasted_told = min(self._idle_told, self.idle_left), self.wasted
        late, self._late_bytes = divmod(self._late_bytes, LATE_BYTES_PER_WORK)
        padded, self._padded = self._padded, 0
        return (idle + padded) * IDLE_WORK + streams * WASTED_STREAM_WORK + late

    def resume(self, idle_left: int, wasted: int) -> None:
        """From where another process was, which was told."""
        self.idle_left, self.wasted = idle_left, wasted
        self._idle_told, self._wasted_told = min(idle_left, self._limits.idle_frames - USUAL_FRAMES), wasted

    def interval_passed(self) -> None:
        self.idle_left = min(max(self.idle_left, self._limits.idle_frames), MOST_EARNED)
        self.wasted = self._wasted_told = 0
        self._idle_told = self._limits.idle_frames - USUAL_FRAMES
