# SPDX-License-Identifier: Apache-2.0
"""The `traceparent` of a tunnelled connection (W3C Trace Context, level 1), and who of all is sampled. Pure.

Whether a trace is sampled follows from its id, so two nodes with the same share take the same ones without a word; and
a flag that says so is believed as well, whatever the share here.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, Self

_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class TraceParent(NamedTuple):
    trace_id: int
    """128 bits."""
    span_id: int
    """64 bits: of the span that sends it."""
    is_sampled: bool

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is none: a peer may send anything, and nothing depends on it. Later versions may go on."""
        found = _FORM.fullmatch(text)
        if found is None or (found[1] == "00" and found[5]):
            return None
        trace_id, span_id = int(found[2], 16), int(found[3], 16)
        return cls(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED)) if trace_id and span_id else None

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.is_sampled:02x}"


def begin_trace(share: float, draw: Callable[[int], int]) -> TraceParent:
    """`draw(bits)` is random: an argument, because choosing is and this function is not."""
    trace_id, span_id = draw(128) or 1, draw(64) or 1
    return TraceParent(trace_id, span_id, is_within(trace_id, share))


def is_within(trace_id: int, share: float) -> bool:
    """As OpenTelemetry's TraceIdRatioBased: by the lower half of the id."""
    return trace_id & (1 << 64) - 1 < round(share * (1 << 64))
