# SPDX-License-Identifier: Apache-2.0
"""Frames and their descriptors, wherever the stream is cut."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.proxy.framing import FrameBroken, FrameReader, encode_frame
from nodeagent.proxy.messages import MAX_FRAME_BYTES, Certificate, Drain, ForgetCertificate, LocalPods, ToWorker

WEB = Identity("cluster.local", "default", "web")
MESSAGES: list[ToWorker] = [
    LocalPods(frozenset({Ip("10.0.0.1"), Ip("fd00::1")})),
    Drain(2.5),
    ForgetCertificate(WEB),
]


@given(st.lists(st.integers(1, 40), max_size=60))
def test_messages_survive_any_cut(cuts: list[int]) -> None:
    stream = b"".join(encode_frame(message) for message in MESSAGES)
    reader: FrameReader[ToWorker] = FrameReader(ToWorker)
    got = []
    for cut in [*cuts, len(stream)]:
        chunk, stream = stream[:cut], stream[cut:]
        got += [message for message, _ in reader.received(chunk)]
    assert got == MESSAGES


def test_descriptors_go_to_the_message_that_owns_them() -> None:
    reader: FrameReader[ToWorker] = FrameReader(ToWorker)
    first, second = Certificate(WEB, "1", 0.0), Certificate(WEB, "2", 0.0)
    stream = encode_frame(Drain(1)) + encode_frame(first) + encode_frame(second)

    # The read ends in the middle of the second certificate, whose descriptors came with its first byte.
    got = list(reader.received(stream[:-3], [10, 11, 12, 13]))
    got += reader.received(stream[-3:])

    assert got == [(Drain(1), []), (first, [10, 11]), (second, [12, 13])]


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        pytest.param((MAX_FRAME_BYTES + 1).to_bytes(4, "big"), "announced", id="length beyond the bound"),
        pytest.param(b"\0\0\0\x03abc", "decoded", id="not a message"),
        pytest.param(encode_frame(Certificate(WEB, "1", 0.0)), "0 of 2 descriptors", id="descriptors missing"),
    ],
)
def test_a_broken_stream_is_refused(stream: bytes, said: str) -> None:
    reader: FrameReader[ToWorker] = FrameReader(ToWorker)
    with pytest.raises(FrameBroken, match=said):
        list(reader.received(stream))


def test_close_closes_descriptors_without_a_message() -> None:
    reader: FrameReader[ToWorker] = FrameReader(ToWorker)
    kept, given_away = os.pipe()
    list(reader.received(encode_frame(Certificate(WEB, "1", 0.0))[:5], [given_away]))
    reader.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given_away)
    os.close(kept)
