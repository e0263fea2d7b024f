# SPDX-License-Identifier: Apache-2.0
"""The rules that a frame's 9-byte header can break, judged before anything of the frame is kept (RFC 9113 §4, §6).

Pure functions: what they need of the connection are arguments. They answer how much of the payload must be there before
the frame can be acted on, so nothing is kept that is longer than a header block may be.
"""

from nodeagent.hbone import frames
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.frames import (
    ACK,
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
)
from nodeagent.hbone.headers import headers_too_large
from nodeagent.hbone.limits import Limits

HEADERS_OVERHEAD = 1 + 255 + 5
"""Pad length, padding and priority around the fragment in a HEADERS frame."""
MAX_SETTINGS_BYTES = 6 * 64
"""There are six settings and a few extensions; each costs us a turn of a loop."""
MAX_WORDS = 256
"""Of a GOAWAY's debug data."""

_EXACT_BYTES = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_OF_THE_CONNECTION = frozenset({SETTINGS, PING, GOAWAY})
_OF_A_STREAM = frozenset({DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION})


def protocol_error(words: str) -> H2Error:
    return H2Error(ErrorCode.PROTOCOL_ERROR, words)


def check_order(kind: int, flags: int, stream_id: int, *, settings_seen: bool, block_of: int) -> None:
    """May this frame come now? `block_of` is the stream whose header block is unfinished, or 0. Raises H2Error."""
    if not settings_seen and (kind != SETTINGS or flags & ACK):
        raise protocol_error("the first frame is not SETTINGS")
    if (kind == CONTINUATION) != bool(block_of) or (block_of and block_of != stream_id):
        raise protocol_error("CONTINUATION out of place")
    if kind == PUSH_PROMISE:
        raise protocol_error("PUSH_PROMISE was not allowed")
    if (kind in _OF_THE_CONNECTION and stream_id) or (kind in _OF_A_STREAM and not stream_id):
        raise protocol_error("a frame on the wrong kind of stream")


def payload_needed(kind: int, flags: int, length: int, limits: Limits) -> int:
    """Bytes of the payload that must be there before the frame is acted on; the rest streams. Raises H2Error.

    All of it for most frames; of DATA only the length of the padding, of GOAWAY what we show of its debug data, nothing
    of an unknown frame.
    """
    if length > limits.max_frame:
        raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than announced")
    match kind:
        case frames.DATA:
            return _of_data(flags, length)
        case frames.HEADERS | frames.CONTINUATION:
            if length > limits.max_header_bytes + HEADERS_OVERHEAD:
                raise headers_too_large()
            return length
        case frames.SETTINGS:
            return _of_settings(flags, length)
        case frames.GOAWAY:
            if length < 8:
                raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY of the wrong size")
            return min(length, 8 + MAX_WORDS)
        case _:
            exact = _EXACT_BYTES.get(kind)
            if exact is None:
                return 0
            if length != exact:
                raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame of the wrong size")
            return exact


def _of_data(flags: int, length: int) -> int:
    if not flags & PADDED:
        return 0
    if not length:
        raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without room for the padding's length")
    return 1


def _of_settings(flags: int, length: int) -> int:
    if length % 6 or (flags & ACK and length):
        raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of the wrong size")
    if length > MAX_SETTINGS_BYTES:
        raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")
    return length
