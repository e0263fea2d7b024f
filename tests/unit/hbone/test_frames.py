# SPDX-License-Identifier: Apache-2.0
"""Our bytes read by hyperframe, which knows nothing of us."""

import hyperframe.frame as independent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone import frames
from nodeagent.hbone.frames import ErrorCode, Setting

stream_ids = st.integers(1, frames.MAX_STREAM_ID)
words = st.integers(0, 2**32 - 1)


def read(frame: bytes) -> independent.Frame:
    parsed, length = independent.Frame.parse_frame_header(memoryview(frame[:9]))
    assert len(frame) == 9 + length
    parsed.parse_body(memoryview(frame[9:]))
    return parsed


@given(stream_ids, st.binary(max_size=70000))
def test_data(stream_id: int, payload: bytes) -> None:
    frame = read(frames.pack_frame(frames.DATA, frames.END_STREAM, stream_id, payload))
    assert isinstance(frame, independent.DataFrame)
    assert (frame.stream_id, frame.data, set(frame.flags)) == (stream_id, payload, {"END_STREAM"})


@given(st.dictionaries(st.sampled_from(Setting), words))
def test_settings(settings: dict[Setting, int]) -> None:
    packed = frames.pack_settings(settings)
    frame = read(packed)
    assert isinstance(frame, independent.SettingsFrame)
    assert frame.settings == settings
    assert dict(frames.unpack_settings(packed[9:])) == settings


@given(stream_ids, st.integers(1, frames.MAX_WINDOW))
def test_window_update(stream_id: int, increment: int) -> None:
    packed = frames.pack_window_update(stream_id, increment)
    frame = read(packed)
    assert isinstance(frame, independent.WindowUpdateFrame)
    assert (frame.stream_id, frame.window_increment) == (stream_id, increment)
    assert frames.unpack_word(packed[9:]) == increment


@given(stream_ids, words)
def test_reset(stream_id: int, code: int) -> None:
    frame = read(frames.pack_reset(stream_id, code))
    assert isinstance(frame, independent.RstStreamFrame)
    assert (frame.stream_id, frame.error_code) == (stream_id, code)


@given(st.integers(0, frames.MAX_STREAM_ID), words, st.binary(max_size=50))
def test_goaway(last: int, code: int, debug: bytes) -> None:
    packed = frames.pack_goaway(last, code, debug)
    frame = read(packed)
    assert isinstance(frame, independent.GoAwayFrame)
    assert (frame.last_stream_id, frame.error_code, frame.additional_data) == (last, code, debug)
    assert frames.unpack_goaway(packed[9:]) == (last, code, debug)


@pytest.mark.parametrize(("code", "name"), [(0, "NO_ERROR"), (11, "ENHANCE_YOUR_CALM"), (99, "error 0x63")])
def test_error_names(code: int, name: str) -> None:
    assert frames.name_error(code) == name


def test_the_error_codes_are_those_of_the_rfc() -> None:
    assert [code.value for code in ErrorCode] == list(range(14))
