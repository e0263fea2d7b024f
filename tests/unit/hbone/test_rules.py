# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a frame is seen from its header, before its payload is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone import frames
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.limits import Limits
from nodeagent.hbone.rules import HEADERS_OVERHEAD, MAX_SETTINGS_BYTES, MAX_WORDS, check_order, payload_needed
from nodeagent.model.reason import Reason

LIMITS = Limits(max_header_bytes=20_000, max_frame=30_000)


@pytest.mark.parametrize(
    ("kind", "flags", "length", "needed"),
    [
        (frames.DATA, 0, 30_000, 0),
        (frames.DATA, frames.END_STREAM, 0, 0),
        (frames.DATA, frames.PADDED, 5, 1),
        (frames.HEADERS, 0, 20_000 + HEADERS_OVERHEAD, 20_000 + HEADERS_OVERHEAD),
        (frames.CONTINUATION, 0, 0, 0),
        (frames.SETTINGS, 0, 12, 12),
        (frames.SETTINGS, frames.ACK, 0, 0),
        (frames.SETTINGS, 0, MAX_SETTINGS_BYTES, MAX_SETTINGS_BYTES),
        (frames.PING, 0, 8, 8),
        (frames.PRIORITY, 0, 5, 5),
        (frames.RST_STREAM, 0, 4, 4),
        (frames.WINDOW_UPDATE, 0, 4, 4),
        (frames.GOAWAY, 0, 8, 8),
        (frames.GOAWAY, 0, 30_000, 8 + MAX_WORDS),
        (77, 255, 30_000, 0),
    ],
)
def test_payload_needed(kind: int, flags: int, length: int, needed: int) -> None:
    assert payload_needed(kind, flags, length, LIMITS) == needed


@pytest.mark.parametrize(
    ("kind", "flags", "length", "code"),
    [
        (frames.DATA, 0, 30_001, ErrorCode.FRAME_SIZE_ERROR),
        (frames.DATA, frames.PADDED, 0, ErrorCode.FRAME_SIZE_ERROR),
        (77, 0, 30_001, ErrorCode.FRAME_SIZE_ERROR),
        (frames.HEADERS, 0, 20_001 + HEADERS_OVERHEAD, ErrorCode.ENHANCE_YOUR_CALM),
        (frames.CONTINUATION, 0, 20_001 + HEADERS_OVERHEAD, ErrorCode.ENHANCE_YOUR_CALM),
        (frames.SETTINGS, 0, 5, ErrorCode.FRAME_SIZE_ERROR),
        (frames.SETTINGS, frames.ACK, 6, ErrorCode.FRAME_SIZE_ERROR),
        (frames.SETTINGS, 0, MAX_SETTINGS_BYTES + 6, ErrorCode.ENHANCE_YOUR_CALM),
        (frames.PING, 0, 7, ErrorCode.FRAME_SIZE_ERROR),
        (frames.PRIORITY, 0, 4, ErrorCode.FRAME_SIZE_ERROR),
        (frames.RST_STREAM, 0, 5, ErrorCode.FRAME_SIZE_ERROR),
        (frames.WINDOW_UPDATE, 0, 3, ErrorCode.FRAME_SIZE_ERROR),
        (frames.GOAWAY, 0, 7, ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_a_length_that_cannot_be(kind: int, flags: int, length: int, code: ErrorCode) -> None:
    with pytest.raises(H2Error) as caught:
        payload_needed(kind, flags, length, LIMITS)
    assert caught.value.code is code
    is_headers = kind in {frames.HEADERS, frames.CONTINUATION}
    assert caught.value.reason is (Reason.H2_HEADERS_TOO_LARGE if is_headers else Reason.H2_FAILED)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**24 - 1))
def test_never_more_is_kept_than_a_header_block(kind: int, flags: int, length: int) -> None:
    try:
        needed = payload_needed(kind, flags, length, LIMITS)
    except H2Error:
        return
    assert needed <= min(length, LIMITS.max_header_bytes + HEADERS_OVERHEAD)


@pytest.mark.parametrize(
    ("kind", "flags", "stream_id", "settings_seen", "block_of"),
    [
        pytest.param(frames.PING, 0, 0, False, 0, id="before SETTINGS"),
        pytest.param(frames.SETTINGS, frames.ACK, 0, False, 0, id="an ACK first"),
        pytest.param(frames.CONTINUATION, 0, 1, True, 0, id="CONTINUATION of nothing"),
        pytest.param(frames.CONTINUATION, 0, 3, True, 1, id="CONTINUATION of another stream"),
        pytest.param(frames.DATA, 0, 1, True, 1, id="DATA within a header block"),
        pytest.param(frames.PING, 0, 0, True, 1, id="PING within a header block"),
        pytest.param(frames.HEADERS, 0, 1, True, 1, id="HEADERS within a header block"),
        pytest.param(frames.PUSH_PROMISE, 0, 1, True, 0, id="PUSH_PROMISE"),
        pytest.param(frames.SETTINGS, 0, 1, True, 0, id="SETTINGS on a stream"),
        pytest.param(frames.PING, 0, 1, True, 0, id="PING on a stream"),
        pytest.param(frames.GOAWAY, 0, 1, True, 0, id="GOAWAY on a stream"),
        pytest.param(frames.DATA, 0, 0, True, 0, id="DATA on the connection"),
        pytest.param(frames.HEADERS, 0, 0, True, 0, id="HEADERS on the connection"),
        pytest.param(frames.PRIORITY, 0, 0, True, 0, id="PRIORITY on the connection"),
        pytest.param(frames.RST_STREAM, 0, 0, True, 0, id="RST_STREAM on the connection"),
    ],
)
def test_a_frame_out_of_place(kind: int, flags: int, stream_id: int, settings_seen: bool, block_of: int) -> None:  # noqa: FBT001 - a column of the table
    with pytest.raises(H2Error) as caught:
        check_order(kind, flags, stream_id, settings_seen=settings_seen, block_of=block_of)
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("kind", "stream_id", "block_of"),
    [
        (frames.SETTINGS, 0, 0),
        (frames.CONTINUATION, 1, 1),
        (frames.WINDOW_UPDATE, 0, 0),
        (frames.WINDOW_UPDATE, 1, 0),
        (frames.PRIORITY, 9, 0),
        (77, 0, 0),
        (77, 2, 0),
    ],
)
def test_a_frame_in_its_place(kind: int, stream_id: int, block_of: int) -> None:
    check_order(kind, 0, stream_id, settings_seen=True, block_of=block_of)
